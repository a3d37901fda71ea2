package sinks

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/autohedge/autohedge/sinks/clickhouse"
	"github.com/autohedge/autohedge/stream/component"
)

// Bounds of the back-off between two attempts at the same thing.
const (
	retryFirst = 50 * time.Millisecond
	retryMost  = 3 * time.Second
)

// retry calls do until it succeeds, ctx ends, or it returns an error that says
// that the same attempt never will: one that is fatal, or clickhouse.ErrRefused. what names
// the work for people.
func (r *Role) retry(ctx context.Context, what string, do func(context.Context) error) error {
	wait := retryFirst
	var since time.Time
	for {
		err := do(ctx)
		if err == nil {
			if !since.IsZero() {
				r.waiting.Delete(what)
				r.env.Log.Info("going on", "what", what, "after", time.Since(since).Round(time.Millisecond))
			}
			return nil
		}
		if ctx.Err() != nil {
			r.waiting.Delete(what)
			return ctx.Err()
		}
		if component.IsFatal(err) || errors.Is(err, clickhouse.ErrRefused) {
			r.waiting.Delete(what)
			return err
		}
		err = explainLost(err)
		if since.IsZero() {
			since = time.Now()
		}
		r.waiting.Store(what, err)
		r.metrics.errors.Inc()
		if quiet, ok := r.warn.allow(); ok {
			r.env.Log.Warn("trying again", "what", what, "err", err, "since", since, "unlogged", quiet)
		}
		pause := wait/2 + rand.N(wait/2)
		var after *component.RetryAfterError
		if errors.As(err, &after) {
			pause = after.Wait
		}
		wait = min(2*wait, retryMost)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			r.waiting.Delete(what)
			return ctx.Err()
		}
		r.metrics.retries.Inc()
	}
}

// limiter lets one line through in a while and counts the others.
type limiter struct {
	every time.Duration

	mu    sync.Mutex
	last  time.Time
	quiet int
}

func (l *limiter) allow() (quiet int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if now.Sub(l.last) < l.every {
		l.quiet++
		return 0, false
	}
	l.last, quiet, l.quiet = now, l.quiet, 0
	return quiet, true
}
