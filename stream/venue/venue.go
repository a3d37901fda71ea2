package venue

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// New makes a venue from its configuration: what Spec.Config returned, or nil
// where that is nil.
type New func(cfg any) (Venue, error)

// Registry holds every venue. It is filled by the init functions of this
// package's files.
var Registry = component.NewRegistry[New]("venue")

// Venue is the plug-in contract of one venue. All methods are safe for
// concurrent use; none of them but Instruments does any I/O.
type Venue interface {
	// Info returns the venue's constants.
	Info() Info
	// Plans says how to connect: one Plan for every connection that the symbols
	// and channels need within the venue's limits. base is the WebSocket base
	// URL. Symbols are as the venue writes them.
	Plans(base string, symbols []string, channels []ChannelSpec) ([]Plan, error)
	// NewDecoder returns a decoder for one connection.
	NewDecoder() Decoder
	// Instruments asks the venue's REST interface for the symbols; it may return
	// fewer than it was asked for. base is the REST base URL.
	Instruments(ctx context.Context, client *http.Client, base string, symbols []string) ([]event.Instrument, error)
	// Infer guesses an instrument from its symbol alone; false when the symbol
	// does not tell base from quote. Its steps are InferredStep.
	Infer(symbol string) (event.Instrument, bool)
}

// Subscriber is a Venue that can be asked for symbols on a connection that lives, and
// that refuses symbols, not connections: by an answer with the request's id, or by an
// error that names them.
type Subscriber interface {
	// Subscribe writes the messages that ask for the symbols' channels. id counts the
	// requests of a connection from 1.
	Subscribe(id uint64, symbols []string, channels []ChannelSpec) ([][]byte, error)
}

// Decoder turns the frames of one connection into events. It is not safe for
// concurrent use.
type Decoder interface {
	// Decode reads one frame, received at recv (Unix nanoseconds), into a Frame
	// that the caller owns and reuses; it resets it first. What Decode puts into
	// the Frame may point into frame and is valid until the next Decode.
	//
	// An error is a *FrameError: the frame as a whole is refused and holds no
	// items. A kind of frame that the decoder does not know is no error.
	// Nothing is allocated for a known kind that is not refused (a text id
	// excepted).
	Decode(frame []byte, recv int64, into *Frame) error
	// Kinds returns the names of the kinds of frame seen so far, by Kind; it
	// only grows, and not beyond MaxKinds.
	Kinds() []string
}

// Info is what a venue says of itself.
type Info struct {
	// Canonical writes a symbol as the venue writes it in its frames; nil where any
	// text may be one.
	Canonical func(symbol string) string
	// URL and REST are the public production endpoints; empty where there is no
	// such thing.
	URL  string
	REST string
	// Idle is the longest silence, pings and pongs included, that a healthy
	// connection can have.
	Idle time.Duration
	// Ping is how often we send a ping frame; 0 sends none. Pings of the venue
	// are always answered.
	Ping time.Duration
	// Life is how long a connection may last before it is replaced in good time;
	// 0 is for ever.
	Life time.Duration
	// SendEvery is the least time between two messages of ours on a connection.
	SendEvery time.Duration
	// Dials and DialWindow bound the connection attempts to the venue.
	Dials      int
	DialWindow time.Duration
	// Channels lists the channels that make events.
	Channels []ChannelSpec
	// AnySymbol says that the symbols need not be configured: the venue's frames
	// tell them.
	AnySymbol bool
}

// IDs says what the ids of a channel's records promise.
type IDs uint8

// Kinds of ids.
const (
	IDsAbsent     IDs = iota // none, or none that says anything of order
	IDsOrdered               // they grow, with holes
	IDsContiguous            // each is its predecessor plus one: a jump is a loss
)

// String returns the name.
func (i IDs) String() string {
	switch i {
	case IDsContiguous:
		return "contiguous"
	case IDsOrdered:
		return "ordered"
	}
	return "absent"
}

// ChannelSpec is one channel of a venue.
type ChannelSpec struct {
	// Name is how the configuration and the venue write it.
	Name    string
	Channel event.Channel
	IDs     IDs
	// Trades says that it makes trades; at most one such channel of a symbol may
	// be taken.
	Trades bool
	// Default says that a feed takes it unless its configuration says otherwise.
	Default bool
}

// Plan is one connection.
type Plan struct {
	URL string
	// Messages are sent, in order, right after connecting.
	Messages [][]byte
	// Symbols are the requests that a Subscriber's messages make up.
	Symbols [][]string
	Header  http.Header
}

// Kind is a kind of frame: an index into Decoder.Kinds. 0 is a frame whose kind
// could not be told.
type Kind uint8

// MaxKinds bounds the kinds of frame that are told apart; what comes after is
// counted as the last one, "other".
const MaxKinds = 64

// Control is what a frame asks of the connection.
type Control uint8

// Controls.
const (
	ControlNone   Control = iota
	ControlRotate         // the venue is about to close: open a new connection
	ControlError          // the venue refused something; Frame.Message says what
)

