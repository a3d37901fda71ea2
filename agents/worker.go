package agents

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/autohedge/autohedge/agents/desk"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/event"
)

// window bounds the signals of one partition that are taken up and not decided.
const window = 256

// closePatience is how long the producer of a lost partition may take to close:
// a handler has 250 ms in all.
const closePatience = 100 * time.Millisecond

// worker judges the signals of one partition for one generation. The journal of
// the partition's signals is the journal partition of the same number.
type worker struct {
	role     *Role
	a        *bus.Assignment
	producer *bus.Owner
	// From the journal, for signals that may be delivered again: those at or
	// after the committed offset.
	verdicts map[event.ID]*event.Verdict                // by signal
	calls    map[event.ID]map[event.ID]*event.ModelCall // by signal, then call; judged ones are dropped

	slots chan struct{}
	mu    sync.Mutex // guards queue, done, verdicts and calls
	queue []*job     // taken up, in offset order; decided ones leave from the front
	done  int64      // every signal before it is decided, acknowledged; -1 is not known

	// restoredFrom is from where the journal was read, journalEnd up to where it is
	// acknowledged.
	restoredFrom int64
	journalEnd   atomic.Int64

	saving                       sync.Mutex // guards what follows
	savedJournal, savedPositions int64      // of the last snapshot
}

// job is one record on its way to a decision.
type job struct {
	offset int64
	key    []byte
	signal *event.Signal
	done   bool
	// journalFrom is an offset of the journal: what this life journals of it lies at
	// it or after it.
	journalFrom int64
	// before is the job before it of the same key, nil when there is none.
	before *turns
	turns
}

// turns keep the order of one key's jobs without making them wait for each
// other's acknowledgements: judged is closed once the verdict is appended to the
// journal, decided once the decision is appended to its topic.
type turns struct{ judged, decided chan struct{} }

// handle serves one partition until it is lost or drained.
func (r *Role) handle(ctx context.Context, a *bus.Assignment) (err error) {
	p, err := r.own(ctx, a.Partition)
	if err != nil {
		return fmt.Errorf("taking over partition %d: %w", a.Partition, err)
	}
	defer func() {
		patience := context.WithoutCancel(ctx)
		patience, cancel := context.WithTimeout(patience, closePatience)
		defer cancel()
		if cerr := p.Close(patience); cerr != nil && err == nil && ctx.Err() == nil {
			err = fmt.Errorf("closing the producer of partition %d: %w", a.Partition, cerr)
		}
	}()
	a.Bind(p.Producer)
	w := &worker{role: r, a: a, producer: p, slots: make(chan struct{}, window),
		verdicts: make(map[event.ID]*event.Verdict), calls: make(map[event.ID]map[event.ID]*event.ModelCall)}
	if err := w.restore(ctx); err != nil {
		return err
	}
	a.Ready()
	running, cancel := context.WithCancelCause(ctx)
	var saving sync.WaitGroup
	defer saving.Wait()
	defer cancel(nil)
	saving.Go(func() {
		if err := w.saves(running); err != nil {
			cancel(err)
		}
	})
	return w.run(running)
}

// own shuts out whoever judged the partition's signals before: the journal that is
// read next gets no more verdicts from elsewhere, and no topic a decision that
// the journal lacks.
func (r *Role) own(ctx context.Context, partition int32) (*bus.Owner, error) {
	name := ownerKey(partition)
	cfg := bus.OwnConfig{Name: name, Key: name, Blocking: true, Partitions: []bus.TopicPartition{
		{Topic: event.TopicJournal, Partition: partition}, {Topic: event.TopicAgentState, Partition: partition},
	}}
	for i := range r.client.Partitions(event.TopicDecisions) { // a signal's account may be in any
		cfg.Partitions = append(cfg.Partitions, bus.TopicPartition{Topic: event.TopicDecisions, Partition: i})
	}
	return r.client.Own(ctx, cfg, r.env)
}

