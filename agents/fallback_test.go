package agents

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/autohedge/autohedge/agents/desk"
	"github.com/autohedge/autohedge/agents/llm/llmtest"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

func (b *bench) hold(strategy, symbol, qty string) {
	b.send(event.TopicPositions, []byte("paper"), &event.Position{ID: event.PositionID("paper", strategy, "binance", symbol, 1), Account: "paper", Strategy: strategy,
		Venue: "binance", Symbol: symbol, Qty: event.MustDecimal(qty), Version: 1})
}

// TestModelDownClosesPositions: with a model that refuses every call, sell signals close
// what is held; by on_failure none they abstain, as buy signals do.
func TestModelDownClosesPositions(t *testing.T) {
	for onFailure, want := range map[string]string{desk.OnFailureReduceOnly: "flat model_failed sell 10 by deterministic", desk.OnFailureNone: "abstain provider_error unknown  by model"} {
		t.Run(onFailure, func(t *testing.T) {
			b := newBench(t)
			s := llmtest.Start(t, func(llmtest.Call) llmtest.Reply { return llmtest.Error(401, "invalid_api_key", "who are you") })
			b.hold("mean", "BTCUSDT", "10")
			for range 20 {
				sell := b.signal("BTCUSDT")
				sell.Side = event.Sell
				b.sendSignal(sell)
			}
			buy := b.signal("BTCUSDT")
			b.sendSignal(buy)
			cfg := withModel(s.URL)
			cfg.OnFailure = onFailure
			x := b.start(cfg, component.SystemClock{})
			x.drain()
			decisions := read[*event.Decision](b, event.TopicDecisions)
			if len(decisions) != 21 {
				t.Fatalf("%d decisions", len(decisions))
			}
			for _, d := range decisions {
				got := fmt.Sprintf("%s %s %s %s by %s", d.Action, d.Reason, d.Side, d.Qty, strings.Replace(d.Desk, x.role.model.Host(), "model", 1))
				if d.SignalID == buy.ID {
					if d.Action != event.ActionAbstain || d.Reason != desk.ReasonProviderError {
						t.Errorf("buy: %s", got)
					}
				} else if got != want {
					t.Errorf("sell: got %s, want %s", got, want)
				}
			}
			marked := 0
			for _, v := range read[*event.Verdict](b, event.TopicJournal) {
				for _, r := range v.Roles {
					if r.Role == "fallback" && v.Desk == desk.Deterministic && v.Decision.Reason == desk.ReasonModelFailed {
						marked++
					}
				}
			}
			if want := map[string]int{desk.OnFailureReduceOnly: 20, desk.OnFailureNone: 0}[onFailure]; marked != want {
				t.Errorf("%d verdicts say that the rules judged, want %d", marked, want)
			}
		})
	}
}

// TestExitsWaitForNoModel: while other symbols have the model, a signal against a
// position is carried out before its time is over.
func TestExitsWaitForNoModel(t *testing.T) {
	b := newBench(t)
	release, called := make(chan struct{}), make(chan struct{}, 16)
	var once sync.Once
	free := func() { once.Do(func() { close(release) }) }
	defer free()
	s := llmtest.Start(t, func(c llmtest.Call) llmtest.Reply {
		called <- struct{}{}
		<-release
		return llmtest.Desk(nil)(c)
	})
	b.hold("mean", "BTCUSDT", "10")
	cfg := withModel(s.URL)
	cfg.Concurrency, cfg.LLM.Timeout = 1, 30*time.Second
	x := b.start(cfg, component.SystemClock{})
	b.sendSignal(b.signal("ETHUSDT"))
	<-called
	sell := b.signal("BTCUSDT")
	sell.Side, sell.Deadline = event.Sell, sell.Time+int64(2*time.Second)
	b.sendSignal(sell)
	eventually(t, "the position is closed", func() bool { return b.count(event.TopicDecisions) == 1 })
	if d := read[*event.Decision](b, event.TopicDecisions)[0]; d.SignalID != sell.ID || d.Action != event.ActionFlat || d.Reason != desk.ReasonModelFailed || d.Time >= d.Deadline {
		t.Errorf("got %+v", d)
	}
	free()
	x.drain()
}

// TestExitsWaitForNoSignalBeforeThem: a signal against a position that waited in line
// behind a call that hangs is left to the rules while there is time.
func TestExitsWaitForNoSignalBeforeThem(t *testing.T) {
	b := newBench(t)
	s := llmtest.Start(t, func(llmtest.Call) llmtest.Reply { return llmtest.Reply{Delay: time.Minute} })
	b.hold("mean", "BTCUSDT", "10")
	cfg := withModel(s.URL)
	cfg.LLM.Timeout = 30 * time.Second
	x := b.start(cfg, component.SystemClock{})
	buy, sell := b.signal("BTCUSDT"), b.signal("BTCUSDT")
	buy.Deadline = buy.Time + int64(1500*time.Millisecond)
	sell.Side, sell.Deadline = event.Sell, sell.Time+int64(2*time.Second)
	b.sendSignal(buy)
	b.sendSignal(sell)
	eventually(t, "both are decided", func() bool { return b.count(event.TopicDecisions) == 2 })
	for _, d := range read[*event.Decision](b, event.TopicDecisions) {
		if d.SignalID == buy.ID && d.Action != event.ActionAbstain || d.SignalID == sell.ID && (d.Action != event.ActionFlat || !strings.Contains(d.Rationale, desk.ReasonModelBusy)) {
			t.Errorf("got %+v", d)
		}
	}
	if n := len(s.Calls()); n != 1 {
		t.Errorf("%d calls, want 1", n)
	}
	x.drain()
}
