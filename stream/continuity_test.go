package stream

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/autohedge/autohedge/stream/event"
	"github.com/autohedge/autohedge/stream/venue"
)

// seconds is a second of receive time.
const seconds = int64(1e9)

// at is a trade frame of Binance with an id and a time in milliseconds.
func at(id, milli int) string {
	return fmt.Sprintf(`{"e":"trade","E":%d,"s":"BTCUSDT","t":%d,"p":"100.10","q":"0.5","T":%[1]d,"m":true}`, 1_700_000_000_000+milli, id)
}

// tape is a feed without a socket, and what it published.
type tape struct {
	t    *testing.T
	q    *queue
	cfg  FeedConfig
	f    *feed
	c    *conn
	recv int64
}

func binanceTape(t *testing.T) *tape {
	cfg := DefaultFeed()
	cfg.Venue, cfg.Symbols = "binance", []string{"BTCUSDT"}
	return newTape(t, cfg)
}

func jsonTape(t *testing.T, change func(*venue.JSON)) *tape {
	cfg := DefaultFeed()
	j := venue.DefaultJSON()
	j.ID, j.Fixed, j.Symbol = "i", "X", ""
	cfg.Symbols = []string{"X"}
	change(&j)
	cfg.Name, cfg.Venue, cfg.URL, cfg.JSON = "mine", "json", "ws://127.0.0.1:1", &j
	return newTape(t, cfg)
}

func newTape(t *testing.T, cfg FeedConfig) *tape {
	q := &queue{room: 1 << 20}
	f := bare(t, q, cfg)
	return &tape{t: t, q: q, cfg: cfg, f: f, c: f.bareConn()}
}

// frames feeds frames that come a millisecond apart.
func (p *tape) frames(frames ...string) {
	p.t.Helper()
	for _, frame := range frames {
		p.recv += seconds / 1000
		if err := p.c.feedFrame(p.recv, frame); err != nil {
			p.t.Fatal(err)
		}
	}
}

// reconnect ends the connection and begins another.
func (p *tape) reconnect() {
	p.f.lose(p.c, "read")
	p.c = p.f.bareConn()
}

// restart is another process that has read the log.
func (p *tape) restart() {
	p.t.Helper()
	r := newRecovered()
	for _, rec := range p.q.records {
		if rec.Topic != event.TopicMarket {
			continue
		}
		if err := r.add(rec); err != nil {
			p.t.Fatal(err)
		}
	}
	p.f = bare(p.t, p.q, p.cfg)
	clear(p.f.symbols)
	p.f.restore(r)
	p.f.numbers.last = p.c.number
	p.c = p.f.bareConn()
}

