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

// The key of a part is made once and stays; only its owner reads it.
func TestKey(t *testing.T) {
	f, err := folder.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	key, err := f.Key("clickhouse")
	if err != nil || len(key) != 48 {
		t.Fatalf("key %q, %v", key, err)
	}
	again, err := f.Key("clickhouse")
	other, oerr := f.Key("kafka")
	if err != nil || oerr != nil || again != key || other == key {
		t.Errorf("again %q, %v; of another part %q, %v", again, err, other, oerr)
	}
	path := filepath.Join(f.Run(), "clickhouse.key")
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("rights %v, %v", info, err)
	}
	if err := os.WriteFile(path, []byte("cut"), 0o600); err != nil {
		t.Fatal(err)
	}
	if key, err := f.Key("clickhouse"); err != nil || len(key) != 48 {
		t.Errorf("behind a damaged key: %q, %v", key, err)
	}
}
