package config

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"sort"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/autohedge/autohedge/stream/component"
)

// Finding is one problem of a configuration file, at its place.
type Finding struct {
	File    string `json:"file"`
	Line    int    `json:"line"`   // from 1; 0 when the problem has no place
	Column  int    `json:"column"` // from 1
	Path    string `json:"path"`
	Message string `json:"message"`
	Warning bool   `json:"warning,omitempty"`
}

func (f Finding) String() string {
	var b strings.Builder
	b.WriteString(f.File)
	if f.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", f.Line, f.Column)
	}
	b.WriteString(": ")
	if f.Warning {
		b.WriteString("warning: ")
	}
	if f.Path != "" {
		b.WriteString(f.Path + ": ")
	}
	b.WriteString(f.Message)
	return b.String()
}

// Findings are all problems of a file.
type Findings []Finding

// Err returns the errors, without the warnings, one a line; nil when there are none.
func (f Findings) Err() error {
	var lines []string
	for _, x := range f {
		if !x.Warning {
			lines = append(lines, x.String())
		}
	}
	if lines == nil {
		return nil
	}
	return errors.New(strings.Join(lines, "\n"))
}

// Warnings returns the warnings only.
func (f Findings) Warnings() Findings {
	var w Findings
	for _, x := range f {
		if x.Warning {
			w = append(w, x)
		}
	}
	return w
}

// decoder walks the document beside the Go type it fills.
type decoder struct {
	file     string
	lookup   func(string) (string, bool)
	findings Findings
	places   map[string]ast.Node // path -> node, for problems found later
}

// decode fills dst, a pointer to a struct that holds the defaults, from YAML.
// A list replaces the default list whole; a map entry replaces or adds one.
func decode(file string, src []byte, lookup func(string) (string, bool), dst any) (*decoder, Findings) {
	d := &decoder{file: file, lookup: lookup, places: make(map[string]ast.Node)}
	src = bytes.TrimPrefix(src, []byte("\ufeff")) // some editors begin a file with a byte order mark
	doc, err := parser.ParseBytes(src, 0)
	if err != nil {
		d.syntax(err)
		return d, d.findings
	}
	if len(doc.Docs) > 1 {
		d.addf(doc.Docs[1].Body, "", "a second document: want one")
	}
	if len(doc.Docs) == 0 || doc.Docs[0].Body == nil {
		return d, d.findings
	}
	d.value(doc.Docs[0].Body, reflect.ValueOf(dst).Elem(), "")
	return d, d.findings
}

// syntax reports an error of the YAML parser at its place.
func (d *decoder) syntax(err error) {
	f := Finding{File: d.file, Message: err.Error()}
	var located yaml.Error
	if errors.As(err, &located) {
		f.Message = located.GetMessage()
		if strings.Contains(f.Message, "found character '\t'") {
			f.Message = "a tab character: indent with spaces"
		}
		if t := located.GetToken(); t != nil && t.Position != nil {
			f.Line, f.Column = t.Position.Line, t.Position.Column
		}
	}
	d.findings = append(d.findings, f)
}

func (d *decoder) addf(n ast.Node, path, format string, args ...any) {
	f := Finding{File: d.file, Path: path, Message: fmt.Sprintf(format, args...)}
	if n != nil {
		f.Line, f.Column = place(n)
	}
	d.findings = append(d.findings, f)
}

// place is where a node begins; a block mapping begins with its first key, while
// its token is that key's colon.
func place(n ast.Node) (line, column int) {
	switch x := n.(type) {
	case *ast.MappingNode:
		if !x.IsFlowStyle && len(x.Values) > 0 {
			n = x.Values[0].Key
		}
	case *ast.MappingValueNode:
		n = x.Key
	}
	if t := n.GetToken(); t != nil && t.Position != nil {
		return t.Position.Line, t.Position.Column
	}
	return 0, 0
}

// locate places problems that validation found, without those that only follow
// from a value that did not decode.
func (d *decoder) locate(problems component.Problems) Findings {
	var out Findings
	for _, p := range problems {
		if d.follows(p.Path) {
			continue
		}
		f := Finding{File: d.file, Path: p.Path, Message: p.Message, Warning: p.Warning}
		for path := p.Path; ; {
			if n, ok := d.places[path]; ok {
				f.Line, f.Column = place(n)
				break
			}
			cut := strings.LastIndexAny(path, ".[")
			if cut < 0 {
				break
			}
			path = path[:cut]
		}
		if list, _, inList := strings.Cut(p.Path, "["); inList && d.places[list] == nil {
			f.Message += fmt.Sprintf("; the file does not give %s, so its default applies: give the list", list)
		}
		out = append(out, f)
	}
	return out
}

// follows reports whether a problem at path may be no more than the echo of a
// finding: at the same place, within it or around it, or of a key that is
// missing where another one beside it was not understood.
func (d *decoder) follows(path string) bool {
	within := func(inner, outer string) bool {
		rest, ok := strings.CutPrefix(inner, outer)
		return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
	}
	parent := func(p string) string { return p[:max(0, strings.LastIndexAny(p, ".["))] }
	_, given := d.places[path]
	for _, f := range d.findings {
		if within(path, f.Path) || within(f.Path, path) || (!given && parent(path) == parent(f.Path)) {
			return true
		}
	}
	return false
}

