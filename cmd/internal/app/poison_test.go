package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"

	"github.com/autohedge/autohedge/cmd/internal/config"
	"github.com/autohedge/autohedge/stream/bus/bustest"
	"github.com/autohedge/autohedge/stream/event"
)

// poison are records that no program of ours writes: bytes that are no event, texts that
// are not UTF-8, names that do not print, claims and controls that do not parse or are
// absurd, types of a newer version.
func poison(r *rand.Rand, topic string) [][]byte {
	named := func(name string) *event.Decision {
		return &event.Decision{ID: event.HashStrings(name), Account: "paper", Strategy: "s", Venue: "binance", Symbol: "BTCUSDT", Action: event.ActionLong}
	}
	list := [][]byte{
		[]byte("hello"), {}, nil, {0xff}, bytes.Repeat([]byte{0xff}, 300), {31<<3&0xff | 2, 1, 5, 0xff},
		append([]byte{0xfa, 0x01, 4}, 0x0a, 0xff, 0xff, 0xff), // an epoch that does not parse
		append([]byte{0xba, 0x01, 3}, 0x0a, 0x10, 0xff),       // a control record that does not parse
		append([]byte{0xc2, 0x3e, 2}, 8, 1),                   // a type of a newer version
		event.Marshal(&event.Epoch{Key: "execution.0", Number: 1<<64 - 1, Who: "nobody"}),
		event.Marshal(&event.Epoch{Key: strings.Repeat("k", 5000), Number: 3}),
		event.Marshal(&event.Incarnation{Topic: topic, ID: event.HashStrings("forged"), Partitions: 4}),
	}
	// Strings that the codec itself would not write.
	d := event.Marshal(named("MARK"))
	for _, name := range []string{"a\x00b\xff\n", "\x1b[31m", strings.Repeat("x", 100)} {
		list = append(list, withStrategy(d, name))
	}
	for range 20 { // mutated
		m := bytes.Clone(list[r.IntN(len(list))])
		for range 1 + r.IntN(4) {
			if len(m) > 0 {
				m[r.IntN(len(m))] = byte(r.UintN(256))
			}
		}
		list = append(list, m)
	}
	return list
}

// withStrategy puts other bytes of the same length or not in place of the strategy "s".
func withStrategy(decision []byte, name string) []byte {
	i := bytes.Index(decision, []byte{5<<3 | 2, 1, 's'})
	if i < 0 {
		return decision
	}
	body := append(append(bytes.Clone(decision[:i+1]), byte(len(name))), name...)
	body = append(body, decision[i+3:]...)
	// The event's own length: tag of two bytes, then the length.
	tag := 2
	_, n := varint(body[tag:])
	inner := body[tag+n:]
	out := append([]byte{}, body[:tag]...)
	for v := uint64(len(inner)); ; v >>= 7 {
		if v < 0x80 {
			out = append(out, byte(v))
			break
		}
		out = append(out, byte(v)|0x80)
	}
	return append(out, inner...)
}

func varint(b []byte) (v uint64, n int) {
	for i, c := range b {
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			return v, i + 1
		}
	}
	return v, len(b)
}

// TestProcessPoison puts records that nobody can use into every topic of a running
// engine and of one that starts. Every role lives and is ready, or is halted with the
// command that goes on; the proof of landing closes; and after the commands that were
// named it trades again.
func TestProcessPoison(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	data := t.TempDir()
	conf := write(t, t.TempDir(), "autohedge.yaml", unhurried(func(c *config.Config) { c.Embedded.Kafka = "127.0.0.1:0" }))
	p := start(t, "demo", "--config", conf, "--data", data, "--for", "10m", "--output", "json")
	p.ready()
	atLeast(t, data, 3, "SELECT uniqExact(client_order_id) FROM order_events")
	spread(t, data, r)
	p.says("cannot be read|that cannot be used|cannot be decoded")
	before := number(t, data, "SELECT count() FROM ticks")
	atLeast(t, data, before+100, "SELECT count() FROM ticks")
	p.signal(syscall.SIGTERM)
	first := decodeAtEnd(p)
	if first.Missing == nil || *first.Missing != 0 || first.Duplicates == nil || *first.Duplicates != 0 {
		t.Errorf("the running engine: missing %v, duplicates %v, errors %v", first.Missing, first.Duplicates, first.Errors)
	}
	for _, e := range first.Errors {
		if strings.Contains(e, "role ") {
			t.Errorf("a role ended: %s", e)
		}
	}

	// The next start meets all of it again.
	p = start(t, "demo", "--config", conf, "--data", data, "--for", "10m", "--output", "json")
	p.ready()
	atLeast(t, data, number(t, data, "SELECT count() FROM ticks")+100, "SELECT count() FROM ticks")
	var report struct {
		Halts []struct{ Why string } `json:"halts"`
	}
	halted := func() bool {
		report.Halts = nil
		if err := json.Unmarshal([]byte(succeed(t, "halt", "--status", "--data", data, "--output", "json")), &report); err != nil {
			t.Fatal(err)
		}
		return len(report.Halts) > 0
	}
	until(t, "the halt that unreadable records of the order log bring about is there", halted)
	for _, h := range report.Halts {
		if !strings.Contains(h.Why, "autohedge topics skip ") {
			t.Errorf("a halt names no command: %s", h.Why)
		}
	}
	succeed(t, "resume", "--data", data, "--why", "they were written by a test")
	orders := number(t, data, "SELECT uniqExact(client_order_id) FROM order_events WHERE state != 'risk_rejected'")
	atLeast(t, data, orders+1, "SELECT uniqExact(client_order_id) FROM order_events WHERE state != 'risk_rejected'")
	p.signal(syscall.SIGTERM)
	second := decodeAtEnd(p)
	if second.Missing == nil || *second.Missing != 0 || len(second.Errors) > 0 {
		t.Errorf("the second start: missing %v, errors %v", second.Missing, second.Errors)
	}
}

// spread writes poison into every topic, and a compressed bomb.
func spread(t *testing.T, data string, r *rand.Rand) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var records []bustest.ForeignRecord
	for _, topic := range event.Topics {
		if strings.HasPrefix(topic.Name, "state.") {
			continue // each record there belongs to an owner, by key and by its own sums
		}
		for i, value := range poison(r, topic.Name) {
			key := []byte(fmt.Sprintf("poison|%d", i))
			records = append(records, bustest.ForeignRecord{Topic: topic.Name, Partition: 0, Key: key, Value: value})
		}
	}
	for _, topic := range []string{event.TopicMarket, event.TopicOrders, event.TopicSignals} {
		records = append(records, bustest.ForeignRecord{Topic: topic, Partition: 0, Key: []byte("bomb"), Value: make([]byte, 20<<20)})
	}
	a := announced(t, data, "kafka")
	if err := bustest.WriteForeign(ctx, a.Addr, records, bustest.LogIn(a.User, a.Password)); err != nil {
		t.Fatal(err)
	}
}
