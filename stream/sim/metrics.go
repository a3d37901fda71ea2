package sim

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/autohedge/autohedge/stream/component"
)

// metrics are the simulator's collectors. Labels are bound once per venue, in
// newVenue; nothing is looked up per trade.
type metrics struct {
	trades, quotes, frames, bytes, slow *prometheus.CounterVec
	faults                              *prometheus.CounterVec
	clients                             *prometheus.GaugeVec
	ledgerBytes                         prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string) *prometheus.CounterVec {
		return component.Register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"venue"}))
	}
	return &metrics{
		trades: counter("autohedge_sim_trades_total", "Trades made by the simulated market."),
		quotes: counter("autohedge_sim_quotes_total", "Top-of-book changes made by the simulated market."),
		frames: counter("autohedge_sim_frames_total", "Market data frames handed to the sockets."),
		bytes:  counter("autohedge_sim_sent_bytes_total", "Bytes handed to the sockets."),
		slow:   counter("autohedge_sim_slow_clients_total", "Connections closed because their queue was full."),
		faults: component.Register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "autohedge_sim_faults_total", Help: "Faults injected."}, []string{"venue", "kind"})),
		clients: component.Register(reg, prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "autohedge_sim_clients_connections", Help: "Open client connections."}, []string{"venue"})),
		ledgerBytes: component.Register(reg, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "autohedge_sim_ledger_bytes_total", Help: "Bytes written to the ledger."})),
	}
}
