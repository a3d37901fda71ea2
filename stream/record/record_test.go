package record

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/gorilla/websocket"
	"go.uber.org/goleak"

	"github.com/autohedge/autohedge/stream/component"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recording returns the path of a recording, or skips where there is none.
func recording(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join("..", "..", "..", "shared", "recordings", filepath.FromSlash(name))
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("no recordings: %v", err)
		}
		t.Skipf("no recordings: %v", err)
	}
	return path
}

func TestScanRecordings(t *testing.T) {
	tests := []struct {
		file, venue, by string
		kinds           map[string]int
		symbols         string
		channels        string
	}{
		{"binance-spot/BINANCE.ws.1.0", "binance", "url", map[string]int{"depthUpdate": 177, "bookTicker": 84, "aggTrade": 2, "kline": 2},
			"BLZETH LRCBTC NKNUSDT RUNEEUR", "aggTrade bookTicker depth@100ms kline_1m"},
		{"binance-spot/captured-2026-08.jsonl", "binance", "name", map[string]int{"bookTicker": 1, "aggTrade": 1}, "BTCUSDT", "aggTrade bookTicker"},
		{"coinbase-exchange/COINBASE.ws.28.0.part", "coinbase", "url",
			map[string]int{"ack": 3, "snapshot": 10, "l2update": 5891, "ticker": 46, "match": 36, "last_match": 10},
			"BAND-BTC BAND-GBP CRV-EUR DASH-BTC NMR-EUR NU-GBP SKL-BTC SKL-GBP SKL-USD YFI-BTC", "level2 matches ticker"},
		{"coinbase-advanced/captured-2026-09-07.jsonl", "coinbase-advanced", "name", map[string]int{"l2_data": 1, "ack": 2, "heartbeats": 1, "error": 1}, "BTC-PERP-INTX", "heartbeats l2_data"},
		{"kraken-v1/KRAKEN.ws.48.0", "kraken-v1", "url", nil, "", ""},
		{"kraken-v2/captured-2026-08-26-ETHBTC-depth10.jsonl", "kraken", "name", map[string]int{"status": 1, "ack": 1, "book": 2, "heartbeat": 1}, "ETH/BTC", "book heartbeat status"},
		{"okx-v5/OKX.ws.1.0.part", "okx", "url", nil, "BTC-USD-220527 BTC-USDT UNI-USD-SWAP", "books tickers trades"},
		{"bybit-v5/captured-2026-09-18-spot-orderbook50.jsonl", "bybit-spot", "name", map[string]int{"orderbook": 2}, "BTCUSDT", "orderbook.50"},
		{"alpaca/fragments.jsonl", "alpaca", "name", map[string]int{"success": 2, "t": 2, "q": 1, "b": 1}, "AAPL AMD BTC/USD TSLA", "b q t"},
		{"polygon/fragments.jsonl", "polygon", "name", map[string]int{"T": 3}, "AMZN TSLA", "T"},
	}
	for _, tt := range tests {
		info, err := Scan(File{Path: recording(t, tt.file)})
		if err != nil {
			t.Errorf("%s: %v", tt.file, err)
			continue
		}
		if info.Venue != tt.venue || info.By != tt.by || info.BadLines != 0 {
			t.Errorf("%s: venue %s by %s, %d bad lines %v", tt.file, info.Venue, info.By, info.BadLines, info.Bad)
		}
		if info.Kinds["unknown"] > 0 {
			t.Errorf("%s: %d frames of unknown kind", tt.file, info.Kinds["unknown"])
		}
		if tt.kinds != nil {
			if diff := cmp.Diff(tt.kinds, info.Kinds); diff != "" {
				t.Errorf("%s: kinds\n%s", tt.file, diff)
			}
		}
		if got := strings.Join(info.Symbols, " "); tt.symbols != "" && got != tt.symbols {
			t.Errorf("%s: symbols %s", tt.file, got)
		}
		if got := strings.Join(info.Channels, " "); tt.channels != "" && got != tt.channels {
			t.Errorf("%s: channels %s", tt.file, got)
		}
		n := 0
		for _, k := range info.Kinds {
			n += k
		}
		if n != info.Frames || info.First == 0 || info.Last < info.First {
			t.Errorf("%s: %d frames of %d, %d to %d", tt.file, n, info.Frames, info.First, info.Last)
		}
	}
	if _, err := Scan(File{Path: recording(t, "bybit-v5/2024-12-01_XRPUSDT_ob500.part.jsonl")}); err == nil || !strings.Contains(err.Error(), "name it") {
		t.Errorf("a Bybit file without its category: %v", err)
	}
	if info, err := Scan(File{Path: recording(t, "bybit-v5/2024-12-01_XRPUSDT_ob500.part.jsonl"), Venue: "bybit-linear"}); err != nil || info.By != "given" {
		t.Errorf("a Bybit file with its category: %+v %v", info, err)
	}
	if _, err := Scan(File{Path: recording(t, "binance-spot/BINANCE.http.0.0")}); err == nil || !strings.Contains(err.Error(), "no received frames") {
		t.Errorf("REST responses only: %v", err)
	}
}

