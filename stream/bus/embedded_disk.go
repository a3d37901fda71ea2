package bus

import (
	"fmt"
	"log/slog"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// diskReserve is what the embedded broker's disk must have free before it is handed
// a batch. kfake notes a batch's sequence before it writes the batch: one that it
// could not write is refused, and when it is sent again it is taken for a batch that
// is there, and acknowledged. So a batch must not come as far as a full disk.
const diskReserve = 4 << 20

// diskGuard refuses batches while the disk is nearly full, as a broker does whose
// disk failed (KAFKA_STORAGE_ERROR): producers send them again.
type diskGuard struct {
	dir    string
	log    *slog.Logger
	logged time.Time
	free   func(dir string) (int64, error)
	held   atomic.Bool // while topics are compacted, whatever is free
}

// refuse answers a request that there is no room for; nil lets the broker answer, as it
// does who asks for no acknowledgement. kfake calls it for one request after the other.
func (g *diskGuard) refuse(req *kmsg.ProduceRequest) kmsg.Response {
	if req.Acks == 0 {
		return nil
	}
	if g.held.Load() {
		return refusal(req)
	}
	free, err := g.free(g.dir)
	if err == nil && free >= diskReserve {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("%d bytes are free, less than %d", free, diskReserve)
	}
	if now := time.Now(); now.Sub(g.logged) >= time.Minute {
		g.logged = now
		g.log.Warn("the disk is full: nothing is appended until there is room; free space", "dir", g.dir, "err", err)
	}
	return refusal(req)
}

// refusal answers that nothing of a request was appended: send it again.
func refusal(req *kmsg.ProduceRequest) *kmsg.ProduceResponse {
	resp := req.ResponseKind().(*kmsg.ProduceResponse)
	for _, t := range req.Topics {
		rt := kmsg.NewProduceResponseTopic()
		rt.Topic, rt.TopicID = t.Topic, t.TopicID
		for _, p := range t.Partitions {
			rp := kmsg.NewProduceResponseTopicPartition()
			rp.Partition, rp.ErrorCode, rp.BaseOffset = p.Partition, kerr.KafkaStorageError.Code, -1
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

// freeOn is what an unprivileged user may still write in a folder, in bytes.
func freeOn(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("asking what is free in %s: %w", dir, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil //nolint:unconvert // it is narrower on other systems
}
