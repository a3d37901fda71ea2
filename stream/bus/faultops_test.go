package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// faultOp is what is tried while a request gives an error.
type faultOp struct {
	name     string
	key      kmsg.Key
	topLevel bool
	narrow   kfake.Fault // what else chooses the requests
	// rewrite, if set, puts the code into answers, where kfake does not do it as
	// Apache Kafka does.
	rewrite func(res kmsg.Response, code int16) bool
	group   bool          // a fault that stays does so for groupLasts
	session bool          // the row has a session of its own
	brokers []kfake.Opt   // other brokers than one without users
	cfg     func(*Config) // and what the clients need for them
	do      func(r *faultRun, ctx context.Context) error
}

func faultOps() []faultOp {
	try := func(f func(r *faultRun, ctx context.Context) error) func(*faultRun, context.Context) error {
		return func(r *faultRun, ctx context.Context) error {
			r.install()
			return f(r, ctx)
		}
	}
	consume := func(r *faultRun, ctx context.Context) error { return r.consume(ctx, r.install, nil, nil) }
	three := []kfake.Opt{kfake.NumBrokers(3), kfake.Ports(9092, 9093, 9094)}
	users := []kfake.Opt{kfake.EnableSASL(), kfake.Superuser("PLAIN", "user", "password")}
	login := func(cfg *Config) { cfg.SASL, cfg.User, cfg.Password = "plain", "user", component.NewSecret("password") }
	ofMarket, ofSignals := kfake.Fault{Topic: event.TopicMarket}, kfake.Fault{Topic: event.TopicSignals}
	return []faultOp{
		{name: "ApiVersions", key: kmsg.ApiVersions, do: try((*faultRun).reconnect)},
		{name: "ApiVersions before a login", key: kmsg.ApiVersions, brokers: users, cfg: login, do: try((*faultRun).reconnect)},
		{name: "SaslHandshake", key: kmsg.SASLHandshake, brokers: users, cfg: login, do: try((*faultRun).reconnect)},
		{name: "SaslAuthenticate", key: kmsg.SASLAuthenticate, brokers: users, cfg: login, do: try((*faultRun).reconnect)},
		{name: "Metadata of a topic", key: kmsg.Metadata, rewrite: failTopic, do: try((*faultRun).reconnect)},
		{name: "Metadata of a partition", key: kmsg.Metadata, rewrite: failPartition, do: try((*faultRun).reconnect)},
		{name: "CreateTopics", key: kmsg.CreateTopics, session: true, do: try((*faultRun).createTopics)},
		{name: "DescribeConfigs", key: kmsg.DescribeConfigs, do: try((*faultRun).reconnect)},
		{name: "IncrementalAlterConfigs", key: kmsg.IncrementalAlterConfigs, do: (*faultRun).repair},
		{name: "AlterPartitionReassignments", key: kmsg.AlterPartitionAssignments, brokers: three, session: true, do: (*faultRun).replicate},
		{name: "DescribeLogDirs", key: kmsg.DescribeLogDirs, topLevel: true, do: try((*faultRun).diskUse)},
		{name: "DescribeLogDirs of a directory", key: kmsg.DescribeLogDirs, do: try((*faultRun).diskUse)},
		{name: "DeleteTopics", key: kmsg.DeleteTopics, session: true, do: (*faultRun).drop},
		{name: "ListGroups of a session", key: kmsg.ListGroups, session: true, do: (*faultRun).drop},
		{name: "DeleteGroups", key: kmsg.DeleteGroups, session: true, do: (*faultRun).drop},
		{name: "ListGroups before a new life", key: kmsg.ListGroups, do: (*faultRun).adoptWhileRunning},
		{name: "DescribeGroups", key: kmsg.DescribeGroups, do: (*faultRun).adoptWhileRunning},
		{name: "OffsetFetch of a tool", key: kmsg.OffsetFetch, narrow: ofMarket, do: (*faultRun).discard},
		{name: "OffsetCommit of a tool", key: kmsg.OffsetCommit, do: (*faultRun).discard},
		{name: "ListGroups before a trim", key: kmsg.ListGroups, do: (*faultRun).floor},
		{name: "OffsetFetch before a trim", key: kmsg.OffsetFetch, narrow: ofMarket, do: (*faultRun).floor},
		{name: "DeleteRecords", key: kmsg.DeleteRecords, narrow: ofSignals, do: (*faultRun).trim},
		{name: "ListOffsets of a time", key: kmsg.ListOffsets, narrow: ofMarket, do: try(func(r *faultRun, ctx context.Context) error {
			at, err := r.c.OffsetAt(ctx, event.TopicMarket, 1, time.Now().Add(-time.Hour))
			if err == nil && at != 0 {
				return fmt.Errorf("LOST: offset %d of what all is younger than", at)
			}
			return err
		})},
		{name: "InitProducerID", key: kmsg.InitProducerID, do: try((*faultRun).makeProducer)},
		{name: "InitProducerID of an owner", key: kmsg.InitProducerID, do: try((*faultRun).own)},
		{name: "FindCoordinator of an owner", key: kmsg.FindCoordinator, rewrite: failOwnersCoordinator, do: try((*faultRun).own)},
		{name: "Produce", key: kmsg.Produce, narrow: ofMarket, do: (*faultRun).produce},
		{name: "Produce of an owner", key: kmsg.Produce, narrow: ofSignals, do: (*faultRun).produceOwned},
		{name: "Produce of an owner's first record", key: kmsg.Produce, narrow: ofSignals, do: try((*faultRun).own)},
		{name: "ListOffsets", key: kmsg.ListOffsets, do: try(func(r *faultRun, ctx context.Context) error {
			_, err := r.c.Offsets(ctx, event.TopicMarket)
			return err
		})},
		{name: "Fetch", key: kmsg.Fetch, do: (*faultRun).read},
		{name: "Fetch of the request", key: kmsg.Fetch, topLevel: true, do: (*faultRun).read},
		{name: "Fetch of the topics' lives", key: kmsg.Fetch, narrow: kfake.Fault{Topic: event.TopicMeta}, do: try((*faultRun).reconnect)},
		{name: "FindCoordinator of a group", group: true, key: kmsg.FindCoordinator, rewrite: failCoordinator, do: consume},
		{name: "JoinGroup", group: true, key: kmsg.JoinGroup, topLevel: true, do: consume},
		{name: "SyncGroup", group: true, key: kmsg.SyncGroup, topLevel: true, do: consume},
		{name: "OffsetFetch", group: true, key: kmsg.OffsetFetch, narrow: ofMarket, do: consume},
		{name: "ListOffsets of a group", group: true, key: kmsg.ListOffsets, do: consume},
		{name: "Heartbeat", group: true, key: kmsg.Heartbeat, topLevel: true, do: func(r *faultRun, ctx context.Context) error {
			return r.consume(ctx, nil, r.install, nil)
		}},
		{name: "OffsetCommit", group: true, key: kmsg.OffsetCommit, do: consume},
		{name: "LeaveGroup", group: true, key: kmsg.LeaveGroup, topLevel: true, do: func(r *faultRun, ctx context.Context) error {
			return r.consume(ctx, nil, nil, r.install)
		}},
		{name: "OffsetFetch for the lag", key: kmsg.OffsetFetch, do: try(func(r *faultRun, ctx context.Context) error {
			_, err := r.c.Lag(ctx, r.row, event.TopicMarket)
			return err
		})},
		{name: "Fetch for the lag", key: kmsg.Fetch, do: try(func(r *faultRun, ctx context.Context) error {
			lags, err := r.c.LagSeconds(ctx, r.row, event.TopicMarket)
			if err == nil && slices.ContainsFunc(lags, func(l Lag) bool { return l.Seconds < 0 }) {
				err = errors.New("the lag in records, without seconds")
			}
			return err
		})},
	}
}

