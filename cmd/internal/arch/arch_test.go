package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/autohedge/autohedge/"

// source is one parsed Go file.
type source struct {
	path string // from the root, with slashes
	dir  string
	test bool
	file *ast.File
	fset *token.FileSet
	text string
}

func (s *source) at(n ast.Node) string {
	p := s.fset.Position(n.Pos())
	return s.path + ":" + strconv.Itoa(p.Line)
}

func (s *source) imports() []string {
	var out []string
	for _, i := range s.file.Imports {
		p, err := strconv.Unquote(i.Path.Value)
		if err == nil {
			out = append(out, p)
		}
	}
	return out
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		t.Fatalf("finding the root: %v", err)
	}
	return dir
}

// sources parses every Go file of the tree; the files are read, not listed by a
// command, so that the test cache sees a change.
func sources(t *testing.T) []*source {
	t.Helper()
	base := root(t)
	var all []*source
	fset := token.NewFileSet()
	err := filepath.WalkDir(base, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); path != base && (strings.HasPrefix(name, ".") || name == "testdata") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(fset, path, text, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(base, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		all = append(all, &source{path: rel, dir: filepath.ToSlash(filepath.Dir(rel)), test: strings.HasSuffix(rel, "_test.go"), file: file, fset: fset, text: string(text)})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 50 {
		t.Fatalf("found only %d Go files", len(all))
	}
	return all
}

// layer orders the packages: one imports only what has a lower number, except
// within the same plug-in room (desk uses llm) and cmd/internal.
func layer(dir string) int {
	switch {
	case dir == "stream/bus/kafkatest":
		return -1
	case dir == "stream/event", dir == "stream/component", dir == "stream/bus/bustest", dir == "stream/bus/peer":
		return 0
	case dir == "stream/bus/clustertest": // has tests alone
		return 2
	case dir == "stream/bus", strings.HasPrefix(dir, "stream/bus/"):
		return 1
	case slices.Contains([]string{"stream", "signals", "agents", "execution", "sinks"}, dir):
		return 3
	case dir == "cmd/internal/app":
		return 5
	case strings.HasPrefix(dir, "cmd/internal/"):
		return 4
	case dir == "cmd/autohedge":
		return 6
	}
	return 2 // plug-ins: stream/venue, signals/indicator, execution/broker, ...
}

func TestImportOrder(t *testing.T) {
	for _, s := range sources(t) {
		from := layer(s.dir)
		for _, imp := range s.imports() {
			dir, ours := strings.CutPrefix(imp, module)
			if !ours {
				continue
			}
			to := layer(dir)
			room, _, _ := strings.Cut(s.dir, "/")
			otherRoom, _, _ := strings.Cut(dir, "/")
			switch {
			case from == 2 && to == 1 && !s.test:
				t.Errorf("%s imports %s: plug-ins never import bus", s.path, dir)
			case from == 2 && to == 2 && room == otherRoom:
			case from == 4 && to == 4:
			case s.test && from == to && s.dir == dir:
			case from == 3 && to == 3 && s.test && s.dir == dir:
			case to >= from:
				t.Errorf("%s imports %s: imports go one way, event and component -> bus -> plug-ins -> roles -> cmd/internal -> app -> main", s.path, dir)
			}
		}
	}
}

// homes is where each third-party client may be imported, tests included.
var homes = map[string][]string{
	"github.com/segmentio/kafka-go":        {"stream/bus"},
	"github.com/twmb/franz-go":             {"stream/bus"},
	"github.com/gorilla/websocket":         {"stream", "cmd/internal/app"}, // app: a test is a venue
	"github.com/sashabaranov/go-openai":    {"agents/llm"},
	"github.com/ClickHouse/clickhouse-go":  {"sinks/clickhouse"},
	"github.com/ClickHouse/ch-go":          {"sinks/clickhouse"},
	"github.com/ebitengine/purego":         {"sinks/clickhouse"},
	"github.com/alpacahq/alpaca-trade-api": {"execution/broker"},
	"github.com/adshao/go-binance":         {"execution/broker"},
	"github.com/spf13/cobra":               {"cmd/internal/app"},
	"github.com/goccy/go-yaml":             {"cmd/internal/config"},
	"google.golang.org/protobuf":           {"stream/event", "stream/bus"},                                                  // bus reads ids without decoding
	"github.com/shirou/gopsutil":           {"cmd/internal/health", "cmd/internal/capacity", "cmd/internal/bench", "sinks"}, // sinks: a benchmark's CPU time
	"github.com/bufbuild/protocompile":     {"stream/event"},
}

func TestOneHomePerClient(t *testing.T) {
	for _, s := range sources(t) {
		for _, imp := range s.imports() {
			for client, rooms := range homes {
				if imp != client && !strings.HasPrefix(imp, client+"/") {
					continue
				}
				if s.test && client == "github.com/goccy/go-yaml" {
					continue // tests of configurations read some
				}
				if !slices.ContainsFunc(rooms, func(r string) bool { return s.dir == r || strings.HasPrefix(s.dir, r+"/") }) {
					t.Errorf("%s imports %s: its home is %s", s.path, imp, strings.Join(rooms, ", "))
				}
			}
		}
	}
}

func TestPackageDocs(t *testing.T) {
	documented := make(map[string]bool)
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		doc := s.file.Doc.Text()
		if strings.HasPrefix(doc, "Package "+s.file.Name.Name+" ") || strings.HasPrefix(doc, "Command ") {
			documented[s.dir] = true
		} else if !documented[s.dir] {
			documented[s.dir] = false
		}
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("%s has no package comment: say what it owns, what it must not know, where to start", dir)
		}
	}
}

