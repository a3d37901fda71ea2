package signals

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"math/bits"

	"github.com/autohedge/autohedge/signals/indicator"
	"github.com/autohedge/autohedge/stream/event"
)

// StateForm is the form of what Engine.Save makes. It goes up with every change
// of it, an indicator's AppendState included; a reader of another form replays
// the log instead.
const StateForm = 1

// An engine's state is a header (clock, counts, rule set, how many instruments),
// one section for each instrument, in any order, and a CRC32C of all of it. It
// holds no names of rules and indicators: these follow from the rule set and the
// instrument's key, and are made by equip in the order in which they were saved.

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// saving is a state that is being taken. It is that of the record at which it
// was begun: an instrument is written before the first record after that changes
// it, so that taking it can be spread over as many records as it takes.
type saving struct {
	buf    []byte
	begin  int    // where the engine's state begins in buf
	now    int64  // of the engine when it was begun
	total  int    // instruments there were
	next   int    // of Engine.order
	sum    uint32 // of what lies before summed
	summed int
}

// BeginSave takes the state as it is between two records; it is appended to dst,
// which the engine owns until Save is done. A state being taken is given up.
// Between BeginSave and the end of Save the engine is stepped as ever.
func (e *Engine) BeginSave(dst []byte) {
	s := &saving{begin: len(dst), summed: len(dst), now: e.now, total: len(e.order)}
	e.saving = s
	e.saves++
	dst = binary.AppendUvarint(dst, uint64(e.partition))
	dst = append(dst, e.set.Hash[:]...)
	dst = binary.AppendVarint(dst, e.now)
	for _, n := range e.stats.fields() {
		dst = binary.AppendUvarint(dst, *n)
	}
	s.buf = binary.AppendUvarint(dst, uint64(s.total))
}

// Save goes on with what BeginSave began, by about limit bytes and at least one
// instrument, and returns the whole once it is done. The caller owns it then.
func (e *Engine) Save(limit int) (state []byte, done bool) {
	s := e.saving
	if s == nil {
		return nil, false
	}
	for end := len(s.buf) + limit; s.next < s.total; s.next++ {
		if inst := e.order[s.next]; inst.saved != e.saves {
			if len(s.buf) >= end {
				return nil, false
			}
			e.saveInstrument(inst)
		}
		s.addSum(1 << 18)
	}
	s.addSum(0)
	e.saving = nil
	return binary.LittleEndian.AppendUint32(s.buf, s.sum), true
}

// Saving tells whether a state is being taken.
func (e *Engine) Saving() bool { return e.saving != nil }

// AbortSave gives up the state being taken.
func (e *Engine) AbortSave() { e.saving = nil }

// addSum brings the sum up to date once there is more than so much to add.
func (s *saving) addSum(atLeast int) {
	if len(s.buf)-s.summed > atLeast {
		s.sum = crc32.Update(s.sum, castagnoli, s.buf[s.summed:])
		s.summed = len(s.buf)
	}
}

// AppendState appends the state as it is, in one go; one being taken is given up.
func (e *Engine) AppendState(dst []byte) []byte {
	e.BeginSave(dst)
	state, _ := e.Save(math.MaxInt / 2)
	return state
}

// saveInstrument writes an instrument as it is, unless nothing is being taken.
func (e *Engine) saveInstrument(inst *instrument) {
	inst.saved = e.saves
	if s := e.saving; s != nil && inst.index < s.total {
		s.buf = inst.appendState(s.buf, s.now)
	}
}

// Flags of a section and of a rule in it.
const (
	hasQuoteBit = 1

	armedBit = 1 << (iota - 1)
	firedBit
	runsBit
)

// appendState writes one instrument's section; times are written as what lies
// between them and now.
func (inst *instrument) appendState(dst []byte, now int64) []byte {
	dst = binary.AppendUvarint(dst, uint64(inst.index))
	dst = appendBytes(dst, inst.key)
	var flags, channels uint64
	if inst.hasQuote {
		flags |= hasQuoteBit
	}
	for i, t := range inst.traded {
		if t != 0 {
			channels |= 1 << i
		}
	}
	dst = binary.AppendUvarint(dst, flags)
	if inst.hasQuote {
		var scratch [128]byte
		dst = appendBytes(dst, inst.quote.AppendWire(scratch[:0]))
	}
	dst = binary.AppendUvarint(dst, channels)
	for c := channels; c != 0; c &= c - 1 {
		dst = binary.AppendVarint(dst, now-inst.traded[bits.TrailingZeros64(c)])
	}
	dst = binary.AppendUvarint(dst, uint64(len(inst.watches)))
	for _, w := range inst.watches {
		dst = w.ind.AppendState(dst)
		dst = binary.AppendUvarint(dst, uint64(len(w.rules)))
		for i := range w.rules {
			dst = w.rules[i].state.append(dst, now)
		}
	}
	return dst
}

