package bus

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// kfake keeps an index entry of each batch in memory, and reads its log at a start to make
// them. After a clean end it reads one segment of a partition after another. After a kill it
// keeps all of them in memory until it has read the last, so that a log larger than memory
// could never be opened again. What makes the difference is the file snapshot.json of a
// partition, which it writes when it is closed: prepareLog writes the missing ones.

// The form of a partition's files: a segment is a row of batches as they are on the wire,
// its index has an entry of fixed size for each.
const (
	segmentExt, indexExt  = ".dat", ".idx"
	snapshotFile          = "snapshot.json"
	indexEntry            = 15
	indexEpoch, indexFlag = 2, 14 // positions in an entry
	headBytes             = 61    // bytes of a batch before its records
	lengthEnd             = 12    // what comes before the counted bytes
	startsFile            = "starts.json"
	topicsFile            = "topics.json"
)

// embeddedSegment is the size from which on a segment of the embedded broker is closed:
// only whole ones are deleted, and one of each partition is read at a time at a start.
const embeddedSegment = 16 << 20

// storedPartition is a partition's folder.
type storedPartition struct {
	dir       string
	topic     string
	partition int32
	segments  []storedSegment // by base offset
}

type storedSegment struct {
	base    int64
	size    int64
	batches int64 // by its index
}

