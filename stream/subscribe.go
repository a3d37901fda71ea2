package stream

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/gorilla/websocket"

	"github.com/autohedge/autohedge/stream/venue"
)

// A symbol that the venue refuses is asked for again after retryRefused, then after
// twice that, and so on up to retryRefusedMax: venues list symbols later, and a fault of
// the venue passes.
const (
	retryRefused    = time.Minute
	retryRefusedMax = time.Hour
)

// refusal is what is known of a symbol that the venue refuses; guarded by feed.mu.
type refusal struct {
	why   string
	wait  time.Duration
	again time.Time // when it is asked for again
}

// request is a message of ours whose answer is not known.
type request struct {
	id      uint64
	symbols []string
}

// subscriptions are a connection's requests for symbols; guarded by feed.mu.
type subscriptions struct {
	lastID uint64
	open   []request
	out    [][]byte        // messages to send, in order
	wake   chan struct{}   // a message was added
	left   map[string]bool // symbols that this connection has not asked for
}

// begin queues the messages of the connection's plan, without the symbols that the venue
// refuses.
func (c *conn) begin() {
	f := c.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	c.subs = subscriptions{wake: make(chan struct{}, 1), left: map[string]bool{}}
	if _, ok := f.venue.(venue.Subscriber); !ok || f.cfg.Replay || len(c.line.plan.Symbols) == 0 {
		c.subs.out = slices.Clone(c.line.plan.Messages)
		return
	}
	for _, batch := range c.line.plan.Symbols {
		var ask []string
		for _, name := range batch {
			if s := f.symbols[name]; s != nil && s.refusal != nil {
				c.subs.left[name] = true
				continue
			}
			ask = append(ask, name)
		}
		c.ask(ask)
	}
}

// ask queues a request for the symbols. mu is held.
func (c *conn) ask(symbols []string) {
	sub, ok := c.feed.venue.(venue.Subscriber)
	if !ok || len(symbols) == 0 {
		return
	}
	c.subs.lastID++
	messages, err := sub.Subscribe(c.subs.lastID, symbols, c.feed.specs)
	if err != nil {
		c.feed.log.Error("writing a subscription", "symbols", shorten(symbols), "err", err)
		return
	}
	if len(symbols) == 1 { // asked again: the request before was not answered
		c.subs.open = slices.DeleteFunc(c.subs.open, func(r request) bool { return slices.Equal(r.symbols, symbols) })
	}
	for _, name := range symbols {
		delete(c.subs.left, name)
	}
	c.subs.open = append(c.subs.open, request{id: c.subs.lastID, symbols: symbols})
	c.subs.out = append(c.subs.out, messages...)
	select {
	case c.subs.wake <- struct{}{}:
	default:
	}
}

// nextMessage returns the next message to send, nil when there is none.
func (c *conn) nextMessage() []byte {
	c.feed.mu.Lock()
	defer c.feed.mu.Unlock()
	if len(c.subs.out) == 0 {
		return nil
	}
	msg := c.subs.out[0]
	c.subs.out = c.subs.out[1:]
	return msg
}

// subscribe sends the connection's messages until ctx ends, paced as the venue asks.
func (c *conn) subscribe(ctx context.Context) error {
	for first := true; ; {
		msg := c.nextMessage()
		if msg == nil {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-c.subs.wake:
			}
			continue
		}
		if !first && !pause(ctx, c.feed.info.SendEvery) {
			return ctx.Err()
		}
		first = false
		if err := c.ws.SetWriteDeadline(time.Now().Add(5 * time.Second)); err != nil {
			return fmt.Errorf("setting a deadline: %w", err)
		}
		if err := c.ws.WriteMessage(websocket.TextMessage, msg); err != nil {
			return fmt.Errorf("sending a subscription: %w", err)
		}
	}
}

