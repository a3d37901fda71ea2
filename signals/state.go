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
// of it; what an indicator appends has a form of its own. A reader of this form
// also reads form 1 (state_form1.go).
const StateForm = 2

// An engine's state is a header (clock, counts, rule set, how many instruments),
// one section for each instrument, in any order, and a CRC32C of all of it.
//
// A section names each rule by its place in the rule set, and writes the state of
// an indicator with its form and its length, behind the place of the first rule
// over it. So a build that cannot run one of the rules, or has changed one of the
// indicators, reads all the rest.

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
	counts := e.stats.fields()
	dst = binary.AppendUvarint(dst, uint64(len(counts)))
	for _, n := range counts {
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
	for i, t := range inst.newest {
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
		dst = binary.AppendVarint(dst, now-inst.newest[bits.TrailingZeros64(c)])
	}
	dst = binary.AppendUvarint(dst, uint64(len(inst.watches)))
	for _, w := range inst.watches {
		dst = binary.AppendUvarint(dst, uint64(len(w.rules)))
		for i := range w.rules {
			dst = binary.AppendUvarint(dst, uint64(w.rules[i].rule.place))
			dst = w.rules[i].state.append(dst, now)
		}
		dst = binary.AppendUvarint(dst, w.rules[0].rule.form)
		dst = appendSized(dst, w.ind.AppendState)
	}
	dst = binary.AppendUvarint(dst, uint64(len(inst.cooldowns)))
	for i := range inst.cooldowns {
		dst = appendBytes(dst, []byte(inst.cooldowns[i].rule))
		dst = binary.AppendVarint(dst, now-inst.cooldowns[i].last)
	}
	return dst
}