var (
	badStart = regexp.MustCompile(`^(failed|failing to|cannot|can't|could not|couldn't|unable to|error |err |[A-Z][a-z])`)
	wrapped  = regexp.MustCompile(`^([a-z]+)\b[^%]*: %w`)
)

// Errors are wrapped with a lower-case gerund: "decoding trade frame: %w".
func TestErrorWording(t *testing.T) {
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) == 0 {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if name := ident(sel.X) + "." + sel.Sel.Name; name != "fmt.Errorf" && name != "errors.New" {
				return true
			}
			lit, ok := call.Args[0].(*ast.BasicLit)
			if !ok {
				return true
			}
			text, err := strconv.Unquote(lit.Value)
			if err != nil {
				return true
			}
			switch m := wrapped.FindStringSubmatch(text); {
			case badStart.MatchString(text):
				t.Errorf("%s: %q: say what was being done (\"decoding trade frame: ...\")", s.at(call), text)
			case strings.HasSuffix(text, ".") || strings.HasSuffix(text, "!") || strings.HasSuffix(text, "\n"):
				t.Errorf("%s: %q: no full stop at the end, it may be wrapped", s.at(call), text)
			case m != nil && !strings.HasSuffix(m[1], "ing") && m[1] != "field" && m[1] != "line":
				t.Errorf("%s: %q: wrap with a gerund", s.at(call), text)
			}
			return true
		})
	}
}

func ident(e ast.Expr) string {
	if id, ok := e.(*ast.Ident); ok {
		return id.Name
	}
	return ""
}

// main alone ends the process, and only once.
func TestExitStandsOnce(t *testing.T) {
	var places []string
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && ident(sel.X) == "os" && sel.Sel.Name == "Exit" {
				places = append(places, s.at(sel))
			}
			if sel, ok := n.(*ast.SelectorExpr); ok && ident(sel.X) == "log" && strings.HasPrefix(sel.Sel.Name, "Fatal") {
				t.Errorf("%s: log.%s ends the process", s.at(sel), sel.Sel.Name)
			}
			return true
		})
	}
	if len(places) != 1 || !strings.HasPrefix(places[0], "cmd/autohedge/main.go") {
		t.Errorf("os.Exit stands at %v, want once in cmd/autohedge/main.go", places)
	}
}

func TestFileLength(t *testing.T) {
	for _, s := range sources(t) {
		if n := strings.Count(s.text, "\n"); n > 900 {
			t.Errorf("%s has %d lines: at most 900, about 400", s.path, n)
		}
	}
}

func TestTopLevel(t *testing.T) {
	allowed := []string{"cmd", "stream", "signals", "agents", "execution", "sinks", "deploy", "go.mod", "go.sum", "README.md", "LICENSE"}
	entries, err := os.ReadDir(root(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") && !slices.Contains(allowed, e.Name()) {
			t.Errorf("%s at the top level: the owner fixed %v", e.Name(), allowed)
		}
	}
}

func TestRoleFolders(t *testing.T) {
	for _, role := range []string{"stream", "signals", "agents", "execution", "sinks"} {
		for _, name := range []string{"doc.go", role + ".go", "config.go", "metrics.go", "README.md"} {
			if _, err := os.Stat(filepath.Join(root(t), role, name)); err != nil {
				t.Errorf("%s/%s is missing: every role folder holds the same files", role, name)
			}
		}
		text, err := os.ReadFile(filepath.Join(root(t), role, "README.md"))
		if err != nil {
			continue
		}
		sections := regexp.MustCompile(`(?m)^## .*$`).FindAllString(string(text), -1)
		if len(sections) == 0 || !strings.HasPrefix(sections[len(sections)-1], "## Adding a") {
			t.Errorf("%s/README.md does not end with a section \"## Adding a ...\"", role)
		}
	}
}

// What judges, limits and counts money takes its time from records and never
// uses a float.
func TestPureCores(t *testing.T) {
	pure := map[string]bool{"signals/indicator": false, "execution/risk": true, "execution/ledger": true} // dir -> floats banned too
	for _, s := range sources(t) {
		noFloat, ok := pure[s.dir]
		if !ok || s.test {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && ident(sel.X) == "time" && slices.Contains([]string{"Now", "Since", "Sleep", "After", "NewTimer", "NewTicker"}, sel.Sel.Name) {
				t.Errorf("%s: time.%s in a pure core", s.at(sel), sel.Sel.Name)
			}
			if id, ok := n.(*ast.Ident); ok && noFloat && (id.Name == "float64" || id.Name == "float32") {
				t.Errorf("%s: money in a float", s.at(id))
			}
			return true
		})
	}
}

// A skipped test is a defect where CI runs: skips are allowed only behind a look
// at the CI variable.
func TestSkipsLookAtCI(t *testing.T) {
	for _, s := range sources(t) {
		if !s.test || s.dir == "cmd/internal/arch" {
			continue
		}
		if regexp.MustCompile(`\b[tb]\.Skip(f|Now)?\(`).MatchString(s.text) && !strings.Contains(s.text, `"CI"`) {
			t.Errorf("%s skips without looking at CI", s.path)
		}
	}
}
