package sim

import (
	"math"
	"math/rand/v2"
	"strings"
)

// quoteAssets are the currencies by which a Binance symbol is split, longest
// first where one ends in another.
var quoteAssets = []string{"FDUSD", "USDT", "USDC", "TUSD", "BUSD", "USD", "EUR", "GBP", "TRY", "BTC", "ETH", "BNB"}

// usdPrice is about what one unit of an asset cost when this was written; an
// unknown asset gets a price from its name.
func usdPrice(asset string) float64 {
	switch asset {
	case "USD", "USDT", "USDC", "FDUSD", "TUSD", "BUSD":
		return 1
	case "EUR":
		return 1.1
	case "GBP":
		return 1.3
	case "TRY":
		return 0.03
	case "BTC":
		return 64000
	case "ETH":
		return 3400
	case "BNB":
		return 580
	case "SOL":
		return 150
	case "LTC":
		return 80
	case "AVAX":
		return 28
	case "LINK":
		return 14
	case "DOT":
		return 6
	case "XRP":
		return 0.6
	case "ADA":
		return 0.45
	case "DOGE":
		return 0.12
	}
	return 1 + float64(hash64(asset)%49900)/100
}

// spec is what does not change of a symbol: its name, its steps and its price
// level. A price is a whole number of 10^-priceScale, a size of 10^-qtyScale.
type spec struct {
	venue, name          string
	base, quote          string
	priceScale, qtyScale uint8
	level                float64 // usual price in price steps
	lot                  float64 // size steps that one US dollar buys at the usual price
}

func newSpec(venue, name string) spec {
	s := spec{venue: venue, name: name}
	if venue == VenueCoinbase {
		s.base, s.quote, _ = strings.Cut(name, "-")
	} else {
		s.base, s.quote = splitBinance(name)
	}
	quoteUSD := usdPrice(s.quote)
	price := usdPrice(s.base) / quoteUSD
	for s.priceScale = 2; s.priceScale < 8 && price*math.Pow10(int(s.priceScale)) < 10000; s.priceScale++ {
	}
	s.level = math.Round(price * math.Pow10(int(s.priceScale)))
	if venue == VenueCoinbase {
		s.qtyScale = 8
	} else {
		for s.qtyScale = 0; s.qtyScale < 5 && usdPrice(s.base) >= math.Pow10(int(s.qtyScale)); s.qtyScale++ {
		}
	}
	s.lot = math.Pow10(int(s.qtyScale)) / usdPrice(s.base)
	return s
}

func splitBinance(name string) (base, quote string) {
	for _, q := range quoteAssets {
		if b, ok := strings.CutSuffix(name, q); ok && b != "" {
			return b, q
		}
	}
	return name, "USDT"
}

// shape is the random walk of one symbol. Its times are the symbol's own: each
// step takes the nominal time between two steps, so the sequence of prices,
// sides and sizes depends on seed and configuration alone, never on the clock.
//
// Three things move the price, all as an offset from the usual level in basis
// points: fast noise that reverts within a fraction of a second, regimes (range,
// trend, jump) that last a few seconds, and a slow drift that always comes back.
// Together they carry the usual indicators over their thresholds again and
// again within half a minute.
type shape struct {
	rng    *rand.Rand
	level  float64
	slow   float64 // centre of the regimes, basis points
	target float64 // where the regime leads
	x      float64 // where it has come
	noise  float64
	left   float64 // nominal seconds until the next regime
	wide   float64 // nominal seconds that the spread stays wide
	spread float64 // basis points

	bid, ask       int64 // price steps
	bidQty, askQty int64 // size steps
}

// maxOffset bounds how far a price goes from its level, basis points.
const maxOffset = 400

func newShape(sp *spec, seed, from uint64, last int64) shape {
	h := shape{
		// The seed fixes the shape; from, the first id to come, keeps a
		// restarted market from repeating its last tape.
		rng:   rand.New(rand.NewPCG(seed, hash64(sp.venue, sp.name)^mix(from))),
		level: sp.level,
	}
	if last > 0 {
		h.x = min(max((float64(last)/sp.level-1)*1e4, -maxOffset), maxOffset)
		h.slow = h.x
		h.target = h.x
	}
	return h
}

// advance moves the book by dt nominal seconds.
func (h *shape) advance(sp *spec, dt float64) {
	r := h.rng
	if h.left -= dt; h.left <= 0 {
		h.regime()
	}
	h.slow += -h.slow*dt/120 + 3*math.Sqrt(dt)*r.NormFloat64()
	h.x += (h.target - h.x) * min(1, dt/0.7)
	h.x = min(max(h.x, -maxOffset), maxOffset)
	k := min(1, dt/0.25)
	h.noise += -h.noise*k + 1.8*math.Sqrt(2*k)*r.NormFloat64()
	if h.wide > 0 {
		h.wide -= dt
	} else {
		h.spread = 0.8 + 0.4*r.Float64()
		if r.Float64() < dt/4 {
			h.wide = 0.15 + 0.45*r.Float64()
			h.spread = 7 + 8*r.Float64()
		}
	}
	mid := h.level * (1 + (h.x+h.noise)/1e4)
	half := mid * h.spread / 2e4
	h.bid = max(1, int64(math.Floor(mid-half)))
	h.ask = max(h.bid+1, int64(math.Ceil(mid+half)))
	h.bidQty = h.touchSize(sp)
	h.askQty = h.touchSize(sp)
}

// regime chooses what the next seconds do.
func (h *shape) regime() {
	r := h.rng
	switch u := r.Float64(); {
	case u < 0.5: // trend
		h.target = h.slow + 16*r.NormFloat64()
		h.left = 1 + 2.5*r.Float64()
	case u < 0.7: // jump, half of which comes back
		d := 10 + 12*r.Float64()
		if h.x > h.slow {
			d = -d
		}
		h.x += d
		h.target = h.x - d/2
		h.left = 0.8 + 1.5*r.Float64()
	default: // range
		h.target = h.x
		h.left = 0.8 + 1.2*r.Float64()
	}
}

// touchSize is what stands at the best price: usually some 15,000 dollars,
// every tenth time about 500, so that larger orders fill in part.
func (h *shape) touchSize(sp *spec) int64 {
	usd := 15000.0
	if h.rng.Float64() < 0.1 {
		usd = 500
	}
	return 1 + int64(usd*h.rng.ExpFloat64()*sp.lot)
}

// order draws an aggressive order: its side and its price within [bid, ask]. A
// buy pays the ask, now and then something between the middle and the ask.
func (h *shape) order() (sell bool, price int64) {
	r := h.rng
	lean := 0.3 * math.Tanh((h.target-h.x)/10)
	sell = r.Float64() >= 0.5+lean
	inside := int64(0)
	if room := (h.ask - h.bid - 1) / 2; room > 0 && r.Float64() < 0.08 {
		inside = 1 + r.Int64N(room)
	}
	if sell {
		return true, h.bid + inside
	}
	return false, h.ask - inside
}

// tradeSize is what one fill takes: some 600 dollars, now and then ten times that.
func (h *shape) tradeSize(sp *spec) int64 {
	usd := 600.0
	if h.rng.Float64() < 0.03 {
		usd = 6000
	}
	return 1 + int64(usd*h.rng.ExpFloat64()*sp.lot)
}
