package venue

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// The feed that only the configuration describes: see JSON.

func init() {
	Registry.Register(component.Spec[New]{
		Name:    "json",
		Summary: "any JSON feed, described by paths",
		Config:  func() any { c := DefaultJSON(); return &c },
		New: func(cfg any) (Venue, error) {
			c, ok := cfg.(*JSON)
			if !ok || c == nil {
				return nil, errors.New("making a json feed: its configuration is missing")
			}
			if err := c.Validate().Err(); err != nil {
				return nil, fmt.Errorf("making a json feed: %w", err)
			}
			return newJSONVenue(*c), nil
		},
	})
}

type jsonVenue struct {
	cfg    JSON
	ids    IDs
	unit   timeUnit
	rfc    bool
	root   *jsonNode // paths from the frame
	item   *jsonNode // paths from an element
	filter []string  // wanted text of capture jsFields+i
	fixed  []byte
}

var _ Venue = (*jsonVenue)(nil)

// The values that are captured; filters follow.
const (
	jsSymbol = iota
	jsPrice
	jsQty
	jsTime
	jsSide
	jsID
	jsSequence
	jsBid
	jsAsk
	jsBidQty
	jsAskQty
	jsError
	jsFields
)

var jsNames = [jsFields]string{"symbol", "price", "quantity", "time", "side", "id", "sequence", "bid", "ask", "bid_quantity", "ask_quantity", "error"}

// jsonNode is one step of the paths: where to go on by key or position, and what
// to capture here.
type jsonNode struct {
	names    []string
	next     []*jsonNode
	captures []int
	list     bool // the elements are here
}

func (n *jsonNode) add(path string, capture int) {
	for _, part := range strings.Split(path, ".") {
		n = n.child(part)
	}
	if capture < 0 {
		n.list = true
		return
	}
	n.captures = append(n.captures, capture)
}

func (n *jsonNode) child(name string) *jsonNode {
	for i, have := range n.names {
		if have == name {
			return n.next[i]
		}
	}
	n.names = append(n.names, name)
	n.next = append(n.next, new(jsonNode))
	return n.next[len(n.next)-1]
}

func (n *jsonNode) find(name []byte) *jsonNode {
	for i, have := range n.names {
		if have == string(name) {
			return n.next[i]
		}
	}
	return nil
}

func newJSONVenue(cfg JSON) *jsonVenue {
	cfg = cfg.withDefaults()
	v := &jsonVenue{cfg: cfg, unit: timeUnits[cfg.TimeUnit], rfc: cfg.TimeUnit == "rfc3339", root: new(jsonNode), item: new(jsonNode), fixed: []byte(cfg.Fixed)}
	switch {
	case cfg.ID == "" || cfg.IDs == "absent":
	case cfg.IDs == "contiguous":
		v.ids = IDsContiguous
	default:
		v.ids = IDsOrdered
	}
	put := func(path string, capture int) {
		if path == "" {
			return
		}
		if rest, ok := strings.CutPrefix(path, rootPrefix); ok {
			v.root.add(rest, capture)
			return
		}
		v.item.add(path, capture)
	}
	for i, path := range []string{cfg.Symbol, cfg.Price, cfg.Quantity, cfg.Time, cfg.Side, cfg.ID, cfg.Sequence,
		cfg.Quote.Bid, cfg.Quote.Ask, cfg.Quote.BidQty, cfg.Quote.AskQty} {
		put(path, i)
	}
	if cfg.Error != "" { // a refusal is a frame of its own
		v.root.add(strings.TrimPrefix(cfg.Error, rootPrefix), jsError)
	}
	paths := make([]string, 0, len(cfg.Filter))
	for path := range cfg.Filter {
		paths = append(paths, path)
	}
	sort.Strings(paths)
	for i, path := range paths {
		put(path, jsFields+i)
		v.filter = append(v.filter, cfg.Filter[path])
	}
	if cfg.List != "" {
		v.root.add(cfg.List, -1)
	}
	return v
}

func (v *jsonVenue) Info() Info {
	var channels []ChannelSpec
	if v.cfg.Price != "" {
		channels = append(channels, ChannelSpec{Name: "json", Channel: event.ChannelJSON, IDs: v.ids, Trades: true, Default: true})
	}
	if v.cfg.Quote.there() {
		channels = append(channels, ChannelSpec{Name: "json.quote", Channel: event.ChannelJSONQuote, Default: true})
	}
	return Info{
		Idle:       v.cfg.Idle,
		Ping:       max(v.cfg.Idle/4, time.Second),
		SendEvery:  50 * time.Millisecond,
		Dials:      60,
		DialWindow: time.Minute,
		Channels:   channels,
		AnySymbol:  true,
	}
}

