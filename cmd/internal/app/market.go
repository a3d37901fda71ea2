package app

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/autohedge/autohedge/cmd/internal/folder"
	"github.com/autohedge/autohedge/stream"
	"github.com/autohedge/autohedge/stream/component"
)

// The kinds of market that a data folder holds, as its file "feed" has them.
const (
	marketSimulated = "sim"
	marketReal      = "live"
)

// marketOf returns the kind of market that the feeds come from. A built-in venue at a
// loopback address is a simulator's: it has the venue's ids but not its trades.
// Empty is neither: json feeds, whose venue is the feed's own name.
func marketOf(feeds []stream.FeedConfig) (string, error) {
	kind, first := "", ""
	for _, f := range feeds {
		if f.Venue == "json" {
			continue
		}
		k := marketReal
		if u, err := url.Parse(f.URL); err == nil && u.Host != "" && component.IsLoopback(u.Host) {
			k = marketSimulated
		}
		if kind != "" && k != kind {
			return "", withCode(exitConfig, fmt.Errorf("stream.feeds: %s has a simulated market and %s a real one, or the other way round: "+
				"one engine trades one kind, choose the feeds of one", first, cmp.Or(f.Name, f.Venue)))
		}
		kind, first = k, cmp.Or(f.Name, f.Venue)
	}
	return kind, nil
}

// claimMarket keeps simulated and real markets apart: both use the venues' ids and the
// same accounts, so one data folder holds one or the other.
func claimMarket(f *folder.Folder, kind string) error {
	if kind == "" {
		return nil
	}
	path := filepath.Join(f.Root(), "feed")
	text, err := os.ReadFile(path) //nolint:gosec // of the data folder
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("reading which market the data folder holds: %w", err)
	}
	switch have := strings.TrimSpace(string(text)); have {
	case kind:
		return nil
	case marketSimulated, marketReal:
		names := map[string]string{marketSimulated: "a simulated market", marketReal: "a real market"}
		return withCode(exitConfig, fmt.Errorf("data folder %s holds %s and the feeds have %s, which do not mix: choose another folder with --data, or begin with `autohedge demo --fresh`",
			f.Root(), names[have], names[kind]))
	}
	// A folder of a former build may say "config", or nothing.
	if err := os.WriteFile(path, []byte(kind+"\n"), 0o600); err != nil {
		return fmt.Errorf("claiming the data folder: %w", err)
	}
	return nil
}
