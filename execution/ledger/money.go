package ledger

import (
	"bytes"
	"fmt"

	"github.com/autohedge/autohedge/stream/event"
)

// Mul returns a x b exactly. It refuses a product that could have more than 18
// decimals: udecimal would truncate it silently beyond 19.
func Mul(a, b event.Decimal) (event.Decimal, error) {
	if int(a.Scale())+int(b.Scale()) > event.MaxScale {
		a, b = Trim(a), Trim(b)
		if int(a.Scale())+int(b.Scale()) > event.MaxScale {
			return event.Decimal{}, fmt.Errorf("multiplying %s by %s: %w", a, b, event.ErrNotExact)
		}
	}
	p, err := event.FromMoney(a.Money().Mul(b.Money()))
	if err != nil {
		return event.Decimal{}, fmt.Errorf("multiplying %s by %s: %w", a, b, err)
	}
	return p, nil
}

// Add returns a + b exactly.
func Add(a, b event.Decimal) (event.Decimal, error) {
	s, err := event.FromMoney(a.Money().Add(b.Money()))
	if err != nil {
		return event.Decimal{}, fmt.Errorf("adding %s and %s: %w", a, b, err)
	}
	return s, nil
}

// Sub returns a - b exactly.
func Sub(a, b event.Decimal) (event.Decimal, error) {
	s, err := event.FromMoney(a.Money().Sub(b.Money()))
	if err != nil {
		return event.Decimal{}, fmt.Errorf("subtracting %s from %s: %w", b, a, err)
	}
	return s, nil
}

// Neg returns -a, which always fits.
func Neg(a event.Decimal) event.Decimal {
	n, err := event.FromMoney(a.Money().Neg())
	if err != nil {
		panic(fmt.Sprintf("negating %s: %v", a, err)) // cannot happen: the range is symmetric
	}
	return n
}

// Abs returns the magnitude of a.
func Abs(a event.Decimal) event.Decimal {
	if a.Sign() < 0 {
		return Neg(a)
	}
	return a
}

// Trim drops trailing zeros behind the decimal point.
func Trim(d event.Decimal) event.Decimal {
	if d.Scale() == 0 {
		return d
	}
	var buf [48]byte
	text := bytes.TrimSuffix(bytes.TrimRight(d.Append(buf[:0]), "0"), []byte("."))
	t, err := event.ParseDecimal(text)
	if err != nil {
		return d // cannot happen: the same value with fewer digits
	}
	return t
}
