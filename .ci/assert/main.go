// Command assert checks the closing objects of the demo and of replays, for
// .ci/run. It exits with 1 and says what does not hold.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// closing is the part of the closing object that is asserted.
type closing struct {
	Ticks      uint64            `json:"ticks"`
	Quotes     uint64            `json:"quotes"`
	Signals    uint64            `json:"signals"`
	Decisions  uint64            `json:"decisions"`
	Orders     uint64            `json:"orders"`
	Fills      uint64            `json:"fills"`
	Symbols    uint64            `json:"symbols"`
	Venues     uint64            `json:"venues"`
	Indicators map[string]uint64 `json:"signals_by_indicator"`
	Actions    map[string]uint64 `json:"decisions_by_action"`
	Rejections map[string]uint64 `json:"rejections_by_limit"`
	Sides      map[string]uint64 `json:"fills_by_side"`
	Partial    uint64            `json:"partial_fills"`
	Gaps       uint64            `json:"gaps"`
	Rows       map[string]uint64 `json:"rows"`
	Lag        *int64            `json:"lag"`
	Missing    *int64            `json:"missing"`
	Duplicates *int64            `json:"duplicates"`
	SimCheck   *uint64           `json:"sim_check"`
	PnLCheck   string            `json:"pnl_check"`
	Unproven   uint64            `json:"unproven_orders"`
	PnL        map[string]string `json:"pnl"`
	Hashes     map[string]string `json:"hashes"`
	Frames     map[string]struct {
		Read, Published, Refused uint64
		Ignored                  map[string]uint64
	} `json:"frames"`
	Errors []string `json:"errors"`
}

type checker struct{ failed int }

func (c *checker) that(ok bool, format string, args ...any) {
	verdict := "ok  "
	if !ok {
		verdict = "FAIL"
		c.failed++
	}
	fmt.Println(verdict, fmt.Sprintf(format, args...))
}

func main() {
	c := &checker{}
	if err := run(c, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "assert:", err)
		os.Exit(2)
	}
	if c.failed > 0 {
		os.Exit(1)
	}
}

func run(c *checker, args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("want demo FILE or replay FILE FILE..., have %s", strings.Join(args, " "))
	}
	var all []closing
	for _, path := range args[1:] {
		text, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("reading closing object: %w", err)
		}
		var x closing
		if err := json.Unmarshal(text, &x); err != nil {
			return fmt.Errorf("decoding %s: %w", path, err)
		}
		c.clean(path, &x)
		all = append(all, x)
	}
	if args[0] == "demo" {
		c.demo(&all[0])
		return nil
	}
	return c.replay(all)
}

// clean asserts what holds after every orderly end.
func (c *checker) clean(path string, x *closing) {
	zero := func(n *int64) bool { return n != nil && *n == 0 }
	c.that(zero(x.Lag) && zero(x.Missing) && zero(x.Duplicates), "%s: lag, missing and duplicates are 0", path)
	c.that(x.PnLCheck == "0", "%s: pnl_check %q is 0", path, x.PnLCheck)
	c.that(x.Unproven == 0, "%s: unproven_orders %d is 0", path, x.Unproven)
	c.that(x.Errors != nil && len(x.Errors) == 0, "%s: no errors %v", path, x.Errors)
	c.that(x.Rows["ticks"] >= x.Ticks && x.Rows["quotes"] >= x.Quotes, "%s: the folder holds at least the run's rows", path)
}

func (c *checker) demo(x *closing) {
	c.that(x.Ticks >= 25_000, "ticks %d >= 25000", x.Ticks)
	c.that(x.Symbols >= 4 && x.Venues >= 2, "symbols %d >= 4 on %d >= 2 wire formats", x.Symbols, x.Venues)
	c.that(x.Signals >= 20 && len(x.Indicators) >= 4, "signals %d >= 20 of %d >= 4 indicators", x.Signals, len(x.Indicators))
	c.that(x.Sides["buy"] > 0 && x.Sides["sell"] > 0, "buys and sells filled %v", x.Sides)
	c.that(x.Partial >= 1, "partial fills %d >= 1", x.Partial)
	c.that(len(x.Rejections) >= 1, "rejections by a limit %v", x.Rejections)
	c.that(x.Actions["abstain"] >= 1, "abstentions %d >= 1", x.Actions["abstain"])
	c.that(x.Gaps >= 1, "stated gaps %d >= 1", x.Gaps)
	c.that(x.Decisions >= x.Signals && x.Orders > 0 && x.Fills > 0 && x.Quotes > 0, "decisions %d, orders %d, fills %d, quotes %d", x.Decisions, x.Orders, x.Fills, x.Quotes)
	c.that(x.SimCheck != nil && *x.SimCheck == 0, "sim_check is 0")
	c.that(len(x.PnL) >= 1, "P&L by quote currency %v", x.PnL)
}

func (c *checker) replay(all []closing) error {
	if len(all) < 2 {
		return fmt.Errorf("want the closing objects of two replays or more, have %d", len(all))
	}
	for i := range all {
		x := &all[i]
		c.that(x.Ticks == 2+36, "replay %d: trades %d = 2 of Binance and 36 of Coinbase", i+1, x.Ticks)
		c.that(x.Quotes == 84+46, "replay %d: quotes %d = 84 of Binance and 46 of Coinbase", i+1, x.Quotes)
		var refused uint64
		for _, f := range x.Frames {
			refused += f.Refused
		}
		c.that(len(x.Frames) > 0 && refused == 0, "replay %d: no frame of %d kinds refused", i+1, len(x.Frames))
	}
	for _, k := range []string{"ticks", "quotes", "signals"} {
		same := all[0].Hashes[k] != ""
		for i := range all {
			same = same && all[i].Hashes[k] == all[0].Hashes[k]
		}
		c.that(same, "all %d replays have the same hash of %s: %s", len(all), k, all[0].Hashes[k])
	}
	return nil
}
