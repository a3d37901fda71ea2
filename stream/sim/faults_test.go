package sim

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/autohedge/autohedge/stream/component"
)

func (c *conn) trade() binanceTradeMsg {
	c.t.Helper()
	return decode[binanceTradeMsg](c.t, c.until(`"e":"trade"`))
}

func inject(t *testing.T, s *Sim, f Fault, want int) {
	t.Helper()
	if n, err := s.Inject(f); err != nil || n != want {
		t.Fatalf("%s hit %d connections (want %d): %v", f.Kind, n, want, err)
	}
}

// A drop has no close frame, refuses new connections for its time, loses ids
// and leaves the other venue alone.
func TestDrop(t *testing.T) {
	s := start(t, nil)
	c := dial(t, s.BinanceURL()+"/ws/btcusdt@trade")
	cb := dial(t, s.CoinbaseURL())
	cb.say(`{"type":"subscribe","product_ids":["BTC-USD"],"channels":["matches"]}`)
	before := c.trade()
	inject(t, s, Fault{Drop, VenueBinance, 300 * time.Millisecond}, 1)
	c.wantClose(0)
	_, resp, err := websocket.DefaultDialer.Dial(s.BinanceURL()+"/ws", nil)
	if err == nil || resp == nil || resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("connecting during the drop: %v %v", err, resp)
	}
	for {
		ws, _, err := websocket.DefaultDialer.Dial(s.BinanceURL()+"/ws/btcusdt@trade", nil)
		if err == nil {
			c = &conn{t, ws}
			break
		}
		time.Sleep(5 * time.Millisecond) // the venue refuses; a client would back off
	}
	defer func() { _ = c.Close() }()
	if after := c.trade(); after.ID < before.ID+20 {
		t.Errorf("trade %d after %d: the market stood still", after.ID, before.ID)
	}
	cb.until(`"type":"match"`)
	if f := s.Faults(); len(f) != 1 || f[0].Kind != Drop || f[0].Connections != 1 {
		t.Errorf("reported %+v", f)
	}
}

func TestCloseFault(t *testing.T) {
	s := start(t, nil)
	c := dial(t, s.BinanceURL()+"/ws/btcusdt@trade")
	c.trade()
	inject(t, s, Fault{CloseConn, "", 0}, 1)
	c.wantClose(closeServiceRestart)
	dial(t, s.BinanceURL()+"/ws/btcusdt@trade").trade() // at once
}

// A stall is silence on an open connection; everything follows afterwards.
func TestStall(t *testing.T) {
	s := start(t, nil)
	c := dial(t, s.BinanceURL()+"/ws/btcusdt@trade")
	last := c.trade()
	begin := time.Now()
	inject(t, s, Fault{Stall, VenueBinance, 500 * time.Millisecond}, 1)
	for {
		at := time.Now()
		m := c.trade()
		if m.ID != last.ID+1 {
			t.Fatalf("trade %d after %d", m.ID, last.ID)
		}
		last = m
		if time.Since(at) > 300*time.Millisecond {
			break
		}
		if time.Since(begin) > 5*time.Second {
			t.Fatal("the connection was never silent")
		}
	}
	for range 50 { // the backlog and what comes after it
		if m := c.trade(); m.ID != last.ID+1 {
			t.Fatalf("trade %d after %d", m.ID, last.ID)
		}
		last.ID++
	}
}

// A mute loses what was made meanwhile, on the same connection.
func TestMute(t *testing.T) {
	s := start(t, nil)
	c := dial(t, s.BinanceURL()+"/ws/btcusdt@trade")
	last := c.trade()
	inject(t, s, Fault{Mute, VenueBinance, 300 * time.Millisecond}, 1)
	for range 1000 {
		m := c.trade()
		if m.ID > last.ID+10 {
			return
		}
		last = m
	}
	t.Error("no ids were lost")
}

