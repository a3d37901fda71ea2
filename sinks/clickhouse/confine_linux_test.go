package clickhouse

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// confinedVariable makes this test binary confine itself and say what it can still do.
const confinedVariable = "AUTOHEDGE_TEST_CONFINED"

func reportConfined() {
	spec := os.Getenv(confinedVariable)
	if spec == "" {
		return
	}
	outside, inside, _ := strings.Cut(spec, "\n")
	if err := confine(); err != nil {
		fmt.Println("confining failed:", err)
		os.Exit(1)
	}
	_, readErr := os.ReadFile(outside)
	writeErr := os.WriteFile(outside, nil, 0o600)
	_, dialErr := net.DialTimeout("tcp", os.Getenv("AUTOHEDGE_TEST_ADDR"), time.Second)
	environ, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", os.Getppid()))
	fmt.Printf("not confined %q, read %v, write %v, dial %v, inside %v, parent's environment %d bytes\n", os.Getenv(notConfined),
		errors.Is(readErr, os.ErrPermission), errors.Is(writeErr, os.ErrPermission), errors.Is(dialErr, os.ErrPermission),
		os.WriteFile(filepath.Join(inside, "file"), []byte("x"), 0o600), len(environ))
	os.Exit(0)
}

// A confined process reads and writes nothing but its folder, connects to nothing, and
// cannot read its parent's environment.
func TestConfine(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	data := t.TempDir()
	cmd := exec.Command(os.Args[0]) //nolint:gosec // this test binary
	cmd.Env = []string{confinedVariable + "=" + outside + "\n" + data, confineVariable + "=" + data + "\n" + data, "AUTOHEDGE_TEST_ADDR=" + l.Addr().String()}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if strings.Contains(string(out), errNoLandlock.Error()) {
		t.Log("this kernel has no Landlock: nothing is shown")
		return
	}
	if want := "not confined \"\", read true, write true, dial true, inside <nil>, parent's environment 0 bytes\n"; string(out) != want {
		t.Errorf("%swant\n%s", out, want)
	}
	if text, err := os.ReadFile(outside); err != nil || string(text) != "secret" {
		t.Errorf("the file outside holds %q, %v", text, err)
	}
}
