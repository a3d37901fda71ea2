package component

import (
	"fmt"
	"sort"
	"strings"
)

// Spec declares one plug-in. F is the constructor's type, which differs by kind
// of plug-in (venue, indicator, broker, ...). `autohedge list`, the configuration
// reference, validation and the conformance tests all follow from it.
type Spec[F any] struct {
	// Name is the id used in the configuration and in events: lower case,
	// digits and hyphens.
	Name string
	// Summary is one line for people.
	Summary string
	// Config returns a pointer to a fresh configuration struct that holds the
	// defaults; nil when there is nothing to configure.
	Config func() any
	// New is the constructor.
	New F
}

// Registry holds the plug-ins of one kind. It is filled by init functions and
// read-only afterwards.
type Registry[F any] struct {
	kind  string
	specs map[string]Spec[F]
}

// NewRegistry returns an empty registry; kind ("venue", "broker") is used in
// messages.
func NewRegistry[F any](kind string) *Registry[F] {
	return &Registry[F]{kind: kind, specs: make(map[string]Spec[F])}
}

// Register adds a plug-in. It panics on a second registration of the same name,
// which is a mistake of the programmer.
func (r *Registry[F]) Register(s Spec[F]) {
	if _, dup := r.specs[s.Name]; dup || s.Name == "" {
		panic(fmt.Sprintf("registering %s %q: name is empty or taken", r.kind, s.Name))
	}
	r.specs[s.Name] = s
}

// Lookup returns the plug-in of that name; the error lists the legal names.
func (r *Registry[F]) Lookup(name string) (Spec[F], error) {
	s, ok := r.specs[name]
	if !ok {
		return s, fmt.Errorf("unknown %s %q: want one of %s", r.kind, name, strings.Join(r.Names(), ", "))
	}
	return s, nil
}

// Names returns all names in order.
func (r *Registry[F]) Names() []string {
	names := make([]string, 0, len(r.specs))
	for n := range r.specs {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// All returns all declarations ordered by name.
func (r *Registry[F]) All() []Spec[F] {
	var all []Spec[F]
	for _, n := range r.Names() {
		all = append(all, r.specs[n])
	}
	return all
}

// Kind returns what the registry holds, as used in messages.
func (r *Registry[F]) Kind() string { return r.kind }
