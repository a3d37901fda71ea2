package config

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

type inner struct {
	Name  string        `yaml:"name" doc:"who"`
	Wait  time.Duration `yaml:"wait" doc:"how long"`
	Price event.Decimal `yaml:"price" doc:"how much"`
}

func (i *inner) SetDefaults() { i.Wait = time.Second }

type outer struct {
	Count  int              `yaml:"count" doc:"how many"`
	On     bool             `yaml:"on"`
	Rate   float64          `yaml:"rate"`
	Token  component.Secret `yaml:"token"`
	Inner  inner            `yaml:"inner" doc:"the inner part"`
	List   []inner          `yaml:"list" doc:"some"`
	Names  []string         `yaml:"names"`
	Params map[string]any   `yaml:"params"`
	Hidden int              `yaml:"-"`
}

func lookup(name string) (string, bool) {
	if name == "WHO" {
		return "me", true
	}
	return "", false
}

func TestDecode(t *testing.T) {
	o := outer{Count: 1, Inner: inner{Wait: time.Minute}, Names: []string{"default"}}
	const src = `
count: 7
rate: 0.5
token: ${TOKEN:-abc}
inner:
  name: ${WHO}
  price: 0.10
list:
  - name: a
  - {name: b, wait: 2s}
names: [x, "y"]
params: {window: 20, source: trade}
`
	if _, f := decode("x.yaml", []byte(src), lookup, &o); len(f) > 0 {
		t.Fatalf("findings: %v", f)
	}
	want := outer{Count: 7, Rate: 0.5, Token: component.NewSecret("abc"), Inner: inner{"me", time.Minute, event.MustDecimal("0.10")},
		List: []inner{{Name: "a", Wait: time.Second}, {Name: "b", Wait: 2 * time.Second}}, Names: []string{"x", "y"},
		Params: map[string]any{"window": uint64(20), "source": "trade"}}
	if diff := cmp.Diff(want, o, cmp.AllowUnexported(event.Decimal{}, component.Secret{})); diff != "" {
		t.Errorf("decoded (-want +got):\n%s", diff)
	}
}

// Every problem is reported, each at its place, with what is legal.
func TestDecodeReportsAll(t *testing.T) {
	for _, tc := range []struct{ src, want string }{
		{"count: x\nrat: 1\n", "f:1:8: count: want a whole number, have \"x\"\nf:2:1: rat: unknown key: did you mean rate?"},
		{"inner:\n  wait: 5\n  price: 1e-30\n  zzzzzzz: 1\n", "f:2:9: inner.wait: \"5\" is no duration: want a number with a unit, like 500ms, 2s or 1h30m\n" +
			"f:3:10: inner.price: parsing \"1e-30\": does not fit 20 digits before and 18 after the decimal point\nf:4:3: inner.zzzzzzz: unknown key: want one of name, price, wait"},
		{"list: 5\nnames: {a: b}\n", "f:1:7: list: want a list, have \"5\"\nf:2:8: names: want a list, have a mapping"},
		{"list:\n  - name: ${NOPE}\n", "f:2:11: list[0].name: environment variable NOPE is not set: set it, or write ${NOPE:-default}"},
		{"count: \"7\"\n", "f:1:8: count: want a whole number, have the text \"7\": take the quotes away"},
		{"on: maybe\n", "f:1:5: on: want true or false, have \"maybe\""},
		{"count: 1\ncount: 2\n", "f:2:1: mapping key \"count\" already defined at [1:1]"},
		{"count: [1\n", "f:1:8: sequence end token ']' not found"},
	} {
		var o outer
		_, f := decode("f", []byte(tc.src), lookup, &o)
		var lines []string
		for _, x := range f {
			lines = append(lines, x.String())
		}
		if got := strings.Join(lines, "\n"); got != tc.want {
			t.Errorf("for\n%s\ngot\n%s\nwant\n%s", tc.src, got, tc.want)
		}
	}
}

func TestLocate(t *testing.T) {
	var o outer
	d, _ := decode("f", []byte("count: 1\nlist:\n  - name: a\n  - name: b\n"), lookup, &o)
	got := d.locate(component.Problems{{Path: "list[1].name", Message: "m"}, {Path: "list[1].wait", Message: "m"}, {Path: "rate", Message: "m", Warning: true}})
	want := []string{"f:4:11: list[1].name: m", "f:4:5: list[1].wait: m", "f: warning: rate: m"}
	for i, w := range want {
		if got[i].String() != w {
			t.Errorf("got %s, want %s", got[i], w)
		}
	}
}

// What Sample prints decodes to what it printed.
func TestSampleReadsBack(t *testing.T) {
	o := outer{Count: 3, On: true, Rate: 0.25, Inner: inner{"x: y", 90 * time.Second, event.MustDecimal("1.50")},
		List:  []inner{{"true", time.Second, event.MustDecimal("0")}, {"#b", time.Minute, event.MustDecimal("2")}},
		Names: []string{"a", "b, c"}, Params: map[string]any{"n": uint64(3), "s": "text"}}
	text := Sample(o)
	var back outer
	if _, f := decode("f", []byte(text), lookup, &back); len(f) > 0 {
		t.Fatalf("%s\nfindings: %v", text, f)
	}
	if diff := cmp.Diff(o, back, cmp.AllowUnexported(event.Decimal{}, component.Secret{})); diff != "" {
		t.Errorf("%s\nread back (-want +got):\n%s", text, diff)
	}
	if !strings.Contains(text, "# how many\ncount: 3\n") {
		t.Errorf("no comment above count:\n%s", text)
	}
}
