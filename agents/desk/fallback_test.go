package desk

import (
	"strings"
	"testing"
	"time"

	"github.com/autohedge/autohedge/agents/llm/llmtest"
	"github.com/autohedge/autohedge/stream/event"
)

// untilTime is a clock that waiting for a model moves no further than to a time.
type untilTime struct {
	still
	most int64
}

func (u *untilTime) Spent(d time.Duration) { u.now = min(u.now+int64(d), u.most) }

// TestModelFailsAgainstAPosition: when the model gives no answer, a signal against the
// position is carried out by the rules, which close it and never open one.
func TestModelFailsAgainstAPosition(t *testing.T) {
	failures := map[string]llmtest.Reply{
		ReasonRefusal: llmtest.Refusal("no"), ReasonTruncated: llmtest.Truncated(`{"direction":"lo`), ReasonFiltered: llmtest.Filtered(""),
		ReasonRateLimited: llmtest.Error(429, "rate_limit_exceeded", "slow down"), ReasonProviderError: llmtest.Error(401, "invalid_api_key", "who are you"),
		ReasonSchema: llmtest.Answer("I would sell."), ReasonDeadline: {Delay: time.Minute},
	}
	for _, c := range []struct {
		name      string
		args      []string
		onFailure string
		action    event.Action
		side      event.Side
	}{
		{"sell against a long", []string{"side=sell", "position=7"}, OnFailureReduceOnly, event.ActionFlat, event.Sell},
		{"buy against a short", []string{"side=buy", "position=-7"}, OnFailureReduceOnly, event.ActionFlat, event.Buy},
		{"buy with a long", []string{"side=buy", "position=7"}, OnFailureReduceOnly, event.ActionAbstain, event.SideUnknown},
		{"sell with nothing", []string{"side=sell", "position=0"}, OnFailureReduceOnly, event.ActionAbstain, event.SideUnknown},
		{"nobody reduces", []string{"side=sell", "position=7"}, OnFailureNone, event.ActionAbstain, event.SideUnknown},
	} {
		for _, schema := range []string{"thesis", "review", "order", "ruling"} {
			for reason, reply := range failures {
				if reason == ReasonDeadline && schema != "thesis" {
					continue
				}
				t.Run(c.name+"/"+schema+"/"+reason, func(t *testing.T) {
					replies := map[string]llmtest.Reply{schema: reply}
					if schema != "thesis" {
						replies["thesis"] = llmtest.Answer(`{"direction":"long","conviction":1,"horizon":"1m","stop_bps":10,"target_bps":30,"rationale":"r"}`)
					}
					s := llmtest.Start(t, llmtest.Desk(replies))
					cfg := scripted()
					cfg.OnFailure, cfg.Budget.AllowShort = c.onFailure, true
					in := input(t, c.args)
					in.Journal = new(memory)
					if reply.Delay > 0 {
						in.Signal.Deadline = in.Signal.Time + int64(100*time.Millisecond)
						most := in.Signal.Deadline
						if c.action == event.ActionFlat {
							most -= reserve(in.Signal.Time, in.Signal.Deadline)
						}
						in.Time = &untilTime{still{in.Signal.Time}, most}
					}
					d := modelDesk(t, cfg, s.URL)
					v := judgeWith(t, d, in)
					got := v.Decision
					if got.Action != c.action || got.Side != c.side || got.StopBps != 0 || got.Horizon != 0 {
						t.Fatalf("got %+v", got)
					}
					if c.action == event.ActionAbstain {
						if got.Reason != reason || got.Desk != d.Name() || v.Desk != d.Name() || got.Qty.Valid {
							t.Errorf("got %+v", got)
						}
						return
					}
					fallback := ""
					for _, r := range v.Roles {
						if r.Role == roleFallback {
							fallback = r.Verdict + " " + r.Detail
						}
					}
					if got.Reason != ReasonModelFailed || got.Desk != Deterministic || v.Desk != Deterministic || got.Model != "test-model" || got.Qty.Decimal.Cmp(event.MustDecimal("7")) != 0 ||
						!strings.Contains(got.Rationale, reason) || !strings.HasPrefix(fallback, OnFailureReduceOnly) || !strings.Contains(fallback, reason) {
						t.Errorf("got %+v, fallback %s", got, fallback)
					}
				})
			}
		}
	}
}

// A model that answers is not overruled, also where it keeps a position.
func TestModelThatAnswersStands(t *testing.T) {
	s := llmtest.Start(t, llmtest.Desk(map[string]llmtest.Reply{"thesis": llmtest.Answer(`{"direction":"none","conviction":1,"horizon":"1m","stop_bps":0,"target_bps":0,"rationale":""}`)}))
	in := input(t, []string{"side=sell", "position=7"})
	in.Journal = new(memory)
	if d := judgeWith(t, modelDesk(t, scripted(), s.URL), in).Decision; d.Action != event.ActionNone || d.Reason != ReasonNoThesis {
		t.Errorf("got %+v", d)
	}
	in = input(t, []string{"side=sell", "position=7"})
	in.Journal, in.Busy = new(memory), true
	if d := judgeWith(t, modelDesk(t, scripted(), s.URL), in).Decision; d.Action != event.ActionFlat || d.Reason != ReasonModelFailed || !strings.Contains(d.Rationale, ReasonModelBusy) {
		t.Errorf("got %+v", d)
	}
	if n := len(s.Calls()); n != 1 {
		t.Errorf("%d calls, want 1", n)
	}
}
