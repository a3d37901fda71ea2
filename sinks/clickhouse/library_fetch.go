package clickhouse

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/term"
)

// maxLibraryBytes bounds what an archive may unpack to.
const maxLibraryBytes = 4 << 30

// stallTimeout ends a download that no longer moves.
const stallTimeout = time.Minute

// fetch gets the package, checks it and puts the library into dir, atomically.
func (f *finder) fetch(ctx context.Context, pkg libraryPackage, dir string) error {
	tmp, err := os.MkdirTemp(dir, "fetch-")
	if err != nil {
		return fmt.Errorf("making a temporary folder: %w", err)
	}
	defer os.RemoveAll(tmp) //nolint:errcheck // best effort
	began := time.Now()
	spec := pkg.name + "@" + f.version
	var archive string
	integrity := pkg.integrity
	npm, npmErr := exec.LookPath("npm")
	registry := f.env("npm_config_registry")
	switch {
	case npmErr == nil:
		if integrity == "" {
			integrity = f.npmIntegrity(ctx, npm, spec)
		}
		archive, err = f.npmPack(ctx, npm, spec, tmp)
	case registry != "":
		archive, integrity, err = f.download(ctx, registry, pkg, tmp)
	default:
		return errors.New("npm is not installed and npm_config_registry is not set")
	}
	if err != nil {
		return err
	}
	if pkg.integrity == "" {
		f.progress.line("this build pins no checksum of " + spec + " for " + f.platform + ": checked is the one that the registry states")
	}
	if err := checkIntegrity(archive, integrity); err != nil {
		return fmt.Errorf("checking %s: %w", spec, err)
	}
	if err := f.unpack(archive, tmp, dir); err != nil {
		return fmt.Errorf("unpacking %s: %w", spec, err)
	}
	f.progress.line(fmt.Sprintf("libchdb %s is in %s (%s)", f.version, dir, time.Since(began).Round(100*time.Millisecond)))
	return nil
}

// npmPack lets npm fetch the package file. npm tells no progress, so the bytes
// in its cache, which is a temporary one, are counted.
func (f *finder) npmPack(ctx context.Context, npm, spec, tmp string) (string, error) {
	cache := filepath.Join(tmp, "npm")
	cmd := exec.CommandContext(ctx, npm, "pack", spec, "--silent", "--cache", cache, "--pack-destination", tmp) //nolint:gosec // G204: npm as found, our arguments
	cmd.Dir = tmp
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("starting npm: %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	ticker := time.NewTicker(250 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case err := <-done:
			if err != nil {
				return "", fmt.Errorf("fetching %s with npm pack: %w%s", spec, err, lastLine(out.String()+errOut.String()))
			}
			found, err := filepath.Glob(filepath.Join(tmp, "*.tgz"))
			if err != nil || len(found) != 1 {
				return "", fmt.Errorf("fetching %s with npm pack: it left %d package files", spec, len(found))
			}
			return found[0], nil
		case <-ticker.C:
			f.progress.bytes("fetching "+spec+" with npm", folderSize(cache), 0)
		}
	}
}

// npmIntegrity asks the registry for the package's checksum.
func (f *finder) npmIntegrity(ctx context.Context, npm, spec string) string {
	out, err := exec.CommandContext(ctx, npm, "view", spec, "dist.integrity", "--silent").Output() //nolint:gosec // G204: npm as found
	if err != nil {
		return "" // the check then fails with a message of its own
	}
	return strings.Trim(strings.TrimSpace(string(out)), "'\"")
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if last := lines[len(lines)-1]; last != "" {
		return ": " + last
	}
	return ""
}

func folderSize(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				n += info.Size()
			}
		}
		return nil
	})
	return n
}

