package bus

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// TrimmedLog is what TrimLog did.
type TrimmedLog struct {
	Before     int64              `json:"before_bytes"`
	After      int64              `json:"after_bytes"`
	Partitions []TrimmedPartition `json:"partitions"`
}

// TrimmedPartition is one partition whose oldest segments were deleted.
type TrimmedPartition struct {
	Topic     string `json:"topic"` // the brokers' name of it
	Partition int32  `json:"partition"`
	From      int64  `json:"from"`
	To        int64  `json:"to"` // where the log begins now
	Bytes     int64  `json:"bytes"`
}

// TrimLog deletes the oldest segments of an embedded broker's log, which nothing has open,
// until it holds no more than keep bytes. It looks at the names and sizes of files alone.
// Topics that roles rebuild their state from stay, and so does the newest segment of each
// partition. With try nothing is deleted.
func TrimLog(dir string, keep int64, try bool) (TrimmedLog, error) {
	partitions, err := storedPartitions(dir)
	if err != nil {
		return TrimmedLog{}, err
	}
	var done TrimmedLog
	cut := make([]int, len(partitions)) // segments that go
	for i := range partitions {
		for _, s := range partitions[i].segments {
			done.Before += s.size
		}
	}
	done.After = done.Before
	for done.After > keep {
		// The oldest segment of the partition that holds most goes.
		largest, bytes := -1, int64(0)
		for i := range partitions {
			p := &partitions[i]
			left := p.segments[min(cut[i], len(p.segments)):]
			if len(left) < 2 || !expendable(p.topic) {
				continue
			}
			var n int64
			for _, s := range left {
				n += s.size
			}
			if n > bytes {
				largest, bytes = i, n
			}
		}
		if largest < 0 {
			break
		}
		done.After -= partitions[largest].segments[cut[largest]].size
		cut[largest]++
	}
	for i := range partitions {
		if cut[i] == 0 {
			continue
		}
		p := &partitions[i]
		t := TrimmedPartition{Topic: p.topic, Partition: p.partition, From: p.segments[0].base, To: p.segments[cut[i]].base}
		for _, s := range p.segments[:cut[i]] {
			t.Bytes += s.size
		}
		done.Partitions = append(done.Partitions, t)
		if try {
			continue
		}
		if err := p.drop(cut[i]); err != nil {
			return done, fmt.Errorf("trimming %s/%d: %w", p.topic, p.partition, err)
		}
	}
	slices.SortFunc(done.Partitions, func(a, b TrimmedPartition) int { return int(b.Bytes - a.Bytes) })
	return done, nil
}

// drop deletes the oldest segments, the oldest first: what is left is a log at any time.
// The snapshot goes before them, and the next start writes another.
func (p *storedPartition) drop(segments int) error {
	if err := os.Remove(filepath.Join(p.dir, snapshotFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, s := range p.segments[:segments] {
		for _, ext := range []string{segmentExt, indexExt} {
			if err := os.Remove(p.file(s, ext)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}
