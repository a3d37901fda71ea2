package app

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/autohedge/autohedge/agents"
	"github.com/autohedge/autohedge/cmd/internal/capacity"
	"github.com/autohedge/autohedge/execution"
	"github.com/autohedge/autohedge/signals"
	"github.com/autohedge/autohedge/sinks"
	"github.com/autohedge/autohedge/stream"
	"github.com/autohedge/autohedge/stream/component"
)

// roleSpec is one row of the role table.
type roleSpec struct {
	name    string
	summary string
	// store says that the role needs ClickHouse.
	store bool
	// build makes a role of env; it may be called again once the role has ended.
	build func(ctx context.Context, e *engine, env component.Env) (component.Role, error)
}

// roleTable lists every role, downstream first: they start in this order and
// stop in the reverse one, so that what flows is always caught.
func roleTable() []roleSpec {
	return []roleSpec{
		{name: "sinks", summary: "land every topic in ClickHouse, each row once", store: true, build: func(_ context.Context, e *engine, env component.Env) (component.Role, error) {
			store := sinks.ClickHouse(e.store)
			if e.cfg.ClickHouse.URL == "" {
				store = &roomyStore{Store: store, dir: e.folder.Root(), free: capacity.Free, exec: e.store.Exec}
			}
			cfg := e.cfg.Sinks
			if cfg.TrimBytes == 0 && len(e.cfg.Kafka.Brokers) == 0 {
				cfg.TrimBytes = min(sinks.EmbeddedTrimBytes, e.maxLogBytes()/2)
			}
			role, err := sinks.New(cfg, e.client, store, env)
			if err != nil {
				return nil, err
			}
			role.TrimBehind(func(ctx context.Context, partition int32) (int64, bool, error) {
				return signals.SnapshotFloor(ctx, e.client, partition)
			})
			return role, nil
		}},
		{name: "execution", summary: "check decisions against hard limits and place the orders that survive", build: func(_ context.Context, e *engine, env component.Env) (component.Role, error) {
			return execution.New(e.cfg.Execution, e.client, e.executionPaths(), env.With("execution"))
		}},
		{name: "agents", summary: "let the desk judge each signal", build: func(_ context.Context, e *engine, env component.Env) (component.Role, error) {
			return agents.New(e.cfg.Agents, e.client, env)
		}},
		{name: "signals", summary: "fire a signal when an indicator crosses its threshold", build: func(_ context.Context, e *engine, env component.Env) (component.Role, error) {
			return signals.New(e.cfg.Signals, e.client, env.With("signals"))
		}},
		{name: "stream", summary: "supervise the feeds and publish market data", build: func(_ context.Context, e *engine, env component.Env) (component.Role, error) {
			cfg := e.cfg.Stream
			cfg.SpillDir = e.folder.Spill()
			return stream.New(cfg, e.client, env)
		}},
	}
}

// pickRoles returns the rows of the table that were asked for, in the table's
// order; nothing or "all" is every row.
func pickRoles(names []string) ([]roleSpec, error) {
	table := roleTable()
	if len(names) == 0 || slices.Contains(names, "all") {
		return table, nil
	}
	var picked []roleSpec
	for _, r := range table {
		if slices.Contains(names, r.name) {
			picked = append(picked, r)
		}
	}
	for _, n := range names {
		if !slices.ContainsFunc(table, func(r roleSpec) bool { return r.name == n }) {
			var legal []string
			for _, r := range table {
				legal = append(legal, r.name)
			}
			return nil, fmt.Errorf("unknown role %q: want all or some of %s", n, strings.Join(legal, ", "))
		}
	}
	return picked, nil
}