func (v *jsonVenue) Plans(base string, symbols []string, channels []ChannelSpec) ([]Plan, error) {
	messages, err := v.Subscribe(1, symbols, channels)
	if err != nil {
		return nil, err
	}
	plan := Plan{URL: base, Messages: messages}
	if len(symbols) > 0 {
		plan.Symbols = [][]string{symbols}
	}
	return []Plan{plan}, nil
}

var _ Subscriber = (*jsonVenue)(nil)

// Subscribe implements Subscriber. A message that names no symbol is sent once on a
// connection.
func (v *jsonVenue) Subscribe(id uint64, symbols []string, _ []ChannelSpec) (messages [][]byte, err error) {
	quoted := make([]string, len(symbols))
	for i, s := range symbols {
		q, err := json.Marshal(s)
		if err != nil {
			return nil, fmt.Errorf("writing the subscription: %w", err)
		}
		quoted[i] = string(q)
	}
	all := strings.Join(quoted, ",")
	for _, msg := range v.cfg.Subscribe {
		if id > 1 && !strings.Contains(msg, "{symbol") {
			continue
		}
		msg = strings.ReplaceAll(msg, "{symbols}", all)
		if !strings.Contains(msg, "{symbol}") {
			messages = append(messages, []byte(msg))
			continue
		}
		for _, q := range quoted { // it is inside of a text
			messages = append(messages, []byte(strings.ReplaceAll(msg, "{symbol}", q[1:len(q)-1])))
		}
	}
	return messages, nil
}

// Kinds of a described feed.
const (
	jsKindTrade Kind = iota + 1
	jsKindOther
)

type jsonDecoder struct {
	v     *jsonVenue
	s     scanner
	date  dateCache
	f     []token // captured; kind tokenNone where absent
	kinds kindTable
	list  token // the array of elements, kind tokenNone where there is none
}

func (v *jsonVenue) NewDecoder() Decoder {
	return &jsonDecoder{v: v, f: make([]token, jsFields+len(v.filter)), kinds: newKindTable("json", "other")}
}

func (d *jsonDecoder) Kinds() []string { return d.kinds.names }

func (d *jsonDecoder) Decode(frame []byte, recv int64, into *Frame) error {
	into.reset()
	s := &d.s
	s.reset(frame)
	clear(d.f)
	d.list.kind = tokenNone
	// First pass: the whole frame, checked; what is captured from its root, and
	// where the elements are.
	s.peek()
	start := s.i
	if err := d.walk(d.v.root); err != nil {
		return err
	}
	if !s.end() {
		return s.err()
	}
	if t := &d.f[jsError]; t.kind == tokenObject || t.kind == tokenString && t.from < t.to {
		into.Kind, into.Ignored, into.Control, into.Message = jsKindOther, ReasonError, ControlError, clip(s.string(t), 300)
		return nil
	}
	if d.v.cfg.List == "" {
		d.list = token{from: int32(start), to: int32(len(frame)), kind: tokenArray}
		if frame[start] != '[' || d.positional() {
			d.list.kind = tokenObject
		}
	}
	into.Kind, into.Ignored = jsKindOther, ReasonNoMatch
	err := d.elements(frame, recv, into)
	if err != nil {
		into.Items, into.Ignored = into.Items[:0], ""
		return err
	}
	if len(into.Items) > 0 {
		into.Kind, into.Ignored = jsKindTrade, ""
	}
	return nil
}

// positional reports whether the elements' paths lead into an array by position,
// so that an array is one element.
func (d *jsonDecoder) positional() bool {
	for _, n := range d.v.item.names {
		if n[0] < '0' || n[0] > '9' {
			return false
		}
	}
	return len(d.v.item.names) > 0
}

// elements is the second pass: over each element.
func (d *jsonDecoder) elements(frame []byte, recv int64, into *Frame) error {
	s := &d.s
	if d.list.kind == tokenNone {
		return nil
	}
	s.b, s.i, s.depth = frame[:d.list.to], int(d.list.from), 0
	if d.list.kind == tokenObject {
		return d.element(recv, into)
	}
	s.enter()
	for first := true; s.element(first); first = false {
		if err := d.element(recv, into); err != nil {
			return err
		}
	}
	if s.msg != "" {
		return s.err()
	}
	return nil
}

