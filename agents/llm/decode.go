package llm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"unicode/utf8"
)

// Checker is an answer that knows its ranges.
type Checker interface {
	// Check reports the first value outside of what the contract allows.
	Check() error
}

// maxDepth bounds nesting: no contract of ours nests deeper than 10 levels.
const maxDepth = 16

// Decode reads one answer into dst, a pointer to a struct whose json tags are
// the contract. It accepts exactly one JSON object that has every field of the
// struct once, no other field, no null and nothing behind it, and whose values
// Check allows. encoding/json alone would match names without regard to case,
// let the last of two equal names win, and leave what is missing at zero.
func Decode(content string, dst Checker) error {
	data := []byte(content)
	if err := scan(data); err != nil {
		return err
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return fmt.Errorf("reading the object: %w", err)
	}
	if raw == nil {
		return errors.New("answer is null, want an object")
	}
	if err := names(raw, reflect.TypeOf(dst).Elem()); err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(dst); err != nil {
		return fmt.Errorf("reading the object: %w", err)
	}
	return dst.Check()
}

// names demands every field of t, exactly as written, and no other.
func names(raw map[string]json.RawMessage, t reflect.Type) error {
	known := make(map[string]bool, t.NumField())
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if name == "-" || name == "" {
			continue
		}
		known[name] = true
		v, ok := raw[name]
		if !ok {
			return fmt.Errorf("field %q is missing", name)
		}
		if string(bytes.TrimSpace(v)) == "null" {
			return fmt.Errorf("field %q is null", name)
		}
	}
	for name := range raw {
		if !known[name] {
			return fmt.Errorf("field %.40q is not in the contract", name)
		}
	}
	return nil
}

// scan walks the tokens of one JSON value and refuses invalid UTF-8, a name
// twice in one object (also in another case, which encoding/json would take for
// the same), deep nesting, and anything after the value. NaN and infinities are
// no JSON and fail here too.
func scan(data []byte) error {
	if !utf8.Valid(data) {
		return errors.New("text is not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := scanValue(dec, 0); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("text goes on after the JSON value")
	}
	return nil
}

func scanValue(dec *json.Decoder, depth int) error {
	tok, err := dec.Token()
	if err != nil {
		return fmt.Errorf("reading JSON: %w", noEOF(err))
	}
	d, ok := tok.(json.Delim)
	if !ok {
		return nil
	}
	if depth == maxDepth {
		return fmt.Errorf("JSON nests deeper than %d", maxDepth)
	}
	seen := make(map[string]bool)
	for dec.More() {
		if d == '{' {
			tok, err := dec.Token()
			if err != nil {
				return fmt.Errorf("reading JSON: %w", noEOF(err))
			}
			name, ok := tok.(string)
			if !ok {
				return errors.New("reading JSON: a name is not a string")
			}
			// Upper then lower case also folds the letters that have two lower
			// case forms, as encoding/json does.
			folded := strings.ToLower(strings.ToUpper(name))
			if seen[folded] {
				return fmt.Errorf("field %.40q occurs twice", name)
			}
			seen[folded] = true
		}
		if err := scanValue(dec, depth+1); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil { // the closing delimiter
		return fmt.Errorf("reading JSON: %w", noEOF(err))
	}
	return nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