// appendSized appends what f appends behind its length, four bytes little-endian.
func appendSized(dst []byte, f func([]byte) []byte) []byte {
	at := len(dst)
	dst = f(append(dst, 0, 0, 0, 0))
	binary.LittleEndian.PutUint32(dst[at:], uint32(len(dst)-at-4)) //nolint:gosec // an indicator's state is far below 4 GiB
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
// AppendState made in that form; rules returns the rule set of a hash. Bytes that
// are not such a state are an error. warmUp names the indicators, with their
// instruments, whose saved state is of another form than this build's: they begin
// as after a hole.
func RestoreEngine(partition int32, form uint64, state []byte, rules func(hash event.ID) (*RuleSet, error)) (e *Engine, warmUp []string, err error) {
	if len(state) < crc32.Size {
		return nil, nil, fmt.Errorf("restoring an engine: %d bytes are no state", len(state))
	}
	body, sum := state[:len(state)-crc32.Size], binary.LittleEndian.Uint32(state[len(state)-crc32.Size:])
	if got := crc32.Checksum(body, castagnoli); got != sum {
		return nil, nil, fmt.Errorf("restoring an engine: %d bytes have CRC32C %08x, %08x was written", len(body), got, sum)
	}
	return restoreBody(partition, form, body, rules)
}

// restoreBody reads a state without its sum.
func restoreBody(partition int32, form uint64, body []byte, rules func(hash event.ID) (*RuleSet, error)) (*Engine, []string, error) {
	r := &engineReader{StateReader: indicator.NewStateReader(body), engine: NewEngine(partition), form: form}
	if err := r.read(rules); err != nil {
		return nil, nil, fmt.Errorf("restoring an engine: %w", err)
	}
	return r.engine, r.warmUp, nil
}

// engineReader reads an engine's state.
type engineReader struct {
	*indicator.StateReader
	engine *Engine
	form   uint64
	warmUp []string
}

func (r *engineReader) read(rules func(hash event.ID) (*RuleSet, error)) error {
	e := r.engine
	if p := r.Uint(); p != uint64(e.partition) {
		r.Failf("it is of partition %d, not %d", p, e.partition)
	}
	var hash event.ID
	r.Raw(hash[:])
	e.now = r.Int()
	counts := e.stats.fields()
	n := form1Counts
	if r.form != form1 {
		n = r.Count(len(counts))
	}
	for _, c := range counts[:n] {
		*c = r.Uint()
	}
	total := r.Count(r.Len()) // each takes a byte at least
	if err := r.Err(); err != nil {
		return err
	}
	if hash != (event.ID{}) {
		set, err := rules(hash)
		if err != nil {
			return err
		}
		e.set = set
	}
	e.order = make([]*instrument, total)
	for range total {
		if err := r.readInstrument(); err != nil {
			return err
		}
	}
	return r.End()
}

// readInstrument reads one section.
func (r *engineReader) readInstrument() error {
	e := r.engine
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
	for c := uint64(r.Count(1<<len(inst.newest) - 1)); c != 0; c &= c - 1 {
		// A build of before form 2 kept an event time that was far ahead.
		if t := e.now - r.Int(); r.form != form1 || t-e.now <= MaxEventAhead {
			inst.newest[bits.TrailingZeros64(c)] = t
		}
	}
	if r.form == form1 {
		return r.readWatchesForm1(inst)
	}
	for range r.Count(r.Len()) {
		if err := r.readWatch(inst); err != nil {
			return err
		}
	}
	for range r.Count(maxCooldowns) {
		name, last := string(r.Bytes()), e.now-r.Int()
		if _, twice := inst.findCooldown(name); twice {
			r.Failf("%s has the cooldown of %.80q twice", key, name)
		}
		if r.Err() != nil {
			break
		}
		inst.restoreCooldown(name, last)
	}
	return r.Err()
}

// readWatch reads an indicator and the rules over it. Those that this build does
// not run on the instrument leave their cooldowns.
func (r *engineReader) readWatch(inst *instrument) error {
	e := r.engine
	var first *rule
	for i := range max(r.Count(r.Len()), 1) {
		at := r.Count(len(e.set.rules) - 1)
		var state ruleState
		state.restore(r.StateReader, e.now)
		if r.Err() != nil {
			return r.Err()
		}
		rule := e.set.rules[at]
		if i == 0 {
			first = rule
		}
		if a := inst.findRule(rule); a != nil {
			a.state = state
		} else if state.fired {
			inst.restoreCooldown(rule.Name, state.last)
		}
	}
	form, size := r.Uint(), [4]byte{}
	r.Raw(size[:])
	state := r.Take(int64(binary.LittleEndian.Uint32(size[:])))
	if r.Err() != nil {
		return r.Err()
	}
	for _, w := range inst.watches {
		if w.name != first.watch {
			continue
		}
		if form != w.rules[0].rule.form {
			r.warmUp = append(r.warmUp, fmt.Sprintf("%s of %s", first.Indicator, inst.key))
			w.ind.Reset()
			for i := range w.rules {
				w.rules[i].rule.begin(&w.rules[i].state)
			}
			return nil
		}
		sub := indicator.NewStateReader(state)
		if err := w.ind.RestoreState(sub); err != nil {
			return fmt.Errorf("%s, %s: %w", inst.key, w.name, err)
		}
		if err := sub.End(); err != nil {
			return fmt.Errorf("%s, %s: %w", inst.key, w.name, err)
		}
	}
	return nil
}

// findRule returns the rule with its state, nil where it does not watch the
// instrument.
func (inst *instrument) findRule(r *rule) *armed {
	for _, w := range inst.watches {
		for i := range w.rules {
			if w.rules[i].rule == r {
				return &w.rules[i]
			}
		}
	}
	return nil
}

// restoreCooldown is putCooldown, or the time of the rule's last signal where this
// build runs the rule on the instrument.
func (inst *instrument) restoreCooldown(name string, last int64) {
	for _, w := range inst.watches {
		for i := range w.rules {
			if a := &w.rules[i]; a.rule.Name == name {
				if !a.state.fired {
					a.state.fired, a.state.last = true, last
				}
				return
			}
		}
	}
	inst.putCooldown(name, last)
}

// fields are the counts in the order in which they are saved.
func (s *Stats) fields() [10]*uint64 {
	return [...]*uint64{&s.Trades, &s.Quotes, &s.Coverage, &s.Clocks, &s.Ignored, &s.Unusable, &s.Signals, &s.Suppressed, &s.Resets, &s.Ahead}
}
