package clickhouse

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// libraryPackageFile makes a package file with the given library in it.
func libraryPackageFile(t *testing.T, library string) (file []byte, integrity string) {
	t.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	w := tar.NewWriter(z)
	for name, text := range map[string]string{"package/package.json": "{}", "package/" + libraryFile: library} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(text)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	sum := sha512.Sum512(buf.Bytes())
	return buf.Bytes(), "sha512-" + base64.StdEncoding.EncodeToString(sum[:])
}

// testFinder finds libraries in a world of its own.
func testFinder(t *testing.T, integrity string, env map[string]string) (*finder, *bytes.Buffer) {
	t.Helper()
	cache := t.TempDir()
	var said bytes.Buffer
	return &finder{
		progress: newProgress(&said), env: func(name string) string { return env[name] }, cacheDir: func() (string, error) { return cache, nil },
		platform: "test/test", packages: map[string]libraryPackage{"test/test": {name: "@chdb/lib-test", integrity: integrity}}, version: "1.2.3",
	}, &said
}

func TestLibraryOverHTTP(t *testing.T) {
	t.Setenv("PATH", t.TempDir()) // no npm
	file, integrity := libraryPackageFile(t, "the library")
	var fetched atomic.Int64
	var registry *httptest.Server
	registry = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.EscapedPath() {
		case "/npm/@chdb%2Flib-test/1.2.3":
			fmt.Fprintf(w, `{"dist": {"tarball": %q, "integrity": %q}}`, registry.URL+"/file.tgz", integrity)
		case "/file.tgz":
			fetched.Add(1)
			_, _ = w.Write(file)
		default:
			http.NotFound(w, r)
		}
	}))
	defer registry.Close()
	env := map[string]string{"npm_config_registry": registry.URL + "/npm/"}

	t.Run("once for all who ask", func(t *testing.T) {
		f, said := testFinder(t, integrity, env)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				own := *f
				own.progress = newProgress(nil)
				path, err := own.find(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				if text, err := os.ReadFile(path); err != nil || string(text) != "the library" {
					t.Errorf("%q, %v", text, err)
				}
			})
		}
		wg.Wait()
		if n := fetched.Load(); n != 1 {
			t.Errorf("fetched %d times", n)
		}
		if left, _ := filepath.Glob(filepath.Join(mustCache(f), "autohedge/libchdb/1.2.3/fetch-*")); len(left) != 0 {
			t.Errorf("left behind: %v", left)
		}
		if _, err := f.find(t.Context()); err != nil || said.Len() != 0 {
			t.Errorf("a cached library: %v, said %q", err, said)
		}
	})
	t.Run("a damaged package is refused", func(t *testing.T) {
		_, other := libraryPackageFile(t, "another library")
		f, _ := testFinder(t, other, env)
		_, err := f.find(t.Context())
		if err == nil || !strings.Contains(err.Error(), "it is damaged or not what was published") || !strings.Contains(err.Error(), "Three ways out") {
			t.Fatalf("got %v", err)
		}
		if isFile(filepath.Join(mustCache(f), "autohedge/libchdb/1.2.3", libraryFile)) {
			t.Error("the library was unpacked all the same")
		}
	})
	t.Run("no pin", func(t *testing.T) {
		f, said := testFinder(t, "", env)
		if _, err := f.find(t.Context()); err != nil || !strings.Contains(said.String(), "pins no checksum") {
			t.Errorf("%v, said %q", err, said)
		}
	})
}

func mustCache(f *finder) string {
	dir, _ := f.cacheDir()
	return dir
}

func TestLibraryByNPM(t *testing.T) {
	file, integrity := libraryPackageFile(t, "the library")
	bin := t.TempDir()
	packed := filepath.Join(bin, "packed.tgz")
	if err := os.WriteFile(packed, file, 0o600); err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\nwhile [ $# -gt 0 ]; do case \"$1\" in --pack-destination) shift; dest=$1;; esac; shift; done\n/bin/cp " + packed + " \"$dest/chdb-lib-test-1.2.3.tgz\"\n"
	if err := os.WriteFile(filepath.Join(bin, "npm"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin)
	f, said := testFinder(t, integrity, nil)
	path, err := f.find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "the library" {
		t.Errorf("%q, %v", text, err)
	}
	if !strings.Contains(said.String(), "libchdb 1.2.3 is in ") {
		t.Errorf("said %q", said)
	}
	if err := os.WriteFile(filepath.Join(bin, "npm"), []byte("#!/bin/sh\necho 'npm error 404 Not Found' >&2\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	f, _ = testFinder(t, integrity, nil)
	if _, err := f.find(t.Context()); err == nil || !strings.Contains(err.Error(), "npm error 404 Not Found") {
		t.Errorf("npm fails: %v", err)
	}
}

func TestLibraryElsewhere(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	dir := t.TempDir()
	path := filepath.Join(dir, libraryFile)
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, _ := testFinder(t, "", map[string]string{libraryVariable: path})
	if got, err := f.find(t.Context()); err != nil || got != path {
		t.Errorf("named: %q, %v", got, err)
	}
	f, _ = testFinder(t, "", map[string]string{libraryVariable: path + "x"})
	if _, err := f.find(t.Context()); err == nil || !strings.Contains(err.Error(), libraryVariable) {
		t.Errorf("named and missing: %v", err)
	}
	f, _ = testFinder(t, "", nil)
	f.system = []string{"/nowhere", dir}
	if got, err := f.find(t.Context()); err != nil || got != path {
		t.Errorf("of the system: %q, %v", got, err)
	}
	f, _ = testFinder(t, "", nil)
	_, err := f.find(context.Background())
	for _, want := range []string{"npm is not installed", "clickhouse.url", libraryVariable, "npm_config_registry"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no way: want %q in %v", want, err)
		}
	}
	f.platform = "plan9/386"
	if _, err := f.find(t.Context()); err == nil || !strings.Contains(err.Error(), "no build of it for plan9/386") {
		t.Errorf("no build: %v", err)
	}
}

// TestPins keeps a pin from being dropped or mistyped.
func TestPins(t *testing.T) {
	pinned := 0
	for platform, p := range libraryPackages {
		if p.integrity == "" {
			continue
		}
		pinned++
		sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(p.integrity, "sha512-"))
		if err != nil || len(sum) != sha512.Size {
			t.Errorf("%s: %d bytes, %v", platform, len(sum), err)
		}
	}
	if pinned == 0 || libraryPackages["linux/amd64"].integrity == "" {
		t.Error("the pin of linux/amd64 is gone")
	}
}
