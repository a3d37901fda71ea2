package bus

import (
	"bytes"
	"encoding/binary"
	"io"
	"runtime"
	"testing"

	"github.com/segmentio/kafka-go/compress"

	"github.com/autohedge/autohedge/stream/event"
)

// wholeBatch is a batch as a broker stores it, of the records given.
func wholeBatch(t testing.TB, codec compress.Codec, values ...[]byte) []byte {
	t.Helper()
	b := new(batch)
	b.reset()
	for i, v := range values {
		b.add([]byte{'k', byte(i)}, v, nil)
	}
	data, err := b.seal(codec, 7, 1, 3)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(data[sizePrefix:])
}

// recheck gives the batch a checksum that fits, so that the fuzzer gets beyond it.
func recheck(b []byte) []byte {
	b = bytes.Clone(b)
	if len(b) >= batchHeadSize {
		binary.BigEndian.PutUint32(b[lengthAt:], uint32(len(b)-lengthAt-4))
		b[magicAt] = 2
		binary.BigEndian.PutUint32(b[crcAt:], checksum(b[attrsAt:]))
	}
	return b
}

// walk reads a batch to its end as a Reader does and returns how many records it
// gave.
func walk(t *testing.T, data []byte) (n int32) {
	h, records, err := parseBatch(data)
	if err != nil {
		return 0
	}
	if h.size > len(data) || h.size < batchHeadSize || h.base < 0 || h.last < h.base || h.count < 0 || int64(h.count) > h.last-h.base+1 {
		t.Fatalf("accepted %+v of %d bytes", h, len(data))
	}
	var unpacked bytes.Buffer
	body, err := unpack(&unpacked, h.attrs, records)
	if err != nil {
		return 0
	}
	if len(body) > maxUnpacked {
		t.Fatalf("%d bytes unpacked", len(body))
	}
	for ; n < h.count; n++ {
		var r rawRecord
		rest, err := parseRecord(body, &r)
		if err != nil {
			return n
		}
		if len(rest) >= len(body) || len(r.key)+len(r.value) > len(body)-len(rest) || r.offsetDelta < 0 {
			t.Fatalf("record %d: %+v from %d bytes, %d left", n, r, len(body), len(rest))
		}
		body = rest
	}
	return n
}

func FuzzParseBatch(f *testing.F) {
	for code := range compress.Compression(5) {
		f.Add(wholeBatch(f, code.Codec(), []byte("a"), nil, bytes.Repeat([]byte("b"), 300)))
	}
	f.Add(wholeBatch(f, nil, trade(1), trade(2)))
	f.Fuzz(func(t *testing.T, data []byte) {
		walk(t, data)
		walk(t, recheck(data))
	})
}

func FuzzParseRecord(f *testing.F) {
	b := wholeBatch(f, nil, []byte("value"), nil, trade(3))
	f.Add(b[batchHeadSize:])
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Fuzz(func(t *testing.T, data []byte) {
		for len(data) > 0 {
			var r rawRecord
			rest, err := parseRecord(data, &r)
			if err != nil {
				return
			}
			if len(rest) >= len(data) || len(r.key)+len(r.value) >= len(data)-len(rest) {
				t.Fatalf("%+v from %d bytes, %d left", r, len(data), len(rest))
			}
			data = rest
		}
	})
}

// wireAnswer is a fetch response of version 11 on the wire, without its size.
func wireAnswer(records []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, 1) // correlation
	b = append(b, make([]byte, 4+2+4)...)      // throttle time, error, session
	b = binary.BigEndian.AppendUint32(b, 1)    // topics
	b = append(b, 0, 2, 'm', 'd')
	b = binary.BigEndian.AppendUint32(b, 1)                              // partitions
	b = binary.BigEndian.AppendUint32(b, 3)                              // partition
	b = append(b, 0, 0)                                                  // error
	b = binary.BigEndian.AppendUint64(b, 9)                              // high watermark
	b = append(b, make([]byte, 8+8)...)                                  // last stable offset, log start offset
	b = append(binary.BigEndian.AppendUint32(b, 1), make([]byte, 16)...) // aborted transactions
	b = append(b, 0xff, 0xff, 0xff, 0xff)                                // preferred replica
	return append(binary.BigEndian.AppendUint32(b, uint32(len(records))), records...)
}