// failTopic answers for md as brokers do for a topic that has an error.
func failTopic(res kmsg.Response, code int16) bool {
	return failMetadata(res, func(t *kmsg.MetadataResponseTopic) { t.ErrorCode, t.Partitions = code, nil })
}

// failPartition answers for md/1 as brokers do for a partition without a leader.
func failPartition(res kmsg.Response, code int16) bool {
	return failMetadata(res, func(t *kmsg.MetadataResponseTopic) {
		for i := range t.Partitions {
			if p := &t.Partitions[i]; p.Partition == 1 {
				p.ErrorCode, p.Leader = code, -1
			}
		}
	})
}

func failMetadata(res kmsg.Response, fail func(*kmsg.MetadataResponseTopic)) (found bool) {
	m, ok := res.(*kmsg.MetadataResponse)
	if !ok {
		return false
	}
	for i := range m.Topics {
		if t := &m.Topics[i]; t.Topic != nil && *t.Topic == event.TopicMarket {
			fail(t)
			found = true
		}
	}
	return found
}

// failCoordinator names no broker, as Apache Kafka does with an error.
func failCoordinator(res kmsg.Response, code int16) bool {
	f, ok := res.(*kmsg.FindCoordinatorResponse)
	if !ok {
		return false
	}
	f.ErrorCode, f.NodeID, f.Host, f.Port = code, -1, "", -1
	for i := range f.Coordinators {
		c := &f.Coordinators[i]
		c.ErrorCode, c.NodeID, c.Host, c.Port = code, -1, "", -1
	}
	return true
}

