package bus

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// groupKinds are the kinds of request that kafka-go's ConsumerGroup sends; bus
// does not name them itself.
var groupKinds = []kmsg.Key{
	kmsg.FindCoordinator, kmsg.JoinGroup, kmsg.SyncGroup, kmsg.Heartbeat, kmsg.LeaveGroup, kmsg.OffsetFetch, kmsg.OffsetCommit, kmsg.Metadata,
}

// faultKinds are the kinds of request that the fault matrix has rows for.
func faultKinds() map[kmsg.Key]bool {
	kinds := make(map[kmsg.Key]bool)
	for _, op := range faultOps() {
		kinds[op.key] = true
	}
	return kinds
}

// sourceKinds finds the kinds of request that the package's source names: calls of
// kafka.Client, request literals and the keys of own requests.
func sourceKinds(t *testing.T) map[kmsg.Key]string {
	t.Helper()
	byName := make(map[string]kmsg.Key)
	for k := range int16(kmsg.MaxKey + 1) {
		byName[strings.ToLower(kmsg.NameForKey(k))] = kmsg.Key(k)
	}
	// kafka-go's names where they are not the protocol's.
	byName["rawproduce"], byName["alterpartitionreassignments"] = kmsg.Produce, kmsg.AlterPartitionAssignments
	found := make(map[kmsg.Key]string)
	files := token.NewFileSet()
	add := func(name string, at token.Pos) {
		k, known := byName[strings.ToLower(name)]
		if !known {
			t.Errorf("%s: which kind of request is %s? tell sourceKinds", files.Position(at), name)
			return
		}
		found[k] = files.Position(at).String()
	}
	pkgs, err := parser.ParseDir(files, ".", func(f fs.FileInfo) bool { return !strings.HasSuffix(f.Name(), "_test.go") }, 0) //nolint:staticcheck // one package, no build tags
	if err != nil {
		t.Fatal(err)
	}
	for _, pkg := range pkgs {
		ast.Inspect(pkg, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr: // c.kafka.ListOffsets(...)
				method, ok := n.Fun.(*ast.SelectorExpr)
				if !ok {
					break
				}
				if field, ok := method.X.(*ast.SelectorExpr); ok && field.Sel.Name == "kafka" {
					add(method.Sel.Name, n.Pos())
				}
				if method.Sel.Name == "NewConsumerGroup" {
					for _, k := range groupKinds {
						found[k] = files.Position(n.Pos()).String()
					}
				}
			case *ast.CompositeLit: // fetch.Request{...}
				if typ, ok := n.Type.(*ast.SelectorExpr); ok && typ.Sel.Name == "Request" {
					if pkg, ok := typ.X.(*ast.Ident); ok {
						add(pkg.Name, n.Pos())
					}
				}
			case *ast.SelectorExpr: // protocol.Fetch, as own requests name their kind
				if pkg, ok := n.X.(*ast.Ident); ok && pkg.Name == "protocol" {
					if k, known := byName[strings.ToLower(n.Sel.Name)]; known {
						found[k] = files.Position(n.Pos()).String()
					}
				}
			}
			return true
		})
	}
	return found
}

// A kind of request that the package sends has rows in the fault matrix, and the
// matrix has none for what is not sent. What is really sent is looked at wherever
// a virtual broker runs (inBubble).
func TestFaultMatrixKnowsEveryKindOfRequest(t *testing.T) {
	sent, listed := sourceKinds(t), faultKinds()
	for k, where := range sent {
		if !listed[k] {
			t.Errorf("%s: %s is sent and is not in the fault matrix: add it to faultOps", where, k.Name())
		}
	}
	for k := range listed {
		if _, ok := sent[k]; !ok {
			t.Errorf("the fault matrix has rows for %s, which is not sent", k.Name())
		}
	}
	if len(sent) < 20 {
		t.Errorf("found only %d kinds of request in the source", len(sent))
	}
}
