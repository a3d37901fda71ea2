package indicator

import (
	"fmt"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// Tick is one observation of an instrument.
type Tick struct {
	// Time is the receive time, Unix nanoseconds.
	Time int64
	// Price is the trade's price, or the mid of a quote; always above 0.
	Price float64
	// Qty is the trade's size; 0 when the venue sent none, and for quotes.
	Qty float64
	// Bid and Ask are a quote's sides, both above 0; both are 0 for trades.
	Bid, Ask float64
}

// Indicator turns the ticks of one instrument into a number. It is used by one
// goroutine and keeps nothing of the Tick it is handed.
type Indicator interface {
	// Update takes the next tick. ok is false while there is no value: before
	// the indicator is warmed up, or where the formula has none. A value is
	// always finite. It does not allocate.
	Update(t *Tick) (value float64, ok bool)
	// Values appends every number of the last update by name, the value that
	// Update returned first. It is called only after an Update with ok.
	Values(dst []event.Value) []event.Value
	// Reset forgets all ticks, as after a hole in the data: the indicator warms
	// up again.
	Reset()
	// AppendState appends everything that later calls depend on, floats bit for
	// bit, and nothing that the parameters say. It changes nothing.
	AppendState(dst []byte) []byte
	// RestoreState reads what AppendState of an indicator with the same
	// parameters appended, and nothing behind it: from then on both give the
	// same, bit for bit. Bytes that cannot be such a state are an error, after
	// which only Reset may be called; no bytes make it, or a later call, panic.
	RestoreState(r *StateReader) error
}

// Source says what an indicator is fed with; a set of them says what it takes.
type Source uint8

// Sources.
const (
	Trades Source = 1 << iota // every trade
	Quotes                    // every quote that has both sides
)

// Factory is what a registered indicator is made of.
type Factory struct {
	// Sources is the set of sources that make sense for it.
	Sources Source
	// StateForm is the form of what AppendState writes, from 1. It goes up when that
	// changes: a saved state of another form is not read, the indicator warms up.
	StateForm uint64
	// Low and High bound the value for good parameters, both included; equal ones say
	// that nothing bounds it.
	Low, High float64
	// New makes an indicator from what Spec.Config or Decode returned.
	New func(cfg any) (Indicator, error)
}

// Registry holds every indicator.
var Registry = component.NewRegistry[Factory]("indicator")

// configuration is what every indicator's parameters implement.
type configuration[C any] interface {
	*C
	component.Validator
}

// register declares an indicator: what it is fed with, the form of its saved state
// and its range (f without New), its parameters with their defaults, and how to
// build it from parameters that are valid.
func register[C any, P configuration[C]](name, summary string, f Factory, defaults C, build func(C) Indicator) {
	f.New = func(cfg any) (Indicator, error) {
		c, ok := cfg.(*C)
		if !ok {
			return nil, fmt.Errorf("making indicator %s: parameters are a %T, want a %T", name, cfg, c)
		}
		if err := P(c).Validate().Err(); err != nil {
			return nil, fmt.Errorf("making indicator %s: %w", name, err)
		}
		return build(*c), nil
	}
	Registry.Register(component.Spec[Factory]{Name: name, Summary: summary, Config: func() any { c := defaults; return &c }, New: f})
}

// maxWindow bounds every window, so that memory per instrument is bounded.
const maxWindow = 1 << 20

// period checks the length of a window, in ticks.
func period(p *component.Problems, path string, n, least int) {
	if n < least || n > maxWindow {
		p.Addf(path, "is %d ticks: want %d to %d", n, least, maxWindow)
	}
}

// bps is the factor from a ratio to basis points.
const bps = 1e4
