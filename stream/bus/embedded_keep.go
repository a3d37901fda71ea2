package bus

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/autohedge/autohedge/stream/event"
)

// logKeeper bounds the log of an embedded broker, and writes down where its partitions
// begin, which kfake does only when it is closed.
type logKeeper struct {
	dir     string
	cluster *kfake.Cluster
	max     int64
	log     *slog.Logger
	logged  time.Time
	written []byte // of the starts
}

const (
	// keepEvery is how often the keeper looks.
	keepEvery = 5 * time.Second
	// keepLast is what it leaves of each partition.
	keepLast = embeddedSegment
)

// run keeps the log until ctx ends.
func (k *logKeeper) run(ctx context.Context) {
	for {
		if err := k.keep(); err != nil {
			k.log.Warn("bounding the log of the embedded Kafka, will be tried again", "dir", k.dir, "err", err)
		}
		if sleep(ctx, keepEvery) != nil {
			return
		}
	}
}

// keptPartition is a partition that may be trimmed.
type keptPartition struct {
	topic string
	info  *kfake.PartitionInfo
}

func (k *logKeeper) keep() error {
	topics, err := k.topics()
	if err != nil {
		return err
	}
	var total int64
	var trimmed []keptPartition
	var starts []storedStart
	for _, topic := range topics {
		info := k.cluster.TopicInfo(topic)
		if info == nil {
			continue // deleted meanwhile
		}
		id := base64.StdEncoding.EncodeToString(info.TopicID[:]) // as in kfake's own files
		for _, p := range k.cluster.PartitionInfos(topic) {
			total += p.NumBytes
			if p.LogStartOffset > 0 {
				starts = append(starts, storedStart{TopicID: id, Partition: p.Partition, Start: p.LogStartOffset})
			}
			if expendable(topic) {
				trimmed = append(trimmed, keptPartition{topic, p})
			}
		}
	}
	if err := k.write(starts); err != nil {
		return err
	}
	if total > k.max {
		return k.shorten(total, trimmed)
	}
	return nil
}

// topics are those that have a folder.
func (k *logKeeper) topics() (topics []string, err error) {
	entries, err := os.ReadDir(filepath.Join(k.dir, partitionsDir))
	if err != nil {
		return nil, nil //nolint:nilerr // there is none yet
	}
	for _, e := range entries {
		if topic, _, ok := partitionOfFolder(e.Name()); ok && !slices.Contains(topics, topic) {
			topics = append(topics, topic)
		}
	}
	return topics, nil
}

// expendable reports whether records of a topic, by the broker's name of it, may go before
// they are read: nobody rebuilds a state from its start.
func expendable(topic string) bool {
	if i := strings.IndexByte(topic, '.'); i > 0 && sessionOf(topic) != "" {
		topic = topic[i+1:]
	}
	spec, ok := event.Topic(topic)
	return ok && !spec.Forever && !spec.Compacted
}

func (k *logKeeper) write(starts []storedStart) error {
	text, err := json.Marshal(starts)
	if err != nil || string(text) == string(k.written) {
		return err
	}
	if err := writeWhole(filepath.Join(k.dir, startsFile), text); err != nil {
		return fmt.Errorf("writing where the logs begin: %w", err)
	}
	k.written = text
	return nil
}

// shorten deletes the oldest records of the largest partitions until a tenth of the bound
// is free again.
func (k *logKeeper) shorten(total int64, partitions []keptPartition) error {
	excess := total - (k.max - k.max/10)
	slices.SortFunc(partitions, func(a, b keptPartition) int { return int(b.info.NumBytes - a.info.NumBytes) })
	deleted := int64(0)
	var from []string
	for _, p := range partitions {
		cut := min(excess-deleted, p.info.NumBytes-keepLast)
		if cut <= 0 {
			continue
		}
		records := p.info.HighWatermark - p.info.LogStartOffset
		to := p.info.LogStartOffset + int64(float64(records)*float64(cut)/float64(p.info.NumBytes))
		if err := k.cluster.DeleteRecords(p.topic, p.info.Partition, to); err != nil {
			return fmt.Errorf("deleting the oldest records of %s/%d: %w", p.topic, p.info.Partition, err)
		}
		deleted += cut
		from = append(from, fmt.Sprintf("%s/%d before %d", p.topic, p.info.Partition, to))
	}
	if time.Since(k.logged) >= time.Minute {
		k.logged = time.Now()
		k.log.Warn("the log of the embedded Kafka is larger than embedded.kafka_max_bytes: its oldest records go, read or not; look why they are not trimmed",
			"bytes", total, "limit", k.max, "deleted", deleted, "from", strings.Join(from, ", "))
	}
	return nil
}