func TestVenueOfFrame(t *testing.T) {
	for frame, want := range map[string]string{
		`{"stream":"btcusdt@trade","data":{}}`: "binance", `{"e":"trade","E":1,"s":"X"}`: "binance", `{"u":1,"s":"X","b":"1","B":"1","a":"1","A":"1"}`: "binance",
		`{"type":"match","product_id":"X"}`: "coinbase", `{"channel":"heartbeats","sequence_num":3}`: "coinbase-advanced",
		`[1665,[["1","2","3","b","l",""]],"trade","XBT/USD"]`: "kraken-v1", `{"channel":"book","type":"update","data":[]}`: "kraken", `{"arg":{},"data":[]}`: "okx",
		`[{"T":"t","S":"AAPL"}]`: "alpaca", `[{"ev":"T"}]`: "polygon", `{"price":1}`: "", `[1,2]`: "", `{`: "", ``: "",
	} {
		if got := venueOfFrame([]byte(frame)); got != want {
			t.Errorf("%s: %q, want %q", frame, got, want)
		}
	}
}

func write(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReader(t *testing.T) {
	text := "wss://x.example/ws <-> 1633998511.159679\n" +
		"wss://x.example/ws <- 1633998511.5: {\"op\":\"a <-> b\"}\n" +
		"configuration: {\"a\":1}\n\n" +
		"1633998512.0633569: {\"url\":\"x -> y: z\"}\r\n" +
		"what is this\n" +
		"16339985x2.0: {}\n" +
		"1633998513: pong\n" +
		"https://x.example/r -> 1633998512.000000001: []\n" +
		"1633998514.25: {\"torn\":"
	r := NewReader(strings.NewReader(text), "f")
	var got []string
	for {
		l, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%d %d %s %d %s", l.Number, l.Kind, l.URL, l.Time, l.Data))
	}
	want := []string{
		"1 1 wss://x.example/ws 1633998511159679000 ",
		`2 2 wss://x.example/ws 1633998511500000000 {"op":"a <-> b"}`,
		`3 5  0 {"a":1}`,
		`5 3  1633998512063356900 {"url":"x -> y: z"}`,
		"8 3  1633998513000000000 pong",
		"9 4 https://x.example/r 1633998512000000001 []",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	bad, n := r.Bad()
	if n != 3 || bad[0].String() != "f:6: neither a time nor a URL with <->, <- or ->" || bad[1].Line != 7 ||
		!bad[2].Torn || bad[2].String() != "f:10: half-written last line: the frame ends early" {
		t.Errorf("%d bad lines: %v", n, bad)
	}
	// A last line without its newline that is whole counts.
	r = NewReader(strings.NewReader("1.5: {}"), "f")
	if l, err := r.Next(); err != nil || l.Time != 1_500_000_000 {
		t.Errorf("%+v %v", l, err)
	}
	// Bare frames get times.
	r = NewReader(strings.NewReader("{\"a\":1}\n{\"b\"\n[2]\n{\"c\":"), "f")
	for i := range 2 {
		if l, err := r.Next(); err != nil || l.Time != SyntheticBase+int64(i)*1e6 {
			t.Errorf("%d: %+v %v", i, l, err)
		}
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
	if bad, n := r.Bad(); n != 2 || bad[0].Line != 2 || bad[0].Torn || bad[1].Line != 4 || !bad[1].Torn {
		t.Errorf("bad %v", bad)
	}
}

func TestRecorder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.ws.0")
	type entry struct {
		Kind LineKind
		URL  string
		Time int64
		Data string
	}
	want := []entry{
		{Opened, "wss://a.example/ws?x=1", 1633998511159679000, ""},
		{Sent, "wss://a.example/ws?x=1", 1633998511159679001, `{"id":1}`},
		{Received, "", 1633998512000000000, `{"a":[1,2]}`},
		{REST, "https://a.example/r", 1633998512500000000, `{}`},
		{Received, "", 1633998513999999999, `pong`},
	}
	for round := range 2 {
		r, err := NewRecorder(path)
		if err != nil {
			t.Fatal(err)
		}
		data := []byte(want[2].Data)
		if round == 1 {
			data = []byte("{\n \"a\": [1,\r\n 2]}") // flattened, else the same
		}
		err = errors.Join(r.Opened(want[0].URL, want[0].Time), r.Sent(want[1].URL, want[1].Time, []byte(want[1].Data)), r.Received(want[2].Time, data),
			r.Response(want[3].URL, want[3].Time, []byte(want[3].Data)), r.Received(want[4].Time, []byte(want[4].Data)))
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Received(1, []byte("two\nlines")); err == nil {
			t.Error("a frame of two lines was taken")
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if round == 0 { // a kill in the middle of a line
			f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteString(`1633998514.1: {"a`); err != nil {
				t.Fatal(err)
			}
			_ = f.Close()
		}
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	r := NewReader(f, path)
	var got []entry
	for {
		l, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, entry{l.Kind, l.URL, l.Time, string(l.Data)})
	}
	torn := entry{Received, "", 1633998514100000000, `{"a`}
	if diff := cmp.Diff(append(append(append([]entry{}, want...), torn), want...), got); diff != "" {
		t.Error(diff)
	}
}

// frame is one message of a replay.
type frame struct {
	time int64
	data string
}

// client reads a replay to its end and returns what came; it checks the close
// code.
func client(t testing.TB, url, subscribe string, pause time.Duration) ([]frame, error) {
	t.Helper()
	d := websocket.Dialer{Subprotocols: []string{Subprotocol}}
	ws, resp, err := d.Dial(url, nil)
	if err != nil {
		return nil, err
	}
	_ = resp.Body.Close()
	defer func() { _ = ws.Close() }()
	if ws.Subprotocol() != Subprotocol {
		return nil, fmt.Errorf("subprotocol %q", ws.Subprotocol())
	}
	if subscribe != "" {
		if err := ws.WriteMessage(websocket.TextMessage, []byte(subscribe)); err != nil {
			return nil, err
		}
	}
	var got []frame
	for {
		kind, msg, err := ws.ReadMessage()
		if websocket.IsCloseError(err, websocket.CloseNormalClosure) {
			return got, nil
		}
		if err != nil {
			return got, err
		}
		if kind != websocket.BinaryMessage || len(msg) < 8 {
			return got, fmt.Errorf("message of kind %d with %d bytes", kind, len(msg))
		}
		got = append(got, frame{int64(binary.BigEndian.Uint64(msg)), string(msg[8:])})
		if pause > 0 {
			time.Sleep(pause)
		}
	}
}

// received reads the frames of a recording in the simplest way, to compare.
func received(t testing.TB, path string) []frame {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var list []frame
	for line := range bytes.SplitSeq(b, []byte("\n")) {
		line = bytes.TrimRight(line, "\r") // Bybit's file has line ends of two bytes
		switch {
		case len(line) == 0:
		case line[0] == '{' || line[0] == '[':
			list = append(list, frame{SyntheticBase + int64(len(list))*1e6, string(line)})
		case line[0] >= '0' && line[0] <= '9':
			at, data, _ := bytes.Cut(line, []byte(": "))
			sec, frac, _ := strings.Cut(string(at), ".")
			d, err := time.ParseDuration(sec + "." + frac + "s")
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, frame{int64(d), string(data)})
		}
	}
	return list
}

func open(t testing.TB, cfg Config) *Player {
	t.Helper()
	p, err := Open(cfg, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func maxSpeed(files ...File) Config {
	cfg := DefaultConfig()
	cfg.Speed, cfg.Files = SpeedMax, files
	return cfg
}

// Every recording comes out frame for frame, with its times, and a close frame
// after the last.
func TestPlayRecordings(t *testing.T) {
	for _, f := range []File{
		{Path: "binance-spot/BINANCE.ws.1.0"}, {Path: "binance-spot/captured-2026-08.jsonl"}, {Path: "coinbase-exchange/COINBASE.ws.28.0.part"},
		{Path: "coinbase-advanced/captured-2026-09-07.jsonl"}, {Path: "kraken-v1/KRAKEN.ws.48.0"}, {Path: "kraken-v1/KRAKEN.ws.49.0"},
		{Path: "kraken-v1/KRAKEN.ws.50.0.part"}, {Path: "kraken-v2/captured-2026-08-26-ETHBTC-depth10.jsonl"}, {Path: "okx-v5/OKX.ws.1.0.part"},
		{Path: "bybit-v5/2024-12-01_XRPUSDT_ob500.part.jsonl", Venue: "bybit-linear"}, {Path: "bybit-v5/captured-2026-09-18-spot-orderbook50.jsonl"},
		{Path: "alpaca/fragments.jsonl"}, {Path: "polygon/fragments.jsonl"},
	} {
		t.Run(f.Path, func(t *testing.T) {
			f.Path = recording(t, f.Path)
			p := open(t, maxSpeed(f))
			e := p.Endpoints()[0]
			run := make(chan error, 1)
			go func() { run <- p.Run(t.Context()) }()
			got, err := client(t, e.URL+"/stream?streams=x", "", 0)
			if err := errors.Join(err, <-run); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(received(t, f.Path), got, cmp.AllowUnexported(frame{})); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(p.Files()[0].Kinds, p.Counts()[e.Venue]); diff != "" {
				t.Error(diff)
			}
			if done, total, at := p.Progress(); done != total || int(done) != len(got) || at != e.Last {
				t.Errorf("progress %d of %d to %d", done, total, at)
			}
			if p.Interruptions() != 0 {
				t.Error("interrupted")
			}
		})
	}
}

// Files of two venues are released in the order of their times, each on its own
// connection; two files of one venue share theirs.
func TestPlayMerges(t *testing.T) {
	one := write(t, "BINANCE.a", "1.0: {\"e\":\"a\"}\n3.0: {\"e\":\"c\"}\n2.5: {\"e\":\"late\"}\n7.0: {\"e\":\"g\"}\n")
	two := write(t, "BINANCE.b", "2.0: {\"e\":\"b\"}\n6.0: {\"e\":\"f\"}\n")
	three := write(t, "COINBASE.a", "4.0: {\"type\":\"d\"}\n5.0: {\"type\":\"e\"}\n")
	p := open(t, maxSpeed(File{Path: one}, File{Path: two}, File{Path: three}))
	if n := len(p.Endpoints()); n != 2 {
		t.Fatalf("%d endpoints", n)
	}
	var binance, coinbase []frame
	done := make(chan error, 3)
	go func() { done <- p.Run(t.Context()) }()
	go func() {
		var err error
		binance, err = client(t, p.Endpoints()[0].URL+"/ws/x@trade", "", 0)
		done <- err
	}()
	go func() {
		var err error
		coinbase, err = client(t, p.Endpoints()[1].URL, `{"type":"subscribe","product_ids":["X-USD"],"channels":["matches"]}`, 0)
		done <- err
	}()
	for range 3 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	want := []frame{{1e9, `{"e":"a"}`}, {2e9, `{"e":"b"}`}, {3e9, `{"e":"c"}`}, {25e8, `{"e":"late"}`}, {6e9, `{"e":"f"}`}, {7e9, `{"e":"g"}`}}
	if diff := cmp.Diff(want, binance, cmp.AllowUnexported(frame{})); diff != "" {
		t.Errorf("binance:\n%s", diff)
	}
	// The recording holds no acknowledgement, so the player gives one, with the
	// time of the first frame.
	want = []frame{{4e9, `{"type":"subscriptions","channels":[{"name":"matches","product_ids":["X-USD"]}]}`}, {4e9, `{"type":"d"}`}, {5e9, `{"type":"e"}`}}
	if diff := cmp.Diff(want, coinbase, cmp.AllowUnexported(frame{})); diff != "" {
		t.Errorf("coinbase:\n%s", diff)
	}
}

func TestPlayAcknowledgesBinance(t *testing.T) {
	p := open(t, maxSpeed(File{Path: write(t, "BINANCE.a", "1.0: {\"e\":\"a\"}\n")}))
	run := make(chan error, 1)
	go func() { run <- p.Run(t.Context()) }()
	got, err := client(t, p.Endpoints()[0].URL+"/ws", `{"method":"SUBSCRIBE","params":["x@trade"],"id":"q7"}`, 0)
	if err := errors.Join(err, <-run); err != nil {
		t.Fatal(err)
	}
	want := []frame{{1e9, `{"result":null,"id":"q7"}`}, {1e9, `{"e":"a"}`}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(frame{})); diff != "" {
		t.Error(diff)
	}
}

// The recorded pace is kept, divided by the speed; long silences are cut.
func TestPace(t *testing.T) {
	text := "100.0: {\"e\":\"a\"}\n100.2: {\"e\":\"b\"}\n9000.0: {\"e\":\"c\"}\n"
	for _, tt := range []struct {
		speed    float64
		min, max time.Duration
	}{{1, 500 * time.Millisecond, 3 * time.Second}, {10, 50 * time.Millisecond, 450 * time.Millisecond}} {
		cfg := maxSpeed(File{Path: write(t, "BINANCE.a", text)})
		cfg.Speed, cfg.MaxGap = tt.speed, 300*time.Millisecond
		p := open(t, cfg)
		run := make(chan error, 1)
		begin := time.Now()
		go func() { run <- p.Run(t.Context()) }()
		_, err := client(t, p.Endpoints()[0].URL+"/ws/x", "", 0)
		if err := errors.Join(err, <-run); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took < tt.min || took > tt.max {
			t.Errorf("speed %v took %s", tt.speed, took)
		}
	}
}

// A slow client gets everything; the replay waits for it.
func TestSlowClient(t *testing.T) {
	var b strings.Builder
	pad := strings.Repeat("x", 100_000)
	for i := range 300 {
		fmt.Fprintf(&b, "%d.0: {\"e\":\"a\",\"n\":%d,\"pad\":\"%s\"}\n", i+1, i, pad)
	}
	p := open(t, maxSpeed(File{Path: write(t, "BINANCE.a", b.String())}))
	run := make(chan error, 1)
	go func() { run <- p.Run(t.Context()) }()
	got, err := client(t, p.Endpoints()[0].URL+"/ws/x", "", 2*time.Millisecond)
	if err := errors.Join(err, <-run); err != nil {
		t.Fatal(err)
	}
	for i, f := range got {
		if f.time != int64(i+1)*1e9 || !strings.Contains(f.data[:40], fmt.Sprintf(`"n":%d,`, i)) {
			t.Fatalf("frame %d: %d %.40s", i, f.time, f.data)
		}
	}
	if len(got) != 300 || p.Interruptions() != 0 {
		t.Errorf("%d frames, %d interruptions", len(got), p.Interruptions())
	}
}

// A client that goes away is noticed; the next one gets the rest.
func TestInterruption(t *testing.T) {
	var b strings.Builder
	pad := strings.Repeat("x", 100_000)
	for i := range 200 {
		fmt.Fprintf(&b, "%d.0: {\"e\":\"a\",\"pad\":\"%s\"}\n", i+1, pad)
	}
	p := open(t, maxSpeed(File{Path: write(t, "BINANCE.a", b.String())}))
	run := make(chan error, 1)
	go func() { run <- p.Run(t.Context()) }()
	url := p.Endpoints()[0].URL + "/ws/x"
	d := websocket.Dialer{Subprotocols: []string{Subprotocol}}
	ws, _, err := d.Dial(url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := ws.ReadMessage(); err != nil {
		t.Fatal(err)
	}
	if _, resp, err := d.Dial(url, nil); err == nil || resp.StatusCode != http.StatusConflict {
		t.Errorf("a second client: %v", err)
	}
	_ = ws.Close()
	var got []frame
	for {
		if got, err = client(t, url, "", 0); !errors.Is(err, websocket.ErrBadHandshake) {
			break
		}
		time.Sleep(time.Millisecond) // the first has not gone yet
	}
	if err := errors.Join(err, <-run); err != nil {
		t.Fatal(err)
	}
	if len(got) == 0 || got[len(got)-1].time != 200e9 || p.Interruptions() != 1 {
		t.Errorf("%d frames, %d interruptions", len(got), p.Interruptions())
	}
}

func TestRunEndsWithContext(t *testing.T) {
	p := open(t, maxSpeed(File{Path: write(t, "BINANCE.a", strings.Repeat("1.0: {\"e\":\"a\",\"pad\":\""+strings.Repeat("x", 1<<20)+"\"}\n", 20))}))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := p.Run(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "client of binance") {
		t.Errorf("without a client: %v", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	d := websocket.Dialer{Subprotocols: []string{Subprotocol}}
	ws, _, err := d.Dial(p.Endpoints()[0].URL+"/ws/x", nil) // reads nothing
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ws.Close() }()
	if err := p.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with a blocked client: %v", err)
	}
}

func TestOpenErrors(t *testing.T) {
	for want, f := range map[string]File{
		"no such file":       {Path: "nowhere"},
		"BINANCE.x:1":        {Path: write(t, "BINANCE.x", "hello\n")},
		"no received frames": {Path: write(t, "BINANCE.y", "")},
		"name it":            {Path: write(t, "some", "1.0: {\"price\":1}\n")},
		"unknown venue":      {Path: "x", Venue: "mtgox"},
	} {
		if p, err := Open(maxSpeed(f), component.Discard()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", f, err)
			if p != nil {
				_ = p.Close()
			}
		}
	}
	p := open(t, maxSpeed(File{Path: write(t, "BINANCE.a", "1.0: {\"e\":\"a\"}\nrubbish\n2.0: {\"e\":")}))
	info := p.Files()[0]
	want := []BadLine{{Line: 2, Reason: "neither a time nor a URL with <->, <- or ->"}, {Line: 3, Reason: "half-written last line: the frame ends early", Torn: true}}
	if diff := cmp.Diff(want, info.Bad, cmpopts.IgnoreFields(BadLine{}, "File")); diff != "" || info.Frames != 1 {
		t.Errorf("%d frames\n%s", info.Frames, diff)
	}
	if _, resp, err := websocket.DefaultDialer.Dial(p.Endpoints()[0].URL, nil); err == nil {
		t.Error("a client without the subprotocol was taken")
	} else if msg, _ := io.ReadAll(bufio.NewReader(resp.Body)); !strings.Contains(string(msg), Subprotocol) {
		t.Errorf("answered %s", msg)
	}
	for text, want := range map[string]float64{"max": 0, "2": 2, "0.5": 0.5, "0": -1, "fast": -1, "-1": -1} {
		if got, err := ParseSpeed(text); (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("speed %s: %v %v", text, got, err)
		}
	}
}

func BenchmarkPlay(b *testing.B) {
	path := recording(b, "coinbase-exchange/COINBASE.ws.28.0.part")
	frames := 0
	for b.Loop() {
		p, err := Open(maxSpeed(File{Path: path}), component.Discard())
		if err != nil {
			b.Fatal(err)
		}
		run := make(chan error, 1)
		go func() { run <- p.Run(b.Context()) }()
		got, err := client(b, p.Endpoints()[0].URL+"/ws/x", "", 0)
		if err := errors.Join(err, <-run, p.Close()); err != nil {
			b.Fatal(err)
		}
		frames += len(got)
	}
	b.ReportMetric(float64(frames)/b.Elapsed().Seconds(), "frames/s")
}
