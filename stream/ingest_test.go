package stream

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
)

// BenchmarkIngest is a loopback socket to Kafka's acknowledgement, everything in
// this process: trades of 100 symbols as fast as they are taken.
func BenchmarkIngest(b *testing.B) {
	broker, err := bus.StartEmbedded(b.Context(), bus.EmbeddedConfig{Addr: "127.0.0.1:0", Partitions: 4}, component.Discard())
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = broker.Close() }()
	cfg := bus.DefaultConfig()
	cfg.Partitions = 4
	cfg.Brokers = []string{broker.Addr()}
	client, err := bus.Connect(b.Context(), cfg, component.Discard())
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	if err := client.EnsureTopics(b.Context()); err != nil {
		b.Fatal(err)
	}
	symbols := make([]string, 100)
	for i := range symbols {
		symbols[i] = fmt.Sprintf("SYM%02dUSDT", i)
	}
	frames := make([]byte, 0, 256*b.N)
	for i := range b.N {
		f := strings.Replace(bnTrade(1e9+i/len(symbols)), "BTCUSDT", symbols[i%len(symbols)], 1)
		frames = append(append(frames, 0x81, 126, byte(len(f)>>8), byte(len(f))), f...) // RFC 6455: a text frame
	}
	begin := make(chan struct{})
	s := serveVenue(b, func(_ int, ws *websocket.Conn) {
		<-begin
		if _, err := ws.NetConn().Write(frames); err != nil {
			b.Error(err)
		}
		_, _, _ = ws.ReadMessage() // until it leaves
	})
	feed := DefaultFeed()
	feed.Venue, feed.URL, feed.Symbols, feed.Channels = "binance", s.url(), symbols, []string{"trade"}
	role := DefaultConfig()
	role.Feeds, role.QueueBytes = []FeedConfig{feed}, 1<<30
	r, err := New(role, client, component.Discard())
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- r.Run(context.Background()) }()
	<-r.Ready()
	b.ReportAllocs()
	b.ResetTimer()
	close(begin)
	for r.Feeds()[0].Trades < uint64(b.N) {
		time.Sleep(time.Millisecond)
	}
	if err := r.output().Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ticks/s")
	if err := r.Drain(b.Context()); err != nil {
		b.Fatal(err)
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}
