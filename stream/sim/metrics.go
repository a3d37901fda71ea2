package sim

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the simulator's collectors. Labels are bound once per venue, in
// newVenue; nothing is looked up per trade.
type metrics struct {
	trades, quotes, frames, bytes, slow *prometheus.CounterVec
	faults                              *prometheus.CounterVec
	clients                             *prometheus.GaugeVec
	ledgerBytes                         prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"venue"})
	}
	m := &metrics{
		trades: counter("autohedge_sim_trades_total", "Trades made by the simulated market."),
		quotes: counter("autohedge_sim_quotes_total", "Top-of-book changes made by the simulated market."),
		frames: counter("autohedge_sim_frames_total", "Market data frames handed to the sockets."),
		bytes:  counter("autohedge_sim_sent_bytes_total", "Bytes handed to the sockets."),
		slow:   counter("autohedge_sim_slow_clients_total", "Connections closed because their queue was full."),
		faults: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "autohedge_sim_faults_total", Help: "Faults injected."}, []string{"venue", "kind"}),
		clients: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "autohedge_sim_clients_connections", Help: "Open client connections."}, []string{"venue"}),
		ledgerBytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "autohedge_sim_ledger_bytes_total", Help: "Bytes written to the ledger."}),
	}
	if reg == nil {
		return m, nil
	}
	var err error
	m.trades = register(reg, m.trades, &err)
	m.quotes = register(reg, m.quotes, &err)
	m.frames = register(reg, m.frames, &err)
	m.bytes = register(reg, m.bytes, &err)
	m.slow = register(reg, m.slow, &err)
	m.faults = register(reg, m.faults, &err)
	m.clients = register(reg, m.clients, &err)
	m.ledgerBytes = register(reg, m.ledgerBytes, &err)
	return m, err
}

// register adds c, or takes the collector that another simulator in the process
// has registered before.
func register[C prometheus.Collector](reg prometheus.Registerer, c C, err *error) C {
	rerr := reg.Register(c)
	var have prometheus.AlreadyRegisteredError
	if errors.As(rerr, &have) {
		if old, ok := have.ExistingCollector.(C); ok {
			return old
		}
	}
	if rerr != nil && *err == nil {
		*err = rerr
	}
	return c
}
