package bustest

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// UnpackFolder unpacks a data folder that an earlier build left, a .tar.gz of
// regular files, into a folder that is gone after the test, and returns where it is.
func UnpackFolder(t testing.TB, archive string) string {
	t.Helper()
	f, err := os.Open(archive) //nolint:gosec // of the test's own testdata
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // it is only read
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return root
		}
		if err != nil {
			t.Fatal(err)
		}
		if !filepath.IsLocal(h.Name) {
			t.Fatalf("the archive names %q", h.Name)
		}
		path := filepath.Join(root, h.Name) //nolint:gosec // local, see above
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(path, 0o750)
		} else {
			err = unpackFile(path, r)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func unpackFile(path string, from io.Reader) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from) //nolint:gosec // an archive of ours
	return errors.Join(err, f.Close())
}
