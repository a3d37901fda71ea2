package app_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// README's feed of one's own trades on paper as it is written there: only the address is
// another.
func TestFeedOfYourOwn(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(readme), "**A feed of your own**")
	_, rest, _ = strings.Cut(rest, "```yaml\n")
	text, _, found := strings.Cut(rest, "```")
	if !found || !strings.Contains(text, "ws://localhost:8765") {
		t.Fatalf("README has no such feed: %q", text)
	}
	// Ten instruments that stand still, but for a dip of each every three seconds.
	up := websocket.Upgrader{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer func() { _ = ws.Close() }()
		for n := 0; ; n++ {
			price := 100 + 0.01*float64(n%5)
			if n%70 == 69 {
				price = 99.8
			}
			for i := range 10 {
				frame := fmt.Sprintf(`{"symbol":"C%d-USD","price":%.2f,"bid":%.2f,"ask":%.2f}`, i, price, price-0.01, price+0.01)
				if ws.WriteMessage(websocket.TextMessage, []byte(frame)) != nil {
					return
				}
			}
			time.Sleep(50 * time.Millisecond)
		}
	}))
	t.Cleanup(s.Close)
	t.Cleanup(s.CloseClientConnections)
	file := write(t, t.TempDir(), "mine.yaml", strings.Replace(text, "ws://localhost:8765", "ws"+strings.TrimPrefix(s.URL, "http"), 1)+"http: {listen: \"off\"}\n")
	if out := succeed(t, "check", "--config", file); !strings.Contains(out, "0 warnings") {
		t.Errorf("check says %s", out)
	}
	data := t.TempDir()
	p := start(t, "demo", "--feed", "config", "--config", file, "--data", data, "--for", "10m", "--output", "json")
	p.ready()
	atLeast(t, data, 1, "SELECT count() FROM fills WHERE venue = 'mine'")
	atLeast(t, data, 1, "SELECT count() FROM quotes WHERE channel = 'json.quote' AND bid > 0")
	p.signal(syscall.SIGTERM)
	if c := p.clean(); c.Fills == 0 || c.Quotes == 0 {
		t.Errorf("closing: %+v", c)
	}
}
