package execution

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/autohedge/autohedge/execution/broker"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/event"
)

// sessionsDir holds the paper brokers of sessions, in a folder of Paths.PaperDir.
const sessionsDir = ".sessions"

// sessionPaper is where one life of a session keeps its paper brokers: its orders
// must not mix with the live ones, nor with those of a dropped session of the same
// name, whose client order ids were the same.
func sessionPaper(paperDir, session string, incarnation event.ID) string {
	return filepath.Join(paperDir, sessionsDir, session+"-"+incarnation.String())
}

// RemoveSessionPaper deletes the paper brokers' ledgers of a session, of all its
// lives; paperDir is Paths.PaperDir. It is no error when there are none; those of
// a session that runs are refused.
func RemoveSessionPaper(paperDir, session string) error {
	err := bus.CheckSession(session)
	if session == "" {
		err = errors.New("it has no name")
	}
	if err != nil {
		return fmt.Errorf("removing the paper ledgers of a session: %w", err)
	}
	dir := filepath.Join(paperDir, sessionsDir)
	lives, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("removing the paper ledgers of session %s: %w", session, err)
	}
	for _, life := range lives {
		// A session's name has no hyphen, so that no other one begins like this.
		if !strings.HasPrefix(life.Name(), session+"-") {
			continue
		}
		accounts, err := os.ReadDir(filepath.Join(dir, life.Name()))
		for _, account := range accounts {
			if err == nil {
				err = broker.RemovePaper(filepath.Join(dir, life.Name(), account.Name()))
			}
		}
		if err == nil {
			err = os.RemoveAll(filepath.Join(dir, life.Name()))
		}
		if err != nil {
			return fmt.Errorf("removing the paper ledgers of session %s: %w", session, err)
		}
	}
	return nil
}
