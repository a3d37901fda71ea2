package indicator

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"sort"
	"strings"
	"time"

	"github.com/autohedge/autohedge/stream/component"
)

// Decode reads an indicator's parameters, as a configuration file or a stored
// rule set has them, over its defaults. The result is what Factory.New takes.
// Every problem is reported with the parameter's name as its path; an unknown
// indicator has the empty path.
func Decode(name string, params map[string]any) (any, component.Problems) {
	var problems component.Problems
	spec, err := Registry.Lookup(name)
	if err != nil {
		problems.Addf("", "%v", err)
		return nil, problems
	}
	cfg := spec.Config()
	fields := fieldsOf(cfg)
	for _, key := range sortedKeys(params) {
		f, ok := fields[key]
		if !ok {
			problems.Addf(key, "unknown parameter of %s: want one of %s", name, strings.Join(sortedKeys(fields), ", "))
			continue
		}
		if err := set(f, params[key]); err != nil {
			problems.Addf(key, "%v", err)
		}
	}
	if len(problems) > 0 {
		return nil, problems
	}
	if v, ok := cfg.(component.Validator); ok {
		problems = v.Validate()
	}
	return cfg, problems
}

// Encode returns every parameter by name, defaults included, in the types that
// JSON gives back: Decode reads it again to the same value.
func Encode(cfg any) map[string]any {
	m := make(map[string]any)
	for name, f := range fieldsOf(cfg) {
		if d, ok := f.Interface().(time.Duration); ok {
			m[name] = d.String()
			continue
		}
		m[name] = f.Interface()
	}
	return m
}

// fieldsOf returns the settable fields of the struct that cfg points to, by
// their name in the configuration.
func fieldsOf(cfg any) map[string]reflect.Value {
	v := reflect.ValueOf(cfg).Elem()
	fields := make(map[string]reflect.Value, v.NumField())
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		fields[name] = v.Field(i)
	}
	return fields
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// set stores a decoded YAML or JSON value in a field of type int, float64, bool,
// string or time.Duration.
func set(f reflect.Value, raw any) error {
	if _, ok := f.Interface().(time.Duration); ok {
		switch x := raw.(type) {
		case time.Duration:
			f.SetInt(int64(x))
			return nil
		case string:
			if d, err := time.ParseDuration(x); err == nil {
				f.SetInt(int64(d))
				return nil
			}
		}
		return fmt.Errorf("is %v: want a duration such as 500ms, 30s or 5m", raw)
	}
	switch f.Kind() {
	case reflect.Int, reflect.Float64:
		n, ok := number(raw)
		if text, quoted := raw.(string); quoted {
			return fmt.Errorf("is the text %q: want a number, without quotes", text)
		}
		if raw == nil {
			return errors.New("is empty: want a number")
		}
		if !ok {
			return fmt.Errorf("is %v: want a number", raw)
		}
		if f.Kind() == reflect.Float64 {
			f.SetFloat(n)
			return nil
		}
		if n != math.Trunc(n) || math.Abs(n) > 1<<53 {
			return fmt.Errorf("is %v: want a whole number", raw)
		}
		f.SetInt(int64(n))
	case reflect.Bool:
		b, ok := raw.(bool)
		if !ok {
			return fmt.Errorf("is %v: want true or false", raw)
		}
		f.SetBool(b)
	case reflect.String:
		s, ok := raw.(string)
		if !ok {
			return fmt.Errorf("is %v: want a text", raw)
		}
		f.SetString(s)
	default:
		return fmt.Errorf("has a type that parameters do not support: %s", f.Type())
	}
	return nil
}

// number accepts what YAML and JSON decoders make of a number.
func number(raw any) (float64, bool) {
	v := reflect.ValueOf(raw)
	switch {
	case !v.IsValid():
		return 0, false
	case v.CanInt():
		if _, isDuration := raw.(time.Duration); isDuration {
			return 0, false
		}
		return float64(v.Int()), true
	case v.CanUint():
		return float64(v.Uint()), true
	case v.CanFloat():
		n := v.Float()
		return n, !math.IsNaN(n) && !math.IsInf(n, 0)
	}
	return 0, false
}
