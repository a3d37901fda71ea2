package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/autohedge/autohedge/cmd/internal/folder"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// logsEvery is how often the folder notes how far the logs go.
const logsEvery = 5 * time.Second

// knownLog is what a data folder knows of a topic it was used with. What lies in
// the folder, paper ledgers above all, belongs to that log and no other.
type knownLog struct {
	Incarnation event.ID `json:"incarnation"`
	Ends        []int64  `json:"ends"` // by partition; everything before was acknowledged
}

// readLogs returns what the folder knows, by topic; nothing in a new one.
func readLogs(f *folder.Folder) (map[string]knownLog, error) {
	text, err := os.ReadFile(f.Logs())
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]knownLog{}, nil
	}
	known := make(map[string]knownLog)
	if err == nil {
		err = json.Unmarshal(text, &known)
	}
	if err != nil {
		return nil, fmt.Errorf("reading which logs the data folder was used with: %w; `autohedge topics adopt --all --why \"...\"` writes %s anew", err, f.Logs())
	}
	return known, nil
}

// writeLogs replaces the file whole.
func writeLogs(f *folder.Folder, known map[string]knownLog) error {
	text, err := json.MarshalIndent(known, "", "  ")
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(f.Logs()), ".logs-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(append(text, '\n'))
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), f.Logs())
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

// currentLogs asks for the logs as they are. Sessions come and go with their
// topics and leave nothing here.
func currentLogs(ctx context.Context, client *bus.Client) (map[string]knownLog, map[string][]bus.Bounds, error) {
	known, all := make(map[string]knownLog), make(map[string][]bus.Bounds)
	for _, spec := range event.Topics {
		if spec.Name == event.TopicMeta {
			continue
		}
		l, bounds, err := currentLog(ctx, client, spec.Name)
		if err != nil {
			return nil, nil, err
		}
		known[spec.Name], all[spec.Name] = l, bounds
	}
	return known, all, nil
}

// currentLog asks for one log as it is.
func currentLog(ctx context.Context, client *bus.Client, topic string) (knownLog, []bus.Bounds, error) {
	bounds, err := client.Offsets(ctx, topic)
	l := knownLog{Incarnation: client.Incarnation(topic)}
	for _, b := range bounds {
		l.Ends = append(l.Ends, b.End)
	}
	return l, bounds, err
}

// checkLogs refuses logs that are not those the folder was used with, or that end
// before what was acknowledged.
func checkLogs(ctx context.Context, f *folder.Folder, client *bus.Client) error {
	if client.Session() != "" {
		return nil
	}
	known, err := readLogs(f)
	if err != nil {
		return component.Fatal(err)
	}
	now, bounds, err := currentLogs(ctx, client)
	if err != nil {
		return err
	}
	var faults bus.LogErrors
	for _, spec := range event.Topics {
		if f := judgeLog(f, client, spec.Name, known[spec.Name], now[spec.Name], bounds[spec.Name]); f != nil {
			faults = append(faults, f)
		}
	}
	if len(faults) == 0 {
		return nil
	}
	return component.Fatal(faults)
}

// judgeLog compares a log with what the folder knows of it; nil where it is the same. One
// partition speaks for its topic: the one that lacks most.
func judgeLog(f *folder.Folder, client *bus.Client, topic string, was, now knownLog, bounds []bus.Bounds) (worst *bus.LogError) {
	if was.Incarnation.IsZero() || client.Ended(was.Incarnation) {
		return nil
	}
	for p, end := range was.Ends {
		if p >= len(bounds) {
			break // another number of partitions is refused elsewhere
		}
		b := bounds[p]
		at := bus.LogError{
			What: "data folder " + f.Root(), Topic: topic, Partition: int32(p), StoredIncarnation: was.Incarnation, Incarnation: now.Incarnation,
			Stored: end, Start: b.Start, End: b.End,
		}
		switch {
		case was.Incarnation != now.Incarnation:
			at.Fault = bus.Recreated
		case end > b.End:
			at.Fault = bus.Truncated
		default:
			continue
		}
		if worst == nil || at.Stored-at.End > worst.Stored-worst.End {
			worst = &at
		}
	}
	return worst
}

// noteLogs writes how far the logs go now.
func noteLogs(ctx context.Context, f *folder.Folder, client *bus.Client) error {
	if client.Session() != "" {
		return nil
	}
	now, _, err := currentLogs(ctx, client)
	if err != nil {
		return err
	}
	return writeLogs(f, now)
}

// watchLogs notes them until ctx ends, and once more then.
func (e *engine) watchLogs(ctx context.Context) {
	tick := time.NewTicker(logsEvery)
	defer tick.Stop()
	for last := false; !last; {
		asking := ctx
		select {
		case <-tick.C:
		case <-ctx.Done():
			last = true
			var cancel context.CancelFunc
			asking, cancel = context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
		}
		if err := noteLogs(asking, e.folder, e.client); err != nil && ctx.Err() == nil {
			// The file says less than there is, which is no harm until a log is cut.
			e.env.Log.Debug("noting how far the logs go", "err", err)
		}
	}
}
