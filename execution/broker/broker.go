package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/autohedge/autohedge/execution/ledger"
	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// Order is an order as it is sent.
type Order struct {
	// ClientOrderID is chosen by the caller, at most 20 characters of [a-z0-9].
	ClientOrderID string            `json:"client_order_id"`
	Venue         string            `json:"venue"`
	Symbol        string            `json:"symbol"` // as the venue writes it
	QuoteCurrency string            `json:"quote_currency"`
	Side          event.Side        `json:"side"`
	Type          event.OrderType   `json:"type"`
	TIF           event.TimeInForce `json:"tif"`
	Qty           event.Decimal     `json:"qty"` // base currency
	LimitPrice    event.NullDecimal `json:"limit_price"`
	// PriceTick and QtyStep are the smallest steps of price and quantity; 0 where
	// they are not known.
	PriceTick event.Decimal `json:"price_tick"`
	QtyStep   event.Decimal `json:"qty_step"`
}

// Execution is one fill as the broker reports it.
type Execution struct {
	ExecID      string          `json:"exec_id"` // unique within the broker's account
	Price       event.Decimal   `json:"price"`
	Qty         event.Decimal   `json:"qty"`
	Liquidity   event.Liquidity `json:"liquidity"`
	Fee         event.Decimal   `json:"fee"`
	FeeCurrency string          `json:"fee_currency"`
	FeeQuote    event.Decimal   `json:"fee_quote"` // the fee in quote currency
	QuoteID     string          `json:"quote_id,omitempty"`
	Time        int64           `json:"time"` // Unix nanoseconds
	// Life names the ledger that gave ExecID, where that may begin to number again.
	Life string `json:"life,omitempty"`
}

// Report is all that the broker knows of one order at one moment: its state and
// every fill so far. Reports are absolute, so that a lost, doubled or overtaken
// one does no harm.
type Report struct {
	// Seq grows with every change of any order of the account, whichever way the
	// report comes: of two reports on an order the one with the lower Seq is old.
	Seq           uint64           `json:"seq"`
	ClientOrderID string           `json:"client_order_id"`
	BrokerOrderID string           `json:"broker_order_id"`
	State         event.OrderState `json:"state"` // accepted, partially_filled, filled, rejected, canceled or expired
	Reason        string           `json:"reason,omitempty"`
	Detail        string           `json:"detail,omitempty"`
	Fills         []Execution      `json:"fills,omitempty"`
	Time          int64            `json:"time"` // the broker's, Unix nanoseconds
	// FilledQty is the cumulative quantity where the broker states it beside the
	// fills: it may know of fills that it does not tell yet.
	FilledQty event.NullDecimal `json:"filled_qty,omitzero"`
}

// Claimed returns the quantity that the broker says was filled of an order of that
// quantity: the largest of what it states in one way or another.
func (r *Report) Claimed(qty event.Decimal) (event.Decimal, error) {
	sum, err := r.FillsQty()
	if err != nil {
		return sum, err
	}
	if r.FilledQty.Valid && r.FilledQty.Decimal.Cmp(sum) > 0 {
		sum = r.FilledQty.Decimal
	}
	if r.State == event.OrderFilled && qty.Cmp(sum) > 0 {
		sum = qty
	}
	return sum, nil
}

// FillsQty returns the sum of the fills.
func (r *Report) FillsQty() (sum event.Decimal, err error) {
	for i := range r.Fills {
		if sum, err = ledger.Add(sum, r.Fills[i].Qty); err != nil {
			return sum, fmt.Errorf("adding up the fills of order %s: %w", r.ClientOrderID, err)
		}
	}
	return sum, nil
}

// ErrNotFound is what Query answers for an order that the broker never had. Any
// other error says nothing about the order.
var ErrNotFound = errors.New("the broker does not know the order")

// Broker is one account at one broker. All methods are safe for concurrent use.
type Broker interface {
	// Submit sends an order, once. nil means that the broker has it, accepted or
	// rejected: the outcome comes from Next. After any error the outcome is
	// unknown and only Query can tell. A client order id that was used before is
	// never accepted again.
	Submit(ctx context.Context, o Order) error
	// Cancel asks the broker to cancel what is left of an order; the outcome comes
	// from Next. An order that is already done is no error.
	Cancel(ctx context.Context, clientOrderID string) error
	// Query returns what the broker knows of an order now, or ErrNotFound.
	Query(ctx context.Context, clientOrderID string) (Report, error)
	// Next blocks until an order has changed after the given Seq and returns the
	// newest report of each such order, in the order of their Seq. It returns
	// component.ErrNotConnected, wrapped, while reports cannot be received, after
	// which the caller must Query every order that still works. 0 asks for all
	// orders that changed since the account was opened.
	Next(ctx context.Context, after uint64) ([]Report, error)
	// Close releases the account. Other calls end with an error.
	Close() error
}

// Quote is a top of book with its identity (event.Quote.AppendID).
type Quote struct {
	event.Quote
	Venue, Symbol string
	// ID returns the quote's identity; it is called only when a fill names it.
	ID func() string
}

// QuoteTaker is implemented by brokers that simulate: they fill against the
// market data that execution sees. Quote must not block.
type QuoteTaker interface {
	Quote(q *Quote)
}

// Dedupe says how long a broker refuses a second order with the same client
// order id (reliability.md 1.10).
type Dedupe uint8

// Kinds of deduplication.
const (
	DedupeNone      Dedupe = iota // never: a second order is placed
	DedupeOpen                    // only while the first one is open
	DedupePermanent               // for ever
)

// Profile is what differs between brokers when an outcome is not known.
type Profile struct {
	Dedupe Dedupe
	// Settle is how long after sending an order may still appear: an order that is
	// not found is asked for again after it, and only then called not placed. It
	// must be longer than a request can be on its way.
	Settle time.Duration
	// Immediate says that what an order came to at once is known, and cheap to
	// Query, when Submit returns.
	Immediate bool
	// Keeps says that Query answers for every order that the broker ever took, at
	// no cost: not to know one means that its records are others.
	Keeps bool
}

// Keeper is implemented by brokers whose records are a ledger on this machine,
// which can be lost, restored from a backup, or be another machine's.
type Keeper interface {
	Ledger() LedgerState
}

// LedgerState says which ledger it is.
type LedgerState struct {
	Path string
	// Life names it; empty for one that was made before ledgers had names.
	Life string
	// Adopted is set where somebody decided to go on with it although it is not the
	// one that took the account's orders.
	Adopted *Adoption
	// Open are the client order ids of the orders that are not done.
	Open []string
}

// Adoption is a decision to go on with a ledger: what is missing in it of orders
// until then is written off.
type Adoption struct {
	Who  string `json:"who"`
	Why  string `json:"why"`
	Time int64  `json:"time"` // Unix nanoseconds
}

// Settings is the configuration of every broker; an account uses the part of the
// broker that it names.
type Settings struct {
	Paper PaperConfig `yaml:"paper" doc:"The paper broker: fills against the quotes of the feed."`
}

// DefaultSettings returns every broker's defaults.
func DefaultSettings() Settings { return Settings{Paper: DefaultPaperConfig()} }

// Account is what a broker is opened with.
type Account struct {
	Name     string
	Settings Settings
	// Dir is the broker's own folder for this account; it need not exist.
	Dir string
	Env component.Env
}

// Kind is how a broker is opened, and what it is like.
type Kind struct {
	Profile  Profile
	Validate func(s *Settings) component.Problems
	Open     func(ctx context.Context, a Account) (Broker, error)
}

// Registry holds every broker; each file of this package adds its own.
var Registry = component.NewRegistry[Kind]("broker")
