package execution

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/autohedge/autohedge/stream/event"
)

// covers reports whether the scope of a halt covers an order: all, its account, its
// symbol as the venue writes it, or its instrument's normal form, each in any case of
// letters, the last two also as VENUE|SYMBOL.
func covers(scope, account, venue, symbol, name string) bool {
	if scope == ScopeAll {
		return true
	}
	if a, ok := strings.CutPrefix(scope, scopeAccount); ok {
		return strings.EqualFold(a, account)
	}
	s, ok := strings.CutPrefix(scope, scopeSymbol)
	if !ok {
		return true // a scope that this build does not know may mean the order
	}
	if v, rest, ok := strings.Cut(s, "|"); ok {
		if !strings.EqualFold(v, venue) {
			return false
		}
		s = rest
	}
	return strings.EqualFold(s, symbol) || name != "" && strings.EqualFold(s, name)
}

// findScope writes a scope as the names in it are written, or says what there is where
// it means nothing.
func (r *Role) findScope(scope string) (string, error) {
	if want, ok := strings.CutPrefix(scope, scopeAccount); ok {
		names := slices.Sorted(maps.Keys(r.accounts))
		for _, name := range names {
			if strings.EqualFold(name, want) {
				return scopeAccount + name, nil
			}
		}
		return "", fmt.Errorf("there is no account %q; there is %s", want, strings.Join(names, ", "))
	}
	want := strings.TrimPrefix(scope, scopeSymbol)
	venue, symbol, both := strings.Cut(want, "|")
	if !both {
		symbol = want
	}
	var there []string
	for _, in := range r.market.known() {
		there = append(there, in.Venue+"|"+in.Symbol)
		if both && !strings.EqualFold(in.Venue, venue) {
			continue
		}
		prefix := scopeSymbol
		if both {
			prefix += in.Venue + "|"
		}
		switch {
		case strings.EqualFold(in.Symbol, symbol):
			return prefix + in.Symbol, nil
		case strings.EqualFold(in.Name, symbol):
			return prefix + in.Name, nil
		}
	}
	if len(there) == 0 {
		return "", fmt.Errorf("there is no symbol %q: no instrument is known yet; halt all, or an account", want)
	}
	if more := len(there) - 20; more > 0 {
		there = append(there[:20], fmt.Sprintf("and %d more", more))
	}
	return "", fmt.Errorf("there is no symbol %q; there is %s", want, strings.Join(there, ", "))
}

// unprotected lists the positions that a halt of a scope leaves without protection:
// account, venue|symbol and signed quantity.
func (r *Role) unprotected(scope string) (lines []string) {
	r.ownersMu.Lock()
	defer r.ownersMu.Unlock()
	for _, partition := range slices.Sorted(maps.Keys(r.owners)) {
		o := r.owners[partition]
		o.mu.Lock()
		for _, k := range o.book.Keys(true) {
			if covers(scope, k.Account, k.Venue, k.Symbol, r.instrumentName(k.Venue, k.Symbol)) {
				lines = append(lines, fmt.Sprintf("account %s strategy %s %s|%s: %s", k.Account, k.Strategy, k.Venue, k.Symbol, o.book.Qty(k)))
			}
		}
		o.mu.Unlock()
	}
	return lines
}

// instrumentName is the normal form of an instrument, "" where it is not known.
func (r *Role) instrumentName(venue, symbol string) string {
	if in := r.market.instrument(venue, symbol); in != nil {
		return in.Name
	}
	return ""
}

// setOwner notes who owns a partition in this process; nil that nobody does.
func (r *Role) setOwner(partition int32, o *owner) {
	r.ownersMu.Lock()
	defer r.ownersMu.Unlock()
	if o == nil {
		delete(r.owners, partition)
		return
	}
	r.owners[partition] = o
}

// known lists the instruments, in order.
func (m *market) known() []*event.Instrument {
	m.mu.RLock()
	defer m.mu.RUnlock()
	list := make([]*event.Instrument, 0, len(m.instruments))
	for _, key := range slices.Sorted(maps.Keys(m.instruments)) {
		list = append(list, m.instruments[key])
	}
	return list
}
