package signals

import (
	"bytes"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/autohedge/autohedge/stream/event"
)

// testdata/form1.state is the state that the build of form 1 had after 3,000
// records of the market below under the rules beside it. An engine restored from it
// goes on as one that has seen those records itself.
func TestReadsForm1(t *testing.T) {
	state, err := os.ReadFile("testdata/form1.state")
	if err != nil {
		t.Fatal(err)
	}
	body, err := os.ReadFile("testdata/form1.rules.json")
	if err != nil {
		t.Fatal(err)
	}
	set, err := ParseRuleSet(body)
	if err != nil {
		t.Fatal(err)
	}
	e, warmUp, err := RestoreEngine(1, form1, state, only(set))
	if err != nil || len(warmUp) > 0 {
		t.Fatalf("warming up %v: %v", warmUp, err)
	}
	whole := NewEngine(1)
	if err := whole.Apply(set); err != nil {
		t.Fatal(err)
	}
	m := newMarket(3, true, demoKeys...)
	signals := 0
	for offset := range int64(9000) {
		rec := m.next()
		want, wantErr := whole.Step(offset, rec.key, rec.value)
		if offset < 3000 {
			continue
		}
		got, gotErr := e.Step(offset, rec.key, rec.value)
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(event.Decimal{}), cmpopts.EquateEmpty()); diff != "" || (wantErr == nil) != (gotErr == nil) {
			t.Fatalf("record %d: %v, %v\n%s", offset, wantErr, gotErr, diff)
		}
		signals += len(want)
	}
	if signals < 10 {
		t.Errorf("%d signals: the test shows nothing", signals)
	}
	e.stats, whole.stats = Stats{}, Stats{} // the former build did not count crossed quotes
	if a, b := whole.AppendState(nil), e.AppendState(nil); !bytes.Equal(a, b) {
		t.Error("the states differ after the same records")
	}
}

// A build that cannot run a rule of the set in force, or has changed the form of an
// indicator, reads the rest of a state; cooldowns outlive it.
func TestStateOfAnotherBuild(t *testing.T) {
	cfg := DefaultConfig()
	set := compiled(t, cfg)
	state := saved(t, set, 40_000)
	reference, err := restored(1, state, only(set))
	if err != nil {
		t.Fatal(err)
	}

	// The same bytes, but this build does not know one of the indicators.
	other := *set
	other.rules = append([]*rule(nil), set.rules...)
	lost := *set.rules[2]
	lost.inert = os.ErrNotExist
	other.rules[2] = &lost
	e, warmUp, err := RestoreEngine(1, StateForm, state, only(&other))
	if err != nil || len(warmUp) > 0 {
		t.Fatalf("warming up %v: %v", warmUp, err)
	}
	kept := 0
	for i, inst := range e.order {
		want := reference.order[i].findRule(set.rules[2])
		at, ok := inst.findCooldown(lost.Name)
		if ok != want.state.fired || (ok && inst.cooldowns[at].last != want.state.last) {
			t.Errorf("%s: cooldown of %s kept %v, the rule had fired %v", inst.key, lost.Name, ok, want.state.fired)
		}
		if ok {
			kept++
		}
		for _, w := range inst.watches {
			for _, a := range w.rules {
				if want := reference.order[i].findRule(set.rules[a.rule.place]); a.state != want.state {
					t.Errorf("%s: rule %s has state %+v, want %+v", inst.key, a.rule.Name, a.state, want.state)
				}
			}
		}
	}
	if kept == 0 {
		t.Error("no cooldown was kept: the test shows nothing")
	}
	// The next build has it again.
	again, err := restored(1, e.AppendState(nil), only(&other))
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Apply(set); err != nil {
		t.Fatal(err)
	}
	for i, inst := range again.order {
		if got, want := inst.findRule(set.rules[2]).state, reference.order[i].findRule(set.rules[2]).state; got.fired != want.fired || got.last != want.last {
			t.Errorf("%s: after its return the rule has %+v, want the cooldown of %+v", inst.key, got, want)
		}
	}

	// The form of an indicator's state has changed: it warms up again, its rules
	// keep their cooldowns.
	other.rules = nil
	for _, r := range set.rules {
		c := *r
		if c.Indicator == "rsi" {
			c.form++
		}
		other.rules = append(other.rules, &c)
	}
	e, warmUp, err = RestoreEngine(1, StateForm, state, only(&other))
	if err != nil || len(warmUp) != len(e.order) {
		t.Fatalf("warming up %v: %v", warmUp, err)
	}
	for i, inst := range e.order {
		for _, w := range inst.watches {
			for _, a := range w.rules {
				want := reference.order[i].findRule(set.rules[a.rule.place]).state
				if a.rule.Indicator == "rsi" {
					a.rule.begin(&want)
				}
				if a.state != want {
					t.Errorf("%s: rule %s has state %+v, want %+v", inst.key, a.rule.Name, a.state, want)
				}
			}
		}
	}
}

