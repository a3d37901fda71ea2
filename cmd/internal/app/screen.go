package app

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/term"
)

// isTerminal reports whether w is a terminal, and how large.
func isTerminal(w io.Writer) (width, height int, ok bool) {
	f, isFile := w.(*os.File)
	if !isFile || !term.IsTerminal(int(f.Fd())) {
		return 0, 0, false
	}
	width, height, err := term.GetSize(int(f.Fd()))
	if err != nil || width < 20 || height < 10 {
		return 100, 30, true
	}
	return width, height, true
}

// screen redraws one page in a terminal's alternate buffer, so that what was
// there before is there again afterwards, also when a signal ends the process.
type screen struct {
	w        io.Writer
	terminal *terminal
	opened   bool
}

// What enters the alternate buffer without a cursor, and leaves it again.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l"
	leaveScreen = "\x1b[?25h\x1b[?1049l"
)

func (s *screen) draw(lines []string) {
	width, height, _ := isTerminal(s.w)
	var b strings.Builder
	if !s.opened {
		s.terminal.add(s)
		b.WriteString(enterScreen)
		s.opened = true
	}
	b.WriteString("\x1b[H")
	for i, l := range lines {
		if i >= height-1 {
			break
		}
		b.WriteString(clip(l, width) + "\x1b[K\r\n")
	}
	b.WriteString("\x1b[J")
	fmt.Fprint(s.w, b.String())
}

func (s *screen) close() {
	if s.opened {
		fmt.Fprint(s.w, leaveScreen)
		s.terminal.remove(s)
		s.opened = false
	}
}

// clip cuts a line at the width, not counting colour sequences.
func clip(line string, width int) string {
	n := 0
	for i := 0; i < len(line); i++ {
		if line[i] == '\x1b' {
			if end := strings.IndexByte(line[i:], 'm'); end > 0 {
				i += end
				continue
			}
		}
		if line[i]&0xc0 == 0x80 {
			continue // inside a rune
		}
		if n++; n > width {
			return line[:i] + "\x1b[0m"
		}
	}
	return line
}

// tailBuffer keeps the last lines written to it and passes everything on.
type tailBuffer struct {
	mu    sync.Mutex
	next  io.Writer
	lines []string
	keep  int
}

func (t *tailBuffer) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines = append(t.lines, strings.Split(strings.TrimRight(string(p), "\n"), "\n")...)
	if n := len(t.lines); n > t.keep {
		t.lines = append([]string(nil), t.lines[n-t.keep:]...)
	}
	if t.next == nil {
		return len(p), nil
	}
	return t.next.Write(p) //nolint:wrapcheck // a writer passes its writer's error on
}

func (t *tailBuffer) last() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.lines...)
}
