package venue

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const recvTime = 1700000000_000000001

// open makes the venue with the configuration of its fixtures.
func open(t testing.TB, spec component.Spec[New]) Venue {
	t.Helper()
	var cfg any
	if spec.Config != nil {
		cfg = spec.Config()
		text, err := os.ReadFile(filepath.Join("testdata", spec.Name, "config.yaml"))
		if err != nil {
			t.Fatalf("a venue with a configuration needs a fixture: %v", err)
		}
		if err := yaml.UnmarshalWithOptions(text, cfg, yaml.Strict()); err != nil {
			t.Fatal(err)
		}
	}
	v, err := spec.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// fixtures returns the venue's frames; none is a failure.
func fixtures(t testing.TB, name string) [][]byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name, "frames.jsonl"))
	if err != nil {
		t.Fatalf("every venue needs testdata/<venue>/frames.jsonl: %v", err)
	}
	var out [][]byte
	for sc := bufio.NewScanner(bytes.NewReader(text)); sc.Scan(); {
		out = append(out, append([]byte(nil), sc.Bytes()...))
	}
	if len(out) == 0 {
		t.Fatal("testdata has no frames")
	}
	return out
}

// describe prints what a frame became, as the golden files hold it.
func describe(d Decoder, f *Frame, err error) string {
	var b strings.Builder
	fmt.Fprintf(&b, "kind %s", d.Kinds()[f.Kind])
	if f.Ignored != "" {
		fmt.Fprintf(&b, ", ignored: %s", f.Ignored)
	}
	switch f.Control {
	case ControlRotate:
		b.WriteString(", rotate")
	case ControlError:
		fmt.Fprintf(&b, ", error %q", f.Message)
	}
	if f.Mark.ID != 0 {
		fmt.Fprintf(&b, ", mark %s %s %d", f.Mark.Symbol, f.Mark.Channel, f.Mark.ID)
	}
	b.WriteByte('\n')
	if err != nil {
		fmt.Fprintf(&b, "  refused: %v\n", err)
	}
	for _, it := range f.Items {
		var m any = &it.Trade
		if it.Type == event.TypeQuote {
			m = &it.Quote
		}
		text, err := json.Marshal(m)
		if err != nil {
			text = []byte(err.Error())
		}
		fmt.Fprintf(&b, "  %s %s\n", it.Symbol, text)
	}
	return b.String()
}

// clone copies what a frame points to.
func clone(f *Frame) Frame {
	c := *f
	c.Items = nil
	for _, it := range f.Items {
		it.Symbol = append([]byte(nil), it.Symbol...)
		if it.Type == event.TypeTrade { // the other half is what an earlier frame left
			it.Quote = event.Quote{}
		} else {
			it.Trade = event.Trade{}
		}
		c.Items = append(c.Items, it)
	}
	c.Mark.Symbol = append([]byte(nil), f.Mark.Symbol...)
	return c
}

var decimals = cmp.Comparer(func(a, b event.Decimal) bool { return a == b })

func same(a, b Frame) string {
	return cmp.Diff(a, b, decimals, cmpopts.EquateEmpty())
}

func TestConformance(t *testing.T) {
	for _, spec := range Registry.All() {
		t.Run(spec.Name, func(t *testing.T) {
			v := open(t, spec)
			frames := fixtures(t, spec.Name)
			t.Run("info", func(t *testing.T) { checkInfo(t, v) })
			t.Run("plans", func(t *testing.T) { checkPlans(t, v) })
			t.Run("golden", func(t *testing.T) { checkGolden(t, spec.Name, v, frames) })
			t.Run("any field order", func(t *testing.T) { checkOrder(t, v, frames) })
			t.Run("any spacing", func(t *testing.T) { checkSpacing(t, v, frames) })
			t.Run("cut short", func(t *testing.T) { checkCut(t, v, frames) })
			t.Run("no allocation", func(t *testing.T) { checkAllocations(t, v, frames) })
			t.Run("kinds are bounded", func(t *testing.T) { checkKinds(t, v, frames) })
		})
	}
}

