package component_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/autohedge/autohedge/stream/component"
)

func TestRefuseBrowsers(t *testing.T) {
	loopback := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80}
	public := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 80}
	for _, tc := range []struct {
		name   string
		local  net.Addr
		host   string
		header [2]string
		want   int
	}{
		{"curl", loopback, "127.0.0.1:9464", [2]string{}, 200},
		{"by name", loopback, "localhost:9464", [2]string{}, 200},
		{"IPv6", loopback, "[::1]:9464", [2]string{}, 200},
		{"typed into a browser", loopback, "localhost:9464", [2]string{"Sec-Fetch-Site", "none"}, 200},
		{"a page of its own", loopback, "localhost:9464", [2]string{"Sec-Fetch-Site", "same-origin"}, 200},
		{"its own origin", loopback, "localhost:9464", [2]string{"Origin", "http://localhost:9464"}, 200},
		{"an image on a foreign page", loopback, "localhost:9464", [2]string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"a page of another port", loopback, "localhost:9464", [2]string{"Sec-Fetch-Site", "same-site"}, 403},
		{"the origin of another port", loopback, "localhost:9464", [2]string{"Origin", "http://localhost:3000"}, 403},
		{"a foreign origin", loopback, "localhost:9464", [2]string{"Origin", "http://evil.example"}, 403},
		{"no origin", loopback, "localhost:9464", [2]string{"Origin", "null"}, 403},
		{"rebinding", loopback, "evil.example:9464", [2]string{}, 403},
		{"a name, not loopback", public, "prod.example:9464", [2]string{}, 200},
		{"a foreign page, not loopback", public, "prod.example:9464", [2]string{"Sec-Fetch-Site", "cross-site"}, 403},
	} {
		r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
		r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, tc.local))
		r.Host = tc.host
		if tc.header[0] != "" {
			r.Header.Set(tc.header[0], tc.header[1])
		}
		w := httptest.NewRecorder()
		component.RefuseBrowsers(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })).ServeHTTP(w, r)
		if w.Code != tc.want {
			t.Errorf("%s: %d, want %d: %s", tc.name, w.Code, tc.want, w.Body)
		}
	}
}

func TestIsLoopback(t *testing.T) {
	for addr, want := range map[string]bool{"127.0.0.1:1": true, "localhost": true, "[::1]:2": true, "::1": true, "0.0.0.0:1": false, "[::]:1": false,
		"10.0.0.1:1": false, "example.com:1": false, ":9464": false, "127.1.2.3": true} {
		if got := component.IsLoopback(addr); got != want {
			t.Errorf("%s is loopback: %v, want %v", addr, got, want)
		}
	}
}