// answered takes a frame that answers a request. It reports whether that is all there is
// to it: false means that the venue refuses the connection, not a symbol. mu is held.
func (c *conn) answered(fr *venue.Frame) bool {
	refused := fr.Control == venue.ControlError
	i := slices.IndexFunc(c.subs.open, func(r request) bool { return fr.Answer != 0 && r.id == fr.Answer })
	switch {
	case i >= 0:
		symbols := c.subs.open[i].symbols
		c.subs.open = slices.Delete(c.subs.open, i, i+1)
		switch {
		case !refused:
			for _, name := range symbols {
				c.feed.accept(name)
			}
		case len(symbols) == 1:
			c.setAside(symbols[0], fr.Message)
		default: // one of them is bad: halves tell which
			c.ask(symbols[:len(symbols)/2])
			c.ask(symbols[len(symbols)/2:])
		}
		return true
	case refused:
		return c.refusedByName(fr.Message)
	}
	return true
}

// refusedByName sets aside the symbols that an error names, and asks again for the others
// of the request, of which the venue takes none.
func (c *conn) refusedByName(message string) bool {
	named := false
	for _, batch := range c.line.symbols() {
		for _, name := range batch {
			if namesSymbol(message, name) {
				c.setAside(name, message)
				named = true
			}
		}
	}
	if !named {
		return false
	}
	for i, r := range c.subs.open {
		rest := slices.DeleteFunc(slices.Clone(r.symbols), func(name string) bool { return c.subs.left[name] })
		if len(rest) < len(r.symbols) {
			c.subs.open = slices.Delete(c.subs.open, i, i+1)
			c.ask(rest)
			break
		}
	}
	return true
}

// namesSymbol reports whether the text has the symbol as a word. Of a message that was
// cut the last word may be a part of one, and tells nothing.
func namesSymbol(text, symbol string) bool {
	part := func(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("-_/", r) }
	for from := 0; ; {
		i := strings.Index(text[from:], symbol)
		if i < 0 {
			return false
		}
		i += from
		end := i + len(symbol)
		before, _ := utf8.DecodeLastRuneInString(text[:i])
		after, _ := utf8.DecodeRuneInString(text[end:])
		if (i == 0 || !part(before)) && (end == len(text) || !part(after)) && text[end:] != "..." {
			return true
		}
		from = end
	}
}

// setAside notes that the venue refuses a symbol; the connection asks for it no more.
func (c *conn) setAside(name, why string) {
	c.subs.left[name] = true
	c.feed.refuseSymbol(name, why)
}

// refuseSymbol notes that the venue refuses a symbol and says so once. mu is held.
func (f *feed) refuseSymbol(name, why string) {
	s := f.symbols[name]
	if s == nil {
		return
	}
	if s.refusal == nil {
		s.refusal = &refusal{wait: retryRefused}
		f.log.Warn("the venue refuses a symbol: the others go on, it is asked for again later", "symbol", name, "why", why, "again", retryRefused.String())
	} else {
		s.refusal.wait = min(2*s.refusal.wait, retryRefusedMax)
	}
	s.refusal.why, s.refusal.again = why, time.Now().Add(s.refusal.wait)
}

// accept notes that the venue takes a symbol. mu is held.
func (f *feed) accept(name string) {
	if s := f.symbols[name]; s != nil && s.refusal != nil {
		s.refusal = nil
		f.log.Info("the venue takes a symbol that it refused", "symbol", name)
	}
}

// askAgain asks for the symbols that this connection lacks, each by itself, once they
// are due or another connection found the venue to take them.
func (c *conn) askAgain(now time.Time) {
	c.feed.mu.Lock()
	defer c.feed.mu.Unlock()
	if c.held || c.retired || len(c.subs.left) == 0 {
		return
	}
	var due []string
	for name := range c.subs.left {
		s := c.feed.symbols[name]
		if s != nil && (s.refusal == nil || !now.Before(s.refusal.again)) {
			due = append(due, name)
		}
	}
	slices.Sort(due)
	for _, name := range due {
		c.ask([]string{name})
	}
}

// symbols are those of the line's plan, as its messages ask for them.
func (l *line) symbols() [][]string {
	if l == nil {
		return nil
	}
	return l.plan.Symbols
}

// nothingToAsk reports whether the venue refuses every symbol of the line, and none of
// them is due: it would close a connection that asks for nothing.
func (l *line) nothingToAsk(now time.Time) bool {
	f := l.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	listed := false
	for _, batch := range l.plan.Symbols {
		for _, name := range batch {
			s := f.symbols[name]
			if s == nil || s.refusal == nil || !now.Before(s.refusal.again) {
				return false
			}
			listed = true
		}
	}
	return listed
}