func checkInfo(t *testing.T, v Venue) {
	in := v.Info()
	if in.Idle <= 0 || in.Ping >= in.Idle || in.Dials <= 0 || in.DialWindow <= 0 {
		t.Errorf("limits are not usable: %+v", in)
	}
	defaults := 0
	for _, c := range in.Channels {
		if got, ok := in.Find(c.Name); !ok || got != c {
			t.Errorf("channel %q is not found by its name", c.Name)
		}
		if got, ok := in.Spec(c.Channel); !ok || got != c {
			t.Errorf("channel %q is not found by its number", c.Name)
		}
		if c.Default && c.Trades {
			defaults++
		}
	}
	if defaults != 1 {
		t.Errorf("%d trade channels are on by default, want 1", defaults)
	}
}

func checkPlans(t *testing.T, v Venue) {
	var symbols []string
	for i := range 1500 {
		symbols = append(symbols, fmt.Sprintf("SYM%d-USD", i))
	}
	plans, err := v.Plans("wss://127.0.0.1:1", symbols, v.Info().Channels)
	if err != nil {
		t.Fatal(err)
	}
	again, err := v.Plans("wss://127.0.0.1:1", symbols, v.Info().Channels)
	if err != nil || cmp.Diff(plans, again) != "" {
		t.Errorf("plans differ from call to call: %v", err)
	}
	for _, p := range plans {
		if !strings.HasPrefix(p.URL, "wss://127.0.0.1:1") {
			t.Errorf("url is %q", p.URL)
		}
	}
	if plans, err = v.Plans("wss://127.0.0.1:1/ws", nil, nil); err != nil || len(plans) != 1 || plans[0].URL != "wss://127.0.0.1:1/ws" {
		t.Errorf("a path is not kept: %v %v", plans, err)
	}
}

func checkGolden(t *testing.T, name string, v Venue, frames [][]byte) {
	d := v.NewDecoder()
	var f Frame
	var b strings.Builder
	for _, frame := range frames {
		err := d.Decode(frame, recvTime, &f)
		var fe *FrameError
		if err != nil && !errors.As(err, &fe) {
			t.Errorf("%s: error is a %T", frame, err)
		}
		if err != nil && len(f.Items) > 0 {
			t.Errorf("%s: refused, yet it has items", frame)
		}
		if err == nil && (len(f.Items) > 0) != (f.Ignored == "") {
			t.Errorf("%s: %d items and ignored %q", frame, len(f.Items), f.Ignored)
		}
		fmt.Fprintf(&b, "%s\n%s", frame, describe(d, &f, err))
	}
	golden := filepath.Join("testdata", name, "frames.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("differs from the golden file (-want +got):\n%s", diff)
	}
}

// reorder writes a JSON value anew with the keys of every object shuffled.
func reorder(t *testing.T, text []byte, rnd *rand.Rand) []byte {
	t.Helper()
	switch bytes.TrimSpace(text)[0] {
	case '{':
		var m map[string]json.RawMessage
		if err := json.Unmarshal(text, &m); err != nil {
			t.Fatal(err)
		}
		keys := make([]string, 0, len(m))
		for k := range m {
			keys = append(keys, k)
		}
		rnd.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
		out := []byte{'{'}
		for i, k := range keys {
			if i > 0 {
				out = append(out, ',')
			}
			quoted, _ := json.Marshal(k)
			out = append(append(out, quoted...), ':')
			out = append(out, reorder(t, m[k], rnd)...)
		}
		return append(out, '}')
	case '[':
		var list []json.RawMessage
		if err := json.Unmarshal(text, &list); err != nil {
			t.Fatal(err)
		}
		out := []byte{'['}
		for i, e := range list {
			if i > 0 {
				out = append(out, ',')
			}
			out = append(out, reorder(t, e, rnd)...)
		}
		return append(out, ']')
	}
	return text
}