func (s *ruleState) append(dst []byte, now int64) []byte {
	var flags uint64
	if s.armed {
		flags |= armedBit
	}
	if s.fired {
		flags |= firedBit
	}
	if s.runs > 0 || s.since != 0 {
		flags |= runsBit
	}
	dst = binary.AppendUvarint(dst, flags)
	if flags&runsBit != 0 {
		dst = binary.AppendUvarint(dst, uint64(s.runs))
		dst = binary.AppendVarint(dst, now-s.since)
	}
	if s.fired {
		dst = binary.AppendVarint(dst, now-s.last)
	}
	return dst
}

func (s *ruleState) restore(r *indicator.StateReader, now int64) {
	flags := r.Count(armedBit | firedBit | runsBit)
	*s = ruleState{armed: flags&armedBit != 0, fired: flags&firedBit != 0}
	if flags&runsBit != 0 {
		s.runs = r.Count(1 << 62)
		s.since = now - r.Int()
	}
	if s.fired {
		s.last = now - r.Int()
	}
}

func appendBytes(dst, b []byte) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}

// RestoreEngine returns the engine of a partition in the state that Save or
// AppendState made; rules returns the rule set of a hash. Bytes that are not
// such a state are an error.
func RestoreEngine(partition int32, state []byte, rules func(hash event.ID) (*RuleSet, error)) (*Engine, error) {
	if len(state) < crc32.Size {
		return nil, fmt.Errorf("restoring an engine: %d bytes are no state", len(state))
	}
	body, sum := state[:len(state)-crc32.Size], binary.LittleEndian.Uint32(state[len(state)-crc32.Size:])
	if got := crc32.Checksum(body, castagnoli); got != sum {
		return nil, fmt.Errorf("restoring an engine: %d bytes have CRC32C %08x, %08x was written", len(body), got, sum)
	}
	return restoreBody(partition, body, rules)
}

// restoreBody reads a state without its sum.
func restoreBody(partition int32, body []byte, rules func(hash event.ID) (*RuleSet, error)) (*Engine, error) {
	e := NewEngine(partition)
	r := indicator.NewStateReader(body)
	if p := r.Uint(); p != uint64(partition) {
		r.Failf("it is of partition %d, not %d", p, partition)
	}
	var hash event.ID
	r.Raw(hash[:])
	e.now = r.Int()
	for _, n := range e.stats.fields() {
		*n = r.Uint()
	}
	total := r.Count(r.Len()) // each takes a byte at least
	if err := r.Err(); err != nil {
		return nil, fmt.Errorf("restoring an engine: %w", err)
	}
	if hash != (event.ID{}) {
		set, err := rules(hash)
		if err != nil {
			return nil, err
		}
		e.set = set
	}
	e.order = make([]*instrument, total)
	for range total {
		if err := e.restoreInstrument(r); err != nil {
			return nil, fmt.Errorf("restoring an engine: %w", err)
		}
	}
	if err := r.End(); err != nil {
		return nil, fmt.Errorf("restoring an engine: %w", err)
	}
	return e, nil
}

// restoreInstrument reads one section.
func (e *Engine) restoreInstrument(r *indicator.StateReader) error {
	index := r.Count(len(e.order) - 1)
	key := r.Bytes()
	if err := r.Err(); err != nil {
		return err
	}
	if e.order[index] != nil || e.instruments[string(key)] != nil {
		r.Failf("instrument %d, %.80q, is there twice", index, key)
		return r.Err()
	}
	inst, err := e.newInstrument(key)
	if err != nil {
		return err
	}
	inst.index, inst.saved = index, e.saves
	e.order[index] = inst
	e.instruments[string(inst.key)] = inst
	if inst.hasQuote = r.Count(hasQuoteBit) != 0; inst.hasQuote {
		if err := event.DecodeQuote(r.Bytes(), &inst.quote); err != nil && r.Err() == nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	for c := uint64(r.Count(1<<len(inst.traded) - 1)); c != 0; c &= c - 1 {
		inst.traded[bits.TrailingZeros64(c)] = e.now - r.Int()
	}
	if n := r.Uint(); n != uint64(len(inst.watches)) {
		r.Failf("%s has %d indicators by its rules, %d were saved", key, len(inst.watches), n)
	}
	for _, w := range inst.watches {
		if r.Err() != nil {
			break
		}
		if err := w.ind.RestoreState(r); err != nil {
			return fmt.Errorf("%s, %s: %w", key, w.name, err)
		}
		if n := r.Uint(); n != uint64(len(w.rules)) {
			r.Failf("%s, %s has %d rules, %d were saved", key, w.name, len(w.rules), n)
		}
		for i := range w.rules {
			w.rules[i].state.restore(r, e.now)
		}
	}
	return r.Err()
}

// fields are the counts in the order in which they are saved.
func (s *Stats) fields() [9]*uint64 {
	return [...]*uint64{&s.Trades, &s.Quotes, &s.Coverage, &s.Clocks, &s.Ignored, &s.Unusable, &s.Signals, &s.Suppressed, &s.Resets}
}
