package app

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/autohedge/autohedge/cmd/internal/obs"
	"github.com/autohedge/autohedge/stream"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/sim"
)

func (t *tool) simulateCommand() *cobra.Command {
	cfg := sim.DefaultConfig()
	var length time.Duration
	c := &cobra.Command{
		Use: "simulate", Short: "Run the exchange simulator alone", GroupID: "run", Args: args(cobra.NoArgs),
		Long: `simulate serves a seeded market in the wire formats of Binance spot and Coinbase
Exchange, over WebSocket and REST, for this engine or any other client. Each
trade is written to the ledger file before it is sent. Faults happen on a
schedule or on demand:

  curl -X POST 'http://ADDRESS/faults?kind=drop&venue=coinbase&duration=2s'

Kinds: drop, close, stall, mute, duplicate, garbage, shutdown.`,
		Example: "  autohedge simulate --listen 127.0.0.1:9500 --rate 5000 --schedule demo",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			if length < 0 {
				return withCode(exitUsage, fmt.Errorf("--for %s: want a time of 0 or more", length))
			}
			if length > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, length)
				defer cancel()
			}
			if cfg.Dir == "" {
				c, err := t.loadConfig()
				if err != nil {
					return err
				}
				f, err := t.openFolder(c)
				if err != nil {
					return err
				}
				cfg.Dir = f.Sim()
			}
			if err := cfg.Validate().Err(); err != nil {
				return withCode(exitUsage, err)
			}
			log, err := obs.NewLogger(obs.DefaultLogConfig(), t.err)
			if err != nil {
				return err
			}
			t.terminal.serve(log)
			s, err := sim.Start(ctx, cfg, component.Env{Log: log, Metrics: obs.NewRegistry(Version()), Clock: component.SystemClock{}})
			if err != nil {
				return err
			}
			urls := map[string]string{"address": s.Addr(), "binance_ws": s.BinanceURL(), "binance_rest": s.BinanceREST(), "coinbase_ws": s.CoinbaseURL(), "coinbase_rest": s.CoinbaseREST()}
			if t.output == "json" {
				err = t.json(urls)
			} else {
				for _, k := range keys(urls) {
					fmt.Fprintf(t.out, "%-14s %s\n", k, urls[k])
				}
			}
			if err == nil {
				select {
				case <-ctx.Done():
				case <-s.Done():
				}
			}
			if cerr := s.Close(); cerr != nil {
				return cerr
			}
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Listen, "listen", cfg.Listen, "host:port; port 0 takes a free one")
	f.StringVar(&cfg.Dir, "dir", "", "folder of the ledger (default: sim in the data folder)")
	f.Uint64Var(&cfg.Seed, "seed", cfg.Seed, "the market's shape")
	f.Float64Var(&cfg.Rate, "rate", cfg.Rate, "trades a second over all symbols")
	f.StringSliceVar(&cfg.Binance, "binance", cfg.Binance, "symbols of the Binance side")
	f.StringSliceVar(&cfg.Coinbase, "coinbase", cfg.Coinbase, "products of the Coinbase side")
	f.StringVar(&cfg.Schedule, "schedule", cfg.Schedule, "faults that happen by themselves: none or demo")
	f.BoolVar(&cfg.Ledger, "ledger", cfg.Ledger, "write each trade to the ledger before it is sent")
	f.DurationVar(&length, "for", 0, "end by itself after this long")
	return c
}

// simFeeds are the feeds of a simulator.
func simFeeds(s *sim.Sim, cfg sim.Config) []stream.FeedConfig {
	var feeds []stream.FeedConfig
	add := func(name, url, rest string, symbols []string) {
		if len(symbols) == 0 {
			return
		}
		f := stream.DefaultFeed()
		f.Name, f.Venue, f.URL, f.REST, f.Symbols = name, name, url, rest, symbols
		feeds = append(feeds, f)
	}
	add("binance", s.BinanceURL()+"/stream", s.BinanceREST(), cfg.Binance)
	add("coinbase", s.CoinbaseURL(), s.CoinbaseREST(), cfg.Coinbase)
	return feeds
}
