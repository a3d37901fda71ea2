package obs

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/autohedge/autohedge/stream/component"
)

func TestServe(t *testing.T) {
	health := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, r.URL.Path)
	})
	s, err := Serve(HTTPConfig{Listen: "127.0.0.1:0"}, NewRegistry("v1"), health, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	get := func(path string) (int, string) {
		res, err := http.Get("http://" + s.Addr() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(text)
	}
	if code, text := get("/metrics"); code != 200 || !strings.Contains(text, `autohedge_build_info{version="v1"} 1`) || !strings.Contains(text, "go_goroutines") {
		t.Errorf("/metrics: %d %.200s", code, text)
	}
	for _, path := range []string{"/livez", "/readyz", "/health"} {
		if code, text := get(path); code != 503 || text != path {
			t.Errorf("%s: %d %s", path, code, text)
		}
	}
	if code, _ := get("/debug/pprof/"); code != 404 {
		t.Errorf("pprof is public: %d", code)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	off, err := Serve(HTTPConfig{Listen: "off"}, NewRegistry("v1"), health, nil)
	if err != nil || off.Addr() != "off" || off.Close(t.Context()) != nil {
		t.Errorf("switched off: %v, %v", off, err)
	}
}

// Metrics and health ask for what is configured, the probes never do; a page of
// another site is refused.
func TestServeAuthenticates(t *testing.T) {
	health := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	s, err := Serve(HTTPConfig{Listen: "127.0.0.1:0", User: "prom", Password: component.NewSecret("s3cret")}, NewRegistry("v1"), health, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close(t.Context()) }()
	for _, tc := range []struct {
		path, user, password, site string
		want                       int
	}{
		{"/metrics", "", "", "", 401}, {"/metrics", "prom", "wrong", "", 401}, {"/metrics", "other", "s3cret", "", 401}, {"/metrics", "prom", "s3cret", "", 200},
		{"/health", "", "", "", 401}, {"/health", "prom", "s3cret", "", 200}, {"/livez", "", "", "", 200}, {"/readyz", "", "", "", 200}, {"/", "", "", "", 200},
		{"/metrics", "prom", "s3cret", "cross-site", 403},
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.Addr()+tc.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if tc.user != "" {
			r.SetBasicAuth(tc.user, tc.password)
		}
		if tc.site != "" {
			r.Header.Set("Sec-Fetch-Site", tc.site)
		}
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != tc.want {
			t.Errorf("%+v: %d", tc, res.StatusCode)
		}
	}
}

// A listener that other machines reach needs credentials.
func TestValidateHTTP(t *testing.T) {
	for _, tc := range []struct {
		c    HTTPConfig
		want string
	}{
		{HTTPConfig{}, ""}, {HTTPConfig{Listen: "off"}, ""}, {HTTPConfig{Listen: "127.0.0.1:9464"}, ""}, {HTTPConfig{Listen: "localhost:0"}, ""},
		{HTTPConfig{Listen: "0.0.0.0:9464"}, "which other machines reach"}, {HTTPConfig{Listen: ":9464"}, "which other machines reach"},
		{HTTPConfig{Listen: "0.0.0.0:9464", User: "u"}, "which other machines reach"},
		{HTTPConfig{Listen: "0.0.0.0:9464", User: "u", Password: component.NewSecret("p")}, ""},
		{HTTPConfig{User: "u"}, "go together"}, {HTTPConfig{Listen: "127.0.0.1:99999"}, "99999"}, {HTTPConfig{Listen: "9464"}, "no address"},
	} {
		p := tc.c.Validate()
		if err := p.Err(); (err == nil) != (tc.want == "") || (err != nil && !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%+v: %v, want %q", tc.c, err, tc.want)
		}
	}
}

// A default address that is busy moves, a configured one is an error.
func TestListen(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = busy.Close() }()
	moved, err := Listen("", busy.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if moved.Addr().String() == busy.Addr().String() {
		t.Error("it did not move")
	}
	_ = moved.Close()
	if l, err := Listen(busy.Addr().String(), "127.0.0.1:0"); err == nil {
		_ = l.Close()
		t.Error("a configured address moved")
	}
}

func TestLogger(t *testing.T) {
	var out bytes.Buffer
	log, err := NewLogger(LogConfig{Level: "warn", Format: "json"}, &out)
	if err != nil {
		t.Fatal(err)
	}
	log.Info("quiet")
	log.Warn("loud", "n", 1)
	if got := out.String(); strings.Contains(got, "quiet") || !strings.Contains(got, `"msg":"loud","n":1`) {
		t.Errorf("logged %s", got)
	}
	c := LogConfig{Level: "shout", Format: "xml"}
	if p := c.Validate(); len(p) != 2 {
		t.Errorf("problems are %v", p)
	}
}