// download fetches the package file over HTTP from an npm registry.
func (f *finder) download(ctx context.Context, registry string, pkg libraryPackage, tmp string) (archive, integrity string, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(stallTimeout, func() { cancel(errors.New("nothing came for a minute")) })
	defer stall.Stop()
	var meta struct {
		Dist struct {
			Tarball   string `json:"tarball"`
			Integrity string `json:"integrity"`
		} `json:"dist"`
	}
	body, _, err := httpGet(ctx, strings.TrimSuffix(registry, "/")+"/"+url.PathEscape(pkg.name)+"/"+f.version)
	if err != nil {
		return "", "", fmt.Errorf("asking the registry for %s: %w", pkg.name, err)
	}
	err = json.NewDecoder(io.LimitReader(body, 1<<20)).Decode(&meta)
	_ = body.Close()
	if err != nil {
		return "", "", fmt.Errorf("decoding the registry's answer for %s: %w", pkg.name, err)
	}
	body, size, err := httpGet(ctx, meta.Dist.Tarball)
	if err != nil {
		return "", "", fmt.Errorf("fetching %s: %w", pkg.name, err)
	}
	defer body.Close() //nolint:errcheck // a reader
	archive = filepath.Join(tmp, "package.tgz")
	file, err := os.OpenFile(archive, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", "", fmt.Errorf("writing the package file: %w", err)
	}
	var n int64
	_, err = io.Copy(file, readerFunc(func(p []byte) (int, error) {
		k, err := body.Read(p)
		n += int64(k)
		stall.Reset(stallTimeout)
		f.progress.bytes("fetching "+pkg.name+"@"+f.version, n, size)
		return k, err
	}))
	if cerr := file.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return "", "", fmt.Errorf("fetching %s: %w", pkg.name, err)
	}
	if integrity = pkg.integrity; integrity == "" {
		integrity = meta.Dist.Integrity
	}
	return archive, integrity, nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func httpGet(ctx context.Context, address string) (io.ReadCloser, int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, 0, err
	}
	if resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close()
		return nil, 0, fmt.Errorf("the registry answered %s", resp.Status)
	}
	return resp.Body, resp.ContentLength, nil
}

// checkIntegrity compares a file with a checksum in npm's form, sha512-BASE64.
func checkIntegrity(file, integrity string) error {
	want, ok := strings.CutPrefix(integrity, "sha512-")
	if !ok {
		return fmt.Errorf("no sha512 checksum to compare with (%.20q)", integrity)
	}
	r, err := os.Open(file)
	if err != nil {
		return err
	}
	defer r.Close() //nolint:errcheck // a reader
	h := sha512.New()
	if _, err := io.Copy(h, r); err != nil {
		return fmt.Errorf("reading it: %w", err)
	}
	if got := base64.StdEncoding.EncodeToString(h.Sum(nil)); got != want {
		return fmt.Errorf("its sha512 is %s, not %s: it is damaged or not what was published", got, want)
	}
	return nil
}

// unpack writes the library of the package file to a temporary name, syncs it
// and renames it into dir.
func (f *finder) unpack(archive, tmp, dir string) error {
	r, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer r.Close() //nolint:errcheck // a reader
	z, err := gzip.NewReader(r)
	if err != nil {
		return err
	}
	for t := tar.NewReader(z); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return errors.New("there is no " + libraryFile + " in it")
		}
		if err != nil {
			return err
		}
		if base := path.Base(h.Name); h.Typeflag != tar.TypeReg || (base != libraryFile && base != "libchdb.dylib") {
			continue
		}
		if h.Size > maxLibraryBytes {
			return fmt.Errorf("its library has %d bytes", h.Size)
		}
		staged := filepath.Join(tmp, libraryFile)
		out, err := os.OpenFile(staged, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o700) //nolint:gosec // G302: a library; G304: our folder
		if err != nil {
			return err
		}
		var n int64
		_, err = io.Copy(out, readerFunc(func(p []byte) (int, error) {
			k, err := t.Read(p)
			n += int64(k)
			f.progress.bytes("unpacking "+libraryFile, n, h.Size)
			return k, err
		}))
		if err == nil {
			err = out.Sync()
		}
		if cerr := out.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return err
		}
		return os.Rename(staged, filepath.Join(dir, libraryFile))
	}
}

// progress writes lines about something slow: in place on a terminal, else one
// every two seconds.
type progress struct {
	w        io.Writer
	terminal bool
	last     time.Time
	open     bool // an in-place line is on the screen
}

func newProgress(w io.Writer) *progress {
	p := &progress{w: w}
	if f, ok := w.(*os.File); ok {
		p.terminal = term.IsTerminal(int(f.Fd()))
	}
	return p
}

// bytes tells how far something is; total is 0 when it is not known.
func (p *progress) bytes(what string, n, total int64) {
	every := 2 * time.Second
	if p.terminal {
		every = 200 * time.Millisecond
	}
	if p.w == nil || time.Since(p.last) < every {
		return
	}
	p.last = time.Now()
	text := fmt.Sprintf("%s: %.1f MB", what, float64(n)/1e6)
	if total > 0 {
		text += fmt.Sprintf(" of %.1f MB", float64(total)/1e6)
	}
	if p.terminal {
		_, _ = fmt.Fprintf(p.w, "\r\x1b[K%s", text)
		p.open = true
		return
	}
	_, _ = fmt.Fprintln(p.w, text)
}

// line writes one line.
func (p *progress) line(text string) {
	if p.w == nil {
		return
	}
	if p.open {
		_, _ = fmt.Fprint(p.w, "\r\x1b[K")
		p.open = false
	}
	_, _ = fmt.Fprintln(p.w, text)
}