func TestDuplicate(t *testing.T) {
	s := start(t, nil)
	c := dial(t, s.BinanceURL()+"/ws/btcusdt@trade")
	first := c.trade()
	inject(t, s, Fault{Kind: Duplicate, Venue: VenueBinance}, 1) // once
	seen := map[uint64]string{}
	twice := 0
	for range 200 {
		f := c.next()
		m := decode[binanceTradeMsg](t, f)
		if old, ok := seen[m.ID]; ok {
			twice++
			if old != f {
				t.Fatalf("the copy differs:\n%s\n%s", old, f)
			}
		}
		seen[m.ID] = f
	}
	if twice == 0 {
		t.Error("nothing was sent twice")
	}
	for id := first.ID + 1; id <= first.ID+uint64(len(seen)); id++ {
		if _, ok := seen[id]; !ok {
			t.Errorf("trade %d is missing", id)
		}
	}
}

func TestGarbageAndShutdown(t *testing.T) {
	s := start(t, nil)
	c := dial(t, s.BinanceURL()+"/stream?streams=btcusdt@trade")
	c.trade()
	resp, err := http.Post("http://"+s.Addr()+"/faults?kind=garbage&venue=binance", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || string(body) != `{"connections":1,"duration":"0s","kind":"garbage","venue":"binance"}` {
		t.Errorf("POST /faults: %s %v", body, err)
	}
	if f := c.until("\x00"); strings.HasSuffix(f, "}") {
		t.Errorf("garbage: %q", f)
	}
	c.trade()
	inject(t, s, Fault{Shutdown, VenueBinance, 100 * time.Millisecond}, 1)
	if f := c.until("serverShutdown"); !strings.HasPrefix(f, `{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1`) {
		t.Errorf("notice: %s", f)
	}
	c.trade() // still served
	c.wantClose(closeGoingAway)
}

func TestFaultRequests(t *testing.T) {
	s := start(t, nil)
	for _, q := range []string{"kind=earthquake", "kind=drop&venue=kraken", "kind=drop&duration=soon", "kind=drop&duration=-1s", ""} {
		resp, err := http.Post("http://"+s.Addr()+"/faults?"+q, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%q: status %d", q, resp.StatusCode)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.Addr()+"/faults?kind=drop", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Origin", "http://example.com")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden || len(s.Faults()) != 0 {
		t.Errorf("a web page's request: status %d, faults %v", resp.StatusCode, s.Faults())
	}
}

// Planned faults run from the first client of their venue, and again.
func TestSchedule(t *testing.T) {
	s := start(t, func(c *Config) {
		c.Faults = []FaultPlan{{Kind: CloseConn, Venue: VenueBinance, After: 50 * time.Millisecond, Every: 50 * time.Millisecond}}
	})
	for range 2 {
		dial(t, s.BinanceURL()+"/ws/btcusdt@trade").wantClose(closeServiceRestart)
	}
	demo := DefaultConfig()
	demo.Schedule, demo.Dir = ScheduleDemo, "x"
	demo.Faults = DemoFaults()
	if p := demo.Validate(); len(p) != 0 {
		t.Error(p)
	}
}

// After Pause every client has read every trade of the ledger that was made
// while it listened, and nothing more comes.
func TestPause(t *testing.T) {
	s := start(t, func(c *Config) { c.Rate = 5000 })
	c := dial(t, s.BinanceURL()+"/ws/btcusdt@trade")
	got := make(chan uint64, 1)
	go func() {
		var last uint64
		for {
			if err := c.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
				break
			}
			_, b, err := c.ReadMessage()
			if err != nil {
				break
			}
			m := decode[binanceTradeMsg](t, string(b))
			if last != 0 && m.ID != last+1 {
				t.Errorf("trade %d after %d", m.ID, last)
			}
			last = m.ID
			time.Sleep(50 * time.Microsecond) // a slow reader
		}
		got <- last
	}()
	if err := poll(t.Context(), func() bool { return s.Stats().Trades > 500 }); err != nil {
		t.Fatal(err)
	}
	inject(t, s, Fault{Stall, "", time.Minute}, 1) // Pause ends it
	if err := s.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	trades := ledgerOf(t, s.cfg.Dir)["binance|BTCUSDT"]
	if last := <-got; last != trades[len(trades)-1].ID {
		t.Errorf("the client heard up to %d, the ledger ends with %d", last, trades[len(trades)-1].ID)
	}
	before := s.Stats().Trades
	late := dial(t, s.BinanceURL()+"/ws/btcusdt@trade")
	s.Resume()
	late.trade()
	if s.Stats().Trades <= before {
		t.Error("the market did not go on")
	}
}

// Pause gives a client that a fault cut off the time to come back, and makes
// one more order, so that the hole shows.
func TestPauseAfterDrop(t *testing.T) {
	s := start(t, nil)
	c := dial(t, s.BinanceURL()+"/ws/btcusdt@trade")
	before := c.trade()
	inject(t, s, Fault{Drop, VenueBinance, time.Minute}, 1)
	c.wantClose(0)
	paused := make(chan error, 1)
	go func() { paused <- s.Pause(context.Background()) }()
	var back *conn
	for back == nil {
		if ws, _, err := websocket.DefaultDialer.Dial(s.BinanceURL()+"/ws/btcusdt@trade", nil); err == nil {
			back = &conn{t, ws}
		} else {
			time.Sleep(5 * time.Millisecond) // refused until Pause lifts the fault
		}
	}
	defer func() { _ = back.Close() }()
	var last binanceTradeMsg
	for {
		if err := back.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		_, b, err := back.ReadMessage()
		if err != nil {
			break
		}
		last = decode[binanceTradeMsg](t, string(b))
	}
	if err := <-paused; err != nil {
		t.Fatal(err)
	}
	trades := ledgerOf(t, s.cfg.Dir)["binance|BTCUSDT"]
	if end := trades[len(trades)-1].ID; last.ID != end || last.ID <= before.ID+1 {
		t.Errorf("heard up to %d (before the drop %d), the ledger ends with %d", last.ID, before.ID, end)
	}
}

func TestPauseDeadline(t *testing.T) {
	s := start(t, nil)
	dial(t, s.BinanceURL()+"/ws/btcusdt@trade") // never reads
	if err := poll(t.Context(), func() bool { return s.Stats().Trades > 0 }); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := s.Pause(ctx); err == nil || !s.Stats().Paused {
		t.Errorf("pausing with a deaf client: %v", err)
	}
}

// A client that does not read is closed when its queue is full; the others do
// not notice.
func TestSlowClient(t *testing.T) {
	s := start(t, func(c *Config) {
		c.Rate, c.QueueBytes, c.Ledger = 60_000, 2<<20, false
	})
	// Nine streams that nobody reads, beside one that is read: ten times the bytes.
	var streams []string
	for _, sym := range []string{"btcusdt", "ethusdt", "solusdt"} {
		streams = append(streams, sym+"@trade", sym+"@aggTrade", sym+"@bookTicker")
	}
	dial(t, s.BinanceURL()+"/ws/"+strings.Join(streams, "/"))
	good := dial(t, s.BinanceURL()+"/ws/btcusdt@trade")
	last := good.trade()
	for s.Stats().SlowClients == 0 {
		m := good.trade()
		if m.ID != last.ID+1 {
			t.Fatalf("trade %d after %d", m.ID, last.ID)
		}
		last = m
	}
	if n := s.Stats().SlowClients; n != 1 {
		t.Errorf("%d slow clients", n)
	}
}

func TestContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cfg := DefaultConfig()
	cfg.Dir = t.TempDir()
	s, err := Start(ctx, cfg, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, s.BinanceURL()+"/ws/btcusdt@trade")
	c.trade()
	cancel()
	c.wantClose(closeGoingAway)
	<-s.Done()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	// Two simulators share one registry.
	env := component.Discard()
	for range 2 {
		cfg.Dir = t.TempDir()
		s, err := Start(t.Context(), cfg, env)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
	}
}
