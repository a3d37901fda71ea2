package config

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"sort"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/autohedge/autohedge/stream/component"
)

// Sample prints v, a struct of defaults, as YAML with each field's doc tag as a
// comment above it. What it prints decodes to v again.
func Sample(v any) string {
	var b strings.Builder
	printStruct(&b, reflect.ValueOf(v), "")
	return b.String()
}

func printStruct(b *strings.Builder, v reflect.Value, indent string) {
	v = reflect.Indirect(v)
	t := v.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if !f.IsExported() || name == "-" {
			continue
		}
		if strings.Contains(opts, "inline") || (f.Anonymous && name == "") {
			printStruct(b, v.Field(i), indent)
			continue
		}
		if name == "" {
			name = strings.ToLower(f.Name)
		}
		if doc := f.Tag.Get("doc"); doc != "" {
			if indent == "" && b.Len() > 0 {
				b.WriteString("\n")
			}
			for _, line := range wrap(doc, 110-len(indent)) {
				b.WriteString(indent + "# " + line + "\n")
			}
		}
		printField(b, name, v.Field(i), indent)
	}
}

func printField(b *strings.Builder, name string, v reflect.Value, indent string) {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			fmt.Fprintf(b, "%s# %s:\n", indent, name)
			return
		}
		v = v.Elem()
	}
	if text, ok := scalarText(v); ok {
		fmt.Fprintf(b, "%s%s: %s\n", indent, name, text)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		fmt.Fprintf(b, "%s%s:\n", indent, name)
		printStruct(b, v, indent+"  ")
	case reflect.Slice:
		printList(b, name, v, indent)
	case reflect.Map:
		if v.Len() == 0 {
			fmt.Fprintf(b, "%s%s: {}\n", indent, name)
			return
		}
		fmt.Fprintf(b, "%s%s:\n", indent, name)
		keys := v.MapKeys()
		sort.Slice(keys, func(i, j int) bool { return keys[i].String() < keys[j].String() })
		for _, k := range keys {
			printField(b, quote(k.String()), v.MapIndex(k), indent+"  ")
		}
	default:
		fmt.Fprintf(b, "%s%s: %v\n", indent, name, v.Interface())
	}
}

func printList(b *strings.Builder, name string, v reflect.Value, indent string) {
	if v.Len() == 0 {
		fmt.Fprintf(b, "%s%s: []\n", indent, name)
		return
	}
	if _, ok := scalarText(v.Index(0)); ok {
		var items []string
		for i := range v.Len() {
			text, _ := scalarText(v.Index(i))
			items = append(items, text)
		}
		fmt.Fprintf(b, "%s%s: [%s]\n", indent, name, strings.Join(items, ", "))
		return
	}
	fmt.Fprintf(b, "%s%s:\n", indent, name)
	for i := range v.Len() {
		var item strings.Builder
		printStruct(&item, v.Index(i), "")
		text := item.String()
		if i > 0 {
			text = withoutComments(text) // said once, above the first
		}
		lead := indent + "  - "
		for _, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
			if strings.TrimSpace(line) == "" {
				continue
			}
			b.WriteString(lead + line + "\n")
			lead = indent + "    "
		}
	}
}

func withoutComments(text string) string {
	var keep []string
	for _, line := range strings.Split(text, "\n") {
		if !strings.HasPrefix(strings.TrimSpace(line), "#") {
			keep = append(keep, line)
		}
	}
	return strings.Join(keep, "\n")
}

// scalarText returns the YAML form of a value that is one scalar.
func scalarText(v reflect.Value) (string, bool) {
	switch x := v.Interface().(type) {
	case time.Duration:
		return shortDuration(x), true
	case component.Secret:
		return `""`, true // a secret is never printed
	case encoding.TextMarshaler:
		text, err := x.MarshalText()
		if err != nil {
			return quote(err.Error()), true
		}
		return quote(string(text)), true
	}
	switch v.Kind() {
	case reflect.String:
		return quote(v.String()), true
	case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Float32, reflect.Float64:
		return fmt.Sprint(v.Interface()), true
	}
	return "", false
}

// shortDuration prints 1m0s as 1m.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// quote writes a text as a YAML scalar that reads back as the same text.
func quote(s string) string {
	if s == "" {
		return `""`
	}
	var back any
	if err := yaml.Unmarshal([]byte("x: "+s), &struct{ X *any }{&back}); err == nil {
		if t, ok := back.(string); ok && t == s && !strings.ContainsAny(s, "#{}[],&*!|>'\"%@`\n") {
			return s
		}
	}
	return fmt.Sprintf("%q", s)
}

// wrap breaks a doc line at blanks.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, w := range strings.Fields(text) {
		if line != "" && len(line)+1+len(w) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += w
	}
	return append(lines, line)
}

// SampleJSON is Sample as JSON, without its comments.
func SampleJSON(c Config) (json.RawMessage, error) {
	text, err := yaml.YAMLToJSON([]byte(Sample(c)))
	if err != nil {
		return nil, fmt.Errorf("writing the configuration as JSON: %w", err)
	}
	return text, nil
}
