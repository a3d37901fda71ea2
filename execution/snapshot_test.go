package execution

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/bus/bustest"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// partition is where the account of the tests lies.
func (w *world) partition() int32 { return w.client.Partition(event.TopicOrders, []byte("paper")) }

// fills has orders filled until the logs hold something.
func (w *world) fills(r *running, n int) {
	w.t.Helper()
	w.quote("50000.00", "50", "50001.00", "50")
	w.seesQuote(r)

	for i := range n {
		side := []event.Side{event.Buy, event.Sell}[i%2]
		w.wantStates(w.decide(w.decision(side, "0.02", "50000.5")), "submitting accepted filled")
	}
}

func counted(t testing.TB, c interface{ Write(*dto.Metric) error }) float64 {
	t.Helper()
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

// restores tells what the restarts of the tests' partition began with, and how many
// records they read.
func (r *running) restores() (snapshot, replayed float64) {
	r.t.Helper()
	m := r.role.metrics
	return counted(r.t, m.restores.WithLabelValues("snapshot")), counted(r.t, m.replayed)
}

// fromStart is what the logs hold, read whole.
func (w *world) fromStart() *records {
	w.t.Helper()
	s := newRecords()
	if _, err := s.read(w.t.Context(), w.client, w.partition(), func(string, string) string { return "USDT" }); err != nil {
		w.t.Fatal(err)
	}
	return s
}

// loaded is what the newest snapshot holds, read on to the logs' ends.
func (w *world) loaded() *records {
	w.t.Helper()
	snap, err := w.client.LoadSnapshot(w.t.Context(), SnapshotKey(w.partition()))
	if err != nil || snap == nil {
		w.t.Fatalf("snapshot %v: %v", snap, err)
	}
	s, err := decodeRecords(snap.State, w.client.Incarnation)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := s.read(w.t.Context(), w.client, w.partition(), func(string, string) string { return "USDT" }); err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *world) encode(s *records) []byte {
	w.t.Helper()
	b, err := s.encode(w.client.Incarnation)
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

// A restart reads the newest snapshot and what came after it, and knows what one
// that read all would know.
func TestRestartFromSnapshot(t *testing.T) {
	w := newWorld(t)
	r := w.start(func(r *Role) { r.saveEvery = time.Hour })
	w.fills(r, 20)
	r.drain() // saves one
	if n := counted(t, r.role.metrics.snapshots); n < 1 {
		t.Fatalf("%v snapshots were saved", n)
	}
	if got, want := w.encode(w.loaded()), w.encode(w.fromStart()); !bytes.Equal(got, want) {
		t.Fatalf("from the snapshot\n%s\nfrom the logs\n%s", got, want)
	}

	r = w.start(func(r *Role) { r.saveEvery = time.Hour })
	if snapshot, replayed := r.restores(); snapshot < 1 || replayed > 20 {
		t.Errorf("%v partitions restored from a snapshot, %v records replayed; there are %d", snapshot, replayed, len(w.fromStart().orders.begun))
	}
	w.fills(r, 3)
	r.stop() // as a crash: nothing is saved
	<-r.role.done

	r = w.start(func(r *Role) { r.saveEvery = time.Hour })
	if snapshot, replayed := r.restores(); snapshot < 1 || replayed < 3*(3+1+1) || replayed > 60 {
		t.Errorf("after a crash %v partitions restored from a snapshot, %v records replayed", snapshot, replayed)
	}
	w.fills(r, 1)
	r.drain()
	w.audit()
}

// A decision that is delivered again after a restart from a snapshot has its order
// already.
func TestSnapshotKnowsOrders(t *testing.T) {
	w := newWorld(t)
	r := w.start(nil)
	w.fills(r, 2)
	d := w.decide(w.decision(event.Buy, "0.02", "50000.5"))
	w.wantStates(d, "submitting accepted filled")
	r.drain()
	r = w.start(nil)
	r.stop()
	<-r.role.done
	if snapshot, _ := r.restores(); snapshot < 1 {
		t.Fatal("it began without a snapshot")
	}
	o, err := r.role.restore(context.Background(), w.partition(), func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	defer o.close()
	taken, err := o.judge(d, event.Lineage{}, func() {})
	if taken || err != nil || counted(t, r.role.metrics.skipped) != 1 {
		t.Errorf("a decision that has an order: taken %v, %v", taken, err)
	}
	if o.begun(d.ID) != 1 || o.begun(event.ID{1}) != 0 {
		t.Error("it does not know how many orders the decision has")
	}
	w.wantStates(d, "submitting accepted filled")
}

// saveAs saves a snapshot as an owner of the partition would.
func (w *world) saveAs(form uint32, state []byte) {
	w.t.Helper()
	p := w.partition()
	o, err := w.client.Own(w.t.Context(), bus.OwnConfig{
		Name: "test", Key: ownerKey(p), Blocking: true,
		Partitions: []bus.TopicPartition{{Topic: event.TopicExecutionState, Partition: p}, {Topic: event.TopicOrders, Partition: p}},
	}, component.Discard())
	if err != nil {
		w.t.Fatal(err)
	}
	snap := &bus.Snapshot{Incarnation: w.client.Incarnation(event.TopicOrders), Input: 1 << 40, Form: form, State: state}
	if err := errors.Join(w.client.SaveSnapshot(w.t.Context(), o.Producer, SnapshotKey(p), snap), o.Close(w.t.Context())); err != nil {
		w.t.Fatal(err)
	}
}

// A snapshot that this build does not read, or that is damaged, costs time and
// nothing else.
func TestSnapshotUnusable(t *testing.T) {
	for name, c := range map[string]struct {
		form  uint32
		state string
	}{"another form": {recordsForm + 1, "{}"}, "damaged": {recordsForm, `{"next":`}, "empty": {recordsForm, "{}"}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := w.start(nil)
			w.fills(r, 2)
			r.drain()
			w.saveAs(c.form, []byte(c.state))
			r = w.start(func(r *Role) { r.saveEvery = time.Hour })
			if snapshot, replayed := r.restores(); replayed < 2*(3+1+1) || counted(t, r.role.metrics.snapshotFailures) != 1 {
				t.Errorf("%v partitions restored from a snapshot, %v records replayed, %v failures", snapshot, replayed, counted(t, r.role.metrics.snapshotFailures))
			}
			w.fills(r, 1)
			r.drain()
			w.audit()
		})
	}
}

// A log that ends before what the snapshot holds is another log: refused, with both
// numbers and the commands.
func TestSnapshotOfACutLog(t *testing.T) {
	w := newWorld(t)
	r := w.start(nil)
	w.fills(r, 1)
	r.drain()
	s := w.fromStart()
	end := s.next[event.TopicFills]
	s.next[event.TopicFills] += 100
	w.saveAs(recordsForm, w.encode(s))
	r = w.run(nil)
	select {
	case err := <-r.err:
		var e *bus.LogError
		if !errors.As(err, &e) || !component.IsFatal(err) || e.Fault != bus.Truncated || e.Topic != event.TopicFills || e.Stored != end+100 || e.Stored-e.End > 100 {
			t.Errorf("it ended with %v", err)
		}
		if !strings.Contains(fmt.Sprint(err), "autohedge topics adopt fills") {
			t.Errorf("%v names no way on", err)
		}
		r.err <- err
	case <-time.After(20 * time.Second):
		t.Fatal("it goes on with a log that was cut")
	}
}

// Once a snapshot holds what lies before, a log that does not begin at 0 is one that
// can be gone on with; without it, it is not.
func TestSnapshotBehindTrimmedLogs(t *testing.T) {
	for name, kept := range map[string]bool{"snapshot kept": true, "snapshot gone": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := w.start(nil)
			w.fills(r, 4)
			r.drain()
			ends := w.fromStart().next
			if !kept {
				w.saveAs(recordsForm+1, nil)
				w.saveAs(recordsForm+1, nil)
			}
			admin := bustest.Dial(t, w.addr)
			for _, topic := range sources {
				admin.DeleteRecords(t, topic, w.partition(), ends[topic]-1)
			}
			r = w.run(func(r *Role) { r.saveEvery = time.Hour })
			select {
			case <-r.role.Ready():
				if !kept {
					t.Fatal("it began with logs whose beginning is gone")
				}
				w.fills(r, 1)
				r.drain()
				if got := w.loaded().orders.begun; len(got) != 5 {
					t.Errorf("%d orders are known, want 5", len(got))
				}
			case err := <-r.err:
				if kept || !component.IsFatal(err) || !strings.Contains(fmt.Sprint(err), fmt.Sprintf("orders begins at offset %d", ends[event.TopicOrders]-1)) {
					t.Errorf("it ended with %v", err)
				}
				r.err <- err
			case <-time.After(20 * time.Second):
				t.Fatal("not ready")
			}
		})
	}
}

// An owner that another has taken over from saves nothing and ends.
func TestSnapshotFenced(t *testing.T) {
	w := newWorld(t)
	r := w.start(func(r *Role) { r.saveEvery = time.Hour })
	w.fills(r, 1)
	r.stop()
	<-r.role.done
	p := w.partition()
	own := func() *owner {
		o, err := r.role.restore(context.Background(), p, func(error) {})
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	r.role.logPatience = time.Hour
	first := own()
	closeFirst := first.close
	for _, acc := range first.accounts { // its ledger is one process's at a time
		if err := acc.broker.Close(); err != nil {
			t.Fatal(err)
		}
	}
	second := own()
	defer second.close()
	defer closeFirst()
	if err := first.save(t.Context(), 1); !errors.Is(err, bus.ErrFenced) {
		t.Errorf("a former owner's snapshot: %v", err)
	}
	if err := second.save(t.Context(), 1); err != nil {
		t.Error(err)
	}
	if n := counted(t, r.role.metrics.snapshots); n != 1 {
		t.Errorf("%v snapshots were saved, want the owner's", n)
	}
}
