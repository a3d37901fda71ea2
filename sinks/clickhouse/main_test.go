package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/autohedge/autohedge/stream/component"
)

func TestMain(m *testing.M) {
	RunChildIfAsked()
	reportConfined()
	os.Exit(closeShared(m.Run()))
}

func closeShared(code int) int {
	if shared.engine != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
		defer cancel()
		if err := shared.engine.Close(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "closing the shared engine:", err)
			code = 1
		}
	}
	if shared.dir != "" {
		_ = os.RemoveAll(shared.dir)
	}
	return code
}

// shared is one engine for all tests that do not kill it.
var shared struct {
	once   sync.Once
	engine *Engine
	dir    string
	err    error
}

// testEnv logs through t, so that the engine's words appear with a failure.
func testEnv(t testing.TB) component.Env {
	env := component.Discard()
	env.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	return env
}

func sharedEngine(t testing.TB) *Engine {
	t.Helper()
	shared.once.Do(func() {
		if shared.dir, shared.err = os.MkdirTemp("", "autohedge-clickhouse-"); shared.err != nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
		defer cancel()
		env := component.Discard()
		env.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
		shared.engine, shared.err = StartEngine(ctx, EngineConfig{Dir: filepath.Join(shared.dir, "db"), Addr: "127.0.0.1:0", Progress: os.Stderr}, env)
	})
	if shared.err != nil {
		t.Fatalf("starting the shared engine: %v", shared.err)
	}
	return shared.engine
}

// startEngine starts an engine of the test's own.
func startEngine(t testing.TB, dir string) *Engine {
	t.Helper()
	sharedEngine(t) // fetches the library
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	e, err := StartEngine(ctx, EngineConfig{Dir: dir, Addr: "127.0.0.1:0"}, testEnv(t))
	if err != nil {
		t.Fatalf("starting an engine: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
		defer cancel()
		if err := e.Close(ctx); err != nil {
			t.Errorf("closing the engine: %v", err)
		}
	})
	return e
}

// asError is errors.As with the target's type inferred.
func asError[E error](err error, target *E) bool { return errors.As(err, target) }
