package venue

import (
	"bufio"
	"encoding/json"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/autohedge/autohedge/stream/event"
)

// recordings lie beside the project; see the README there for their format.
const recordings = "../../../shared/recordings"

// recorded returns the frames of a recording with their receive times.
func recorded(t testing.TB, path string) (frames [][]byte, times []int64) {
	t.Helper()
	file, err := os.Open(filepath.Join(recordings, path))
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("the recordings are missing: %v", err)
		}
		t.Skipf("the recordings are missing: %v", err)
	}
	defer func() { _ = file.Close() }()
	sc := bufio.NewScanner(file)
	sc.Buffer(nil, 16<<20)
	for sc.Scan() {
		at, text, ok := strings.Cut(sc.Text(), ": ")
		if sec, fraction, isTime := strings.Cut(at, "."); ok && isTime && digits([]byte(sec), 0) == len(sec) {
			ns, ok := parseUnix([]byte(sec+"."+fraction), unitS)
			if !ok {
				t.Fatalf("time %q", at)
			}
			frames, times = append(frames, []byte(text)), append(times, ns)
		}
	}
	if err := sc.Err(); err != nil {
		t.Fatal(err)
	}
	return frames, times
}

// reference is what encoding/json reads; both keys of each pair that differs by
// case only must be there (protocols.md, appendix 1).
type reference struct {
	Event     string          `json:"e"`
	EventTime int64           `json:"E"`
	Symbol    string          `json:"s"`
	ID        uint64          `json:"a"`
	AskQty    json.RawMessage `json:"A"`
	Price     string          `json:"p"`
	Qty       string          `json:"q"`
	Maker     bool            `json:"m"`
	IsBest    json.RawMessage `json:"M"`
	Time      int64           `json:"T"`
	First     uint64          `json:"f"`
	Last      uint64          `json:"l"`

	Type     string `json:"type"`
	TradeID  uint64 `json:"trade_id"`
	Product  string `json:"product_id"`
	Side     string `json:"side"`
	Size     string `json:"size"`
	CPrice   string `json:"price"`
	Sequence uint64 `json:"sequence"`
	CTime    string `json:"time"`
	Bid      string `json:"best_bid"`
	Ask      string `json:"best_ask"`
}

type bookTickerReference struct {
	Update uint64 `json:"u"`
	Upper  any    `json:"U"`
	Symbol string `json:"s"`
	Bid    string `json:"b"`
	BidQty string `json:"B"`
	Ask    string `json:"a"`
	AskQty string `json:"A"`
}

// equal compares a decimal with the venue's text as numbers.
func equal(t *testing.T, what string, got event.Decimal, text string) {
	t.Helper()
	want, ok := new(big.Rat).SetString(text)
	have, ok2 := new(big.Rat).SetString(got.String())
	if !ok || !ok2 || want.Cmp(have) != 0 {
		t.Errorf("%s is %s, the venue sent %q", what, got, text)
	}
}