// failOwnersCoordinator also answers for the broker that kafka-go asks then, which
// is any: another one than the coordinator.
func failOwnersCoordinator(res kmsg.Response, code int16) bool {
	if i, ok := res.(*kmsg.InitProducerIDResponse); ok {
		i.ErrorCode, i.ProducerID, i.ProducerEpoch = int16(kafka.NotCoordinatorForGroup), -1, -1
		return true
	}
	return failCoordinator(res, code)
}

// faultRun is one kind of request with one kind of fault: all codes, one after the
// other, on one broker.
type faultRun struct {
	t       *testing.T
	v       *virtual
	c       *Client
	fates   []fate // of the records that rows appended to md/0, by number
	trimmed int64  // records before it in sig/0 that rows appended and removed
	code    int16
	row     string        // a name of its own for each code
	install func()        // the fault, from now on
	forever bool          // it does not go away by itself
	lasts   time.Duration // but after this
	running bool          // a group has a member
	ends    []func()      // what to do at the end
}

// fate is what became of a record as its producer was told.
type fate struct {
	row string
	err error // nil: acknowledged
}

// reconnect makes another client and looks at the topics.
func (r *faultRun) reconnect(ctx context.Context) error {
	c, err := r.v.open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	return c.EnsureTopics(ctx)
}

// inSession does something as a client of the row's session, whose topics have so
// many replicas.
func (r *faultRun) inSession(ctx context.Context, replicas int, do func(c *Client) error) error {
	cfg := r.v.config()
	cfg.Session, cfg.Partitions, cfg.Replication = r.row, 1, replicas
	c, err := r.v.openAs(ctx, cfg, r.v.network.DialContext)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	return do(c)
}

// createTopics makes the topics of the row's session.
func (r *faultRun) createTopics(ctx context.Context) error {
	return r.inSession(ctx, 1, func(c *Client) error { return c.EnsureTopics(ctx) })
}

// replicate gives the topics of the row's session more replicas.
func (r *faultRun) replicate(ctx context.Context) error {
	if err := r.createTopics(ctx); err != nil {
		return err
	}
	return r.inSession(ctx, 3, func(c *Client) error {
		r.install()
		changes, left, err := c.RepairTopics(ctx, true)
		if err != nil {
			return err
		}
		if again, _, err := c.RepairTopics(ctx, false); len(changes) == 0 || len(left) > 0 || len(again) > 0 || err != nil {
			return fmt.Errorf("LOST: changed %v, left %v, to be changed again %v, %w", changes, left, again, err)
		}
		return nil
	})
}

