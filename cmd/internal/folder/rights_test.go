package folder_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/autohedge/autohedge/cmd/internal/folder"
)

// A folder of a former build loses the rights of others; a folder that is not one of
// ours keeps its own.
func TestOpenTakesRights(t *testing.T) {
	for _, tc := range []struct {
		name string
		ours bool
		want os.FileMode
	}{{"ours", true, 0o700}, {"somebody's", false, 0o755}} {
		root := filepath.Join(t.TempDir(), "data")
		if err := os.Mkdir(root, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(root, 0o755); err != nil { //nolint:gosec // what the test is about
			t.Fatal(err)
		}
		if tc.ours {
			if err := os.Mkdir(filepath.Join(root, "run"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := folder.Open(root); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(root)
		if err != nil || info.Mode().Perm() != tc.want {
			t.Errorf("%s: %v, %v, want %s", tc.name, info.Mode(), err, tc.want)
		}
	}
}