var (
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
	durationType = reflect.TypeFor[time.Duration]()
	defaulter    = reflect.TypeFor[interface{ SetDefaults() }]()
)

// mapper is a mapping that says what to write where one scalar is.
type mapper interface{ WantMapping(scalar string) string }

// value decodes node into v.
func (d *decoder) value(n ast.Node, v reflect.Value, path string) {
	switch x := n.(type) {
	case *ast.TagNode:
		n = x.Value
	case *ast.AnchorNode, *ast.AliasNode:
		d.addf(n, path, "anchors and aliases are not used here: write the value out")
		return
	}
	d.places[path] = n
	if _, null := n.(*ast.NullNode); null {
		return // "key:" alone keeps the default
	}
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		v = v.Elem()
	}
	switch {
	case v.Addr().Type().Implements(textType) || v.Type() == durationType:
		d.scalar(n, v, path)
	case v.Kind() == reflect.Struct:
		d.mapping(n, v, path)
	case v.Kind() == reflect.Slice:
		d.sequence(n, v, path)
	case v.Kind() == reflect.Map:
		d.entries(n, v, path)
	case v.Kind() == reflect.Interface:
		if text := n.GetToken().Value; isNumber(n) && !plainNumber.MatchString(text) {
			d.addf(n, path, "want a number in decimal digits, have %q", text)
			return
		}
		var decoded any
		if err := yaml.NodeToValue(n, &decoded); err != nil {
			d.addf(n, path, "%v", plain(err))
			return
		}
		v.Set(reflect.ValueOf(decoded))
	default:
		d.scalar(n, v, path)
	}
}

// pairs returns the pairs of a mapping.
func (d *decoder) pairs(n ast.Node, path string) ([]*ast.MappingValueNode, bool) {
	switch x := n.(type) {
	case *ast.MappingNode:
		return x.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{x}, true
	}
	d.addf(n, path, "want a mapping of keys to values, have %s", kind(n))
	return nil, false
}

// fields returns the YAML names of a struct's fields; inline structs are
// flattened.
func fields(t reflect.Type) map[string][]int {
	names := make(map[string][]int)
	for i := range t.NumField() {
		f := t.Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case !f.IsExported() || name == "-":
		case strings.Contains(opts, "inline") || (f.Anonymous && name == ""):
			for n, index := range fields(f.Type) {
				names[n] = append([]int{i}, index...)
			}
		case name == "":
			names[strings.ToLower(f.Name)] = []int{i}
		default:
			names[name] = []int{i}
		}
	}
	return names
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func (d *decoder) mapping(n ast.Node, v reflect.Value, path string) {
	pairs, ok := d.pairs(n, path)
	if !ok {
		return
	}
	legal := fields(v.Type())
	seen := make(map[string]bool)
	for _, p := range pairs {
		key := p.Key.GetToken().Value
		at := join(path, key)
		index, ok := legal[key]
		switch {
		case !ok:
			d.addf(p.Key, at, "unknown key%s", suggest(key, legal))
		case seen[key]:
			d.addf(p.Key, at, "given twice")
		default:
			d.value(p.Value, v.FieldByIndex(index), at)
		}
		seen[key] = true
	}
}

func (d *decoder) entries(n ast.Node, v reflect.Value, path string) {
	if m, ok := v.Interface().(mapper); ok {
		if s, scalar := n.(ast.ScalarNode); scalar {
			d.addf(n, path, "%s", m.WantMapping(s.GetToken().Value))
			return
		}
	}
	pairs, ok := d.pairs(n, path)
	if !ok {
		return
	}
	v.Set(reflect.MakeMap(v.Type())) // what is written replaces the default whole
	for _, p := range pairs {
		key := p.Key.GetToken().Value
		e := reflect.New(v.Type().Elem()).Elem()
		setDefaults(e)
		d.value(p.Value, e, join(path, key))
		v.SetMapIndex(reflect.ValueOf(key).Convert(v.Type().Key()), e)
	}
}

func (d *decoder) sequence(n ast.Node, v reflect.Value, path string) {
	s, ok := n.(*ast.SequenceNode)
	if !ok {
		d.addf(n, path, "want a list, have %s", kind(n))
		return
	}
	list := reflect.MakeSlice(v.Type(), len(s.Values), len(s.Values))
	for i, e := range s.Values {
		setDefaults(list.Index(i))
		d.value(e, list.Index(i), fmt.Sprintf("%s[%d]", path, i))
	}
	v.Set(list)
}

// setDefaults fills a list's or map's element before it is decoded.
func setDefaults(v reflect.Value) {
	if v.Addr().Type().Implements(defaulter) {
		v.Addr().Interface().(interface{ SetDefaults() }).SetDefaults()
	}
}

