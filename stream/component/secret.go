package component

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
)

const redacted = "<secret>"

// Secret is a value that prints as <secret> everywhere: in logs, errors, JSON
// and YAML. Only its user calls Reveal, at the moment of use.
type Secret struct{ value string }

// NewSecret wraps a value.
func NewSecret(v string) Secret { return Secret{value: v} }

// Reveal returns the value. Never store, log or wrap what it returns.
func (s Secret) Reveal() string { return s.value }

// IsZero reports whether no value was given.
func (s Secret) IsZero() bool { return s.value == "" }

// String returns <secret>, or nothing when there is no value.
func (s Secret) String() string {
	if s.value == "" {
		return ""
	}
	return redacted
}

// Format keeps every verb of package fmt, the wrong ones too, from printing the
// value.
func (s Secret) Format(f fmt.State, _ rune) {
	if _, err := io.WriteString(f, s.String()); err != nil {
		return // the writer's error is the caller's to see
	}
}

// LogValue keeps slog from printing the value.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalJSON keeps encoding/json from printing the value.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// MarshalYAML keeps a YAML encoder from printing the value.
func (s Secret) MarshalYAML() (any, error) { return s.String(), nil }

// UnmarshalText reads the value from a configuration.
func (s *Secret) UnmarshalText(text []byte) error {
	s.value = string(text)
	return nil
}
