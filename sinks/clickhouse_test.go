package sinks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/autohedge/autohedge/sinks/clickhouse"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

func TestMain(m *testing.M) {
	clickhouse.RunChildIfAsked()
	os.Exit(m.Run())
}

// engine is an embedded ClickHouse and a client of it, perhaps through a proxy.
type engine struct {
	*clickhouse.Engine
	client *clickhouse.Client
}

func startEngine(t testing.TB, through func(url string) string) *engine {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	env := component.Discard()
	env.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	e, err := clickhouse.StartEngine(ctx, clickhouse.EngineConfig{Dir: filepath.Join(t.TempDir(), "db"), Addr: "127.0.0.1:0", Progress: os.Stderr}, env)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
		defer cancel()
		if err := e.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return &engine{Engine: e, client: connect(t, e, through)}
}

func connect(t testing.TB, e *clickhouse.Engine, through func(url string) string) *clickhouse.Client {
	t.Helper()
	cfg := clickhouse.DefaultConfig()
	if cfg.URL = e.URL(); through != nil {
		cfg.URL = through(cfg.URL)
	}
	client, err := clickhouse.Connect(t.Context(), cfg, component.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return client
}

// liar is a proxy in front of ClickHouse that cuts inserts off: before they are
// sent, in their middle, or after they are done and before the answer is told.
type liar struct {
	target string
	rng    *rand.Rand
	mu     sync.Mutex
	one    atomic.Int64 // of how many inserts one is cut; 0 is none
	cut    [3]atomic.Int64
}

func (l *liar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	lie := -1
	if n := l.one.Load(); n > 0 && strings.HasPrefix(r.URL.Query().Get("query"), "INSERT") {
		l.mu.Lock()
		if l.rng.Int64N(n) == 0 {
			lie = l.rng.IntN(len(l.cut))
		}
		l.mu.Unlock()
	}
	if lie >= 0 {
		l.cut[lie].Add(1)
	}
	if lie == 0 {
		panic(http.ErrAbortHandler)
	}
	var send io.Reader = bytes.NewReader(body)
	if lie == 1 {
		send = io.MultiReader(bytes.NewReader(body[:len(body)/2]), broken{})
	}
	// The server goes on with it although the client is gone.
	ctx := r.Context()
	if lie == 2 {
		ctx = context.WithoutCancel(ctx)
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, l.target+r.URL.RequestURI(), send)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	req.Header = r.Header.Clone()
	req.ContentLength = int64(len(body))
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil || lie >= 0 {
		if err == nil {
			_ = res.Body.Close()
		}
		panic(http.ErrAbortHandler)
	}
	for k, v := range res.Header {
		w.Header()[k] = v
	}
	w.WriteHeader(res.StatusCode)
	if _, err := io.Copy(w, res.Body); err != nil {
		panic(http.ErrAbortHandler)
	}
	_ = res.Body.Close()
}

// broken is a connection that ends.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// lyingProxy puts a liar in front of the engine.
func lyingProxy(t *testing.T, l *liar) func(url string) string {
	return func(url string) string {
		l.target = url
		s := httptest.NewUnstartedServer(l)
		s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
		s.Start()
		t.Cleanup(s.Close)
		return s.URL
	}
}

// verifyClickHouse compares every table with the log, row by row, and checks the
// proofs.
func (w *world) verifyClickHouse(client *clickhouse.Client) {
	w.t.Helper()
	ctx := w.t.Context()
	want, got := make(map[string][]string), make(map[string][]string)
	wantLetters := make(map[string]bool)
	for _, topic := range Topics() {
		bounds, err := w.client.Offsets(ctx, topic)
		if err != nil {
			w.t.Fatal(err)
		}
		for n, b := range bounds {
			for _, rec := range w.read(topic, int32(n), b.End) {
				batch := clickhouse.NewBatch(topic, event.ID{}, int32(n))
				block, err := batch.Add(rec.Offset, rec.Key, rec.Value)
				switch {
				case rec.SecondCopy:
				case err != nil:
					wantLetters[fmt.Sprintf("%s/%d/%d", topic, n, rec.Offset)] = true
				case block != clickhouse.NoRow:
					table := batch.Blocks()[0].Table()
					want[table] = append(want[table], fmt.Sprintf("%s/%d/%d %s", topic, n, rec.Offset, eventID(w.t, rec)))
				}
			}
		}
	}
	letters := make(map[string]bool)
	for _, table := range clickhouse.Tables {
		columns := "event_id"
		if table == "dead" {
			columns += ", source_topic, source_partition, source_offset"
		}
		res, err := client.Query(ctx, "SELECT topic, kafka_partition, kafka_offset, "+columns+" FROM "+table)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, row := range res.Rows {
			got[table] = append(got[table], fmt.Sprintf("%s/%s/%s %s", row[0], row[1], row[2], row[3]))
			if table == "dead" {
				letters[fmt.Sprintf("%s/%s/%s", row[4], row[5], row[6])] = true
			}
		}
	}
	for _, m := range []map[string][]string{want, got} {
		for table := range m {
			slices.Sort(m[table])
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		w.t.Errorf("rows differ (-log +database):\n%s", diff)
	}
	if diff := cmp.Diff(wantLetters, letters); diff != "" {
		w.t.Errorf("dead letters differ (-log +database):\n%s", diff)
	}
	proofs, err := Prove(ctx, w.client, client)
	if err != nil {
		w.t.Fatal(err)
	}
	var records int64
	for _, p := range proofs {
		records += p.End - p.Start
		if p.Missing != 0 {
			w.t.Errorf("proof fails: %+v", p)
		}
	}
	duplicates, err := client.Duplicates(ctx)
	if err != nil || duplicates != 0 {
		w.t.Errorf("%d duplicates, %v", duplicates, err)
	}
	w.t.Logf("%d records accounted for in %d partitions, missing 0, duplicates %d", records, len(proofs), duplicates)
}

// eventID is the identity of a record, as the tables have it.
func eventID(t *testing.T, rec bus.Record) string {
	t.Helper()
	m, err := event.Decode(rec.Value)
	if err != nil {
		t.Fatal(err)
	}
	switch m := m.(type) {
	case *event.Trade:
		return string(m.AppendID(nil, rec.Key))
	case *event.Signal:
		return m.ID.String()
	case *event.Control:
		return m.ID.String()
	case *event.Dead:
		return m.ID.String()
	}
	t.Fatalf("no identity of %T", m)
	return ""
}

func TestClickHouse(t *testing.T) {
	w := newWorld(t)
	e := startEngine(t, nil)
	rng := rand.New(rand.NewPCG(11, 11))
	w.publish(rng, 1500)
	r := w.start(testConfig(), ClickHouse(e.client), nil)
	w.publish(rng, 500)
	r.drain(t)
	w.verifyClickHouse(e.client)
	res, err := e.client.Query(t.Context(), "SELECT DISTINCT toYYYYMMDD(event_time) AS day FROM ticks ORDER BY day")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([][]string{{"20261123"}, {"20261124"}}, res.Rows); diff != "" {
		t.Errorf("days of ticks differ (-want +got):\n%s", diff)
	}
}

// TestClickHouseCrashes kills the engine in the middle of inserts, cuts
// connections so that outcomes are unknown, and ends the role at random steps.
func TestClickHouseCrashes(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 12))
	w := newWorld(t)
	l := &liar{rng: rand.New(rand.NewPCG(seed, 13))}
	e := startEngine(t, lyingProxy(t, l))
	l.one.Store(5)
	steps := []string{"before plan", "after plan", "between tables", "before landed", "after landed"}
	seen := make(map[string]int)
	kills := 0
	for round := range 8 {
		w.publish(rng, 200)
		at, left := steps[rng.IntN(len(steps))], new(atomic.Int64)
		left.Store(1 + rng.Int64N(8))
		r := w.start(testConfig(), ClickHouse(connect(t, e.Engine, nil)), nil)
		r.cancel()
		<-r.err // at once: whatever it had begun stays unfinished
		r = w.start(testConfig(), ClickHouse(e.client), func(step string) error {
			if step == at && left.Add(-1) < 0 {
				return errCrash
			}
			return nil
		})
		if round%2 == 1 {
			select {
			case <-r.Ready():
			case err := <-r.err: // the step came while the last plan was sent again
				r.err <- err
			}
			w.publish(rng, 200)
			if pid := e.PID(); pid > 0 && syscall.Kill(pid, syscall.SIGKILL) == nil {
				kills++
			}
		}
		select {
		case err := <-r.err:
			if !errors.Is(err, errCrash) {
				t.Fatalf("Run returned %v", err)
			}
			seen[at]++
		case <-time.After(2 * time.Second):
			r.cancel()
			<-r.err
		}
	}
	l.one.Store(0)
	w.start(testConfig(), ClickHouse(e.client), nil).drain(t)
	t.Logf("crashes of the role: %v; of the engine: %d; inserts cut before, within and after: %d, %d, %d",
		seen, kills, l.cut[0].Load(), l.cut[1].Load(), l.cut[2].Load())
	w.verifyClickHouse(e.client)
	if e.Restarts() == 0 {
		t.Error("the engine was never restarted")
	}
}