func readFetchAnswer(data []byte) (*fetchAnswer, error) {
	answer := &fetchAnswer{room: new(prefetch)}
	return answer, answer.read(bytes.NewReader(data), int64(len(data)), 11, 1)
}

func TestFetchAnswerIsDecoded(t *testing.T) {
	records := wholeBatch(t, nil, trade(1))
	answer, err := readFetchAnswer(wireAnswer(records))
	if err != nil {
		t.Fatal(err)
	}
	if err := answer.of("md", 3); err != nil || answer.highWatermark != 9 || !bytes.Equal(*answer.buf, records) || len(answer.aborted) != 1 {
		t.Errorf("%+v, %v", answer, err)
	}
	if err := answer.of("md", 2); err == nil {
		t.Error("an answer for another partition was taken")
	}
}

// Whatever a fetch answer says of its sizes, what is decoded is bounded by what came.
func FuzzFetchResponse(f *testing.F) {
	f.Add(wireAnswer(wholeBatch(f, nil, trade(1))))
	f.Add(wireAnswer(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		answer, err := readFetchAnswer(data)
		if err != nil {
			return
		}
		if answer.buf != nil && len(*answer.buf) > len(data) {
			t.Fatalf("%d bytes of records out of %d", len(*answer.buf), len(data))
		}
	})
}

func FuzzCopies(f *testing.F) {
	f.Add([]byte("binance|A"), trade(1), trade(2))
	f.Add([]byte("k"), (&event.Quote{Channel: event.ChannelJSON, Sequence: 4}).AppendWire(nil), event.Marshal(&event.Coverage{Channel: event.ChannelTrade}))
	f.Fuzz(func(t *testing.T, key, one, two []byte) {
		c := newCopies(4)
		first := c.second(0, key, one)
		c.second(1, key, two)
		again := c.second(2, key, one)
		if first {
			t.Fatal("the first record of a log is a second copy")
		}
		// A copy of a copy is one too, and only of what has an identity.
		if third := c.second(3, key, one); again && !third {
			t.Fatalf("%x is a second copy at offset 2 and none at 3", one)
		}
		if c.second(9, key, one) { // offset 3 is outside the window of four
			t.Fatalf("%x is a second copy of one outside the window", one)
		}
	})
}

// A size that is a lie costs no more memory than the bytes that come.
func TestHostileSizesAllocateLittle(t *testing.T) {
	// The lie takes the place of the size in front of no records.
	liar := binary.BigEndian.AppendUint32(bytes.TrimSuffix(wireAnswer(nil), make([]byte, 4)), maxFetched)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 20 {
		a := fetchAnswer{room: new(prefetch)}
		if err := a.read(io.MultiReader(bytes.NewReader(liar), bytes.NewReader(make([]byte, 100))), maxFetched, 11, 1); err == nil {
			t.Fatalf("records of %d bytes out of 100", maxFetched)
		}
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 20*2*fetchBytes {
		t.Errorf("%d bytes were taken for 20 answers of 100 bytes", got)
	}
}

// A compression bomb is refused, at a bounded cost, and keeps no memory.
func TestCompressionBombIsRefused(t *testing.T) {
	for code := compress.Compression(1); code < 5; code++ {
		var bomb bytes.Buffer
		w := code.Codec().NewWriter(&bomb)
		zeros := make([]byte, 1<<20)
		for range 4 * maxUnpacked >> 20 {
			if _, err := w.Write(zeros); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		var dst bytes.Buffer
		if _, err := unpack(&dst, uint16(code), bomb.Bytes()); err == nil {
			t.Errorf("%s: %d bytes unpacked to %d", code, bomb.Len(), 4*maxUnpacked)
		}
		if dst.Cap() > 3*maxUnpacked {
			t.Errorf("%s: %d bytes of memory taken", code, dst.Cap())
		}
		small := wholeBatch(t, code.Codec(), bytes.Repeat([]byte("x"), 5000))
		if _, err := unpack(&dst, uint16(code), small[batchHeadSize:]); err != nil || dst.Cap() > keepUnpacked {
			t.Errorf("%s: after the bomb: %v, %d bytes kept", code, err, dst.Cap())
		}
	}
}
