package app

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/autohedge/autohedge/cmd/internal/capacity"
	"github.com/autohedge/autohedge/execution"
)

const (
	// budgetEvery is how often the data folder is measured at most; a measurement
	// that takes long is made more seldom, so that it costs 5 % of a core at most.
	budgetEvery = 5 * time.Second
	budgetCost  = 20
	// budgetWho is the name under which the budget halts.
	budgetWho = "disk budget"
)

// budget watches what the data folder takes.
type budget struct {
	meter *capacity.Meter
	used  *prometheus.GaugeVec
	limit prometheus.Gauge
	free  prometheus.Gauge
	hours prometheus.Gauge
	// unsaved is the reason of a halt that only the latch holds: the disk took
	// neither the file nor control. It is written as soon as they do.
	unsaved string
}

func newBudget(e *engine) *budget {
	f := e.folder
	b := &budget{
		meter: capacity.NewMeter(f.Root(), e.cfg.MaxBytes, []capacity.Room{
			{Name: "kafka", Dir: f.Kafka()}, {Name: "clickhouse", Dir: f.ClickHouse()}, {Name: "spill", Dir: f.Spill()},
			{Name: "paper", Dir: f.Paper()}, {Name: "sim", Dir: f.Sim()}, {Name: "log", Dir: f.LogFiles()},
		}),
		used:  prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "autohedge_data_used_bytes", Help: "What the data folder takes on disk, by room."}, []string{"room"}),
		limit: prometheus.NewGauge(prometheus.GaugeOpts{Name: "autohedge_data_limit_bytes", Help: "What the data folder may take: data_max_bytes."}),
		free:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "autohedge_data_free_bytes", Help: "What the data folder's file system has free."}),
		hours: prometheus.NewGauge(prometheus.GaugeOpts{Name: "autohedge_data_left_hours", Help: "How long the budget lasts at the present rate; -1 while nothing grows."}),
	}
	e.metrics.MustRegister(b.used, b.limit, b.free, b.hours)
	return b
}

// watch measures until ctx ends, and halts new risk while the budget is spent. A
// halt is lifted by a named human only, as every other.
func (b *budget) watch(ctx context.Context, e *engine) {
	for {
		began := time.Now()
		b.measure(ctx, e, began)
		wait := time.NewTimer(max(budgetEvery, budgetCost*time.Since(began)))
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return
		}
	}
}

func (b *budget) measure(ctx context.Context, e *engine, now time.Time) {
	u, err := b.meter.Measure(now)
	if err != nil {
		e.env.Log.Warn("measuring the data folder", "err", err)
		return
	}
	for room, n := range u.Rooms {
		b.used.WithLabelValues(room).Set(float64(n))
	}
	b.limit.Set(float64(u.Limit))
	b.free.Set(float64(u.Free))
	b.hours.Set(-1)
	if u.HoursLeft != nil {
		b.hours.Set(*u.HoursLeft)
	}
	e.board.SetData(u)
	r := e.executionRole()
	if r == nil {
		return
	}
	why, first := u.Full, true
	if r.HaltedBy(budgetWho) {
		why, first = b.unsaved, false
	}
	if b.unsaved = ""; why == "" {
		return
	}
	report, err := r.Halt(ctx, budgetWho, why)
	if err != nil {
		e.env.Log.Error("halting because the disk budget is spent", "err", err)
		return
	}
	if !report.File || !report.Control {
		b.unsaved = why
	}
	for _, w := range report.Warnings {
		if first {
			e.env.Log.Warn("halting because the disk budget is spent", "warning", w)
		}
	}
}

// executionRole is the execution role of this process once it is ready, or nil.
func (e *engine) executionRole() *execution.Role {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range e.roles {
		if x, ok := r.current().(*execution.Role); ok {
			select {
			case <-x.Ready():
				return x
			default:
			}
		}
	}
	return nil
}
