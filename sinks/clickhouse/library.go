package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// LibraryVersion is the release of libchdb this build is made for, and
// EngineVersion the ClickHouse inside it.
const (
	LibraryVersion = "26.7.3-stable.1"
	EngineVersion  = "26.7.2.1"
)

// libraryVariable names a library file and overrides everything else.
const libraryVariable = "AUTOHEDGE_LIBCHDB"

const libraryFile = "libchdb.so"

// libraryPackage is the npm package that ships the library for a platform.
type libraryPackage struct {
	name string
	// integrity is the sha512 of the package file in npm's form (dist.integrity);
	// empty where this build does not pin one: then the registry's own statement is
	// checked, and the progress says so.
	integrity string
}

// libraryPackages by GOOS/GOARCH. There is none for musl and none for Windows.
var libraryPackages = map[string]libraryPackage{
	"linux/amd64": {
		name:      "@chdb/lib-linux-x64-gnu",
		integrity: "sha512-XP97mMqnc5tZpKQywR8N7cLTsHNiTmHr30pC5mzo3jWmukjKn2IBa60c2B/gWUNcuFjOMjWoorQICCqBVj5wpw==",
	},
	"linux/arm64":  {name: "@chdb/lib-linux-arm64-gnu"},
	"darwin/amd64": {name: "@chdb/lib-darwin-x64"},
	"darwin/arm64": {name: "@chdb/lib-darwin-arm64"},
}

// systemLibraryDirs are where a distribution or an administrator installs it.
var systemLibraryDirs = []string{
	"/usr/local/lib", "/usr/lib", "/usr/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/opt/homebrew/lib",
}

// FindLibrary returns the path of libchdb: the one that AUTOHEDGE_LIBCHDB names,
// the one in the user's cache folder, one of the system, or else it fetches the
// package once, checks it and unpacks it into the cache. Progress lines go to
// progress, which may be nil. Several processes may call it at a time: one
// fetches, the others wait for it.
func FindLibrary(ctx context.Context, progress io.Writer) (string, error) {
	f := finder{
		progress: newProgress(progress), env: os.Getenv, cacheDir: os.UserCacheDir, system: systemLibraryDirs,
		platform: runtime.GOOS + "/" + runtime.GOARCH, packages: libraryPackages, version: LibraryVersion,
	}
	return f.find(ctx)
}

// finder is FindLibrary with its surroundings passed in.
type finder struct {
	progress *progress
	env      func(string) string
	cacheDir func() (string, error)
	system   []string
	platform string
	packages map[string]libraryPackage
	version  string
}

func (f *finder) find(ctx context.Context) (string, error) {
	if path := f.env(libraryVariable); path != "" {
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("reading %s: %w", libraryVariable, err)
		}
		return path, nil
	}
	cache, err := f.cacheDir()
	if err != nil {
		return "", f.noWay(fmt.Errorf("finding the user's cache folder: %w", err))
	}
	dir := filepath.Join(cache, "autohedge", "libchdb", f.version)
	cached := filepath.Join(dir, libraryFile)
	if isFile(cached) {
		return cached, nil
	}
	for _, d := range f.system {
		if path := filepath.Join(d, libraryFile); isFile(path) {
			return path, nil
		}
	}
	pkg, ok := f.packages[f.platform]
	if !ok {
		return "", f.noWay(fmt.Errorf("there is no build of it for %s", f.platform))
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", f.noWay(fmt.Errorf("making the cache folder: %w", err))
	}
	unlock, err := f.lock(ctx, filepath.Join(dir, "fetch.lock"))
	if err != nil {
		return "", f.noWay(err)
	}
	defer unlock()
	if isFile(cached) { // another process fetched it meanwhile
		return cached, nil
	}
	if err := f.fetch(ctx, pkg, dir); err != nil {
		return "", f.noWay(err)
	}
	return cached, nil
}

// noWay wraps the reason in the one message that names the ways out.
func (f *finder) noWay(err error) error {
	return fmt.Errorf("finding libchdb %s, the embedded ClickHouse: %w\n"+
		"Three ways out:\n"+
		"  1. set clickhouse.url in the configuration to a ClickHouse server of yours: then no library is needed;\n"+
		"  2. set %s to the path of a %s (from the npm package %s@%s, or the release page of chdb);\n"+
		"  3. give npm a registry that it can reach (npm_config_registry, a proxy) and start again", f.version, err, libraryVariable, libraryFile, f.packageName(), f.version)
}

func (f *finder) packageName() string {
	if p, ok := f.packages[f.platform]; ok {
		return p.name
	}
	return "@chdb/lib-<platform>"
}

func isFile(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Size() > 0
}

// lock takes the file lock of the cache folder, waiting for a process that
// fetches.
func (f *finder) lock(ctx context.Context, path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the cache's lock: %w", err)
	}
	for said := false; ; said = true {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = file.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			_ = file.Close()
			return nil, fmt.Errorf("locking the cache folder: %w", err)
		}
		if !said {
			f.progress.line("waiting for another process that fetches libchdb " + f.version)
		}
		select {
		case <-ctx.Done():
			_ = file.Close()
			return nil, fmt.Errorf("waiting for another process that fetches it: %w", ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}