// element captures one element's values and makes its event.
func (d *jsonDecoder) element(recv int64, into *Frame) error {
	d.forget(d.v.item)
	if err := d.walk(d.v.item); err != nil {
		return err
	}
	for i, want := range d.v.filter {
		if t := &d.f[jsFields+i]; t.kind == tokenNone || string(d.s.string(t)) != want {
			if into.Ignored == ReasonNoMatch {
				into.Ignored = ReasonFilter
			}
			return nil
		}
	}
	if d.v.cfg.Fixed == "" && !d.has(jsSymbol) {
		return nil
	}
	if d.has(jsBid) && d.has(jsAsk) {
		if err := d.quote(recv, into.add()); err != nil {
			return err
		}
	}
	if d.has(jsPrice) {
		if err := d.trade(recv, into.add()); err != nil {
			return err
		}
	}
	return nil
}

// forget drops what the element before gave.
func (d *jsonDecoder) forget(n *jsonNode) {
	for _, c := range n.captures {
		d.f[c].kind = tokenNone
	}
	for _, next := range n.next {
		d.forget(next)
	}
}

func (d *jsonDecoder) has(field int) bool {
	return d.f[field].kind != tokenNone && d.f[field].kind != tokenNull
}

// walk reads the value at hand, captures what the node's paths name, and checks
// the rest.
func (d *jsonDecoder) walk(n *jsonNode) *FrameError {
	s := &d.s
	if n.list && s.peek() == '[' {
		if d.list.kind != tokenNone {
			return &FrameError{Code: CodeDuplicate, Field: "list", Offset: s.i}
		}
		if !s.value(&d.list) {
			return s.err()
		}
		return nil
	}
	for _, c := range n.captures {
		if d.f[c].kind != tokenNone {
			return &FrameError{Code: CodeDuplicate, Field: d.name(c), Offset: s.i}
		}
	}
	c := s.peek()
	var t token
	switch {
	case len(n.next) > 0 && c == '{':
		return d.walkObject(n)
	case len(n.next) > 0 && c == '[':
		return d.walkArray(n)
	case !s.value(&t):
		return s.err()
	}
	for _, c := range n.captures {
		d.f[c] = t
	}
	return nil
}

func (d *jsonDecoder) name(capture int) string {
	if capture < jsFields {
		return jsNames[capture]
	}
	return "filter"
}

func (d *jsonDecoder) walkObject(n *jsonNode) *FrameError {
	s := &d.s
	if !s.enter() {
		return s.err()
	}
	var key, skipped token
	for first := true; s.key(first, &key); first = false {
		next := n.find(s.string(&key))
		if next == nil {
			if !s.value(&skipped) {
				return s.err()
			}
			continue
		}
		if err := d.walk(next); err != nil {
			return err
		}
	}
	if s.depth--; s.msg != "" {
		return s.err()
	}
	return nil
}

func (d *jsonDecoder) walkArray(n *jsonNode) *FrameError {
	s := &d.s
	if !s.enter() {
		return s.err()
	}
	var skipped token
	var room [20]byte
	first := true
	for i := uint64(0); s.element(first); i, first = i+1, false {
		next := n.find(strconv.AppendUint(room[:0], i, 10))
		if next == nil {
			if !s.value(&skipped) {
				return s.err()
			}
			continue
		}
		if err := d.walk(next); err != nil {
			return err
		}
	}
	if s.depth--; s.msg != "" {
		return s.err()
	}
	return nil
}

func (d *jsonDecoder) trade(recv int64, it *Item) error {
	it.Type = event.TypeTrade
	t := &it.Trade
	*t = event.Trade{Channel: event.ChannelJSON, RecvTime: recv}
	var err *FrameError
	if it.Symbol, err = d.symbol(); err != nil {
		return err
	}
	if t.Price, err = d.s.decimal(&d.f[jsPrice], "price"); err != nil {
		return err
	}
	if d.has(jsQty) {
		t.Qty.Valid = true
		if t.Qty.Decimal, err = d.s.decimal(&d.f[jsQty], "quantity"); err != nil {
			return err
		}
	}
	at, err := d.time()
	if err != nil {
		return err
	}
	t.EventTime, t.TimeSource = d.v.eventTime(at, recv)
	if d.has(jsSide) {
		t.Aggressor = sideOf(d.s.string(&d.f[jsSide]))
		if d.v.cfg.SideOf == "maker" {
			t.Aggressor = t.Aggressor.Opposite()
		}
	}
	if d.has(jsSequence) {
		if t.Sequence, err = d.s.uint(&d.f[jsSequence], "sequence"); err != nil {
			return err
		}
	}
	if d.has(jsID) {
		return asError(d.id(t))
	}
	return nil
}