// repair mends a setting of a topic.
func (r *faultRun) repair(ctx context.Context) error {
	const setting = "max.message.bytes"
	_, err := r.c.kafka.IncrementalAlterConfigs(ctx, &kafka.IncrementalAlterConfigsRequest{Resources: []kafka.IncrementalAlterConfigsRequestResource{{
		ResourceType: kafka.ResourceTypeTopic, ResourceName: event.TopicDead,
		Configs: []kafka.IncrementalAlterConfigsRequestConfig{{Name: setting, Value: "2000", ConfigOperation: kafka.ConfigOperationSet}},
	}}})
	if err != nil {
		return err
	}
	r.install()
	changes, _, err := r.c.RepairTopics(ctx, true)
	if err != nil {
		return err
	}
	again, _, err := r.c.RepairTopics(ctx, false)
	if len(changes) != 1 || changes[0].Setting != setting || len(again) > 0 || err != nil {
		return fmt.Errorf("LOST: changed %v, to be changed again %v, %w", changes, again, err)
	}
	return nil
}

// diskUse looks at the log directories.
func (r *faultRun) diskUse(ctx context.Context) error {
	use, err := r.c.DiskUse(ctx)
	if err != nil {
		return err
	}
	for _, d := range use.Dirs {
		if d.Err != nil {
			return fmt.Errorf("a directory is out of use: %w", d.Err)
		}
	}
	if n, ok := use.Topic(event.TopicMarket); !ok || n == 0 {
		return fmt.Errorf("LOST: md takes %d bytes", n)
	}
	return nil
}

// gone reports whether the broker said that there is no such group: then it is
// believed.
func (r *faultRun) gone() bool { return kafka.Error(r.code) == kafka.GroupIdNotFound }

// drop removes the row's session, which has topics and a group.
func (r *faultRun) drop(ctx context.Context) error {
	err := r.inSession(ctx, 1, func(c *Client) error {
		if err := c.EnsureTopics(ctx); err != nil {
			return err
		}
		return c.commitFor(ctx, c.Group("test"), event.TopicMarket, map[int32]int64{0: 0})
	})
	if err != nil {
		return err
	}
	r.install()
	if err := r.c.DropSession(ctx, r.row); err != nil {
		return err
	}
	if r.gone() {
		return nil
	}
	groups, err := r.c.groups(ctx, r.row+".")
	if err != nil || len(groups) > 0 {
		return fmt.Errorf("LOST: dropped, and groups %v are there, %w", groups, err)
	}
	return nil
}

// adoptWhileRunning asks for a new life of md while a group reads it, which is to
// be refused.
func (r *faultRun) adoptWhileRunning(ctx context.Context) error {
	if !r.running {
		k := r.c.NewConsumer(ConsumerConfig{Role: "running", Topics: []string{event.TopicMarket}}, component.Discard())
		run, cancel := context.WithCancel(r.t.Context())
		done := make(chan error, 1)
		go func() { done <- k.Run(run, newHandledLog().handle) }()
		r.ends = append(r.ends, func() {
			cancel()
			if err := <-done; err != nil {
				r.t.Error(err)
			}
		})
		<-k.Ready()
		r.running = true
	}
	r.install()
	_, err := r.c.AdoptTopics(ctx, []string{event.TopicMarket}, "test", "to see it refused")
	if errors.Is(err, ErrGroupRunning) {
		return nil
	}
	if err == nil {
		return errors.New("LOST: a life began anew while a group was running")
	}
	return err
}