// storedPartitions lists the partitions that a broker's folder holds.
func storedPartitions(dir string) ([]storedPartition, error) {
	entries, err := os.ReadDir(filepath.Join(dir, partitionsDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing the partitions: %w", err)
	}
	var all []storedPartition
	for _, e := range entries {
		topic, partition, ok := partitionOfFolder(e.Name())
		if !ok || !e.IsDir() {
			continue
		}
		p := storedPartition{dir: filepath.Join(dir, partitionsDir, e.Name()), topic: topic, partition: partition}
		files, err := logFiles(p.dir)
		if err != nil {
			return nil, fmt.Errorf("listing the segments of %s: %w", e.Name(), err)
		}
		for name, info := range files {
			base, err := strconv.ParseInt(strings.TrimSuffix(name, segmentExt), 10, 64)
			if err != nil {
				continue // an index
			}
			s := storedSegment{base: base, size: info.Size()}
			if index := files[strconv.FormatInt(base, 10)+indexExt]; index != nil {
				s.batches = index.Size() / indexEntry
			}
			p.segments = append(p.segments, s)
		}
		slices.SortFunc(p.segments, func(a, b storedSegment) int { return int(a.base - b.base) })
		all = append(all, p)
	}
	return all, nil
}

// partitionOfFolder is the inverse of kfake's name of a partition's folder.
func partitionOfFolder(name string) (topic string, partition int32, ok bool) {
	cut := strings.LastIndexByte(name, '-')
	if cut < 0 {
		return "", 0, false
	}
	topic, err := url.PathUnescape(name[:cut])
	n, nerr := strconv.ParseInt(name[cut+1:], 10, 32)
	return topic, int32(n), err == nil && nerr == nil
}

func (p *storedPartition) file(s storedSegment, ext string) string {
	return filepath.Join(p.dir, strconv.FormatInt(s.base, 10)+ext)
}

// partitionSnapshot is kfake's snapshot.json, in its version 1.
type partitionSnapshot struct {
	Version          int               `json:"version"`
	HighWatermark    int64             `json:"high_watermark"`
	LastStableOffset int64             `json:"last_stable_offset"`
	LogStartOffset   int64             `json:"log_start_offset"`
	Epoch            int32             `json:"epoch"`
	LeaderNode       int32             `json:"leader_node,omitempty"`
	MaxTimestamp     int64             `json:"max_timestamp"`
	CreatedAt        time.Time         `json:"created_at"`
	AbortedTxns      json.RawMessage   `json:"aborted_txns,omitempty"`
	Segments         []snapshotSegment `json:"segments"`
}

type snapshotSegment struct {
	BaseOffset int64 `json:"base_offset"`
	Size       int64 `json:"size"`
	MinEpoch   int32 `json:"min_epoch,omitempty"`
	MaxEpoch   int32 `json:"max_epoch,omitempty"`
}

// prepareLog gives each partition that was not closed a snapshot, after it took the torn
// end off its newest segment, and lets logs begin where the keeper saw them begin last. It
// returns what loading them will cost.
func prepareLog(dir string, log *slog.Logger) (loadCost, error) {
	partitions, err := storedPartitions(dir)
	if err != nil {
		return loadCost{}, err
	}
	starts, err := readStarts(dir)
	if err != nil {
		log.Warn("the starts of the logs are not known: trimmed records may be back", "err", err)
	}
	var cost loadCost
	for i := range partitions {
		p := &partitions[i]
		whole, err := p.prepare(starts[logName{p.topic, p.partition}], log)
		if err != nil {
			return loadCost{}, fmt.Errorf("preparing %s/%d: %w", p.topic, p.partition, err)
		}
		cost.add(p, whole)
	}
	return cost, nil
}

// prepare writes the snapshot where it is missing or older than the segments; whole says
// that kfake will keep the whole log in memory while it loads it.
func (p *storedPartition) prepare(start int64, log *slog.Logger) (whole bool, err error) {
	if len(p.segments) == 0 {
		return false, nil
	}
	text, err := os.ReadFile(filepath.Join(p.dir, snapshotFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	var snap partitionSnapshot
	if err == nil && json.Unmarshal(text, &snap) == nil && snap.Version == 1 && p.matches(&snap) {
		if start <= snap.LogStartOffset {
			return false, nil
		}
		snap.LogStartOffset = start
		return false, p.writeSnapshot(&snap)
	}
	last := len(p.segments) - 1
	if err := p.repairTail(last, log); err != nil {
		return false, err
	}
	epoch, open, err := p.readIndexes()
	if err != nil {
		return false, err
	}
	if open {
		return true, nil // records of other programs' transactions: kfake finds out which of them count
	}
	created, err := p.created()
	if err != nil {
		return false, err
	}
	// kfake lowers both ends to the last record that it finds.
	snap = partitionSnapshot{
		Version: 1, HighWatermark: math.MaxInt64 / 2, LastStableOffset: math.MaxInt64 / 2, LogStartOffset: max(start, p.segments[0].base),
		Epoch: epoch, CreatedAt: created,
	}
	if p.empty() {
		snap.LogStartOffset = max(start, p.segments[last].base)
	}
	for _, s := range p.segments {
		snap.Segments = append(snap.Segments, snapshotSegment{BaseOffset: s.base, Size: s.size})
	}
	return false, p.writeSnapshot(&snap)
}

// empty reports whether no segment holds a batch.
func (p *storedPartition) empty() bool {
	return !slices.ContainsFunc(p.segments, func(s storedSegment) bool { return s.size > 0 })
}

func (p *storedPartition) matches(snap *partitionSnapshot) bool {
	if len(snap.Segments) != len(p.segments) {
		return false
	}
	for i, s := range snap.Segments {
		if s.BaseOffset != p.segments[i].base || s.Size != p.segments[i].size {
			return false
		}
	}
	return true
}

func (p *storedPartition) writeSnapshot(snap *partitionSnapshot) error {
	text, err := json.Marshal(snap)
	if err != nil {
		return err
	}
	return writeWhole(filepath.Join(p.dir, snapshotFile), text)
}

// writeWhole replaces a file, or leaves it as it is.
func writeWhole(path string, text []byte) error {
	if err := os.WriteFile(path+".tmp", text, 0o600); err != nil { // kfake removes what ends in .tmp
		return err
	}
	return os.Rename(path+".tmp", path)
}

// repairTail takes off a segment what is not a whole batch. kfake does so too, but a
// snapshot must have the size that is left.
func (p *storedPartition) repairTail(i int, log *slog.Logger) error {
	s := &p.segments[i]
	path := p.file(*s, segmentExt)
	raw, err := os.ReadFile(path) //nolint:gosec // of the data folder
	if err != nil {
		return err
	}
	at, batches := 0, int64(0)
	for len(raw)-at >= headBytes {
		n := lengthEnd + int(binary.BigEndian.Uint32(raw[at+8:]))
		if n < headBytes || n > len(raw)-at {
			break
		}
		if crc32.Checksum(raw[at+21:at+n], castagnoli) != binary.BigEndian.Uint32(raw[at+17:]) {
			break
		}
		at, batches = at+n, batches+1
	}
	if torn := len(raw) - at; torn > 0 {
		log.Warn("a segment ends with what is no whole batch, which is taken off", "segment", path, "bytes", torn)
		if err := os.Truncate(path, int64(at)); err != nil {
			return err
		}
	}
	if index := p.file(*s, indexExt); s.batches > batches {
		if err := os.Truncate(index, batches*indexEntry); err != nil {
			return err
		}
	}
	s.size, s.batches = int64(at), batches
	return nil
}

// readIndexes returns the epoch of the newest batch, and whether a batch belongs to a
// transaction.
func (p *storedPartition) readIndexes() (epoch int32, open bool, err error) {
	for _, s := range p.segments {
		raw, err := os.ReadFile(p.file(s, indexExt)) //nolint:gosec // of the data folder
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, false, err
		}
		for ; len(raw) >= indexEntry; raw = raw[indexEntry:] {
			epoch = int32(binary.LittleEndian.Uint32(raw[indexEpoch:]))
			open = open || raw[indexFlag]&1 != 0
		}
	}
	return epoch, open, nil
}

// created is the time of the first record.
func (p *storedPartition) created() (time.Time, error) {
	f, err := os.Open(p.file(p.segments[0], segmentExt))
	if err != nil {
		return time.Time{}, err
	}
	defer func() { _ = f.Close() }()
	head := make([]byte, headBytes)
	if n, _ := f.Read(head); n < headBytes {
		return time.Now(), nil
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(head[27:]))), nil
}

// logName names a partition of a topic as the broker does.
type logName struct {
	topic     string
	partition int32
}

// storedStart is where a log began when the keeper looked last. The topic's id tells it
// from another one of its name.
type storedStart struct {
	TopicID   string `json:"topic_id"`
	Partition int32  `json:"partition"`
	Start     int64  `json:"start"`
}

// readStarts returns the starts of the topics that the folder holds.
func readStarts(dir string) (map[logName]int64, error) {
	var file []storedStart
	var topics struct {
		Topics []struct {
			Name string `json:"name"`
			ID   string `json:"id"`
		} `json:"topics"`
	}
	for _, f := range []struct {
		name string
		into any
	}{{startsFile, &file}, {topicsFile, &topics}} {
		text, err := os.ReadFile(filepath.Join(dir, f.name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err == nil {
			err = json.Unmarshal(text, f.into)
		}
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", f.name, err)
		}
	}
	names := make(map[string]string)
	for _, t := range topics.Topics {
		names[t.ID] = t.Name
	}
	starts := make(map[logName]int64)
	for _, s := range file {
		if topic, ok := names[s.TopicID]; ok {
			starts[logName{topic, s.Partition}] = s.Start
		}
	}
	return starts, nil
}
