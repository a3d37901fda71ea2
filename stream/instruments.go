package stream

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// restTimeout bounds the question to a venue's REST interface; without an
// answer the instruments are inferred.
const restTimeout = 5 * time.Second

// instruments publishes what is known of each instrument, when it is new or has
// changed.
type instruments struct {
	out    producer
	failed func(error)
	log    *slog.Logger
	client *http.Client

	mu    sync.Mutex
	known map[string]event.Instrument // by key, as in the log
}

// readInstruments reads what the topic holds.
func readInstruments(ctx context.Context, client *bus.Client, h *host) (*instruments, error) {
	in := &instruments{out: h.out, failed: h.failed, log: h.env.Log, client: &http.Client{Timeout: restTimeout}, known: map[string]event.Instrument{}}
	_, err := client.ReadAll(ctx, event.TopicInstruments, 0, bus.FromStart, func(rec bus.Record) error {
		if event.TypeOf(rec.Value) != event.TypeInstrument {
			return nil
		}
		i, err := event.DecodeAs[*event.Instrument](rec.Value)
		if err != nil {
			h.env.Log.Error("passing over an instrument that cannot be read", "offset", rec.Offset, "err", err)
			return nil
		}
		in.known[string(rec.Key)] = *i
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading topic %s: %w", event.TopicInstruments, err)
	}
	return in, nil
}

// publish appends the instrument unless it is known already. An inferred one
// never replaces what the venue or the configuration said.
func (in *instruments) publish(i event.Instrument) {
	in.mu.Lock()
	defer in.mu.Unlock()
	key := event.Key(i.Venue, i.Symbol)
	had, ok := in.known[string(key)]
	if ok && i.Source == "inferred" && had.Source != "inferred" {
		return
	}
	same := had
	same.Time = i.Time
	if ok && same == i {
		return
	}
	err := in.out.Append(event.TopicInstruments, 0, key, event.Marshal(&i), func(_ int64, err error) {
		if err != nil {
			in.failed(component.Fatal(fmt.Errorf("publishing an instrument: %w", err)))
		}
	})
	if err != nil { // a full queue: whoever sees the symbol next start publishes it
		in.log.Warn("publishing an instrument", "key", string(key), "err", err)
		return
	}
	in.known[string(key)] = i
}

// configured returns the configuration's instrument.
func (f *feed) configured(symbol string, now int64) (event.Instrument, bool) {
	for _, c := range f.cfg.Instruments {
		if c.Symbol != symbol {
			continue
		}
		i := event.Instrument{Venue: f.id, Symbol: symbol, Name: c.Base + "-" + c.Quote, Base: c.Base, Quote: c.Quote,
			PriceTick: c.PriceTick, QtyStep: c.QtyStep, Source: "config", Time: now}
		if !c.MinQty.IsZero() {
			i.MinQty = event.Some(c.MinQty)
		}
		if !c.MinNotional.IsZero() {
			i.MinNotional = event.Some(c.MinNotional)
		}
		return i, true
	}
	return event.Instrument{}, false
}

// infer publishes an instrument without asking the venue: the configuration's,
// or what the symbol tells.
func (in *instruments) infer(f *feed, symbol string, now int64) {
	i, ok := f.configured(symbol, now)
	if !ok {
		if i, ok = f.venue.Infer(symbol); !ok {
			in.log.Warn("an instrument's base and quote are unknown: state them under instruments", "feed", f.cfg.name(), "symbol", symbol)
			return
		}
		i.Venue, i.Time = f.id, now
	}
	in.publish(i)
}

// fetch publishes the feed's configured symbols: the configuration's instruments
// first, then the venue's, else inferred ones. It asks the venue again, ever more
// rarely, for what it did not tell.
func (in *instruments) fetch(ctx context.Context, f *feed) {
	now := f.env.Clock.Now().UnixNano()
	var ask []string
	for _, symbol := range f.cfg.Symbols {
		if i, ok := f.configured(symbol, now); ok {
			in.publish(i)
			continue
		}
		ask = append(ask, symbol)
	}
	for wait := retryRefused; len(ask) > 0; wait = min(2*wait, retryRefusedMax) {
		first := wait == retryRefused
		missing := in.fetchOnce(ctx, f, ask)
		for _, symbol := range missing {
			if first {
				in.infer(f, symbol, f.env.Clock.Now().UnixNano())
			}
		}
		if ask = missing; f.cfg.REST == "" || len(ask) > 0 && !pause(ctx, wait) {
			return
		}
	}
}

// fetchOnce asks the venue for the symbols and returns those that it did not tell.
func (in *instruments) fetchOnce(ctx context.Context, f *feed, ask []string) (missing []string) {
	if f.cfg.REST == "" {
		return ask
	}
	ctx, cancel := context.WithTimeout(ctx, restTimeout)
	defer cancel()
	list, err := f.venue.Instruments(ctx, in.client, f.cfg.REST, ask)
	if ctx.Err() != nil && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		f.log.Warn("inferring instruments: the venue does not tell", "err", err)
	}
	listed := map[string]bool{}
	for _, i := range list {
		i.Time = f.env.Clock.Now().UnixNano()
		listed[i.Symbol] = true
		in.publish(i)
	}
	for _, symbol := range ask {
		if !listed[symbol] {
			missing = append(missing, symbol)
		}
	}
	f.noteListed(ask, listed, err == nil)
	return missing
}
