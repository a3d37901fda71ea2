package llm

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

type answer struct {
	Action string `json:"action"`
	Size   int    `json:"size"`
}

func (a *answer) Check() error {
	if a.Size < 1 || a.Size > 5 {
		return errors.New(`field "size" is out of range`)
	}
	return nil
}

func TestDecode(t *testing.T) {
	for _, tt := range []struct{ content, want string }{ // want "": accepted
		{`{"action":"buy","size":3}`, ""},
		{" {\"size\":3,\n\"action\":\"buy\"} \n", ""},
		{`{"action":"\u0062uy","size":3}`, ""},
		{`{"action":"buy"}`, `"size" is missing`},
		{`{}`, "is missing"},
		{`{"action":"buy","size":null}`, `"size" is null`},
		{`{"action":"buy","size":3,"extra":1}`, `"extra" is not in the contract`},
		{`{"action":"buy","size":3,"size":5}`, "twice"},
		{`{"action":"buy","size":3,"Size":5}`, "twice"},
		{`{"action":"buy","size":3,"\u0073ize":5}`, "twice"},
		{`{"action":"buy","size":3,"ſize":5}`, "twice"}, // long s, which encoding/json takes for s
		{`{"action":"buy","Size":3}`, `"size" is missing`},
		{`{"action":"buy","size":3}{"action":"sell","size":5}`, "goes on"},
		{`{"action":"buy","size":3} and so on`, "goes on"},
		{"```json\n{\"action\":\"buy\",\"size\":3}\n```", "reading JSON"},
		{`{"action":"buy","size":NaN}`, "reading JSON"},
		{`{"action":"buy","size":Infinity}`, "reading JSON"},
		{`{"action":"buy","size":1e999}`, "reading the object"},
		{`{"action":"buy","size":3.5}`, "reading the object"},
		{`{"action":"buy","size":"3"}`, "reading the object"},
		{`{"action":7,"size":3}`, "reading the object"},
		{`{"action":"buy","size":6}`, "out of range"},
		{`{"action":"buy","size":-9223372036854775809}`, "reading the object"},
		{`null`, "null"},
		{`[{"action":"buy","size":3}]`, "reading the object"},
		{`"buy"`, "reading the object"},
		{``, "unexpected EOF"},
		{`{"action":"buy","size":3`, "unexpected EOF"},
		{"{\"action\":\"\xff\",\"size\":3}", "UTF-8"},
		{strings.Repeat("[", 100), "nests"},
	} {
		var a answer
		err := Decode(tt.content, &a)
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%q: %v", tt.content, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%q: got %v, want an error with %q", tt.content, err, tt.want)
		case tt.want == "" && (a.Action != "buy" || a.Size != 3):
			t.Errorf("%q: got %+v", tt.content, a)
		}
	}
}

// Whatever is accepted is what the contract says, and reads the same again.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{`{"action":"buy","size":3}`, `{"action":"buy","size":3,"Size":5}`, `{"a":[{}]}`, "\xff", `{"action":"x","size":5}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, content string) {
		var a, b answer
		if Decode(content, &a) != nil {
			return
		}
		if a.Size < 1 || a.Size > 5 {
			t.Errorf("%q: size %d came through", content, a.Size)
		}
		text, err := json.Marshal(&a)
		if err != nil {
			t.Fatal(err)
		}
		if err := Decode(string(text), &b); err != nil || a != b {
			t.Errorf("%q: again gives %+v, %v", content, b, err)
		}
	})
}

func TestText(t *testing.T) {
	if got := Text(" \x1b[31mred\x1b[0m\nline\u0085 é ", 100); got != "[31mred [0m line  é" {
		t.Errorf("got %q", got)
	}
	if got := Text("ééé", 3); got != "é" {
		t.Errorf("got %q", got)
	}
}