// Frame is what one frame holds.
type Frame struct {
	Kind Kind
	// Items are in the order of the frame. They are valid until the next Decode.
	Items []Item
	// Ignored is the reason why a frame that is not refused has no items: one of
	// the Reason constants.
	Ignored string
	// Mark is set, its ID not 0, when the frame tells which id a channel had
	// reached before this connection listened.
	Mark    Mark
	Control Control
	// Message is the venue's error text, bounded.
	Message string
	// Answer is the id of the request that the frame answers; 0 where it tells none.
	Answer uint64
}

// Mark says that the channel had reached this id.
type Mark struct {
	Symbol  []byte
	Channel event.Channel
	ID      uint64
}

// Item is one event of a frame.
type Item struct {
	// Symbol is as the venue writes it, valid UTF-8 and not empty.
	Symbol []byte
	// Type is event.TypeTrade or event.TypeQuote and tells which one is set.
	Type  event.Type
	Trade event.Trade
	Quote event.Quote
}

func (f *Frame) reset() {
	f.Kind, f.Items, f.Ignored, f.Control, f.Message, f.Mark, f.Answer = 0, f.Items[:0], "", ControlNone, "", Mark{}, 0
}

// add appends an item whose content is what an earlier frame left.
func (f *Frame) add() *Item {
	if len(f.Items) < cap(f.Items) {
		f.Items = f.Items[:len(f.Items)+1]
	} else {
		f.Items = append(f.Items, Item{})
	}
	return &f.Items[len(f.Items)-1]
}

// Reasons for ignoring a frame. The role adds its own.
const (
	ReasonNotUsed = "not_used"            // a known kind that makes no events yet
	ReasonUnknown = "unknown_kind"        // a kind this build does not know
	ReasonControl = "control"             // answers to our commands, heartbeats
	ReasonHistory = "before_subscription" // what happened before we listened
	ReasonError   = "venue_error"         // the venue refused a command
	ReasonNoMatch = "no_match"            // no price in it
	ReasonFilter  = "filtered"            // a described feed's filter left it out
)

// Codes of a FrameError, used as a metric's label.
const (
	CodeMalformed = "malformed"     // not JSON
	CodeDuplicate = "duplicate_key" // a key that is read occurs twice
	CodeMissing   = "missing_field"
	CodeBadValue  = "bad_value"
	CodeNotExact  = "not_exact" // a number that a Decimal(38, 18) cannot hold
)

// FrameError says why a frame is refused.
type FrameError struct {
	Code string
	// Field is the key of the value that is wrong, if it is one.
	Field string
	// Offset is the byte of the frame at which it was found; -1 when it concerns
	// what is not there.
	Offset int
	Detail string
}

func (e *FrameError) Error() string {
	msg := e.Code
	if e.Field != "" {
		msg += fmt.Sprintf(" %q", e.Field)
	}
	if e.Offset >= 0 {
		msg += fmt.Sprintf(" at byte %d", e.Offset)
	}
	if e.Detail != "" {
		msg += ": " + e.Detail
	}
	return msg
}

// InferredStep is the price and quantity step of an inferred instrument: finer
// than any venue's, so that it never refuses what the venue would take.
var InferredStep = event.NewDecimal(1, 8)

// kindTable names the kinds of frame of one decoder.
type kindTable struct {
	names []string
	index map[string]Kind
	known int // the kinds that were given at the start come first
}

// newKindTable starts with "unknown" and the given kinds, whose numbers are
// their positions plus one.
func newKindTable(names ...string) kindTable {
	t := kindTable{names: append([]string{"unknown"}, names...), index: make(map[string]Kind, MaxKinds), known: len(names) + 1}
	for i, n := range t.names {
		t.index[n] = Kind(i)
	}
	return t
}

// maxKindName bounds the name of a kind, in bytes.
const maxKindName = 40

// of returns the kind of that name, adding it while there is room, and whether
// it was given at the start. Names become labels of metrics, so that what is no
// printable UTF-8 in them is replaced.
func (t *kindTable) of(name []byte) (k Kind, known bool) {
	if len(name) > maxKindName {
		name = name[:maxKindName]
	}
	k, ok := t.index[string(name)]
	if !ok { // rare: a kind is new once, or written so that it is changed here each time
		name = bytes.Map(func(r rune) rune {
			if r == utf8.RuneError || !unicode.IsPrint(r) {
				return '?'
			}
			return r
		}, name)
		k, ok = t.index[string(name)]
	}
	switch {
	case ok:
		return k, int(k) < t.known
	case len(t.names) == MaxKinds:
		return MaxKinds - 1, false
	case len(t.names) == MaxKinds-1:
		name = []byte("other")
	}
	k = Kind(len(t.names))
	t.names = append(t.names, string(name))
	t.index[string(name)] = k
	return k, false
}

// Find returns the channel of that name.
func (i Info) Find(name string) (ChannelSpec, bool) {
	for _, c := range i.Channels {
		if c.Name == name {
			return c, true
		}
	}
	return ChannelSpec{}, false
}

// Spec returns what the venue says of a channel.
func (i Info) Spec(ch event.Channel) (ChannelSpec, bool) {
	for _, c := range i.Channels {
		if c.Channel == ch {
			return c, true
		}
	}
	return ChannelSpec{}, false
}
