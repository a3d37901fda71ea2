package app

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"gopkg.in/natefinch/lumberjack.v2"

	"github.com/autohedge/autohedge/cmd/internal/folder"
)

// view shows a running demo: one screen in a terminal, plain lines elsewhere.
type view struct {
	screen *screen   // nil without a terminal
	lines  io.Writer // plain lines
	log    *tailBuffer
	file   io.Closer
	due    time.Time
}

// The demo's log goes to another file at this size; so many former ones are kept.
const (
	logFileMiB = 16
	logFiles   = 3
)

// newView decides how to show. With a terminal the log goes to a file, and its
// last lines to the foot of the screen; with --output json everything but the
// closing object goes to stderr.
func (t *tool) newView(f *folder.Folder) (*view, error) {
	out := t.out
	if t.output == "json" {
		out = t.err
	}
	v := &view{lines: out, log: &tailBuffer{next: t.err, keep: 6}}
	_, _, terminal := isTerminal(out)
	if !terminal || os.Getenv("TERM") == "dumb" {
		return v, nil
	}
	if err := os.MkdirAll(f.LogFiles(), 0o700); err != nil {
		return nil, fmt.Errorf("making the folder of the log: %w", err)
	}
	path := filepath.Join(f.LogFiles(), "demo.log")
	file := &lumberjack.Logger{Filename: path, MaxSize: logFileMiB, MaxBackups: logFiles}
	v.screen, v.file, v.log.next = &screen{w: out, terminal: &t.terminal}, file, file
	fmt.Fprintf(t.err, "starting; the log is %s\n", path)
	return v, nil
}

// every is how often the page is wanted.
func (v *view) every() time.Duration {
	if v.screen != nil {
		return 500 * time.Millisecond
	}
	return time.Second
}

// page is what there is to show.
type page struct {
	screen []string // the whole screen
	line   string   // the same in one line
}

// show draws the page; plain lines come every 5 s.
func (v *view) show(p page) {
	if v.screen == nil {
		if now := time.Now(); now.After(v.due) {
			fmt.Fprintln(v.lines, p.line)
			v.due = now.Add(4900 * time.Millisecond)
		}
		return
	}
	lines := p.screen
	if logged := v.log.last(); len(logged) > 0 {
		lines = append(append(lines, "", dim("LOG")), logged...)
	}
	v.screen.draw(lines)
}

// note says something outside the page.
func (v *view) note(text string) {
	if v.screen == nil {
		fmt.Fprintln(v.lines, text)
		return
	}
	v.screen.draw([]string{text})
}

func (v *view) close() {
	if v.screen != nil {
		v.screen.close()
	}
	if v.file != nil {
		if err := v.file.Close(); err != nil {
			return // closed before
		}
	}
}

func bold(s string) string { return colour("\x1b[1m", s) }
func dim(s string) string  { return colour("\x1b[2m", s) }
func red(s string) string  { return colour("\x1b[1;31m", s) }

// colour puts a sequence around a text, unless NO_COLOR (no-color.org) is set.
func colour(sequence, s string) string {
	if os.Getenv("NO_COLOR") != "" {
		return s
	}
	return sequence + s + "\x1b[0m"
}
