package execution

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/autohedge/autohedge/execution/broker"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

func TestRemoveSessionPaper(t *testing.T) {
	paper := t.TempDir()
	if err := RemoveSessionPaper(paper, "r1"); err != nil {
		t.Errorf("without any session: %v", err)
	}
	open := func(dir string) *broker.Paper {
		t.Helper()
		p, err := broker.OpenPaper(broker.DefaultPaperConfig(), dir, component.Discard())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		})
		return p
	}
	open(filepath.Join(paper, "paper")) // the live one
	for i, session := range []string{"r1", "r1", "r10", "r"} {
		p := open(filepath.Join(sessionPaper(paper, session, event.ID{byte(i)}), "paper"))
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	running := open(filepath.Join(sessionPaper(paper, "r2", event.ID{9}), "paper"))
	if err := RemoveSessionPaper(paper, "r2"); err == nil || !strings.Contains(err.Error(), "has open") {
		t.Errorf("a session that runs: %v", err)
	}
	if err := running.Close(); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "..", "r1-", "R1", "../paper"} {
		if err := RemoveSessionPaper(paper, bad); err == nil {
			t.Errorf("session %q was accepted", bad)
		}
	}
	for range 2 {
		if err := RemoveSessionPaper(paper, "r1"); err != nil {
			t.Error(err)
		}
	}
	left, err := os.ReadDir(filepath.Join(paper, sessionsDir))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range left {
		names = append(names, strings.SplitN(e.Name(), "-", 2)[0])
	}
	if !slices.Equal(names, []string{"r", "r10", "r2"}) {
		t.Errorf("left are %v", names)
	}
	if _, err := os.Stat(filepath.Join(paper, "paper", "ledger")); err != nil {
		t.Errorf("the live ledger: %v", err)
	}
}