func checkOrder(t *testing.T, v Venue, frames [][]byte) {
	rnd := rand.New(rand.NewSource(1))
	d := v.NewDecoder()
	var f Frame
	for _, frame := range frames {
		if err := d.Decode(frame, recvTime, &f); err != nil {
			continue
		}
		want := clone(&f)
		for range 10 {
			shuffled := reorder(t, frame, rnd)
			err := d.Decode(shuffled, recvTime, &f)
			if f.Control == ControlError {
				f.Message = want.Message // may quote the venue's text
			}
			if err != nil {
				t.Errorf("%s: %v", shuffled, err)
			} else if diff := same(want, clone(&f)); diff != "" {
				t.Errorf("%s: another order of fields gives (-want +got):\n%s", shuffled, diff)
			}
		}
	}
}

func checkSpacing(t *testing.T, v Venue, frames [][]byte) {
	d := v.NewDecoder()
	var f Frame
	for _, frame := range frames {
		if err := d.Decode(frame, recvTime, &f); err != nil {
			continue
		}
		want := clone(&f)
		var spaced bytes.Buffer
		if err := json.Indent(&spaced, frame, "\r\n", "\t "); err != nil {
			t.Fatal(err)
		}
		text := append(append([]byte(" \t"), spaced.Bytes()...), " \n"...)
		err := d.Decode(text, recvTime, &f)
		if f.Control == ControlError {
			f.Message = want.Message
		}
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if diff := same(want, clone(&f)); diff != "" {
			t.Errorf("%s: white space changes it (-want +got):\n%s", text, diff)
		}
	}
}

func checkCut(t *testing.T, v Venue, frames [][]byte) {
	d := v.NewDecoder()
	var f Frame
	for _, frame := range frames {
		if !json.Valid(frame) {
			continue
		}
		for n := range frame {
			err := d.Decode(frame[:n], recvTime, &f)
			var fe *FrameError
			if !errors.As(err, &fe) || (fe.Code != CodeMalformed && fe.Code != CodeDuplicate) {
				t.Fatalf("%q: cut frame gives %v", frame[:n], err)
			}
			if fe.Offset < 0 || fe.Offset > n {
				t.Errorf("%q: mistake at byte %d", frame[:n], fe.Offset)
			}
		}
	}
}

func checkAllocations(t *testing.T, v Venue, frames [][]byte) {
	d := v.NewDecoder()
	var f Frame
	for _, frame := range frames {
		if err := d.Decode(frame, recvTime, &f); err != nil || f.Control == ControlError {
			continue
		}
		text := 0
		for _, it := range f.Items {
			if it.Type == event.TypeTrade && it.Trade.TradeIDText != "" {
				text++
			}
		}
		if n := testing.AllocsPerRun(100, func() { _ = d.Decode(frame, recvTime, &f) }); int(n) != text {
			t.Errorf("%s: %v allocations, want %d", frame, n, text)
		}
	}
}

func checkKinds(t *testing.T, v Venue, frames [][]byte) {
	d := v.NewDecoder()
	var f Frame
	for i := range 500 {
		for _, frame := range frames {
			for _, kind := range []string{`"e":"trade"`, `"type":"match"`} {
				frame = bytes.ReplaceAll(frame, []byte(kind), []byte(strings.Split(kind, ":")[0]+fmt.Sprintf(`:"kind%d"`, i)))
			}
			_ = d.Decode(frame, recvTime, &f)
			if int(f.Kind) >= len(d.Kinds()) {
				t.Fatalf("kind %d of %d", f.Kind, len(d.Kinds()))
			}
		}
	}
	if n := len(d.Kinds()); n > MaxKinds {
		t.Errorf("%d kinds", n)
	}
	if err := d.Decode(frames[0], recvTime, &f); err != nil || len(f.Items) == 0 {
		t.Errorf("the first fixture must make an event, also after many unknown kinds: %v", err)
	}
}
