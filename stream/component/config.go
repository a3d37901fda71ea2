package component

import "fmt"

// Problem is one finding about a configuration value. cmd/internal/config turns
// Path into file:line:column.
type Problem struct {
	// Path leads from the struct that was validated to the value, in the
	// configuration's own names: "limits.max_notional", "feeds[2].symbols".
	// Empty means the struct as a whole.
	Path string
	// Message says what is wrong and what is legal.
	Message string
	// Warning marks what is legal but suspicious.
	Warning bool
}

func (p Problem) Error() string {
	if p.Path == "" {
		return p.Message
	}
	return p.Path + ": " + p.Message
}

// Problems collects findings; Validate methods return it. All problems are
// reported, not the first.
type Problems []Problem

// Addf appends an error about the value at path.
func (p *Problems) Addf(path, format string, args ...any) {
	*p = append(*p, Problem{Path: path, Message: fmt.Sprintf(format, args...)})
}

// Warnf appends a warning about the value at path.
func (p *Problems) Warnf(path, format string, args ...any) {
	*p = append(*p, Problem{Path: path, Message: fmt.Sprintf(format, args...), Warning: true})
}

// Under appends the findings of a nested struct, prefixing their paths.
func (p *Problems) Under(prefix string, nested Problems) {
	for _, n := range nested {
		switch {
		case n.Path == "":
			n.Path = prefix
		case n.Path[0] == '[':
			n.Path = prefix + n.Path
		default:
			n.Path = prefix + "." + n.Path
		}
		*p = append(*p, n)
	}
}

// Err returns the errors (not the warnings) as one error, or nil.
func (p Problems) Err() error {
	var first error
	n := 0
	for _, x := range p {
		if x.Warning {
			continue
		}
		if n++; first == nil {
			first = x
		}
	}
	if n > 1 {
		return fmt.Errorf("%w (and %d more)", first, n-1)
	}
	return first
}

// Validator is implemented by every configuration struct. Validate does no I/O.
type Validator interface {
	Validate() Problems
}