// discard begins a new life of md, which takes a group back to its start.
func (r *faultRun) discard(ctx context.Context) error {
	group := r.c.Group("tool")
	if err := r.c.commitFor(ctx, group, event.TopicMarket, map[int32]int64{1: 5}); err != nil {
		return err
	}
	r.install()
	if _, err := r.c.DiscardTopics(ctx, []string{event.TopicMarket}, "test", "to see the group moved"); err != nil {
		return err
	}
	at, err := r.c.committed(ctx, group, event.TopicMarket, []int{1})
	if err != nil || at[1] != 0 && !r.gone() {
		return fmt.Errorf("LOST: the group stands at %v, %w", at, err)
	}
	return nil
}

// floor asks how far md/1 may be trimmed, which a group has read a half of.
func (r *faultRun) floor(ctx context.Context) error {
	if err := r.c.commitFor(ctx, r.c.Group("reads"), event.TopicMarket, map[int32]int64{1: 5}); err != nil {
		return err
	}
	r.install()
	offset, ok, err := r.c.TrimFloor(ctx, event.TopicMarket, 1)
	if err == nil && (!ok || offset != 0) && !r.gone() {
		return fmt.Errorf("LOST: the floor is %d, %t", offset, ok)
	}
	return err
}

// trim removes a record of sig/0.
func (r *faultRun) trim(ctx context.Context) error {
	p, err := r.c.NewProducer(ctx, ProducerConfig{Name: "trim", Blocking: true}, component.Discard())
	if err != nil {
		return err
	}
	if err := p.Append(event.TopicSignals, 0, []byte("k"), []byte("v"), nil); err != nil {
		return err
	}
	if err := p.Close(ctx); err != nil {
		return err
	}
	r.trimmed++
	r.install()
	starts, err := r.c.DeleteRecords(ctx, event.TopicSignals, map[int32]int64{0: r.trimmed})
	if err != nil {
		return err
	}
	bounds, err := r.c.bounds(ctx, event.TopicSignals, []int32{0})
	if err != nil || starts[0] != r.trimmed || bounds[0].Start != r.trimmed {
		return fmt.Errorf("LOST: trimmed to %d, told %d, the log is %v, %w", r.trimmed, starts[0], bounds, err)
	}
	return nil
}

func (r *faultRun) makeProducer(ctx context.Context) error {
	p, err := r.c.NewProducer(ctx, ProducerConfig{Name: "test"}, component.Discard())
	if err != nil {
		return err
	}
	return p.Close(ctx)
}

func (r *faultRun) own(ctx context.Context) error {
	o, err := r.c.Own(ctx, OwnConfig{Name: "test", Key: r.row, Partitions: []TopicPartition{{Topic: event.TopicSignals, Partition: 1}}}, component.Discard())
	if err != nil {
		return err
	}
	return o.Close(ctx)
}

// produce appends eight records that go into one batch or a few.
func (r *faultRun) produce(ctx context.Context) error {
	p, err := r.c.NewProducer(ctx, ProducerConfig{Name: "test", Blocking: true}, component.Discard())
	if err != nil {
		return err
	}
	r.install()
	return r.appendSome(ctx, p, event.TopicMarket)
}

// produceOwned is produce by the owner of a key.
func (r *faultRun) produceOwned(ctx context.Context) error {
	o, err := r.c.Own(ctx, OwnConfig{
		Name: "test", Key: r.row, Blocking: true, Partitions: []TopicPartition{{Topic: event.TopicSignals, Partition: 0}},
	}, component.Discard())
	if err != nil {
		return err
	}
	r.install()
	return r.appendSome(ctx, o.Producer, event.TopicSignals)
}

