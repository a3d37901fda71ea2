package bus

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// updateFaults writes testdata/faults.txt anew. The run fails where a row changed,
// so that nobody takes a change for an agreed one.
var updateFaults = flag.Bool("update-faults", false, "write testdata/faults.txt as it is now")

const (
	faultsFile = "testdata/faults.txt"
	// faultLasts, longer than anything is waited for by itself, is how long a fault
	// that does not go away is there; groupLasts is the same for groups, and
	// faultBound how much longer what waited for its end may take.
	faultLasts = 90 * time.Second
	groupLasts = 10 * time.Second
	faultBound = 2 * time.Minute
	faultCount = 40 // records in md
)

// faultRun is one kind of request with one kind of fault: all codes, one after the
// other, on one broker.
type faultRun struct {
	v       *virtual
	c       *Client
	acked   int           // records of md that were acknowledged
	row     string        // a name of its own for each code
	install func()        // the fault, from now on
	forever bool          // it does not go away by itself
	lasts   time.Duration // but after this
}

// faultOp is what is tried while a request gives an error.
type faultOp struct {
	name     string
	key      kmsg.Key
	topLevel bool
	narrow   kfake.Fault // what else chooses the requests
	group    bool
	do       func(r *faultRun, ctx context.Context) error
}

func faultOps() []faultOp {
	try := func(f func(r *faultRun, ctx context.Context) error) func(*faultRun, context.Context) error {
		return func(r *faultRun, ctx context.Context) error {
			r.install()
			return f(r, ctx)
		}
	}
	consume := func(r *faultRun, ctx context.Context) error { return r.consume(ctx, r.install, nil, nil) }
	drop := try(func(r *faultRun, ctx context.Context) error { return r.c.DropSession(ctx, r.row) })
	return []faultOp{
		{name: "ApiVersions", key: kmsg.ApiVersions, do: try((*faultRun).reconnect)},
		{name: "Metadata", key: kmsg.Metadata, narrow: kfake.Fault{Topic: event.TopicMarket}, do: try((*faultRun).reconnect)},
		{name: "CreateTopics", key: kmsg.CreateTopics, do: try((*faultRun).createTopics)},
		{name: "DeleteTopics", key: kmsg.DeleteTopics, do: func(r *faultRun, ctx context.Context) error {
			if err := r.createTopics(ctx); err != nil {
				return err
			}
			return drop(r, ctx)
		}},
		{name: "ListGroups", key: kmsg.ListGroups, do: drop},
		{name: "InitProducerID", key: kmsg.InitProducerID, do: try((*faultRun).makeProducer)},
		{name: "InitProducerID of an owner", key: kmsg.InitProducerID, do: try((*faultRun).own)},
		{name: "FindCoordinator of an owner", key: kmsg.FindCoordinator, do: try((*faultRun).own)},
		{name: "Produce", key: kmsg.Produce, narrow: kfake.Fault{Topic: event.TopicMarket}, do: (*faultRun).produce},
		{name: "ListOffsets", key: kmsg.ListOffsets, do: try(func(r *faultRun, ctx context.Context) error {
			_, err := r.c.Offsets(ctx, event.TopicMarket)
			return err
		})},
		{name: "Fetch", key: kmsg.Fetch, do: (*faultRun).read},
		{name: "Fetch of the request", key: kmsg.Fetch, topLevel: true, do: (*faultRun).read},
		{name: "FindCoordinator of a group", group: true, key: kmsg.FindCoordinator, do: consume},
		{name: "JoinGroup", group: true, key: kmsg.JoinGroup, topLevel: true, do: consume},
		{name: "SyncGroup", group: true, key: kmsg.SyncGroup, topLevel: true, do: consume},
		{name: "OffsetFetch", group: true, key: kmsg.OffsetFetch, narrow: kfake.Fault{Topic: event.TopicMarket}, do: consume},
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
	}
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

// createTopics makes the topics of a session of the row's own.
func (r *faultRun) createTopics(ctx context.Context) error {
	cfg := testConfig(virtualAddr)
	cfg.Session, cfg.Partitions = r.row, 1
	c, err := connectOver(ctx, cfg, component.Discard(), r.v.network.DialContext)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	return c.EnsureTopics(ctx)
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

// produce appends eight records that go into one batch or a few, and counts those
// that are acknowledged.
func (r *faultRun) produce(ctx context.Context) error {
	p, err := r.c.NewProducer(ctx, ProducerConfig{Name: "test", Blocking: true}, component.Discard())
	if err != nil {
		return err
	}
	r.install()
	var refused error
	results := make(chan error, 8)
	for i := range 8 {
		n := r.acked + i
		if err := p.Append(event.TopicMarket, 0, []byte("k"), fmt.Appendf(nil, "%d", n), func(_ int64, err error) { results <- err }); err != nil {
			results <- err
		}
	}
	acked := 0
	for range 8 {
		if err := <-results; err == nil {
			acked++
		} else if refused == nil {
			refused = err
		}
	}
	r.acked += acked
	if err := p.Err(); err != nil {
		refused = err
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := p.Close(closing); err != nil && refused == nil {
		refused = err
	}
	if acked > 0 && acked < 8 {
		return fmt.Errorf("%d of 8 records acknowledged: %w", acked, refused)
	}
	return refused
}

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

var (
	codeText   = regexp.MustCompile(`\[-?\d+\] [^:]*: [^:;\n]*`)
	attemptRow = regexp.MustCompile(`\br\d+x\d+\b`)
	numberText = regexp.MustCompile(`(records|producer|sequence|first) \d+`)
	topicText  = regexp.MustCompile(`topic ROW\.[a-z.]+`)
	idText     = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f-]{27}`)
)

// outcome says in a few words what came of a row.
func (r *faultRun) outcome(code kafka.Error, hits int, err error, took time.Duration) string {
	text := ""
	if err != nil {
		text = strings.ReplaceAll(err.Error(), code.Error(), "<code>")
		text = idText.ReplaceAllString(text, "ID")
		text = attemptRow.ReplaceAllString(codeText.ReplaceAllString(text, "<another code>"), "ROW")
		text = numberText.ReplaceAllString(topicText.ReplaceAllString(text, "topic ROW.TOPIC"), "$1 N")
	}
	switch {
	case hits == 0:
		return "not asked"
	case component.IsFatal(err):
		return "fatal: " + text
	case err != nil:
		return "error: " + text
	case r.forever && took >= r.lasts:
		return "waits and goes on"
	}
	return "goes on"
}

// faultRows runs every code of one request and returns the codes of each outcome.
func faultRows(t *testing.T, op faultOp, forever bool) map[string][]int {
	t.Helper()
	rows := make(map[string][]int)
	inBubble(t, func(t *testing.T, v *virtual) {
		c := v.connect(t)
		p := newProducer(t, c, ProducerConfig{Name: "fill", Blocking: true})
		produce(t, p, event.TopicMarket, 0, faultCount)
		r := &faultRun{v: v, c: c, acked: faultCount, forever: forever, lasts: faultLasts}
		if op.group {
			r.lasts = groupLasts
		}
		for code := int16(-1); code < 140; code++ {
			kind := kerr.TypedErrorForCode(code)
			if kind == nil || kind.Code != code {
				continue
			}
			if raced && code%9 != 0 { // for races a part of the codes does; the table is held without
				continue
			}
			r.row = fmt.Sprintf("r%dx%d", op.key, code+1)
			f := op.narrow
			f.Keys, f.TopLevel, f.Err = []kmsg.Key{op.key}, op.topLevel, kind
			if forever {
				f.Count = -1
			}
			var h *kfake.FaultHandle
			var began time.Time
			r.install = func() {
				began = time.Now()
				h = v.cluster.Fault(f)
				if forever {
					time.AfterFunc(r.lasts, h.Remove)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), r.lasts+faultBound+10*time.Second)
			err := op.do(r, ctx)
			took, hits := time.Since(began), 0
			if h != nil {
				hits = h.Hits()
				h.Remove()
			}
			if ctx.Err() != nil {
				t.Errorf("code %d: hangs: %v after %s", code, err, took)
			}
			cancel()
			if err != nil && (strings.Contains(err.Error(), "LOST") || strings.Contains(err.Error(), "HANGS")) {
				t.Errorf("code %d: %v", code, err)
			}
			outcome := r.outcome(kafka.Error(code), hits, err, took)
			rows[outcome] = append(rows[outcome], int(code))
			if op.key == kmsg.CreateTopics || op.key == kmsg.DeleteTopics {
				if err := c.DropSession(t.Context(), r.row); err != nil {
					t.Errorf("code %d: %v", code, err)
				}
			}
		}
		checkAcked(t, r)
	})
	return rows
}

// checkAcked reads what the rows appended: the first is the one that was there, and
// whatever was acknowledged is there once and in order.
func checkAcked(t *testing.T, r *faultRun) {
	t.Helper()
	last := -1
	seen := make(map[string]int)
	_, err := r.c.ReadAll(t.Context(), event.TopicMarket, 0, FromStart, func(rec Record) error {
		n, err := strconv.Atoi(string(rec.Value))
		if n < last {
			t.Errorf("offset %d holds %d after %d", rec.Offset, n, last)
		}
		last = n
		seen[string(rec.Value)]++
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for n := faultCount; n < r.acked; n++ {
		if seen[strconv.Itoa(n)] == 0 {
			t.Errorf("record %d was acknowledged and is not in the log", n)
		}
	}
}

// Each error code a broker can answer, on each request kind, once and for as long
// as one likes: testdata/faults.txt says what is to happen.
func TestFaultMatrixOnKfake(t *testing.T) {
	var out strings.Builder
	for _, op := range faultOps() {
		for _, forever := range []bool{false, true} {
			mode := "once"
			if forever {
				mode = "ever"
			}
			t.Run(op.name+" "+mode, func(t *testing.T) {
				began := time.Now()
				defer func() { t.Logf("took %s", time.Since(began).Round(time.Millisecond)) }()
				rows := faultRows(t, op, forever)
				outcomes := make([]string, 0, len(rows))
				for o := range rows {
					outcomes = append(outcomes, o)
				}
				slices.Sort(outcomes)
				fmt.Fprintf(&out, "\n== %s, %s\n", op.name, mode)
				for _, o := range outcomes {
					fmt.Fprintf(&out, "%s\n  %s\n", o, strings.Trim(fmt.Sprint(rows[o]), "[]"))
				}
			})
		}
	}
	if raced {
		return
	}
	head := "# What each error code of an answer does, by request; see faults_test.go. once: the code is given one time;\n" +
		"# ever: for 90 s, of groups for 10 s. Under each outcome are its codes. Written with -update-faults, read by people.\n"
	want, err := os.ReadFile(faultsFile)
	if err != nil && !*updateFaults {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), head+out.String()); diff != "" {
		t.Errorf("%s is not what happens (- agreed, + now):\n%s", faultsFile, diff)
		if *updateFaults {
			if err := os.WriteFile(faultsFile, []byte(head+out.String()), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}
