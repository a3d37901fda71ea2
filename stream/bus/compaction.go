package bus

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

// kfake compacts a partition by deleting its files and writing what is left of them
// anew, and looks at no error: killed in between, or without room, it loses what
// meta and the roles' states consist of. Its own ticker does not run either after a
// start that makes no topic. So the embedded broker compacts by itself: the files
// are linked aside first, and a start that finds them there puts them back.
const (
	compactEvery = time.Hour
	// compactRoom is what must be free beyond all that is compacted.
	compactRoom = 2 * diskReserve
	// keptDir holds the links, from when all are there until the compaction is done;
	// they gather in stagingDir.
	keptDir, stagingDir = "compacting", "compacting.new"
	// partitionsDir holds kfake's folder of each partition, TOPIC-N with the topic
	// escaped as in a URL's path.
	partitionsDir = "partitions"
	// kfakeNever is an interval of kfake's own ticker that no process lives to see.
	kfakeNever = "3153600000000"
)

// compactor compacts the topics of an embedded broker.
type compactor struct {
	dir     string
	cluster *kfake.Cluster
	guard   *diskGuard
	log     *slog.Logger
}

// run compacts every so often until ctx ends.
func (c *compactor) run(ctx context.Context, every time.Duration) {
	for sleep(ctx, every) == nil {
		if err := c.compact(ctx); err != nil {
			c.log.Warn("compacting failed, the logs stay as they are until the next time", "dir", c.dir, "err", err)
		}
	}
}

// compact also removes what is past its retention. Nothing is appended meanwhile:
// producers are told to send again.
func (c *compactor) compact(ctx context.Context) error {
	c.guard.held.Store(true)
	release := true
	defer func() {
		if release {
			c.guard.held.Store(false)
		}
	}()
	c.cluster.ApplyRetention() // done after all that was being appended
	size, err := c.keep()
	if err != nil {
		return fmt.Errorf("linking what is compacted: %w", err)
	}
	free, err := c.guard.free(c.dir)
	if err != nil {
		return err
	}
	if free < size+compactRoom {
		err := fmt.Errorf("%d bytes are free, and compacting %d takes %d: free space", free, size, size+compactRoom)
		return errors.Join(err, os.RemoveAll(filepath.Join(c.dir, stagingDir)))
	}
	kept := filepath.Join(c.dir, keptDir)
	if err := os.Rename(filepath.Join(c.dir, stagingDir), kept); err != nil {
		return fmt.Errorf("compacting: %w", err)
	}
	c.cluster.Compact()
	// While the links count, a start would take back what is appended from here on.
	release = false
	for err := forget(c.dir); err != nil; err = forget(c.dir) {
		c.log.Error("nothing is appended until a compaction's links can be removed", "dir", c.dir, "err", err)
		if sleep(ctx, time.Second) != nil {
			return err
		}
	}
	release = true
	return nil
}

// keep links the files of all compacted partitions into stagingDir; size is what
// they hold.
func (c *compactor) keep() (size int64, err error) {
	staging := filepath.Join(c.dir, stagingDir)
	if err := os.RemoveAll(staging); err != nil {
		return 0, err
	}
	if err := os.MkdirAll(staging, 0o750); err != nil {
		return 0, err
	}
	partitions, err := os.ReadDir(filepath.Join(c.dir, partitionsDir))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return 0, nil
		}
		return 0, err
	}
	for _, p := range partitions {
		if !c.compacts(p.Name()) {
			continue
		}
		from, to := filepath.Join(c.dir, partitionsDir, p.Name()), filepath.Join(staging, p.Name())
		if err := os.Mkdir(to, 0o750); err != nil {
			return 0, err
		}
		files, err := logFiles(from)
		if err != nil {
			return 0, err
		}
		for name, info := range files {
			size += info.Size()
			if err := os.Link(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
				return 0, err
			}
		}
	}
	return size, nil
}

// compacts reports whether the topic of a partition's folder is compacted.
func (c *compactor) compacts(folder string) bool {
	cut := strings.LastIndexByte(folder, '-')
	if cut < 0 {
		return false
	}
	topic, err := url.PathUnescape(folder[:cut])
	if err != nil {
		return false
	}
	info := c.cluster.TopicInfo(topic)
	if info == nil {
		return false
	}
	policy := info.Configs["cleanup.policy"]
	return policy != nil && strings.Contains(*policy, "compact")
}

// logFiles are a partition's segments and their indexes, by name.
func logFiles(dir string) (map[string]fs.FileInfo, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	files := make(map[string]fs.FileInfo)
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); ext != ".dat" && ext != ".idx" {
			continue
		}
		if files[e.Name()], err = e.Info(); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// undoCompaction puts the files back of a compaction that the broker's end
// interrupted, before kfake reads them; it may itself be interrupted and done again.
func undoCompaction(dir string, log *slog.Logger) error {
	kept := filepath.Join(dir, keptDir)
	partitions, err := os.ReadDir(kept)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, p := range partitions {
		if err := undoPartition(filepath.Join(kept, p.Name()), filepath.Join(dir, partitionsDir, p.Name())); err != nil {
			return err
		}
	}
	if len(partitions) > 0 {
		log.Warn("the broker ended while it compacted: the logs are again as they were before", "dir", dir, "partitions", len(partitions))
	}
	return forget(dir)
}

// undoPartition makes a partition's folder hold the kept files and no others.
func undoPartition(kept, partition string) error {
	want, err := logFiles(kept)
	if err != nil {
		return err
	}
	if _, err := os.Stat(partition); errors.Is(err, fs.ErrNotExist) {
		return nil // its topic was deleted
	}
	have, err := logFiles(partition)
	if err != nil {
		return err
	}
	for name, info := range have {
		if want[name] != nil && os.SameFile(info, want[name]) {
			delete(want, name)
			continue
		}
		if err := os.Remove(filepath.Join(partition, name)); err != nil {
			return err
		}
	}
	for name := range want {
		if err := os.Link(filepath.Join(kept, name), filepath.Join(partition, name)); err != nil {
			return err
		}
	}
	return nil
}

// forget removes the links: at once as one that counts, then as files.
func forget(dir string) error {
	kept, staging := filepath.Join(dir, keptDir), filepath.Join(dir, stagingDir)
	if err := os.RemoveAll(staging); err != nil {
		return err
	}
	if err := os.Rename(kept, staging); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(staging)
}