// wants compares what was published since it was last asked, clock records left out.
func (p *tape) wants(what string, want ...string) {
	p.t.Helper()
	var got []string
	for _, l := range p.q.lines {
		if !strings.HasPrefix(l, "clock") {
			got = append(got, l)
		}
	}
	p.q.lines = nil
	if diff := cmp.Diff(want, got); diff != "" {
		p.t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// trades lists the trades and quotes published since it was last asked.
func (p *tape) trades() (out []string) {
	for _, l := range p.q.lines {
		if strings.HasPrefix(l, "trade") || strings.HasPrefix(l, "quote") {
			out = append(out, l)
		}
	}
	p.q.lines = nil
	return out
}

// TestLateTrades: a trade in hand is never thrown away, it closes its hole, and only what
// was seen is a duplicate, also after a restart.
func TestLateTrades(t *testing.T) {
	p := binanceTape(t)
	p.frames(bnTrade(5), bnTrade(3), bnTrade(4), bnTrade(6), bnTrade(10), bnTrade(9), bnTrade(8), bnTrade(8), bnTrade(11))
	p.wants("out of order", "received trade 5-0", "trade 5", "trade 3 late", "backfilled trade 3-3 bounded: came after newer trades", "trade 4 late",
		"backfilled trade 4-4 bounded: came after newer trades", "trade 6", "lost trade 7-9 bounded: ids jumped", "trade 10",
		"trade 9 late", "backfilled trade 9-9 bounded: came after newer trades", "trade 8 late", "backfilled trade 8-8 bounded: came after newer trades", "trade 11")
	if s := p.f.stats; s.late != 4 || s.duplicates != 1 || s.gaps != 1 {
		t.Errorf("late %d, duplicates %d, gaps %d", s.late, s.duplicates, s.gaps)
	}
	p.restart()
	p.frames(bnTrade(8), bnTrade(7), bnTrade(5), bnTrade(12))
	p.wants("after a restart", "received trade 7-0", "trade 7 late", "backfilled trade 7-7 bounded: came after newer trades", "trade 12")
}

// TestFrameOutOfOrder: the elements of a frame that lists the newest first are all taken,
// in the order of their ids.
func TestFrameOutOfOrder(t *testing.T) {
	for _, ids := range []string{"ordered", "contiguous"} {
		p := jsonTape(t, func(j *venue.JSON) { j.List, j.IDs = "t", ids })
		p.frames(`{"t":[{"i":"3","price":"1"},{"i":"2","price":"1"},{"i":"1","price":"1"}]}`, `{"t":[{"i":"6","price":"1"},{"i":"5","price":"1"},{"i":"4","price":"1"}]}`)
		p.wants(ids, "received json 1-0", "trade 1", "trade 2", "trade 3", "trade 4", "trade 5", "trade 6")
	}
}

// TestInterleavedIDs: ids of two counters in one channel are all taken once.
func TestInterleavedIDs(t *testing.T) {
	p := jsonTape(t, func(*venue.JSON) {})
	for range 2 {
		p.frames(`{"i":12345,"price":"1"}`, `{"i":777,"price":"1"}`, `{"i":12346,"price":"1"}`, `{"i":778,"price":"1"}`)
	}
	if diff := cmp.Diff([]string{"trade 12345", "trade 777 late", "trade 12346", "trade 778 late"}, p.trades()); diff != "" {
		t.Error(diff)
	}
}

// TestEpochs: ids that begin again get an epoch, for trades and quotes, with and without
// the venue's times; the records that show it are not lost where they can be told apart.
func TestEpochs(t *testing.T) {
	t.Run("trades, below all that was seen", func(t *testing.T) {
		p := binanceTape(t)
		p.frames(at(5000, 0), at(5001, 1))
		p.reconnect()
		p.frames(at(1, 100), at(2, 101))
		p.q.lines = nil
		p.frames(at(3, 102), at(4, 103))
		p.wants("the third shows it", "unknown trade bounded: the venue's ids began anew", "received trade 1-0", "trade 1 epoch 1", "trade 2 epoch 1", "trade 3 epoch 1", "trade 4 epoch 1")
		p.restart()
		p.frames(at(4, 103), at(5, 104), at(5000, 105), at(5001, 106))
		if diff := cmp.Diff([]string{"trade 5 epoch 1", "trade 5000 epoch 1", "trade 5001 epoch 1"}, p.trades()); diff != "" {
			t.Errorf("after a restart: %s", diff)
		}
	})
	t.Run("the same ids again", func(t *testing.T) {
		p := binanceTape(t)
		p.frames(at(1, 0), at(2, 1), at(3, 2), at(4, 3))
		p.reconnect()
		p.frames(at(1, 100), at(2, 101), at(3, 102), at(4, 103))
		if diff := cmp.Diff([]string{"trade 1", "trade 2", "trade 3", "trade 4", "trade 1 epoch 1", "trade 2 epoch 1", "trade 3 epoch 1", "trade 4 epoch 1"}, p.trades()); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("the first ones out of order", func(t *testing.T) {
		p := binanceTape(t)
		p.frames(at(5000, 0), at(5001, 1))
		p.reconnect()
		p.frames(at(2, 100), at(1, 101), at(2, 100), at(3, 102), at(4, 103), at(5, 104))
		if diff := cmp.Diff([]string{"trade 5000", "trade 5001", "trade 1 epoch 1", "trade 2 epoch 1", "trade 3 epoch 1", "trade 4 epoch 1", "trade 5 epoch 1"}, p.trades()); diff != "" {
			t.Error(diff)
		}
		p.restart()
		p.frames(at(5, 104), at(6, 105))
		if diff := cmp.Diff([]string{"trade 6 epoch 1"}, p.trades()); diff != "" {
			t.Errorf("after a restart: %s", diff)
		}
	})
	t.Run("a symbol that trades once a minute, after a restart", func(t *testing.T) {
		p := binanceTape(t)
		p.frames(at(1, 0), at(2, 1), at(3, 2), at(4, 3), at(5, 4), at(6, 5))
		p.restart()
		p.q.lines = nil
		for i := range 6 {
			p.recv += 60 * seconds
			p.f.tick()
			p.frames(at(i+1, 60_000*(i+1)))
		}
		if diff := cmp.Diff([]string{"trade 1 epoch 1", "trade 2 epoch 1", "trade 3 epoch 1", "trade 4 epoch 1", "trade 5 epoch 1", "trade 6 epoch 1"}, p.trades()); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("quotes without times", func(t *testing.T) {
		p := binanceTape(t)
		p.frames(bnQuote(1000), bnQuote(1004))
		p.reconnect()
		for i := range 30 {
			p.frames(bnQuote(i + 1))
			p.recv += seconds / 2
		}
		got := p.trades()
		if len(got) != 2+11 || got[2] != "quote 20 epoch 1" {
			t.Errorf("published %q", got)
		}
		p.restart()
		p.frames(bnQuote(25), bnQuote(31), bnQuote(1001))
		if diff := cmp.Diff([]string{"quote 31 epoch 1", "quote 1001 epoch 1"}, p.trades()); diff != "" {
			t.Errorf("after a restart: %s", diff)
		}
	})
	t.Run("described trades without times", func(t *testing.T) {
		p := jsonTape(t, func(*venue.JSON) {})
		p.frames(`{"i":1000,"price":"1"}`, `{"i":1001,"price":"1"}`)
		p.restart() // what was before the log is not known: lower ids are duplicates until it shows
		for i := range 30 {
			p.frames(fmt.Sprintf(`{"i":%d,"price":"1"}`, i+1))
			p.recv += seconds / 2
		}
		got := p.trades()
		if len(got) != 2+11 || got[2] != "trade 20 epoch 1" {
			t.Errorf("published %q", got)
		}
	})
	t.Run("described trades with times", func(t *testing.T) {
		p := jsonTape(t, func(j *venue.JSON) { j.Time = "at" })
		frame := func(id, at int) string { return fmt.Sprintf(`{"i":%d,"price":"1","at":%d}`, id, 1_700_000_000+at) }
		p.frames(frame(1, 1), frame(2, 2), frame(3, 3))
		p.frames(frame(1, 11), frame(2, 12), frame(3, 13))
		if diff := cmp.Diff([]string{"trade 1", "trade 2", "trade 3", "trade 1 epoch 1", "trade 2 epoch 1", "trade 3 epoch 1"}, p.trades()); diff != "" {
			t.Error(diff)
		}
	})
}

// TestNoEpoch: what is no sign of a venue that begins its ids again publishes nothing twice.
func TestNoEpoch(t *testing.T) {
	t.Run("a server that lags", func(t *testing.T) {
		p := binanceTape(t)
		for i := range 200 {
			p.frames(at(1000+i, i), bnQuote(1000+i))
		}
		p.reconnect()
		for i := range 250 { // behind, for longer than any decision takes
			p.recv += seconds
			p.frames(at(1000+i, i), bnQuote(1000+i))
		}
		if got := p.trades(); len(got) != 500 {
			t.Errorf("%d records, want 500", len(got))
		}
		if p.f.stats.epochs != 0 {
			t.Errorf("%d epochs", p.f.stats.epochs)
		}
	})
	t.Run("a snapshot after a reconnect", func(t *testing.T) {
		p := jsonTape(t, func(j *venue.JSON) { j.List, j.Time = "t", "$.sent" })
		snapshot := func(sent int) string {
			var all []string
			for i := range 30 {
				all = append(all, fmt.Sprintf(`{"i":%d,"price":"1"}`, 100+i))
			}
			return fmt.Sprintf(`{"sent":%d,"t":[%s]}`, 1_700_000_000+sent, strings.Join(all, ","))
		}
		p.frames(snapshot(1))
		p.reconnect()
		p.frames(snapshot(100), snapshot(200))
		if got := p.trades(); len(got) != 30 || p.f.stats.duplicates != 60 {
			t.Errorf("%d trades, %d duplicates", len(got), p.f.stats.duplicates)
		}
	})
	t.Run("a burst without times", func(t *testing.T) {
		p := binanceTape(t)
		p.frames(bnQuote(1000))
		for i := range 100 { // within a tenth of a second
			p.frames(bnQuote(i + 1))
		}
		if got := p.trades(); len(got) != 1 {
			t.Errorf("published %q", got)
		}
	})
	t.Run("a second copy of an epoch that is over, in the log", func(t *testing.T) {
		p := binanceTape(t)
		p.frames(at(5000, 0), at(1, 100), at(2, 101), at(3, 102))
		p.q.records = append(p.q.records, p.q.records[1]) // trade 5000
		p.restart()
		p.q.lines = nil
		p.frames(at(4, 103))
		p.wants("it changes nothing", "received trade 4-0", "trade 4 epoch 1")
	})
	t.Run("one lower id", func(t *testing.T) {
		p := binanceTape(t)
		p.frames(at(5000, 0), at(1, 100), at(5001, 101), at(5002, 102))
		p.wants("it is late", "received trade 5000-0", "trade 5000", "trade 1 late", "backfilled trade 1-1 bounded: came after newer trades", "trade 5001", "trade 5002")
	})
	t.Run("nothing follows", func(t *testing.T) {
		p := binanceTape(t)
		p.frames(at(5000, 0), at(1, 100))
		p.f.settleHeld() // as at the end
		p.wants("it is late", "received trade 5000-0", "trade 5000", "trade 1 late", "backfilled trade 1-1 bounded: came after newer trades")
	})
}

// TestIDsNothingTwice: whatever ids come, in whatever order, each is published once an
// epoch, none that is in hand is lost while the window tells, and a process that reads
// the log goes on the same way.
func TestIDsNothingTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kind := rapid.SampledFrom([]venue.IDs{venue.IDsContiguous, venue.IDsOrdered}).Draw(t, "kind")
		w := newIDs(venue.ChannelSpec{IDs: kind, Trades: true})
		seen := map[uint64]bool{}
		for i := range rapid.IntRange(1, 300).Draw(t, "n") {
			id := rapid.Uint64Range(1, 60).Draw(t, "id")
			v := w.judge(sighting{id: id, recv: int64(i)})
			if (v == duplicate) != seen[id] && v != restarted {
				t.Fatalf("id %d after %v: verdict %d", id, seen, v)
			}
			switch v {
			case duplicate, held:
				continue
			case restarted:
				t.Fatal("an epoch within a moment")
			case newest:
				if kind == venue.IDsContiguous && w.last != 0 && id > w.last+1 {
					w.lose(id - 1)
				}
			case late:
			}
			w.note(sighting{id: id})
			seen[id] = true
		}
		if len(w.holes) > maxHoles || len(w.ring) > ringSize {
			t.Fatalf("%d holes, %d ids", len(w.holes), len(w.ring))
		}
	})
}