// restore reads the journal, from where the newest snapshot says. What was decided
// is not delivered again, so only what came after is kept: memory is bounded by
// what was in flight.
func (w *worker) restore(ctx context.Context) error {
	snap, s, err := w.role.load(ctx, w.a.Partition)
	if err != nil {
		return fmt.Errorf("restoring: %w", err)
	}
	w.done, w.restoredFrom = w.a.Committed, 0
	from, read := bus.FromStart, 0
	if s != nil {
		from, w.restoredFrom = s.Journal, s.Journal
		w.savedJournal, w.savedPositions = s.Journal, s.Positions
		if snap.Input > w.a.Committed {
			// The group did not hear of it. What lies before is decided, and its verdicts
			// are not looked for.
			if err := w.a.Seek(ctx, snap.Input); err != nil {
				return err
			}
			w.done = snap.Input
			w.a.Commit(snap.Input)
		}
	}
	all, err := w.role.client.Offsets(ctx, event.TopicSignals)
	if err != nil {
		return fmt.Errorf("reading the end of signals: %w", err)
	}
	// Beyond the log's end are the verdicts of a former life of the topic.
	behind := all[w.a.Partition].End
	again := func(l event.Lineage) bool {
		return l.Topic == event.TopicSignals && l.Partition == w.a.Partition && l.Offset >= w.done && l.Offset < behind
	}
	end, err := w.role.client.ReadAll(ctx, event.TopicJournal, w.a.Partition, from, func(rec bus.Record) error {
		read++
		m, err := event.Decode(rec.Value)
		if errors.Is(err, event.ErrUnknownType) {
			return nil // of a newer version, which would not have judged here
		}
		if err != nil {
			// No owner of the journal wrote it: it answers no signal.
			w.role.env.Log.Error("passing over a record of the journal that cannot be read", "partition", rec.Partition, "offset", rec.Offset, "err", err)
			return nil
		}
		switch m := m.(type) {
		case *event.ModelCall:
			if again(m.Lineage) {
				if w.calls[m.SignalID] == nil {
					w.calls[m.SignalID] = make(map[event.ID]*event.ModelCall)
				}
				w.calls[m.SignalID][m.ID] = m
			}
		case *event.Verdict:
			if again(m.Lineage) {
				w.verdicts[m.Decision.SignalID] = m
				delete(w.calls, m.Decision.SignalID)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading the journal: %w", err)
	}
	w.journalEnd.Store(end)
	w.role.metrics.replayed.Add(float64(read))
	return nil
}

// run takes signals up in order and returns when the partition is drained, lost
// or something failed; then none of its jobs runs any more.
func (w *worker) run(parent context.Context) error {
	ctx, cancel := context.WithCancelCause(parent)
	var jobs sync.WaitGroup
	defer jobs.Wait()
	defer cancel(nil)
	tails := make(map[string]*turns) // of the last job of each key
	for {
		records, err := w.a.Next(ctx)
		if errors.Is(err, io.EOF) {
			jobs.Wait()
			if err := failure(ctx); err != nil {
				return err
			}
			w.a.Commit(w.a.Position())
			w.mu.Lock()
			w.done = max(w.done, w.a.Position())
			w.mu.Unlock()
			return w.saveLast(ctx)
		}
		if err != nil {
			if cause := failure(ctx); cause != nil {
				return cause
			}
			return err
		}
		for i := range records {
			j, err := w.take(ctx, &records[i], tails)
			if err != nil {
				return err
			}
			jobs.Go(func() {
				if err := w.serve(ctx, j); err != nil {
					cancel(err)
				}
				<-w.slots
				w.role.metrics.inFlight.Dec()
			})
		}
	}
}

// failure is why ctx ended, where a job failed; nil when it did not end.
func failure(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return context.Cause(ctx)
}

// take queues one record, waiting for room. A record that is no signal becomes a
// job without one, so that it is passed in its turn.
func (w *worker) take(ctx context.Context, rec *bus.Record, tails map[string]*turns) (*job, error) {
	if err := w.slot(ctx); err != nil {
		return nil, err
	}
	w.role.metrics.inFlight.Inc()
	j := &job{offset: rec.Offset, key: append([]byte(nil), rec.Key...), turns: turns{make(chan struct{}), make(chan struct{})}}
	j.before, tails[string(j.key)] = tails[string(j.key)], &j.turns
	s, err := event.DecodeAs[*event.Signal](rec.Value)
	switch {
	case event.TypeOf(rec.Value) == event.TypeEpoch: // the signals have a new owner
	case err != nil:
		w.role.metrics.dead.Inc()
		w.role.env.Log.Warn("signal cannot be decoded", "partition", rec.Partition, "offset", rec.Offset, "error", err)
		if err := w.bury(ctx, rec, err); err != nil {
			<-w.slots
			w.role.metrics.inFlight.Dec()
			return nil, err
		}
	default:
		j.signal = s
	}
	w.mu.Lock()
	j.journalFrom = w.journalEnd.Load()
	w.queue = append(w.queue, j)
	w.mu.Unlock()
	return j, nil
}

// slot waits for room in the window: for the desk, which has its own deadlines.
func (w *worker) slot(ctx context.Context) error {
	select {
	case w.slots <- struct{}{}:
		return nil
	default:
	}
	defer w.a.Waiting()()
	select {
	case w.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// serve decides one job, in its turn, and returns once the decision is
// acknowledged.
func (w *worker) serve(ctx context.Context, j *job) error {
	if err := j.wait(ctx, func(t *turns) chan struct{} { return t.judged }); err != nil {
		return err
	}
	start := time.Now()
	var v *event.Verdict
	var journalled ack
	if j.signal != nil {
		var err error
		if v, journalled, err = w.verdict(ctx, j); err != nil {
			return err
		}
	}
	close(j.judged)
	if err := journalled.wait(ctx); err != nil {
		return fmt.Errorf("journalling a verdict: %w", err)
	}
	if err := j.wait(ctx, func(t *turns) chan struct{} { return t.decided }); err != nil {
		return err
	}
	var published ack
	if v != nil {
		key := []byte(v.Decision.Account)
		var err error
		if published, err = w.append(event.TopicDecisions, w.role.client.Partition(event.TopicDecisions, key), key, &v.Decision); err != nil {
			return fmt.Errorf("publishing a decision: %w", err)
		}
	}
	close(j.decided)
	j.before = nil // what came before need not be kept
	if err := published.wait(ctx); err != nil {
		return fmt.Errorf("publishing a decision: %w", err)
	}
	if v != nil {
		w.role.metrics.judgeSeconds.Observe(time.Since(start).Seconds())
	}
	w.finish(j)
	return nil
}

// wait waits for a turn of the job before.
func (j *job) wait(ctx context.Context, turn func(*turns) chan struct{}) error {
	if j.before == nil {
		return nil
	}
	select {
	case <-turn(j.before):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// finish commits up to the first job that is not decided.
func (w *worker) finish(j *job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if j.signal != nil {
		delete(w.verdicts, j.signal.ID)
		delete(w.calls, j.signal.ID)
	}
	j.done = true
	n := 0
	for n < len(w.queue) && w.queue[n].done {
		n++
	}
	if n > 0 {
		w.done = w.queue[n-1].offset + 1
		w.a.Commit(w.done)
		w.queue = w.queue[n:]
	}
}

// verdict answers one signal: from the journal if it is there, else from the
// desk, and then it is acted on only once it is journalled.
func (w *worker) verdict(ctx context.Context, j *job) (*event.Verdict, ack, error) {
	r := w.role
	if v := w.journalled(j.signal.ID); v != nil {
		// It may have been published before; consumers drop a second copy.
		r.metrics.republished.Inc()
		return v, nil, nil
	}
	late, stop := w.patience(j.signal)
	defer stop()
	busy := false
	select {
	case <-late: // it has waited for long enough behind others of its symbol
		busy = true
	default:
		select {
		case r.pool <- struct{}{}:
		case <-late:
			busy = true
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
	}
	v, err := w.judge(ctx, j, busy)
	if !busy {
		<-r.pool
	}
	if err != nil {
		return nil, nil, err
	}
	journalled, err := w.append(event.TopicJournal, w.a.Partition, j.key, v)
	if err != nil {
		return nil, nil, fmt.Errorf("journalling a verdict: %w", err)
	}
	r.metrics.decided(&v.Decision)
	return v, journalled, nil
}

func (w *worker) journalled(signal event.ID) *event.Verdict {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.verdicts[signal]
}

// patience tells when a signal against a position has waited for the model for long
// enough, in line behind others of its symbol or for a place: half of its time. The rules
// need no place. Other signals wait on, as do those of a replay, and one to which the
// journal has answers.
func (w *worker) patience(s *event.Signal) (<-chan time.Time, func()) {
	r := w.role
	if r.model == nil || r.replay || r.cfg.OnFailure != desk.OnFailureReduceOnly || !desk.Opposes(s, w.holding(s)) {
		return nil, func() {}
	}
	w.mu.Lock()
	answered := len(w.calls[s.ID]) > 0
	w.mu.Unlock()
	if answered {
		return nil, func() {}
	}
	left := s.Time + (s.Deadline-s.Time)/2 - r.env.Clock.Now().UnixNano()
	if left <= 0 {
		over := make(chan time.Time)
		close(over)
		return over, func() {}
	}
	t := time.NewTimer(time.Duration(left))
	return t.C, func() { t.Stop() }
}

// holding is what a signal's strategy holds of its symbol.
func (w *worker) holding(s *event.Signal) event.Decimal {
	return w.role.holdings.quantity(s.Account, s.Strategy, s.Venue, s.Symbol)
}

func (w *worker) judge(ctx context.Context, j *job, busy bool) (*event.Verdict, error) {
	r, s := w.role, j.signal
	qty := w.holding(s)
	lineage := event.Lineage{Topic: event.TopicSignals, Partition: w.a.Partition, Offset: j.offset}
	in := desk.Input{Signal: s, Lineage: lineage, Position: qty, Time: r.watch(s), Journal: &journal{w: w, job: j}, Replay: r.replay, Busy: busy}
	in.PriceTick, in.QtyStep = r.steps.of(s.Venue, s.Symbol)
	v, err := r.desk.Judge(ctx, in)
	if err != nil {
		return nil, fmt.Errorf("judging a signal: %w", err)
	}
	return v, nil
}

// ack is where the acknowledgement of one event arrives; nil is one that need not
// be waited for.
type ack chan error

func (a ack) wait(ctx context.Context) error {
	if a == nil {
		return nil
	}
	select {
	case err := <-a:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// append appends one event, after those that were appended before.
func (w *worker) append(topic string, partition int32, key []byte, m event.Message) (ack, error) {
	acked := make(ack, 1)
	err := w.producer.Append(topic, partition, key, event.Marshal(m), func(offset int64, err error) {
		if err == nil && topic == event.TopicJournal { // acknowledgements come in the log's order
			w.journalEnd.Store(offset + 1)
		}
		acked <- err
	})
	return acked, err
}

// publish appends one event and waits for its acknowledgement.
func (w *worker) publish(ctx context.Context, topic string, partition int32, key []byte, m event.Message) error {
	acked, err := w.append(topic, partition, key, m)
	if err != nil {
		return err
	}
	return acked.wait(ctx)
}

// bury puts a record that is no signal into topic dead.
func (w *worker) bury(ctx context.Context, rec *bus.Record, reason error) error {
	l := event.Lineage{Topic: rec.Topic, Partition: rec.Partition, Offset: rec.Offset}
	d := &event.Dead{
		ID: event.DeadID(Name, l, rec.Value), Role: Name, Reason: reason.Error(),
		Key: rec.Key, Value: rec.Value, Time: w.role.env.Clock.Now().UnixNano(), Lineage: l,
	}
	if err := w.publish(ctx, event.TopicDead, 0, fmt.Appendf(nil, "%s/%d", rec.Topic, rec.Partition), d); err != nil {
		return fmt.Errorf("burying a record: %w", err)
	}
	return nil
}