// quote makes the quote of an element; it has no id, so its place on the connection is one.
func (d *jsonDecoder) quote(recv int64, it *Item) error {
	it.Type = event.TypeQuote
	q := &it.Quote
	*q = event.Quote{Channel: event.ChannelJSONQuote, RecvTime: recv}
	var err *FrameError
	if it.Symbol, err = d.symbol(); err != nil {
		return err
	}
	for _, f := range [...]struct {
		field int
		into  *event.Decimal
	}{{jsBid, &q.Bid}, {jsAsk, &q.Ask}} {
		if *f.into, err = d.s.decimal(&d.f[f.field], jsNames[f.field]); err != nil {
			return err
		}
		if f.into.Sign() < 0 {
			return badValue(jsNames[f.field], &d.f[f.field], "is below 0")
		}
	}
	for _, f := range [...]struct {
		field int
		into  *event.NullDecimal
	}{{jsBidQty, &q.BidQty}, {jsAskQty, &q.AskQty}} {
		if !d.has(f.field) {
			continue
		}
		f.into.Valid = true
		if f.into.Decimal, err = d.s.decimal(&d.f[f.field], jsNames[f.field]); err != nil {
			return err
		}
	}
	at, err := d.time()
	if err != nil {
		return err
	}
	q.EventTime, q.TimeSource = d.v.eventTime(at, recv)
	return nil
}

// eventTime is the element's time. A time at the frame of several elements is when that
// was sent, which says nothing of how old an element is.
func (v *jsonVenue) eventTime(at, recv int64) (int64, event.TimeSource) {
	if v.cfg.List != "" && strings.HasPrefix(v.cfg.Time, rootPrefix) {
		return eventTime(0, at, recv)
	}
	return eventTime(at, 0, recv)
}

func (d *jsonDecoder) symbol() ([]byte, *FrameError) {
	if d.v.cfg.Fixed != "" {
		return d.v.fixed, nil
	}
	return d.s.symbol(&d.f[jsSymbol], "symbol")
}

// id reads an id: a number of 64 bits, else a text, unless the ids must be
// numbers.
func (d *jsonDecoder) id(t *event.Trade) *FrameError {
	f := &d.f[jsID]
	if f.kind != tokenString && f.kind != tokenNumber {
		return badValue("id", f, "want a number or a text")
	}
	text := d.s.string(f)
	n, ok := parseUint(text)
	switch {
	case ok:
		t.TradeID = n
	case d.v.ids == IDsContiguous:
		return badValue("id", f, "want a whole number of 64 bits, as its ids are contiguous")
	case len(text) == 0 || len(text) > maxSymbol:
		return badValue("id", f, "is empty or too long")
	default:
		t.TradeIDText = string(text)
	}
	return nil
}

func (d *jsonDecoder) time() (int64, *FrameError) {
	if !d.has(jsTime) {
		return 0, nil
	}
	f := &d.f[jsTime]
	if f.kind == tokenString || f.kind == tokenNumber {
		text := d.s.string(f)
		if d.v.rfc || (d.v.unit == unitAuto && bytes.IndexByte(text, 'T') > 0) {
			if ns, ok := d.date.parseRFC3339(text); ok {
				return ns, nil
			}
		} else if ns, ok := parseUnix(text, d.v.unit); ok {
			return ns, nil
		}
	}
	return 0, badValue("time", f, "want a time in "+d.v.cfg.TimeUnit)
}

func sideOf(text []byte) event.Side {
	for _, w := range [...]struct {
		text string
		side event.Side
	}{{"buy", event.Buy}, {"sell", event.Sell}, {"b", event.Buy}, {"s", event.Sell}, {"bid", event.Buy}, {"ask", event.Sell}} {
		if len(text) == len(w.text) && bytes.EqualFold(text, []byte(w.text)) {
			return w.side
		}
	}
	return event.SideUnknown
}

// Instruments returns none: a described feed has no REST interface.
func (v *jsonVenue) Instruments(context.Context, *http.Client, string, []string) ([]event.Instrument, error) {
	return nil, nil
}

func (v *jsonVenue) Infer(symbol string) (event.Instrument, bool) {
	for _, sep := range []string{"-", "/", "_", ":"} {
		if base, quote, ok := strings.Cut(symbol, sep); ok && base != "" && quote != "" {
			return inferred("", symbol, base, quote), true
		}
	}
	if base, quote := splitByQuote(symbol); quote != "" {
		return inferred("", symbol, base, quote), true
	}
	return event.Instrument{}, false
}
