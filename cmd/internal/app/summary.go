package app

import (
	"context"
	"fmt"
	"io"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/autohedge/autohedge/sinks"
	"github.com/autohedge/autohedge/stream"
	"github.com/autohedge/autohedge/stream/bus"
	"github.com/autohedge/autohedge/stream/event"
)

// summary is what a run leaves behind, all by query after the drain. Decimals
// are strings.
type summary struct {
	Session   string  `json:"session,omitempty"`
	Data      string  `json:"data"`
	Seconds   float64 `json:"seconds"` // from readiness to the end of the drain
	Ticks     uint64  `json:"ticks"`   // trades of this run
	Quotes    uint64  `json:"quotes"`
	Signals   uint64  `json:"signals"`
	Decisions uint64  `json:"decisions"`
	Orders    uint64  `json:"orders"` // client order ids
	Fills     uint64  `json:"fills"`

	Symbols    uint64            `json:"symbols"`
	Venues     uint64            `json:"venues"`
	Indicators map[string]uint64 `json:"signals_by_indicator"`
	Actions    map[string]uint64 `json:"decisions_by_action"`
	Abstained  map[string]uint64 `json:"abstentions_by_reason"`
	States     map[string]uint64 `json:"orders_by_state"`
	Legs       map[string]uint64 `json:"orders_by_leg"` // entry, flatten, and the exits: stop, target, time
	Rejections map[string]uint64 `json:"rejections_by_limit"`
	Sides      map[string]uint64 `json:"fills_by_side"`
	Partial    uint64            `json:"partial_fills"` // orders that were partially filled at one time
	Gaps       uint64            `json:"gaps"`          // stated coverage gaps
	LostIDs    uint64            `json:"lost_ids"`      // trade ids within them

	Rows       map[string]uint64 `json:"rows"` // of the whole folder
	Lag        int64             `json:"lag"`
	Missing    int64             `json:"missing"`
	Duplicates int64             `json:"duplicates"`
	SimCheck   *uint64           `json:"sim_check,omitempty"`
	PnLCheck   string            `json:"pnl_check"`
	Unproven   uint64            `json:"unproven_orders"` // whose fills do not prove what the order log claims
	PnL        map[string]string `json:"pnl"`             // by quote currency
	Position   map[string]string `json:"position"`        // by venue|symbol, in base currency

	Hashes map[string]string            `json:"hashes,omitempty"` // of a session: ids and values in key order
	Frames map[string]stream.FrameCount `json:"frames,omitempty"` // of a replay, by kind
	Errors []string                     `json:"errors"`
}

// mark remembers where each topic ended before the roles of this run started.
type mark map[string][]bus.Bounds

func (e *engine) mark(ctx context.Context) (mark, error) {
	m := make(mark)
	for _, topic := range sinks.Topics() {
		b, err := e.client.Offsets(ctx, topic)
		if err != nil {
			return nil, err
		}
		m[topic] = b
	}
	return m, nil
}

// since is the SQL condition for the rows of a topic that this run added.
func (m mark) since(topic string) string {
	var parts []string
	for p, b := range m[topic] {
		parts = append(parts, fmt.Sprintf("(kafka_partition = %d AND kafka_offset >= %d)", p, b.End))
	}
	return "(" + strings.Join(parts, " OR ") + ")"
}

// asker runs the summary's queries and keeps the first error.
type asker struct {
	ctx context.Context
	e   *engine
	err error
}

func (a *asker) rows(sql string) [][]string {
	if a.err != nil {
		return nil
	}
	res, err := a.e.store.Query(a.ctx, sql)
	if err != nil {
		a.err = err
		return nil
	}
	return res.Rows
}

func (a *asker) number(sql string) uint64 {
	rows := a.rows(sql)
	if len(rows) != 1 || len(rows[0]) != 1 {
		if a.err == nil {
			a.err = fmt.Errorf("asking %q: have %d rows, want one number", sql, len(rows))
		}
		return 0
	}
	n, err := strconv.ParseUint(rows[0][0], 10, 64)
	if err != nil && a.err == nil {
		a.err = fmt.Errorf("asking %q: %w", sql, err)
	}
	return n
}

func (a *asker) counts(sql string) map[string]uint64 {
	m := make(map[string]uint64)
	for _, r := range a.rows(sql) {
		n, err := strconv.ParseUint(r[1], 10, 64)
		if err != nil && a.err == nil {
			a.err = fmt.Errorf("asking %q: %w", sql, err)
		}
		m[r[0]] = n
	}
	return m
}

func (a *asker) texts(sql string) map[string]string {
	m := make(map[string]string)
	for _, r := range a.rows(sql) {
		m[r[0]] = r[1]
	}
	return m
}

