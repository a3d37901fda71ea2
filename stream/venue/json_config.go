package venue

import (
	"strings"
	"time"

	"github.com/autohedge/autohedge/stream/component"
)

// JSON describes a feed that sends trades or prices as JSON over a WebSocket.
//
// A path is the keys that lead to a value, joined by dots, and positions in
// arrays as numbers from 0: "data.price", "2.0". It starts at each element of
// List, or at the frame where List is empty; a path that starts with "$." starts
// at the frame always.
type JSON struct {
	Subscribe []string          `yaml:"subscribe" doc:"messages sent after connecting; {symbols} becomes the quoted symbols joined by commas, and a message with {symbol} is sent once for each"`
	List      string            `yaml:"list" doc:"path to the array of trades; empty: the frame is one trade, or an array of them"`
	Symbol    string            `yaml:"symbol" doc:"path to the symbol"`
	Fixed     string            `yaml:"fixed_symbol" doc:"the symbol of every trade, where the feed does not send it"`
	Price     string            `yaml:"price" doc:"path to the price of a trade, a number or a text; empty: the feed sends quotes alone"`
	Quantity  string            `yaml:"quantity" doc:"path to the quantity; empty: the feed sends none"`
	Time      string            `yaml:"time" doc:"path to the time of the trade; empty: the receive time"`
	TimeUnit  string            `yaml:"time_unit" doc:"auto (default), rfc3339, s, ms, us or ns"`
	Side      string            `yaml:"side" doc:"path to the side: buy, sell, b, s, bid or ask in any case"`
	SideOf    string            `yaml:"side_of" doc:"whose side it is: taker (default) or maker"`
	ID        string            `yaml:"id" doc:"path to the trade's id; empty: the feed sends none"`
	IDs       string            `yaml:"ids" doc:"what the ids promise: contiguous (each plus one), ordered (they grow; default) or absent (nothing)"`
	Sequence  string            `yaml:"sequence" doc:"path to a sequence number"`
	Quote     JSONQuote         `yaml:"quote" doc:"paths to the best bid and ask, where the feed sends them; without quotes nothing trades"`
	Filter    map[string]string `yaml:"filter" doc:"path to text: elements in which the value at a path differs are ignored"`
	Error     string            `yaml:"error" doc:"path from the frame to the text by which the venue refuses; a symbol that it names is set aside and the others are asked for again, one that names none ends the connection"`
	Idle      time.Duration     `yaml:"idle" doc:"longest silence of a healthy connection, pings and pongs included; 0 takes 1m"`
}

// JSONQuote describes the quotes of a feed: an element that has bid and ask is one,
// beside being a trade where it has a price as well.
type JSONQuote struct {
	Bid    string `yaml:"bid" doc:"path to the best bid, a number or a text"`
	Ask    string `yaml:"ask" doc:"path to the best ask"`
	BidQty string `yaml:"bid_quantity" doc:"path to the quantity at the bid; empty: the feed sends none"`
	AskQty string `yaml:"ask_quantity" doc:"path to the quantity at the ask; empty: the feed sends none"`
}

// there reports whether the feed has quotes.
func (q *JSONQuote) there() bool { return q.Bid != "" && q.Ask != "" }

// DefaultJSON is the guide's stream: {"symbol": ..., "price": ...}.
func DefaultJSON() JSON {
	return JSON{Symbol: "symbol", Price: "price", TimeUnit: "auto", SideOf: "taker", IDs: "ordered", Idle: time.Minute}
}

var timeUnits = map[string]timeUnit{"auto": unitAuto, "s": unitS, "ms": unitMS, "us": unitUS, "ns": unitNS}

// withDefaults fills in what a description left out.
func (c JSON) withDefaults() JSON {
	d := DefaultJSON()
	if c.TimeUnit == "" {
		c.TimeUnit = d.TimeUnit
	}
	if c.SideOf == "" {
		c.SideOf = d.SideOf
	}
	if c.IDs == "" {
		c.IDs = d.IDs
	}
	if c.Idle == 0 {
		c.Idle = d.Idle
	}
	return c
}

// Validate reports every mistake.
func (c *JSON) Validate() component.Problems {
	filled := c.withDefaults()
	return filled.validate()
}

func (c *JSON) validate() component.Problems {
	var p component.Problems
	if (c.Symbol == "") == (c.Fixed == "") {
		p.Addf("symbol", "give either symbol, a path, or fixed_symbol, a text")
	}
	if len(c.Fixed) > maxSymbol {
		p.Addf("fixed_symbol", "is longer than %d bytes", maxSymbol)
	}
	if c.Price == "" && !c.Quote.there() {
		p.Addf("price", "is empty: want the path to the price, or quote.bid and quote.ask")
	}
	if (c.Quote.Bid == "") != (c.Quote.Ask == "") {
		p.Addf("quote", "has one of bid and ask: want both paths, or none")
	}
	if !c.Quote.there() && c.Quote.BidQty+c.Quote.AskQty != "" {
		p.Addf("quote", "has quantities without bid and ask")
	}
	for _, f := range []struct{ name, path string }{{"list", c.List}, {"symbol", c.Symbol}, {"price", c.Price}, {"quantity", c.Quantity},
		{"time", c.Time}, {"side", c.Side}, {"id", c.ID}, {"sequence", c.Sequence}, {"error", c.Error},
		{"quote.bid", c.Quote.Bid}, {"quote.ask", c.Quote.Ask}, {"quote.bid_quantity", c.Quote.BidQty}, {"quote.ask_quantity", c.Quote.AskQty}} {
		checkPath(&p, f.name, f.path)
	}
	if strings.HasPrefix(c.List, rootPrefix) {
		p.Addf("list", "starts at the frame always: leave out %q", rootPrefix)
	}
	for path := range c.Filter {
		if path == "" {
			p.Addf("filter", "has an empty path")
		}
		checkPath(&p, "filter", path)
	}
	if len(c.Filter) > maxFilters {
		p.Addf("filter", "has %d paths: at most %d", len(c.Filter), maxFilters)
	}
	if _, ok := timeUnits[c.TimeUnit]; !ok && c.TimeUnit != "rfc3339" {
		p.Addf("time_unit", "is %q: want auto, rfc3339, s, ms, us or ns", c.TimeUnit)
	}
	if c.SideOf != "taker" && c.SideOf != "maker" {
		p.Addf("side_of", "is %q: want taker or maker", c.SideOf)
	}
	if c.IDs != "contiguous" && c.IDs != "ordered" && c.IDs != "absent" {
		p.Addf("ids", "is %q: want contiguous, ordered or absent", c.IDs)
	}
	if c.Idle < time.Second {
		p.Addf("idle", "is %s: want at least 1s", c.Idle)
	}
	return p
}

const (
	rootPrefix = "$."
	maxFilters = 16
)

func checkPath(p *component.Problems, name, path string) {
	if path == "" {
		return
	}
	for _, part := range strings.Split(strings.TrimPrefix(path, rootPrefix), ".") {
		if part == "" {
			p.Addf(name, "path %q has an empty part", path)
			return
		}
	}
}
