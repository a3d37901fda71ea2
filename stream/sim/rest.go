package sim

import (
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

func (s *Sim) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /binance/api/v3/ping", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, struct{}{}) })
	mux.HandleFunc("GET /binance/api/v3/time", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, map[string]int64{"serverTime": s.env.Clock.Now().UnixMilli()})
	})
	mux.HandleFunc("GET /binance/api/v3/exchangeInfo", s.exchangeInfo)
	mux.HandleFunc("GET /binance/api/v3/trades", s.binanceTrades)
	mux.HandleFunc("GET /binance/api/v3/historicalTrades", s.binanceTrades)
	mux.HandleFunc("GET /binance/", s.serveBinance)
	mux.HandleFunc("GET /coinbase/time", func(w http.ResponseWriter, _ *http.Request) {
		now := s.env.Clock.Now()
		reply(w, http.StatusOK, map[string]any{"iso": now.UTC().Format("2006-01-02T15:04:05.000Z"), "epoch": float64(now.UnixMilli()) / 1e3})
	})
	mux.HandleFunc("GET /coinbase/products", s.products)
	mux.HandleFunc("GET /coinbase/products/{id}", s.product)
	mux.HandleFunc("GET /coinbase/products/{id}/ticker", s.productTicker)
	mux.HandleFunc("GET /coinbase/products/{id}/trades", s.productTrades)
	feed := func(w http.ResponseWriter, r *http.Request) {
		if !websocket.IsWebSocketUpgrade(r) {
			http.NotFound(w, r)
			return
		}
		s.serveCoinbase(w, r)
	}
	mux.HandleFunc("GET /coinbase", feed)
	mux.HandleFunc("GET /coinbase/{$}", feed)
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, s.Stats()) })
	mux.HandleFunc("GET /faults", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, s.Faults()) })
	mux.HandleFunc("POST /faults", s.postFault)
	return mux
}