// A notice of a future event time and one of trades that no rule can use are given
// once an instrument.
func TestNotices(t *testing.T) {
	e := NewEngine(0)
	step := func(key string, event, recv int64) {
		tr := tradeAt(event, recv)
		if _, err := e.Step(recv, []byte(key), tr.AppendWire(nil)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range int64(3) {
		step("a|X", 1e18+i, 1e9+i)
		step("b|X", 5e9, 5e9)
		for j := range int64(2 * unusableInARow) {
			step("b|X", 1e9, 5e9+j)
		}
	}
	want := []Notice{
		{Instrument: "a|X", EventTime: 1e18, RecvTime: 1e9},
		{Instrument: "b|X", EventTime: 1e9, RecvTime: 5e9 + unusableInARow - 1, Unusable: unusableInARow},
	}
	if diff := cmp.Diff(want, e.TakeNotices()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if n := e.TakeNotices(); len(n) > 0 {
		t.Errorf("given twice: %v", n)
	}
	if s := e.Stats(); s.Ahead != 3 || s.Unusable != 6*unusableInARow {
		t.Errorf("%+v", s)
	}
}

// TestLateTradesAreNotSeen: a trade that came after newer ones moves no indicator, and
// the same id in another epoch is another trigger.
func TestLateTradesAreNotSeen(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Strategies = []StrategyConfig{{Name: "s", Account: "paper"}}
	cfg.Rules = []RuleConfig{{}}
	cfg.Rules[0].SetDefaults()
	r := &cfg.Rules[0]
	r.Name, r.Strategy, r.Indicator, r.Threshold, r.Direction, r.Side, r.Params = "dip", "s", "zscore", -1, CrossDown, event.Buy, map[string]any{"period": uint64(4)}
	fire := func(late bool, epoch uint32) (ids []event.ID) {
		e := NewEngine(0)
		if err := e.Apply(compiled(t, cfg)); err != nil {
			t.Fatal(err)
		}
		for i, price := range []int64{100, 101, 100, 101, 100, 101, 90} {
			tr := tradeAt(0, int64(i+1)*1e9)
			tr.TimeSource, tr.Price, tr.Epoch, tr.Late = event.TimeReceive, event.NewDecimal(price, 0), epoch, late && price == 90
			signals, err := e.Step(int64(i), []byte("v|X"), tr.AppendWire(nil))
			if err != nil {
				t.Fatal(err)
			}
			for j := range signals {
				ids = append(ids, signals[j].ID)
			}
		}
		return ids
	}
	if got := fire(true, 0); len(got) != 0 {
		t.Errorf("a late trade fired %d signals", len(got))
	}
	first, second := fire(false, 0), fire(false, 1)
	if len(first) != 1 || len(second) != 1 || first[0] == second[0] {
		t.Errorf("signals %v of one epoch and %v of another", first, second)
	}
}

func tradeAt(eventTime, recvTime int64) event.Trade {
	return event.Trade{Channel: event.ChannelTrade, TradeID: uint64(recvTime), Price: event.NewDecimal(100, 0), TimeSource: event.TimeEvent, EventTime: eventTime, RecvTime: recvTime}
}

// What differs between two rule sets is told by name.
func TestCompareRuleSets(t *testing.T) {
	cfg := DefaultConfig()
	edited := DefaultConfig()
	edited.Rules[0].Horizon *= 2
	edited.Rules[1].Threshold++
	edited.Rules[2].Name = "another"
	got := compiled(t, cfg).Compare(compiled(t, edited))
	want := Edit{Added: []string{"another"}, Removed: []string{cfg.Rules[2].Name}, Kept: []string{cfg.Rules[0].Name}, Restarted: []string{cfg.Rules[1].Name},
		Unchanged: len(cfg.Rules) - 3}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// The cooldowns of absent rules are bounded; the oldest goes.
func TestCooldownsAreBounded(t *testing.T) {
	inst := &instrument{}
	for i := range 2 * maxCooldowns {
		inst.putCooldown(string(rune('a'+i%26))+string(rune('A'+i/26)), int64(i))
	}
	if len(inst.cooldowns) != maxCooldowns {
		t.Errorf("%d are kept", len(inst.cooldowns))
	}
	for _, c := range inst.cooldowns {
		if c.last < maxCooldowns {
			t.Errorf("%s of %d is kept, a newer one is not", c.rule, c.last)
		}
	}
}
