package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/event"
)

// recovered is what an earlier run left in topic md.
type recovered struct {
	channels map[string]map[event.Channel]lastRecord // by key
	numbers  map[string]uint32                       // by venue: the highest connection number
	clocks   map[string]int64                        // by feed: the last time it was alive
}

// lastRecord is the end of one channel of one key.
type lastRecord struct {
	id          uint64 // highest in the log, or stated as lost
	event, recv int64  // times of the last record
}

func newRecovered() *recovered {
	return &recovered{channels: map[string]map[event.Channel]lastRecord{}, numbers: map[string]uint32{}, clocks: map[string]int64{}}
}

// channel returns the end of a channel; r may be nil.
func (r *recovered) channel(key []byte, ch event.Channel) (lastRecord, bool) {
	if r == nil {
		return lastRecord{}, false
	}
	last, ok := r.channels[string(key)][ch]
	return last, ok
}

// symbols returns the symbols of a venue that the log knows.
func (r *recovered) symbols(id string) []string {
	var out []string
	for key := range r.channels {
		if v, s := event.SplitKey([]byte(key)); string(v) == id && len(s) > 0 {
			out = append(out, string(s))
		}
	}
	return out
}

// recoverLog reads every partition of md from its start.
func recoverLog(ctx context.Context, client *bus.Client) (*recovered, error) {
	n := int(client.Partitions(event.TopicMarket))
	parts := make([]*recovered, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for p := range n {
		parts[p] = newRecovered()
		wg.Go(func() {
			if _, err := client.ReadAll(ctx, event.TopicMarket, int32(p), bus.FromStart, parts[p].add); err != nil {
				errs[p] = fmt.Errorf("reading partition %d of %s: %w", p, event.TopicMarket, err)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	all := newRecovered()
	for _, r := range parts { // a key lives in one partition, a feed in several
		for k, v := range r.channels {
			all.channels[k] = v
		}
		for k, v := range r.numbers {
			all.numbers[k] = max(all.numbers[k], v)
		}
		for k, v := range r.clocks {
			all.clocks[k] = max(all.clocks[k], v)
		}
	}
	return all, nil
}

// add takes one record into account.
func (r *recovered) add(rec bus.Record) error {
	switch event.TypeOf(rec.Value) {
	case event.TypeTrade:
		var t event.Trade
		if err := event.DecodeTrade(rec.Value, &t); err != nil {
			return nil //nolint:nilerr // no record of a feed: sinks bury it
		}
		r.note(rec.Key, t.Channel, lastRecord{t.TradeID, t.EventTime, t.RecvTime}, t.Connection)
	case event.TypeQuote:
		var q event.Quote
		if err := event.DecodeQuote(rec.Value, &q); err != nil {
			return nil //nolint:nilerr // as above
		}
		r.note(rec.Key, q.Channel, lastRecord{q.Sequence, q.EventTime, q.RecvTime}, q.Connection)
	case event.TypeCoverage:
		c, err := event.DecodeAs[*event.Coverage](rec.Value)
		if err != nil {
			return nil //nolint:nilerr // as above
		}
		if c.Kind == event.CoverageKindUnknown && c.Reason == whyRestarted {
			delete(r.channels[string(rec.Key)], c.Channel)
		}
		last := lastRecord{}
		if c.Kind == event.CoverageLost {
			last.id = c.ToID
		}
		r.note(rec.Key, c.Channel, last, c.Connection)
	case event.TypeClock:
		c, err := event.DecodeAs[*event.Clock](rec.Value)
		if err != nil {
			return nil //nolint:nilerr // as above
		}
		if c.Connections > 0 || c.Closing {
			r.clocks[c.Feed] = max(r.clocks[c.Feed], c.Time)
		}
	}
	return nil
}

func (r *recovered) note(key []byte, ch event.Channel, last lastRecord, connection uint32) {
	venue, _ := event.SplitKey(key)
	if connection > r.numbers[string(venue)] {
		r.numbers[string(venue)] = connection
	}
	channels, ok := r.channels[string(key)]
	if !ok {
		channels = make(map[event.Channel]lastRecord)
		r.channels[string(key)] = channels
	}
	had := channels[ch]
	channels[ch] = lastRecord{max(had.id, last.id), max(had.event, last.event), max(had.recv, last.recv)}
}
