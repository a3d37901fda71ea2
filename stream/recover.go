package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/event"
	"github.com/autohedge/autohedge/stream/venue"
)

// recovered is what an earlier run left in topic md.
type recovered struct {
	channels map[string]map[event.Channel]*lastRecord // by key
	numbers  map[string]uint32                        // by venue: the highest connection number
	clocks   map[string]int64                         // by feed: the last time it was alive
}

// lastRecord is the end of one channel of one key: the ids of its newest epoch, and the
// receive time of the last record.
type lastRecord struct {
	epoch uint32
	ids   ids
	recv  int64
}

func newRecovered() *recovered {
	return &recovered{channels: map[string]map[event.Channel]*lastRecord{}, numbers: map[string]uint32{}, clocks: map[string]int64{}}
}

// channel returns the end of a channel; r may be nil.
func (r *recovered) channel(key []byte, ch event.Channel) (*lastRecord, bool) {
	if r == nil {
		return nil, false
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
		if last := r.at(rec.Key, t.Channel, t.Epoch, t.Connection); last != nil {
			// Whether a described feed's ids leave holes is not known here: keep both.
			last.ids.kind, last.ids.trades = venue.IDsContiguous, true
			if t.Channel == event.ChannelJSON {
				last.ids.kind = venue.IDsOrdered
			}
			last.ids.note(sightingOf(&t))
			last.recv = max(last.recv, t.RecvTime)
		}
	case event.TypeQuote:
		var q event.Quote
		if err := event.DecodeQuote(rec.Value, &q); err != nil {
			return nil //nolint:nilerr // as above
		}
		if last := r.at(rec.Key, q.Channel, q.Epoch, q.Connection); last != nil {
			last.ids.kind = venue.IDsOrdered
			last.ids.note(sightingOfQuote(&q))
			last.recv = max(last.recv, q.RecvTime)
		}
	case event.TypeCoverage:
		c, err := event.DecodeAs[*event.Coverage](rec.Value)
		if err != nil {
			return nil //nolint:nilerr // as above
		}
		if c.Kind == event.CoverageKindUnknown && c.Reason == whyRestarted && c.Epoch == 0 {
			delete(r.channels[string(rec.Key)], c.Channel) // of a build that knew no epochs
		}
		last := r.at(rec.Key, c.Channel, c.Epoch, c.Connection)
		switch {
		case last == nil || c.ToID == 0:
		case c.Kind == event.CoverageLost && c.ToID > last.ids.last:
			last.ids.last = max(last.ids.last, c.FromID-1)
			last.ids.lose(c.ToID)
		case c.Kind == event.CoverageBackfilled:
			last.ids.fill(span{c.FromID, c.ToID})
		}
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

// at returns the end of a channel, for a record of an epoch, which begins it anew where
// it is a newer one; nil for a record of an epoch that is over.
func (r *recovered) at(key []byte, ch event.Channel, epoch, connection uint32) *lastRecord {
	name, _ := event.SplitKey(key)
	if connection > r.numbers[string(name)] {
		r.numbers[string(name)] = connection
	}
	channels, ok := r.channels[string(key)]
	if !ok {
		channels = make(map[event.Channel]*lastRecord)
		r.channels[string(key)] = channels
	}
	last := channels[ch]
	switch {
	case last == nil:
		last = &lastRecord{epoch: epoch}
		channels[ch] = last
	case epoch > last.epoch:
		ids := last.ids
		ids.begin()
		ids.complete = false
		*last = lastRecord{epoch: epoch, ids: ids, recv: last.recv}
	case epoch < last.epoch:
		return nil
	}
	return last
}