// postFault injects ?kind=drop&venue=coinbase&duration=2s.
func (s *Sim) postFault(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	f := Fault{Venue: q.Get("venue")}
	err := f.Kind.UnmarshalText([]byte(q.Get("kind")))
	if d := q.Get("duration"); err == nil && d != "" {
		f.Duration, err = time.ParseDuration(d)
	}
	var n int
	if err == nil {
		n, err = s.Inject(f)
	}
	if err != nil {
		reply(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
		return
	}
	reply(w, http.StatusOK, map[string]any{"kind": f.Kind, "venue": f.Venue, "duration": f.Duration.String(), "connections": n})
}

func reply(w http.ResponseWriter, code int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(b) // a client that went away needs no answer
}

func binanceRefuse(w http.ResponseWriter, code int, text string) {
	reply(w, http.StatusBadRequest, struct {
		Code int    `json:"code"`
		Msg  string `json:"msg"`
	}{code, text})
}

func steps(m int64, scale, width uint8) string { return string(appendFixed(nil, m, scale, width)) }

// parseSteps reads decimal text as a whole number of 10^-scale.
func parseSteps(text string, scale uint8) (int64, error) {
	whole, frac, _ := strings.Cut(text, ".")
	if len(frac) > int(scale) {
		if strings.Trim(frac[scale:], "0") != "" {
			return 0, fmt.Errorf("reading %q: more than %d decimals", text, scale)
		}
		frac = frac[:scale]
	}
	n, err := strconv.ParseInt(whole+frac+strings.Repeat("0", int(scale)-len(frac)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("reading %q as a number of steps: %w", text, err)
	}
	return n, nil
}

type binanceFilter map[string]any

type binanceSymbol struct {
	Symbol             string          `json:"symbol"`
	Status             string          `json:"status"`
	BaseAsset          string          `json:"baseAsset"`
	BasePrecision      int             `json:"baseAssetPrecision"`
	QuoteAsset         string          `json:"quoteAsset"`
	QuotePrecision     int             `json:"quotePrecision"`
	QuoteAssetPrec     int             `json:"quoteAssetPrecision"`
	OrderTypes         []string        `json:"orderTypes"`
	IcebergAllowed     bool            `json:"icebergAllowed"`
	OcoAllowed         bool            `json:"ocoAllowed"`
	QuoteOrderQty      bool            `json:"quoteOrderQtyMarketAllowed"`
	SpotTradingAllowed bool            `json:"isSpotTradingAllowed"`
	MarginAllowed      bool            `json:"isMarginTradingAllowed"`
	Filters            []binanceFilter `json:"filters"`
	Permissions        []string        `json:"permissions"`
	PermissionSets     [][]string      `json:"permissionSets"`
}

func (y *symbol) binanceInfo() binanceSymbol {
	tick, lot := steps(1, y.priceScale, 8), steps(1, y.qtyScale, 8)
	return binanceSymbol{
		Symbol: y.name, Status: "TRADING", BaseAsset: y.base, BasePrecision: 8, QuoteAsset: y.quote, QuotePrecision: 8, QuoteAssetPrec: 8,
		OrderTypes: []string{"LIMIT", "LIMIT_MAKER", "MARKET"}, IcebergAllowed: true, OcoAllowed: true, QuoteOrderQty: true, SpotTradingAllowed: true,
		Filters: []binanceFilter{
			{"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "1000000.00000000", "tickSize": tick},
			{"filterType": "LOT_SIZE", "minQty": lot, "maxQty": "9000000.00000000", "stepSize": lot},
			{"filterType": "NOTIONAL", "minNotional": "5.00000000", "applyMinToMarket": true, "maxNotional": "9000000.00000000", "applyMaxToMarket": false, "avgPriceMins": 5},
		},
		Permissions: []string{}, PermissionSets: [][]string{{"SPOT"}},
	}
}

func (s *Sim) exchangeInfo(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	var names []string
	switch {
	case q.Has("symbols"):
		if json.Unmarshal([]byte(q.Get("symbols")), &names) != nil {
			binanceRefuse(w, -1100, "Illegal characters found in parameter 'symbols'.")
			return
		}
	case q.Has("symbol"):
		names = []string{q.Get("symbol")}
	default:
		for _, y := range s.binance.order {
			names = append(names, y.name)
		}
	}
	list := make([]binanceSymbol, 0, len(names))
	for _, n := range names {
		y := s.binance.symbols[n]
		if y == nil {
			binanceRefuse(w, -1121, "Invalid symbol.")
			return
		}
		list = append(list, y.binanceInfo())
	}
	reply(w, http.StatusOK, map[string]any{
		"timezone": "UTC", "serverTime": s.env.Clock.Now().UnixMilli(), "exchangeFilters": []any{}, "symbols": list,
		"rateLimits": []map[string]any{{"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 6000}},
	})
}

// known returns the trades of y from id from on, oldest first, at most limit;
// from 0 takes the newest.
func (s *Sim) known(y *symbol, from uint64, limit int) []trade {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !y.open || y.trades == 0 {
		return nil
	}
	oldest := max(y.first, y.next-min(y.next, recentTrades))
	n := uint64(limit)
	if from == 0 {
		from = y.next - min(n, y.next-oldest)
	}
	var list []trade
	for id := max(from, oldest); id < y.next && uint64(len(list)) < n; id++ {
		list = append(list, y.recent[id%recentTrades])
	}
	return list
}

func limitOf(q url.Values) (int, bool) {
	if !q.Has("limit") {
		return 500, true
	}
	n, err := strconv.Atoi(q.Get("limit"))
	return min(n, recentTrades), err == nil && n > 0
}

func (s *Sim) binanceTrades(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	y := s.binance.symbols[q.Get("symbol")]
	if y == nil {
		binanceRefuse(w, -1121, "Invalid symbol.")
		return
	}
	limit, ok := limitOf(q)
	var from uint64
	if ok && q.Has("fromId") && strings.HasSuffix(r.URL.Path, "/historicalTrades") {
		var err error
		from, err = strconv.ParseUint(q.Get("fromId"), 10, 64)
		ok = err == nil
	}
	if !ok {
		binanceRefuse(w, -1100, "Illegal characters found in a parameter.")
		return
	}
	type row struct {
		ID       uint64 `json:"id"`
		Price    string `json:"price"`
		Qty      string `json:"qty"`
		QuoteQty string `json:"quoteQty"`
		Time     int64  `json:"time"`
		Maker    bool   `json:"isBuyerMaker"`
		Best     bool   `json:"isBestMatch"`
	}
	rows := []row{}
	for _, t := range s.known(y, from, limit) {
		rows = append(rows, row{t.id, steps(t.price, y.priceScale, 8), steps(t.qty, y.qtyScale, 8), y.notional(t), t.ns / 1e6, t.sell, true})
	}
	reply(w, http.StatusOK, rows)
}

// notional is price times quantity, cut to eight decimals.
func (y *symbol) notional(t trade) string {
	const width = 8
	n := new(big.Int).Mul(big.NewInt(t.price), big.NewInt(t.qty))
	exp := int64(width) - int64(y.priceScale) - int64(y.qtyScale)
	p := new(big.Int).Exp(big.NewInt(10), big.NewInt(max(exp, -exp)), nil)
	if exp < 0 {
		n.Quo(n, p)
	} else {
		n.Mul(n, p)
	}
	text := n.String()
	if len(text) <= width {
		text = strings.Repeat("0", width+1-len(text)) + text
	}
	return text[:len(text)-width] + "." + text[len(text)-width:]
}

type coinbaseProduct struct {
	ID              string `json:"id"`
	BaseCurrency    string `json:"base_currency"`
	QuoteCurrency   string `json:"quote_currency"`
	QuoteIncrement  string `json:"quote_increment"`
	BaseIncrement   string `json:"base_increment"`
	DisplayName     string `json:"display_name"`
	MinMarketFunds  string `json:"min_market_funds"`
	MarginEnabled   bool   `json:"margin_enabled"`
	PostOnly        bool   `json:"post_only"`
	LimitOnly       bool   `json:"limit_only"`
	CancelOnly      bool   `json:"cancel_only"`
	Status          string `json:"status"`
	StatusMessage   string `json:"status_message"`
	TradingDisabled bool   `json:"trading_disabled"`
	AuctionMode     bool   `json:"auction_mode"`
}

func (y *symbol) coinbaseInfo() coinbaseProduct {
	return coinbaseProduct{
		ID: y.name, BaseCurrency: y.base, QuoteCurrency: y.quote, QuoteIncrement: steps(1, y.priceScale, y.priceScale),
		BaseIncrement: steps(1, y.qtyScale, y.qtyScale), DisplayName: strings.ReplaceAll(y.name, "-", "/"), MinMarketFunds: "1", Status: "online",
	}
}

func (s *Sim) products(w http.ResponseWriter, _ *http.Request) {
	list := []coinbaseProduct{}
	for _, y := range s.coinbase.order {
		list = append(list, y.coinbaseInfo())
	}
	reply(w, http.StatusOK, list)
}

// lookup answers 404 as the venue does.
func (s *Sim) lookup(w http.ResponseWriter, r *http.Request) *symbol {
	y := s.coinbase.symbols[r.PathValue("id")]
	if y == nil {
		reply(w, http.StatusNotFound, map[string]string{"message": "NotFound"})
	}
	return y
}

func (s *Sim) product(w http.ResponseWriter, r *http.Request) {
	if y := s.lookup(w, r); y != nil {
		reply(w, http.StatusOK, y.coinbaseInfo())
	}
}

func micros(ns int64) []byte { return appendMicros(nil, time.Unix(0, ns)) }

func (s *Sim) productTicker(w http.ResponseWriter, r *http.Request) {
	y := s.lookup(w, r)
	if y == nil {
		return
	}
	s.mu.Lock()
	t, h, volume := y.last, y.shape, y.volume
	s.mu.Unlock()
	if t.ns == 0 {
		reply(w, http.StatusNotFound, map[string]string{"message": "no trades yet"})
		return
	}
	reply(w, http.StatusOK, map[string]any{
		"ask": steps(h.ask, y.priceScale, y.priceScale), "bid": steps(h.bid, y.priceScale, y.priceScale), "volume": steps(volume, y.qtyScale, 8),
		"trade_id": t.id, "price": string(appendShort(nil, t.price, y.priceScale)), "size": string(appendShort(nil, t.qty, y.qtyScale)), "time": string(micros(t.ns)),
	})
}

// productTrades lists the newest first; after pages back to ids below it. side
// is the maker's, as in match messages.
func (s *Sim) productTrades(w http.ResponseWriter, r *http.Request) {
	y := s.lookup(w, r)
	if y == nil {
		return
	}
	q := r.URL.Query()
	limit, ok := limitOf(q)
	after := uint64(math.MaxUint64)
	if ok && q.Has("after") {
		var err error
		after, err = strconv.ParseUint(q.Get("after"), 10, 64)
		ok = err == nil
	}
	if !ok {
		reply(w, http.StatusBadRequest, map[string]string{"message": "Invalid limit or after"})
		return
	}
	type row struct {
		ID    uint64 `json:"trade_id"`
		Side  string `json:"side"`
		Size  string `json:"size"`
		Price string `json:"price"`
		Time  string `json:"time"`
	}
	rows := []row{}
	known := s.known(y, 0, recentTrades)
	for i := len(known) - 1; i >= 0 && len(rows) < limit; i-- {
		if t := known[i]; t.id < after {
			rows = append(rows, row{t.id, sideName(!t.sell), steps(t.qty, y.qtyScale, 8), steps(t.price, y.priceScale, y.priceScale), string(micros(t.ns))})
		}
	}
	if len(rows) > 0 {
		w.Header().Set("Cb-Before", strconv.FormatUint(rows[0].ID, 10))
		w.Header().Set("Cb-After", strconv.FormatUint(rows[len(rows)-1].ID, 10))
	}
	reply(w, http.StatusOK, rows)
}
