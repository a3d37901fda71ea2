package signals

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/autohedge/autohedge/stream/event"
)

// only is the look-up of rule sets for RestoreEngine.
func only(sets ...*RuleSet) func(event.ID) (*RuleSet, error) {
	return func(hash event.ID) (*RuleSet, error) {
		for _, s := range sets {
			if s.Hash == hash {
				return s, nil
			}
		}
		return nil, fmt.Errorf("rule set %s is not known", hash)
	}
}

// restored is RestoreEngine for a state of this build.
func restored(partition int32, state []byte, rules func(event.ID) (*RuleSet, error)) (*Engine, error) {
	e, _, err := RestoreEngine(partition, StateForm, state, rules)
	return e, err
}

func compiled(t testing.TB, cfg Config) *RuleSet {
	t.Helper()
	set, err := CompileRules(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// TestStateRestarts takes a log with every kind of record and changes of the
// rules through an engine that is saved and restored at random points, in one go
// and spread over the records that follow, and through one that is not: the
// same signals, the same errors, and the same state to the last bit.
func TestStateRestarts(t *testing.T) {
	var total struct {
		restarts, signals int
		resets            uint64
	}
	for round := range 4 {
		seed := rand.Uint64()
		r := rand.New(rand.NewPCG(seed, 1))
		one, two := anywhere("-one"), anywhere("-two")
		two.Rules = append(two.Rules[:4], one.Rules[5:]...)
		for i := range two.Rules {
			if i%3 == 0 {
				two.Rules[i].DebounceTicks = 3
			}
		}
		sets := []*RuleSet{compiled(t, one), compiled(t, two)}
		m := newMarket(seed, true, demoKeys...)
		whole, broken := NewEngine(2), NewEngine(2)
		apply := func(set *RuleSet) {
			for _, e := range []*Engine{whole, broken} {
				if err := e.Apply(set); err != nil {
					t.Fatal(err)
				}
			}
		}
		restarts, signals := 0, 0
		var taken []byte // the whole one's state when the broken one's began to be taken
		var passed []record
		if round%2 == 0 {
			apply(sets[0])
		}
		for offset := range int64(6000) {
			if r.IntN(1500) == 0 || offset == 300 {
				apply(sets[r.IntN(2)])
			}
			what := r.IntN(100)
			rec := m.next()
			passed = append(passed, rec)
			want, wantErr := whole.Step(offset, rec.key, rec.value)
			got, gotErr := broken.Step(offset, rec.key, rec.value)
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(event.Decimal{}), cmpopts.EquateEmpty()); diff != "" || fmt.Sprint(wantErr) != fmt.Sprint(gotErr) {
				t.Fatalf("seed %d, record %d after %d restarts: %v, %v\n%s", seed, offset, restarts, wantErr, gotErr, diff)
			}
			signals += len(want)
			switch {
			case broken.Saving():
				if state, done := broken.Save(r.IntN(2000)); done {
					e, err := restored(2, state[3:], only(sets...))
					if err != nil {
						t.Fatalf("seed %d, record %d: %v", seed, offset, err)
					}
					if !bytes.Equal(e.AppendState(nil), taken) {
						t.Fatalf("seed %d, record %d: a state taken over %d records is not that of its first", seed, offset, len(passed))
					}
				}
			case what == 1:
				restarts++
				state := broken.AppendState(nil)
				e, err := restored(2, state, only(sets...))
				if err != nil {
					t.Fatalf("seed %d, record %d: %v", seed, offset, err)
				}
				if again := whole.AppendState(nil); !bytes.Equal(again, state) || !bytes.Equal(e.AppendState(nil), state) {
					t.Fatalf("seed %d, record %d: the states differ", seed, offset)
				}
				broken = e
			case r.IntN(99) == 0:
				taken, passed = whole.AppendState(nil), passed[:0]
				broken.BeginSave([]byte("abc"))
			}
		}
		if whole.Stats() != broken.Stats() || whole.Now() != broken.Now() {
			t.Errorf("seed %d: %+v at %d, restarted %+v at %d", seed, whole.Stats(), whole.Now(), broken.Stats(), broken.Now())
		}
		total.restarts, total.signals, total.resets = total.restarts+restarts, total.signals+signals, total.resets+whole.Stats().Resets
	}
	if total.restarts < 40 || total.signals < 100 || total.resets == 0 {
		t.Errorf("%+v: the test shows nothing", total)
	}
}

// saved is the state of an engine that has seen some of a market.
func saved(t testing.TB, set *RuleSet, records int) []byte {
	t.Helper()
	e := NewEngine(1)
	if err := e.Apply(set); err != nil {
		t.Fatal(err)
	}
	m := newMarket(3, true, demoKeys...)
	for offset := range records {
		rec := m.next()
		_, _ = e.Step(int64(offset), rec.key, rec.value) // damage is part of it
	}
	return e.AppendState(nil)
}

// A state with a bit flipped or its end cut is refused, and so are one of another
// partition and one whose rules are not known.
func TestStateDamage(t *testing.T) {
	set := tenRules(t)
	state := saved(t, set, 120)
	r := rand.New(rand.NewPCG(1, 1))
	for range 2000 {
		bad := bytes.Clone(state)
		bad[r.IntN(len(bad))] ^= 1 << r.IntN(8)
		if _, err := restored(1, bad, only(set)); err == nil {
			t.Fatal("a flipped bit went unseen")
		}
	}
	for n := range state {
		if _, err := restored(1, state[:n], only(set)); err == nil {
			t.Fatalf("%d of %d bytes were accepted", n, len(state))
		}
		if _, _, err := restoreBody(1, StateForm, state[:n], only(set)); err == nil && n != len(state)-4 {
			t.Fatalf("%d of %d bytes were accepted without their sum", n, len(state))
		}
	}
	if _, err := restored(2, state, only(set)); err == nil || !strings.Contains(err.Error(), "partition 1, not 2") {
		t.Errorf("another partition: %v", err)
	}
	if _, err := restored(1, state, only()); err == nil || !strings.Contains(err.Error(), "not known") {
		t.Errorf("unknown rules: %v", err)
	}
	fewer := DefaultConfig()
	fewer.Rules = fewer.Rules[:3]
	other := compiled(t, fewer)
	if _, err := restored(1, state, func(event.ID) (*RuleSet, error) { return other, nil }); err == nil {
		t.Error("a state was read with other rules than its own")
	}
}

// FuzzRestoreEngine: no bytes make an engine panic, at once or when it is stepped.
func FuzzRestoreEngine(f *testing.F) {
	cfg := DefaultConfig()
	for i := range cfg.Rules {
		switch r := &cfg.Rules[i]; r.Indicator { // small, so that a seed is small
		case "vwap":
			r.Params = map[string]any{"window": "10ms", "count": 8}
		case "ema":
			r.Params = map[string]any{"period": 5}
		case "spread":
		default:
			r.Params = map[string]any{"period": 5}
		}
	}
	set := compiled(f, cfg)
	for _, n := range []int{0, 1, 30, 300} {
		state := saved(f, set, n)
		f.Add(state[:len(state)-4])
	}
	m := newMarket(4, true, demoKeys...)
	records := make([]record, 200)
	for i := range records {
		records[i] = m.next()
	}
	f.Fuzz(func(t *testing.T, state []byte) {
		e, _, err := restoreBody(1, StateForm, state, only(set))
		if err != nil {
			return
		}
		again := e.AppendState(nil)
		other, err := restored(1, again, only(set))
		if err != nil || !bytes.Equal(other.AppendState(nil), again) {
			t.Fatalf("a state that was accepted is not when saved again: %v", err)
		}
		for i, rec := range records {
			_, _ = e.Step(int64(i), rec.key, rec.value)
		}
	})
}
