package ledger

import (
	"errors"
	"fmt"
	"slices"

	"github.com/autohedge/autohedge/stream/event"
)

// ErrConflict is a fill that is known, but with another price, quantity, side or
// order: one of the two records is wrong, and nobody here can tell which.
var ErrConflict = errors.New("the fill is known with other content")

// Fill is what the book keeps of a fill that was applied: what identifies it, and
// what must be the same whenever it is reported again.
type Fill struct {
	ID      event.ID      `json:"id"`
	Exec    string        `json:"exec"`
	Account string        `json:"account"`
	Side    event.Side    `json:"side"`
	Price   event.Decimal `json:"price"`
	Qty     event.Decimal `json:"qty"`
}

func (f *Fill) String() string {
	return fmt.Sprintf("%s %s at %s", f.Side, f.Qty, f.Price)
}

func keep(f *event.Fill) Fill {
	return Fill{ID: f.ID, Exec: f.ExecID, Account: f.Account, Side: f.Side, Price: f.Price, Qty: f.Qty}
}

// same reports whether both are the same execution of one order. Records that name
// no execution are told apart by their ids.
func (f *Fill) same(g *Fill) bool {
	if f.Exec == "" || g.Exec == "" {
		return f.ID == g.ID
	}
	return f.Exec == g.Exec
}

// fills are the fills that were applied.
type fills struct {
	orders map[string][]Fill        // by client order id
	proven map[string]event.Decimal // their sums
	byID   map[event.ID]string      // the client order id
}

func newFills() *fills {
	return &fills{orders: make(map[string][]Fill), proven: make(map[string]event.Decimal), byID: make(map[event.ID]string)}
}

func (s *fills) check(f *event.Fill) (applied bool, err error) {
	is := keep(f)
	for i := range s.orders[f.ClientOrderID] {
		was := &s.orders[f.ClientOrderID][i]
		if !was.same(&is) {
			continue
		}
		if was.Side != f.Side || was.Price.Cmp(f.Price) != 0 || was.Qty.Cmp(f.Qty) != 0 {
			return true, fmt.Errorf("%w: execution %s of order %s is recorded as %s, and now is %s", ErrConflict, f.ExecID, f.ClientOrderID, was, &is)
		}
		return true, nil
	}
	if order, known := s.byID[f.ID]; known {
		return true, fmt.Errorf("%w: fill %s is recorded for order %s, and now is execution %s of order %s, %s", ErrConflict, f.ID, order, f.ExecID, f.ClientOrderID, &is)
	}
	return false, nil
}

func (s *fills) add(f *event.Fill, proven event.Decimal) {
	s.orders[f.ClientOrderID] = append(s.orders[f.ClientOrderID], keep(f))
	s.proven[f.ClientOrderID] = proven
	s.byID[f.ID] = f.ClientOrderID
}

func (s *fills) forget(clientOrderID string) {
	for _, f := range s.orders[clientOrderID] {
		delete(s.byID, f.ID)
	}
	delete(s.orders, clientOrderID)
	delete(s.proven, clientOrderID)
}

// load takes over what Save returned.
func (s *fills) load(saved map[string][]Fill) error {
	for order, all := range saved {
		var sum event.Decimal
		for i := range all {
			f := &all[i]
			if _, twice := s.byID[f.ID]; twice || slices.ContainsFunc(all[:i], func(g Fill) bool { return g.same(f) }) {
				return fmt.Errorf("loading positions: fill %s is there twice", f.ID)
			}
			s.byID[f.ID] = order
			var err error
			if sum, err = Add(sum, f.Qty); err != nil {
				return fmt.Errorf("loading positions: adding up the fills of order %s: %w", order, err)
			}
		}
		s.orders[order], s.proven[order] = all, sum
	}
	return nil
}
