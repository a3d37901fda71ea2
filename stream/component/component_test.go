package component

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

func TestRegistry(t *testing.T) {
	r := NewRegistry[func() int]("thing")
	r.Register(Spec[func() int]{Name: "b", New: func() int { return 2 }})
	r.Register(Spec[func() int]{Name: "a", New: func() int { return 1 }})
	if s, err := r.Lookup("b"); err != nil || s.New() != 2 {
		t.Errorf("b is %v, %v", s, err)
	}
	if _, err := r.Lookup("c"); err == nil || err.Error() != `unknown thing "c": want one of a, b` {
		t.Errorf("c: %v", err)
	}
	if diff := cmp.Diff([]string{"a", "b"}, r.Names()); diff != "" {
		t.Error(diff)
	}
	defer func() {
		if recover() == nil {
			t.Error("a second b was registered")
		}
	}()
	r.Register(Spec[func() int]{Name: "b"})
}

func TestProblems(t *testing.T) {
	var inner, p Problems
	inner.Addf("size", "is %d: want at most %d", 5, 3)
	inner.Addf("", "is empty")
	inner.Addf("[2]", "is wrong")
	inner.Warnf("age", "is large")
	p.Under("limits", inner)
	var got []string
	for _, x := range p {
		got = append(got, x.Error())
	}
	want := []string{"limits.size: is 5: want at most 3", "limits: is empty", "limits[2]: is wrong", "limits.age: is large"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if err := p.Err(); err == nil || err.Error() != "limits.size: is 5: want at most 3 (and 2 more)" {
		t.Errorf("Err is %v", err)
	}
	if err := (Problems{{Message: "x", Warning: true}}).Err(); err != nil {
		t.Errorf("a warning is an error: %v", err)
	}
}

// A secret shows nowhere but through Reveal.
func TestSecret(t *testing.T) {
	const canary = "hunter2-canary"
	s := NewSecret(canary)
	type config struct {
		Key Secret `json:"key"`
	}
	var out bytes.Buffer
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "key", s, "config", config{s}, "any", any(s))
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "key", s, "config", config{s}, "any", any(s))
	fmt.Fprintf(&out, "%v %+v %#v %s %q %d %x %v", s, s, s, s, s, s, s, config{s})
	fmt.Fprintf(&out, "%#v %v", config{s}, &s)
	text, err := json.Marshal(config{s})
	if err != nil {
		t.Fatal(err)
	}
	out.Write(text)
	yaml, err := s.MarshalYAML()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(&out, yaml)
	if strings.Contains(out.String(), canary) || strings.Contains(out.String(), fmt.Sprintf("%x", canary)) {
		t.Errorf("the secret shows in %s", out.String())
	}
	if s.Reveal() != canary || s.IsZero() || !(Secret{}).IsZero() || (Secret{}).String() != "" {
		t.Error("the secret does not hold its value")
	}
}

func TestSessionClockNeverGoesBack(t *testing.T) {
	var c SessionClock
	c.Advance(100)
	c.Advance(50)
	if got := c.Now(); !got.Equal(time.Unix(0, 100)) {
		t.Errorf("the clock stands at %v", got)
	}
}

func TestErrorsChooseBehaviour(t *testing.T) {
	cause := errors.New("cause")
	wrapped := fmt.Errorf("doing: %w", Fatal(cause))
	if !IsFatal(wrapped) || IsFatal(cause) || !errors.Is(wrapped, cause) || Fatal(nil) != nil {
		t.Error("fatal errors are not told apart")
	}
	var retry *RetryAfterError
	if err := fmt.Errorf("asking: %w", &RetryAfterError{Wait: time.Second, Err: cause}); !errors.As(err, &retry) || retry.Wait != time.Second || !errors.Is(err, cause) {
		t.Error("the wait is lost")
	}
}

func TestRegister(t *testing.T) {
	reg := prometheus.NewRegistry()
	a := Register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "x", Help: "x"}))
	b := Register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "x", Help: "x"}))
	if a != b {
		t.Error("the second registration does not go on with the first counter")
	}
	if c := Register[prometheus.Counter](nil, prometheus.NewCounter(prometheus.CounterOpts{Name: "y", Help: "y"})); c == nil {
		t.Error("no counter without a registerer")
	}
	defer func() {
		if recover() == nil {
			t.Error("two different metrics of one name were registered")
		}
	}()
	Register(reg, prometheus.NewGauge(prometheus.GaugeOpts{Name: "x", Help: "other"}))
}