// appendSome appends records of four keys and notes what became of each.
func (r *faultRun) appendSome(ctx context.Context, p *Producer, topic string) error {
	const some = 8
	first := len(r.fates)
	var told [some]error
	results := make(chan struct{}, some)
	for i := range some {
		done := func(_ int64, err error) {
			told[i] = err
			results <- struct{}{}
		}
		if err := p.Append(topic, 0, faultyKey(first+i), strconv.AppendInt(nil, int64(first+i), 10), done); err != nil {
			done(-1, err)
		}
	}
	for range some {
		<-results
	}
	for _, err := range told {
		r.fates = append(r.fates, fate{r.row, err})
	}
	acked := 0
	var refused error
	for _, f := range r.fates[first:] {
		if f.err == nil {
			acked++
		} else if refused == nil {
			refused = f.err
		}
	}
	if err := p.Err(); err != nil {
		refused = err
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := p.Close(closing); err != nil && refused == nil {
		refused = err
	}
	if acked > 0 && acked < some {
		return fmt.Errorf("%d of %d records acknowledged: %w", acked, some, refused)
	}
	return refused
}

// faultyKey is the key of the n-th record that rows append.
func faultyKey(n int) []byte { return []byte{'a' + byte(n%4)} }

// read reads a partition that is being read when the fault comes.
func (r *faultRun) read(ctx context.Context) error {
	reader, err := r.c.NewReader(ctx, ReaderConfig{Topic: event.TopicMarket, Partition: 1, Offset: FromStart, KeepCopies: true}, component.Discard())
	if err != nil {
		return err
	}
	defer reader.Close()
	next := 1
	read := func(until int) error {
		for next < until {
			records, err := reader.Next(ctx)
			if err != nil {
				return err
			}
			for _, rec := range records {
				if string(rec.Value) != strconv.Itoa(next) {
					return fmt.Errorf("LOST OR DOUBLED: offset %d holds %s where %d is next", rec.Offset, rec.Value, next)
				}
				next += 4
			}
		}
		return nil
	}
	if err := read(faultCount); err != nil {
		return err
	}
	time.Sleep(time.Second) // what the reader of the row before had asked is answered
	r.install()
	// The reader polls with nothing to read for a while, then there is more.
	until := time.Second
	if r.forever {
		until = r.lasts + time.Second
	}
	wait, cancel := context.WithTimeout(ctx, until)
	defer cancel()
	if _, err := reader.Next(wait); !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if reader.Position() != faultCount/4 {
		return fmt.Errorf("LOST OR DOUBLED: position %d", reader.Position())
	}
	return nil
}

// consume runs a member until it has handled md and committed that, then for a
// while, then lets it leave; the functions are called before each of these.
func (r *faultRun) consume(ctx context.Context, joins, running, leaves func()) error {
	call := func(f func()) bool {
		if f != nil {
			f()
		}
		return f != nil
	}
	call(joins)
	k := r.c.NewConsumer(ConsumerConfig{Role: r.row, Topics: []string{event.TopicMarket}, KeepCopies: true}, component.Discard())
	run, cancel := context.WithCancel(ctx)
	defer cancel()
	seen, done := newHandledLog(), make(chan error, 1)
	go func() { done <- k.Run(run, seen.handle) }()
	until := func(ok func() bool) error {
		for {
			select {
			case err := <-done:
				done <- err
				if err == nil {
					err = errors.New("HANGS: stopped before it was done")
				}
				return err
			case <-time.After(100 * time.Millisecond):
			}
			if ok() {
				return nil
			}
		}
	}
	if err := until(func() bool { return seen.count() == faultCount }); err != nil {
		return err
	}
	if err := until(func() bool {
		lags, err := r.c.Lag(ctx, r.row, event.TopicMarket)
		return err == nil && !slices.ContainsFunc(lags, func(l Lag) bool { return l.Records != 0 })
	}); err != nil {
		return err
	}
	if call(running) {
		wait := time.Now().Add(10 * time.Second)
		if r.forever {
			wait = wait.Add(r.lasts)
		}
		if err := until(func() bool { return time.Now().After(wait) }); err != nil {
			return err
		}
	}
	call(leaves)
	cancel()
	if err := <-done; err != nil {
		return err
	}
	for part, got := range seen.got {
		for i, v := range got {
			if v != strconv.Itoa(int(part)+4*i) {
				return fmt.Errorf("LOST OR DOUBLED: record %d of partition %d is %s", i, part, v)
			}
		}
	}
	return nil
}
