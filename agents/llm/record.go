package llm

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/autohedge/autohedge/stream/component"
)

// tape holds one exchange as it passes the recorder.
type tape struct {
	request  []byte
	response []byte
	status   int
	header   http.Header
	overflow bool
	err      error
	// replay, when set, answers instead of the network.
	replay *Recorded
}

// tapeKey finds the tape in a request's context.
type tapeKey struct{}

// recorder is the HTTPDoer that go-openai speaks through. It keeps both bodies
// as bytes, bounded, before anything decodes them. Headers are not kept: the
// key is in them.
type recorder struct {
	http  *http.Client
	limit int
	key   component.Secret
}

// Do implements openai.HTTPDoer.
func (r *recorder) Do(req *http.Request) (*http.Response, error) {
	t, _ := req.Context().Value(tapeKey{}).(*tape)
	if t == nil {
		t = new(tape)
	}
	if req.Body != nil {
		b, err := io.ReadAll(req.Body)
		if err != nil {
			t.err = err
			return nil, err
		}
		if err := req.Body.Close(); err != nil {
			t.err = err
			return nil, err
		}
		t.request = redact(b, r.key)
		req.Body = io.NopCloser(bytes.NewReader(b))
	}
	if t.replay != nil {
		t.status, t.response, t.header = t.replay.Status, t.replay.Response, http.Header{}
		return t.answer(), nil
	}
	resp, err := r.http.Do(req) //nolint:gosec // the operator names the endpoint in the configuration
	if err != nil {
		t.err = err
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // read whole or given up on: nothing to learn from it
	t.status, t.header = resp.StatusCode, resp.Header
	t.response, t.err = io.ReadAll(io.LimitReader(resp.Body, int64(r.limit)+1))
	if len(t.response) > r.limit {
		t.response, t.overflow = t.response[:r.limit], true
	}
	t.response = redact(t.response, r.key)
	if t.err != nil {
		return nil, t.err
	}
	return t.answer(), nil
}

func (t *tape) answer() *http.Response {
	return &http.Response{
		Status:     http.StatusText(t.status),
		StatusCode: t.status,
		Header:     t.header,
		Body:       io.NopCloser(bytes.NewReader(t.response)),
	}
}

// maxRetryAfter bounds what an endpoint can ask for: a wrong header must not
// silence the desk for a day.
const maxRetryAfter = 10 * time.Minute

// retryAfter reads the header, seconds or an HTTP date (RFC 9110, 10.2.3).
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := strings.TrimSpace(h.Get("Retry-After"))
	if v == "" {
		return 0
	}
	var d time.Duration
	if s, err := strconv.ParseFloat(v, 64); err == nil {
		if !(s > 0) {
			return 0
		}
		d = maxRetryAfter
		if s < maxRetryAfter.Seconds() {
			d = time.Duration(s * float64(time.Second))
		}
	} else if at, err := http.ParseTime(v); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, 0), maxRetryAfter)
}

// bounded cuts text for people at n bytes, on a rune, and makes control characters
// and marks that reverse the direction of text harmless.
func bounded(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || (r >= 0x7f && r < 0xa0) || r == utf8.RuneError || unicode.Is(unicode.Bidi_Control, r) {
			return ' '
		}
		return r
	}, s)
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// Text makes a model's free text fit to be shown: bounded and without control
// characters.
func Text(s string, maxBytes int) string { return strings.TrimSpace(bounded(s, maxBytes)) }