// scalar decodes one scalar, after replacing ${NAME} and ${NAME:-default}.
func (d *decoder) scalar(n ast.Node, v reflect.Value, path string) {
	s, ok := n.(ast.ScalarNode)
	if !ok {
		d.addf(n, path, "want %s, have %s", want(v.Type()), kind(n))
		return
	}
	text := s.GetToken().Value
	if l, ok := n.(*ast.LiteralNode); ok {
		text = l.Value.Value
	}
	quoted := false
	if str, ok := n.(*ast.StringNode); ok {
		text = str.Value
		quoted = str.Token.Type.String() == "DoubleQuote" || str.Token.Type.String() == "SingleQuote"
	}
	if strings.Contains(variable.ReplaceAllString(strings.ReplaceAll(text, "$$", ""), ""), "${") {
		d.addf(n, path, "has a ${ that begins no variable: want ${NAME} or ${NAME:-default}, or $$ for a dollar sign")
		return
	}
	replaced, missing := expand(text, d.lookup)
	if missing != "" {
		d.addf(n, path, "environment variable %s is not set: set it, or write ${%s:-default}", missing, missing)
		return
	}
	text = replaced
	if t, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		if err := t.UnmarshalText([]byte(text)); err != nil {
			d.addf(n, path, "%v", err)
		}
		return
	}
	if v.Type() == durationType {
		dur, err := time.ParseDuration(text)
		if err != nil {
			d.addf(n, path, "%q is no duration: want a number with a unit, like 500ms, 2s or 1h30m", text)
			return
		}
		v.SetInt(int64(dur))
		return
	}
	if v.Kind() == reflect.String {
		v.SetString(text)
		return
	}
	if quoted && replaced == s.GetToken().Value {
		d.addf(n, path, "want %s, have the text %q: take the quotes away", want(v.Type()), text)
		return
	}
	// A number is taken as it is written or refused: YAML would read 4.5 as 4 where a
	// whole number is wanted, 010 as 8 and 1_000 as 1000.
	form := plainNumber
	switch {
	case v.CanInt(), v.CanUint():
		form = wholeNumber
	case !v.CanFloat():
		form = nil
	}
	if err := yaml.Unmarshal([]byte(text), v.Addr().Interface()); err != nil {
		d.addf(n, path, "want %s, have %q", want(v.Type()), text)
	} else if form != nil && !form.MatchString(text) {
		d.addf(n, path, "want %s in decimal digits, have %q", want(v.Type()), text)
	}
}

// Numbers as people write them: decimal digits, no leading zero.
var (
	wholeNumber = regexp.MustCompile(`^[+-]?(0|[1-9][0-9]*)$`)
	plainNumber = regexp.MustCompile(`^[+-]?(0|[1-9][0-9]*)?(\.[0-9]+)?([eE][+-]?[0-9]+)?$`)
)

// isNumber reports whether YAML reads a node as a number.
func isNumber(n ast.Node) bool {
	switch n.(type) {
	case *ast.IntegerNode, *ast.FloatNode:
		return true
	}
	return false
}

var variable = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)(:-[^}]*)?\}`)

// expand replaces ${NAME} and ${NAME:-default}; missing is the first variable
// that is not set and has no default. $$ is a dollar sign.
func expand(text string, lookup func(string) (string, bool)) (out, missing string) {
	if !strings.Contains(text, "$") {
		return text, ""
	}
	out = variable.ReplaceAllStringFunc(text, func(m string) string {
		parts := variable.FindStringSubmatch(m)
		if v, ok := lookup(parts[1]); ok && (v != "" || parts[2] == "") {
			return v
		}
		if parts[2] == "" && missing == "" {
			missing = parts[1]
		}
		return strings.TrimPrefix(parts[2], ":-")
	})
	return strings.ReplaceAll(out, "$$", "$"), missing
}

// want names what a type takes, for people.
func want(t reflect.Type) string {
	switch {
	case t == durationType:
		return "a duration like 500ms"
	case reflect.PointerTo(t).Implements(textType), t.Kind() == reflect.String:
		return "a text"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "a whole number"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number, not negative"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Slice:
		return "a list"
	}
	return "a mapping of keys to values"
}

func kind(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.NullNode:
		return "nothing"
	}
	return fmt.Sprintf("%q", n.GetToken().Value)
}

// plain strips the source excerpt from an error of the YAML library.
func plain(err error) string {
	var located yaml.Error
	if errors.As(err, &located) {
		return located.GetMessage()
	}
	return err.Error()
}

// suggest names the nearest legal key, or all of them.
func suggest(key string, legal map[string][]int) string {
	best, distance := "", 1+max(1, (len(key)+1)/3) // a slip of the pen, not another word
	var all []string
	for k := range legal {
		all = append(all, k)
		if n := edits(key, k); n < distance || (n == distance && k < best) {
			best, distance = k, n
		}
	}
	if best != "" {
		return fmt.Sprintf(": did you mean %s?", best)
	}
	sort.Strings(all)
	return ": want one of " + strings.Join(all, ", ")
}

// edits is the Levenshtein distance of two short words.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			diagonal = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
