package event

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// ID is the identity of a derived event: the first 16 bytes of a SHA-256 over
// what the event follows from. It contains no topic, partition, offset, clock
// or random number, so a replay makes the same one. It prints and lands in
// ClickHouse as a UUID.
type ID [16]byte

// Hash returns the ID over the fields, each preceded by its length, so that no
// two lists of fields run into one another.
func Hash(fields ...[]byte) ID {
	h := sha256.New()
	var n [8]byte
	for _, f := range fields {
		binary.BigEndian.PutUint64(n[:], uint64(len(f)))
		h.Write(n[:])
		h.Write(f)
	}
	var id ID
	copy(id[:], h.Sum(nil))
	return id
}

// HashStrings is Hash over strings.
func HashStrings(fields ...string) ID {
	b := make([][]byte, len(fields))
	for i, f := range fields {
		b[i] = []byte(f)
	}
	return Hash(b...)
}

// SignalID is the identity of the k-th signal that a rule fires on one record.
func SignalID(rule ID, triggerID string, k uint32) ID {
	return Hash(rule[:], []byte(triggerID), binary.BigEndian.AppendUint32(nil, k))
}

// DecisionID is the identity of the decision on a signal for an account; arm
// tells champion from challenger and shadow.
func DecisionID(signal ID, account, arm string) ID {
	return Hash(signal[:], []byte(account), []byte(arm))
}

// CallID is the identity of one model call.
func CallID(decision ID, role string, prompt ID, model string, attempt uint32) ID {
	return Hash(decision[:], []byte(role), prompt[:], []byte(model), binary.BigEndian.AppendUint32(nil, attempt))
}

// clientOrderAlphabet is base32 in lower case: letters and digits only, which
// every venue takes.
const clientOrderAlphabet = "abcdefghijklmnopqrstuvwxyz234567"

// ClientOrderID is the client order id of one leg of a decision: "ah" and 18
// characters of [a-z2-7], 20 in all, the longest that every broker accepts
// (protocols.md B0.2). 90 bits of the decision's hash make it unique.
func ClientOrderID(decision ID, leg uint32) string {
	h := Hash(decision[:], binary.BigEndian.AppendUint32(nil, leg))
	out := make([]byte, 0, 20)
	out = append(out, "ah"...)
	var acc, bits uint
	for _, b := range h {
		acc = acc<<8 | uint(b)
		for bits += 8; bits >= 5 && len(out) < cap(out); bits -= 5 {
			out = append(out, clientOrderAlphabet[acc>>(bits-5)&31])
		}
		acc &= 1<<bits - 1
	}
	return string(out)
}

// ExitOrderID is the client order id of one attempt to close the lot of a decision by
// an exit of that leg. No entry has it: those are of leg 0.
func ExitOrderID(decision ID, leg Leg, attempt uint32) string {
	return ClientOrderID(decision, uint32(leg)<<24|attempt&(1<<24-1))
}

// IsZero reports whether the ID was never set.
func (id ID) IsZero() bool { return id == ID{} }

// String returns the UUID form, 8-4-4-4-12.
func (id ID) String() string {
	var b [36]byte
	hex.Encode(b[:8], id[:4])
	hex.Encode(b[9:13], id[4:6])
	hex.Encode(b[14:18], id[6:8])
	hex.Encode(b[19:23], id[8:10])
	hex.Encode(b[24:], id[10:])
	b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
	return string(b[:])
}

// MarshalText writes the UUID form.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads the UUID form.
func (id *ID) UnmarshalText(text []byte) error {
	if len(text) != 36 || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-' {
		return fmt.Errorf("parsing id %.40q: want 8-4-4-4-12 hexadecimal digits", text)
	}
	digits := make([]byte, 0, 32)
	for _, part := range [][2]int{{0, 8}, {9, 13}, {14, 18}, {19, 23}, {24, 36}} {
		digits = append(digits, text[part[0]:part[1]]...)
	}
	if _, err := hex.Decode(id[:], digits); err != nil {
		return fmt.Errorf("parsing id %.40q: %w", text, err)
	}
	return nil
}
