package indicator

import (
	"encoding/binary"
	"math"
	"time"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// VWAPConfig sets up a VWAP.
type VWAPConfig struct {
	Window time.Duration `yaml:"window" doc:"receive time that the average covers; 0 takes the last count trades"`
	Count  int           `yaml:"count" doc:"trades that the average holds at most"`
}

// Validate implements component.Validator.
func (c *VWAPConfig) Validate() component.Problems {
	var p component.Problems
	period(&p, "count", c.Count, 2)
	if c.Window < 0 || c.Window > 24*time.Hour {
		p.Addf("window", "is %s: want 0s (by count) to 24h", c.Window)
	}
	return p
}

func init() {
	register("vwap", "distance of the price from the volume-weighted average price, in basis points",
		Factory{Sources: Trades, StateForm: 1}, VWAPConfig{Window: 30 * time.Second, Count: 4096}, func(c VWAPConfig) Indicator {
			return &VWAP{window: int64(c.Window), ring: make([]traded, c.Count)}
		})
}

// dwarfs is how many times what remains a removed trade may weigh before the sums
// are taken anew: rounding is then at most some 1e-9 basis points a removal.
const dwarfs = 1e3

type traded struct {
	time       int64
	price, qty float64
}

// VWAP measures how far the price lies from the volume-weighted average price
// (sum of price times size over sum of size; Berkowitz, Logue and Noser, "The
// Total Cost of Transactions on the NYSE", Journal of Finance 43(1), 1988) of
// the trades of a rolling window, this one included, in basis points of that
// average. Trades without a size are left out. It is warmed up once the window
// has been covered: in time, or in trades.
//
// Sums are taken over price - shift and rebuilt from the ring after as many
// removals as it holds, so that rounding does not build up.
type VWAP struct {
	window  int64
	ring    []traded
	first   int // the oldest
	n       int
	began   int64 // time of the first trade since the reset
	warm    bool
	removed int // since the sums were rebuilt

	shift, pq, q float64 // sums of (price-shift)*size and of size
	value, vwap  float64
}

// Update implements Indicator.
func (v *VWAP) Update(t *Tick) (float64, bool) {
	if !(t.Qty > 0) {
		return 0, false
	}
	if v.window > 0 && v.n > 0 {
		if t.Time < v.newest().time-v.window {
			v.Reset() // the clock was set back: times of before and after do not compare
		}
		for v.n > 0 && t.Time-v.ring[v.first].time > v.window {
			v.removeOldest()
		}
	}
	if v.n == len(v.ring) {
		v.removeOldest()
	}
	if v.n == 0 {
		v.shift, v.pq, v.q, v.removed = t.Price, 0, 0, 0
		if !v.warm && v.began == 0 {
			v.began = t.Time
		}
	}
	at := v.first + v.n
	if at >= len(v.ring) {
		at -= len(v.ring)
	}
	v.ring[at] = traded{t.Time, t.Price, t.Qty}
	v.n++
	v.pq += float64((t.Price - v.shift) * t.Qty)
	v.q += t.Qty
	if v.removed >= v.n {
		v.rebuild()
	}
	if !v.warm {
		v.warm = v.n == len(v.ring) || (v.window > 0 && t.Time-v.began >= v.window)
		if !v.warm {
			return 0, false
		}
	}
	v.vwap = v.shift + v.pq/v.q
	v.value = (t.Price - v.vwap) / v.vwap * bps
	return v.value, true
}

func (v *VWAP) newest() *traded { return &v.ring[(v.first+v.n-1)%len(v.ring)] }

func (v *VWAP) removeOldest() {
	o := &v.ring[v.first]
	if v.first++; v.first == len(v.ring) {
		v.first = 0
	}
	v.n--
	v.removed++
	v.pq -= float64((o.price - v.shift) * o.qty)
	v.q -= o.qty
	if v.n == 0 {
		return
	}
	// What left may have dwarfed the rest, by its size alone or by how far it or the
	// rest lies from shift: then what is left of the sums is rounding.
	price := v.newest().price
	far := max(math.Abs(o.price-v.shift), math.Abs(price-v.shift))
	if o.qty > dwarfs*v.q || float64(o.qty*far) > dwarfs*float64(v.q*price) {
		v.removed = len(v.ring)
	}
}

// rebuild takes the sums anew, around the newest price.
func (v *VWAP) rebuild() {
	v.shift, v.pq, v.q, v.removed = v.newest().price, 0, 0, 0
	for i, at := 0, v.first; i < v.n; i++ {
		o := &v.ring[at]
		v.pq += float64((o.price - v.shift) * o.qty)
		v.q += o.qty
		if at++; at == len(v.ring) {
			at = 0
		}
	}
}

// Values implements Indicator.
func (v *VWAP) Values(dst []event.Value) []event.Value {
	return append(dst, event.Value{Name: "vwap_bps", Value: v.value}, event.Value{Name: "vwap", Value: v.vwap},
		event.Value{Name: "volume", Value: v.q}, event.Value{Name: "trades", Value: float64(v.n)})
}

// Reset implements Indicator.
func (v *VWAP) Reset() { *v = VWAP{window: v.window, ring: v.ring} }

// AppendState implements Indicator. The ring is written from the oldest trade
// on: where it lies in memory decides nothing.
func (v *VWAP) AppendState(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(v.n))
	dst = binary.AppendVarint(dst, v.began)
	dst = appendBool(dst, v.warm)
	dst = binary.AppendUvarint(dst, uint64(v.removed))
	for _, x := range [...]float64{v.shift, v.pq, v.q, v.value, v.vwap} {
		dst = appendFloat(dst, x)
	}
	older, newer := v.held()
	last := v.began
	var prices, sizes [sampled]float64
	n := 0
	for _, run := range [...][]traded{older, newer} {
		for i := range run {
			dst = binary.AppendVarint(dst, run[i].time-last)
			last = run[i].time
			if n < sampled {
				prices[n], sizes[n] = run[i].price, run[i].qty
				n++
			}
		}
	}
	dst, price := beginColumn(dst, prices[:n])
	for _, run := range [...][]traded{older, newer} {
		for i := range run {
			dst = price.append(dst, run[i].price)
		}
	}
	dst, size := beginColumn(dst, sizes[:n])
	for _, run := range [...][]traded{older, newer} {
		for i := range run {
			dst = size.append(dst, run[i].qty)
		}
	}
	return dst
}

// held returns the trades of the window, in order, as the ring has them.
func (v *VWAP) held() (older, newer []traded) {
	if end := v.first + v.n; end > len(v.ring) {
		return v.ring[v.first:], v.ring[:end-len(v.ring)]
	}
	return v.ring[v.first : v.first+v.n], nil
}

// RestoreState implements Indicator.
func (v *VWAP) RestoreState(r *StateReader) error {
	v.Reset()
	v.n = r.Count(len(v.ring))
	v.began, v.warm = r.Int(), r.Bool()
	v.removed = r.Count(2 * len(v.ring))
	v.shift, v.pq, v.q, v.value, v.vwap = r.Float(), r.Float(), r.Float(), r.Float(), r.Float()
	last := v.began
	for i := range v.n {
		last += r.Int()
		v.ring[i].time = last
	}
	price := r.column()
	for i := range v.n {
		v.ring[i].price = r.next(&price)
	}
	size := r.column()
	for i := range v.n {
		v.ring[i].qty = r.next(&size)
	}
	return r.Err()
}