// latestPositions are the newest row of each position.
const latestPositions = `SELECT account, strategy, venue, symbol, argMax(quote_currency, version) AS quote_currency,
  argMax(qty, version) AS qty, argMax(ifNull(total, -fees), version) AS total FROM positions GROUP BY account, strategy, venue, symbol`

// summarize asks ClickHouse and Kafka what this run and the folder hold.
func (e *engine) summarize(ctx context.Context, since mark) (*summary, error) {
	a := &asker{ctx: ctx, e: e}
	md, orders := since.since(event.TopicMarket), since.since(event.TopicOrders)
	decisions, fills := since.since(event.TopicDecisions), since.since(event.TopicFills)
	s := &summary{
		Data:       e.folder.Root(),
		Ticks:      a.number("SELECT count() FROM ticks WHERE " + md),
		Quotes:     a.number("SELECT count() FROM quotes WHERE " + md),
		Signals:    a.number("SELECT count() FROM signals WHERE " + since.since(event.TopicSignals)),
		Decisions:  a.number("SELECT count() FROM decisions WHERE " + decisions),
		Orders:     a.number("SELECT uniqExact(client_order_id) FROM order_events WHERE " + orders),
		Fills:      a.number("SELECT count() FROM fills WHERE " + fills),
		Symbols:    a.number("SELECT uniqExact(venue, symbol) FROM ticks WHERE " + md),
		Venues:     a.number("SELECT uniqExact(venue) FROM ticks WHERE " + md),
		Indicators: a.counts("SELECT indicator, count() FROM signals WHERE " + since.since(event.TopicSignals) + " GROUP BY indicator"),
		Actions:    a.counts("SELECT action, count() FROM decisions WHERE " + decisions + " GROUP BY action"),
		Abstained:  a.counts("SELECT reason, count() FROM decisions WHERE action = 'abstain' AND " + decisions + " GROUP BY reason"),
		States:     a.counts("SELECT s, count() FROM (SELECT client_order_id, argMax(state, seq) AS s FROM order_events WHERE " + orders + " GROUP BY client_order_id) GROUP BY s"),
		Legs:       a.counts("SELECT leg, uniqExact(client_order_id) FROM order_events WHERE state != 'risk_rejected' AND " + orders + " GROUP BY leg"),
		Rejections: a.counts("SELECT reason, count() FROM order_events WHERE state = 'risk_rejected' AND " + orders + " GROUP BY reason"),
		Sides:      a.counts("SELECT side, count() FROM fills WHERE " + fills + " GROUP BY side"),
		Partial:    a.number("SELECT uniqExact(client_order_id) FROM order_events WHERE state = 'partially_filled' AND " + orders),
		Gaps:       a.number("SELECT count() FROM coverage WHERE kind = 'lost' AND " + md),
		LostIDs:    a.number("SELECT sum(if(to_id > 0, to_id - from_id + 1, 0)) FROM coverage WHERE kind = 'lost' AND contiguous AND " + md),
		PnL:        a.texts("SELECT quote_currency, toString(sum(total)) FROM (" + latestPositions + ") GROUP BY quote_currency"),
		Position:   a.texts("SELECT concat(venue, '|', symbol) AS k, toString(sum(qty)) FROM (" + latestPositions + ") GROUP BY k"),
	}
	if a.err != nil {
		return nil, a.err
	}
	var err error
	if s.Rows, err = e.store.TableCounts(ctx); err != nil {
		return nil, err
	}
	if s.Lag, s.Missing, s.Duplicates, err = e.prove(ctx); err != nil {
		return nil, err
	}
	if s.PnLCheck, err = e.store.PnLCheck(ctx); err != nil {
		return nil, err
	}
	if s.Unproven, _, err = e.store.FillDifferences(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// prove compares the logs with what landed (design.md 4.7): lag is what lies
// beyond the last landed plan, missing what no plan accounts for (or rows too
// many), duplicates what is there twice.
func (e *engine) prove(ctx context.Context) (lag, missing, duplicates int64, err error) {
	proofs, err := sinks.Prove(ctx, e.client, e.store)
	if err != nil {
		return 0, 0, 0, err
	}
	for _, p := range proofs {
		missing += max(p.Missing, -p.Missing)
		lag += max(0, p.End-p.Landed)
	}
	duplicates, err = e.store.Duplicates(ctx)
	return lag, missing, duplicates, err
}

// sessionHashes covers ids and values of a session in key order, never offsets
// or insertion times.
func (e *engine) sessionHashes(ctx context.Context) (map[string]string, error) {
	a := &asker{ctx: ctx, e: e}
	hash := func(columns, table, order string) string {
		rows := a.rows("SELECT hex(sipHash128(groupArray(h))) FROM (SELECT sipHash64(" + columns + ") AS h FROM " + table + " ORDER BY " + order + ")")
		if len(rows) != 1 {
			return ""
		}
		return rows[0][0]
	}
	h := map[string]string{
		"ticks":   hash("event_id, toString(price_exact), toString(qty_exact), side, event_time, recv_time", "ticks", "venue, symbol, channel, event_id"),
		"quotes":  hash("event_id, toString(bid_exact), toString(bid_qty_exact), toString(ask_exact), toString(ask_qty_exact), event_time, recv_time", "quotes", "venue, symbol, channel, event_id"),
		"signals": hash("event_id, rule, side, toString(ref_price), value, threshold, time", "signals", "venue, symbol, event_id"),
	}
	return h, a.err
}

// unknownCheck stands where a check could not be made; why is among the errors.
const unknownCheck = "unknown"

// failures says which of the proofs do not hold: none after a clean end.
func (s *summary) failures() []string {
	var f []string
	add := func(bad bool, format string, args ...any) {
		if bad {
			f = append(f, fmt.Sprintf(format, args...))
		}
	}
	add(s.Lag != 0, "%d records have not landed", s.Lag)
	add(s.Missing != 0, "%d records are not accounted for: see v_landed_proof", s.Missing)
	add(s.Duplicates != 0, "%d rows have landed twice", s.Duplicates)
	add(s.PnLCheck != "0" && s.PnLCheck != unknownCheck, "orders, fills and positions differ: %s", s.PnLCheck)
	add(s.SimCheck != nil && *s.SimCheck != 0, "landed trades differ from the simulator's ledger")
	return f
}

// text prints the summary for people.
func (s *summary) text(w io.Writer) {
	title := "autohedge: closing summary"
	if s.Session != "" {
		title += " of session " + s.Session
	}
	fmt.Fprintf(w, "\n%s (%s)\n\n", title, time.Duration(s.Seconds*float64(time.Second)).Round(100*time.Millisecond))
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "  %-11s %s\n", name, fmt.Sprintf(format, args...))
	}
	row("ticks", "%s of %d symbols on %d venues; %s quotes", thousands(s.Ticks), s.Symbols, s.Venues, thousands(s.Quotes))
	row("coverage", "%d gaps stated, %s trade ids lost in them", s.Gaps, thousands(s.LostIDs))
	row("signals", "%s%s", thousands(s.Signals), list(s.Indicators))
	row("decisions", "%s%s", thousands(s.Decisions), list(s.Actions))
	if len(s.Abstained) > 0 {
		row("", "abstained%s", list(s.Abstained))
	}
	row("orders", "%s%s", thousands(s.Orders), list(s.States))
	if len(s.Legs) > 0 {
		row("", "sent%s", list(s.Legs))
	}
	if len(s.Rejections) > 0 {
		row("", "rejected by limits%s", list(s.Rejections))
	}
	row("fills", "%s%s; %d orders filled in part first", thousands(s.Fills), list(s.Sides), s.Partial)
	for _, k := range keys(s.Position) {
		row("position", "%s %s", k, trimZeros(s.Position[k]))
	}
	for _, k := range keys(s.PnL) {
		row("P&L", "%s %s", trimZeros(s.PnL[k]), k)
	}
	row("landed", "%s", strings.TrimPrefix(list(s.Rows), ": "))
	row("proof", "lag %d, missing %d, duplicates %d, orders without their fills %d, P&L difference %s%s", s.Lag, s.Missing, s.Duplicates, s.Unproven, s.PnLCheck, s.simText())
	for _, k := range keys(s.Hashes) {
		row("hash", "%-8s %s", k, s.Hashes[k])
	}
	for _, k := range keys(s.Frames) {
		f := s.Frames[k]
		row("frames", "%-16s read %d, published %d%s", k, f.Read, f.Published, list(f.Ignored))
	}
	row("data", "%s", s.Data)
	for _, e := range s.Errors {
		row("ERROR", "%s", e)
	}
	fmt.Fprintln(w)
}

func (s *summary) simText() string {
	if s.SimCheck == nil {
		return ""
	}
	return fmt.Sprintf(", differences from the simulator's ledger %d", *s.SimCheck)
}

func keys[V any](m map[string]V) []string {
	var k []string
	for n := range m {
		k = append(k, n)
	}
	sort.Strings(k)
	return k
}

// list writes ": a 3, b 2", largest first.
func list(m map[string]uint64) string {
	names := keys(m)
	sort.SliceStable(names, func(i, j int) bool { return m[names[i]] > m[names[j]] })
	for i, n := range names {
		names[i] = n + " " + thousands(m[n])
	}
	if len(names) == 0 {
		return ""
	}
	return ": " + strings.Join(names, ", ")
}

func trimZeros(d string) string {
	if strings.Contains(d, ".") {
		d = strings.TrimRight(strings.TrimRight(d, "0"), ".")
	}
	return d
}
