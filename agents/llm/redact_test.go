package llm

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/autohedge/autohedge/agents/llm/llmtest"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// awkwardKey has every character that JSON encoders spell in more than one way.
const awkwardKey = `sk-proj-SECRETkey+/0123<456>&"\789abcdefXYZ=`

// spell writes a text as some JSON encoder might, inside of depth further encodings.
func spell(t *rapid.T, text string, depth int) string {
	var b strings.Builder
	for _, c := range []byte(text) {
		switch n := rapid.IntRange(0, 3).Draw(t, "form"); {
		case n == 0:
			fmt.Fprintf(&b, `\u%04x`, c)
		case n == 1:
			fmt.Fprintf(&b, `\u%04X`, c)
		case c == '/' && n == 2:
			b.WriteString(`\/`)
		case c == '"' || c == '\\':
			b.WriteString(`\` + string(c))
		default:
			b.WriteByte(c)
		}
	}
	if depth == 0 {
		return b.String()
	}
	return spell(t, b.String(), depth-1)
}

// However often and however a key is spelled in JSON, at any depth, it is replaced
// with all of its characters, and what is around it stays.
func TestRedactSpellings(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spelled := spell(t, awkwardKey, rapid.IntRange(0, 2).Draw(t, "depth"))
		before, after := `{"a":"`, `","b":1}`
		got := string(redact([]byte(before+spelled+after+spelled), component.NewSecret(awkwardKey)))
		if want := before + "<secret>" + after + "<secret>"; got != want {
			t.Fatalf("%s\nbecame %s\nwant   %s", spelled, got, want)
		}
	})
}

// A key that the end of a text cuts leaves no beginning that is worth anything.
func TestRedactCut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spelled := spell(t, awkwardKey, rapid.IntRange(0, 1).Draw(t, "depth"))
		cut := rapid.IntRange(0, len(spelled)).Draw(t, "cut")
		got := string(redact([]byte("x "+spelled[:cut]), component.NewSecret(awkwardKey)))
		if strings.Contains(plain(got), awkwardKey[:minCut+1]) {
			t.Fatalf("%s\nbecame %s", spelled[:cut], got)
		}
	})
}

// plain undoes escapes until nothing changes.
func plain(s string) string {
	for range 4 {
		s = strings.ReplaceAll(s, `\\`, `\`)
		for c := range 0x80 {
			s = strings.ReplaceAll(s, fmt.Sprintf(`\u%04x`, c), string(rune(c)))
			s = strings.ReplaceAll(s, fmt.Sprintf(`\u%04X`, c), string(rune(c)))
		}
	}
	return s
}

// What is no key stays as it is.
func TestRedactLeaves(t *testing.T) {
	for _, text := range []string{"", `{"a":"sk-proj-"}`, "sk-proj-SECRETkez", `"\"sk-pro"`, strings.Repeat(`\`, 200)} {
		if got := string(redact([]byte(text), component.NewSecret(awkwardKey))); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
	if got := string(redact([]byte("none of it"), component.NewSecret("none"))); got != "none of it" {
		t.Errorf("a short key spoils the text: %q", got)
	}
}

// leaks returns the fields of an exchange, encoded as a record would be, that hold
// the key in any spelling.
func leaks(x *Exchange) []string {
	var found []string
	for name, text := range map[string]string{
		"content": x.Content, "error": x.Error, "request": string(x.Request), "response": string(x.Response), "model": x.ModelReturned,
	} {
		if strings.Contains(plain(text), awkwardKey[:12]) {
			found = append(found, name+": "+text)
		}
	}
	return found
}

// A server that echoes the key in every string of its answers leaks it into no field
// of the exchange, in whatever spelling, also where an error body is cut.
func TestEchoedKeyLeaks(t *testing.T) {
	quoted := func(s string) string {
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	escaped := func(s string) string { // every character as \uXXXX
		var b strings.Builder
		for _, c := range []byte(s) {
			fmt.Fprintf(&b, `\u%04X`, c)
		}
		return `"` + b.String() + `"`
	}
	key := awkwardKey
	whole := func(spelled string) string {
		return `{"id":` + spelled + `,"object":` + spelled + `,"created":1,"model":` + spelled + `,"system_fingerprint":` + spelled +
			`,"choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":` + quoted(`{"rationale":`+spelled+`}`) + `}}]}`
	}
	for name, tc := range map[string]struct {
		status int
		body   string
	}{
		"an answer":            {200, whole(quoted(key))},
		"an answer, escaped":   {200, whole(escaped(key))},
		"slashes escaped":      {200, whole(strings.ReplaceAll(quoted(key), "/", `\/`))},
		"a refusal":            {200, `{"model":"m","choices":[{"finish_reason":"stop","message":{"role":"assistant","refusal":` + escaped(key) + `}}]}`},
		"a finish reason":      {200, `{"model":"m","choices":[{"finish_reason":` + quoted(key) + `,"message":{"content":"x"}}]}`},
		"an error object":      {200, `{"error":{"message":` + quoted("key "+key) + `,"code":` + escaped(key) + `}}`},
		"an error":             {401, `{"error":{"message":` + quoted("Incorrect API key provided: "+key) + `,"type":"x","code":` + quoted(key) + `}}`},
		"an error text":        {401, `{"error":` + quoted(key) + `}`},
		"an error that is cut": {500, "<html>" + strings.Repeat("x", 140-len("<html>")) + " Bearer " + key},
		"a broken answer":      {200, `{"model":` + quoted(key)},
		"no JSON":              {200, "Authorization: Bearer " + key},
		"a field name":         {200, `{"choices":[{"finish_reason":"stop","message":{"content":` + quoted(`{`+quoted(key)+`:1}`) + `}}]}`},
		"too long, cut in it":  {200, strings.Repeat("x", DefaultConfig().MaxResponseBytes-20) + key},
	} {
		t.Run(name, func(t *testing.T) {
			s := llmtest.Start(t, func(llmtest.Call) llmtest.Reply { return llmtest.Reply{Status: tc.status, Body: tc.body} })
			cfg := DefaultConfig()
			cfg.BaseURL, cfg.APIKey, cfg.Model = s.URL, component.NewSecret(key), "m"
			c := New(cfg)
			defer c.Close()
			q := question
			q.User = "the key is " + key // as a user's own text might have it
			x := c.Complete(t.Context(), q)
			if found := leaks(x); len(found) > 0 {
				t.Errorf("the key is in %s", strings.Join(found, "\n"))
			}
			if x.Outcome == event.OutcomeOK {
				if err := Decode(x.Content, new(answer)); err != nil && strings.Contains(plain(err.Error()), key[:12]) {
					t.Errorf("the key is in the decoder's error: %v", err)
				}
			}
			if x.Status != tc.status && tc.status != http.StatusOK {
				t.Errorf("status %d: the server was not asked", x.Status)
			}
		})
	}
}