func TestBinanceRecording(t *testing.T) {
	frames, times := recorded(t, "binance-spot/BINANCE.ws.1.0")
	d := binance{}.NewDecoder()
	var f Frame
	trades, quotes := 0, 0
	for i, frame := range frames {
		if err := d.Decode(frame, times[i], &f); err != nil {
			t.Errorf("%s: %v", frame, err)
		}
		var env struct {
			Stream string          `json:"stream"`
			Data   json.RawMessage `json:"data"`
		}
		if err := json.Unmarshal(frame, &env); err != nil {
			t.Fatal(err)
		}
		switch _, stream, _ := strings.Cut(env.Stream, "@"); stream {
		case "aggTrade":
			trades++
			var want reference
			if err := json.Unmarshal(env.Data, &want); err != nil {
				t.Fatal(err)
			}
			if len(f.Items) != 1 || f.Items[0].Type != event.TypeTrade {
				t.Fatalf("%s: %+v", frame, f)
			}
			got := f.Items[0].Trade
			equal(t, "price", got.Price, want.Price)
			equal(t, "quantity", got.Qty.Decimal, want.Qty)
			side := event.Buy
			if want.Maker {
				side = event.Sell
			}
			if string(f.Items[0].Symbol) != want.Symbol || got.TradeID != want.ID || got.Aggressor != side || got.EventTime != want.Time*1e6 ||
				got.RecvTime != times[i] || got.FirstTradeID != want.First || got.LastTradeID != want.Last || got.Channel != event.ChannelAggTrade {
				t.Errorf("%s: %+v", frame, got)
			}
		case "bookTicker":
			quotes++
			var want bookTickerReference
			if err := json.Unmarshal(env.Data, &want); err != nil {
				t.Fatal(err)
			}
			if len(f.Items) != 1 || f.Items[0].Type != event.TypeQuote {
				t.Fatalf("%s: %+v", frame, f)
			}
			got := f.Items[0].Quote
			equal(t, "bid", got.Bid, want.Bid)
			equal(t, "bid quantity", got.BidQty.Decimal, want.BidQty)
			equal(t, "ask", got.Ask, want.Ask)
			equal(t, "ask quantity", got.AskQty.Decimal, want.AskQty)
			if string(f.Items[0].Symbol) != want.Symbol || got.Sequence != want.Update || got.EventTime != times[i] || got.TimeSource != event.TimeReceive {
				t.Errorf("%s: %+v", frame, got)
			}
		default:
			if len(f.Items) != 0 || f.Ignored != ReasonNotUsed {
				t.Errorf("%s: %d items, ignored %q", frame, len(f.Items), f.Ignored)
			}
		}
	}
	if trades != 2 || quotes != 84 || len(frames) != 265 {
		t.Errorf("%d trades, %d quotes in %d frames: want 2, 84, 265", trades, quotes, len(frames))
	}
}

func TestCoinbaseRecording(t *testing.T) {
	frames, times := recorded(t, "coinbase-exchange/COINBASE.ws.28.0.part")
	d := coinbase{}.NewDecoder()
	var f Frame
	trades, quotes := 0, 0
	for i, frame := range frames {
		if err := d.Decode(frame, times[i], &f); err != nil {
			t.Errorf("%.200s: %v", frame, err)
		}
		var want reference
		if err := json.Unmarshal(frame, &want); err != nil {
			t.Fatal(err)
		}
		switch want.Type {
		case "match":
			trades++
			got := f.Items[0].Trade
			equal(t, "price", got.Price, want.CPrice)
			equal(t, "size", got.Qty.Decimal, want.Size)
			if string(f.Items[0].Symbol) != want.Product || got.TradeID != want.TradeID || got.Sequence != want.Sequence ||
				got.Aggressor.Opposite().String() != want.Side || got.EventTime != parsed(t, want.CTime) || got.RecvTime != times[i] {
				t.Errorf("%s: %+v", frame, got)
			}
		case "ticker":
			quotes++
			got := f.Items[0].Quote
			equal(t, "bid", got.Bid, want.Bid)
			equal(t, "ask", got.Ask, want.Ask)
			if got.BidQty.Valid || got.AskQty.Valid || got.Sequence != want.Sequence || got.EventTime != parsed(t, want.CTime) || got.TimeSource != event.TimeEvent {
				t.Errorf("%s: %+v", frame, got)
			}
		default:
			if len(f.Items) != 0 || f.Ignored == "" || f.Ignored == ReasonUnknown {
				t.Errorf("%.200s: %d items, ignored %q", frame, len(f.Items), f.Ignored)
			}
		}
	}
	if trades != 36 || quotes != 46 || len(frames) != 5996 {
		t.Errorf("%d trades, %d quotes in %d frames: want 36, 46, 5996", trades, quotes, len(frames))
	}
}

func parsed(t *testing.T, text string) int64 {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		t.Fatal(err)
	}
	return at.UnixNano()
}
