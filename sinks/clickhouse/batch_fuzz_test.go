package clickhouse

import (
	"testing"

	"github.com/autohedge/autohedge/stream/event"
)

// FuzzBatch gives the writer whatever may be in a topic: a record makes a row, or none, or
// is refused with an error; and the rows that it made encode.
func FuzzBatch(f *testing.F) {
	for _, m := range sampleEvents() {
		f.Add([]byte("binance|BTCUSDT"), event.Marshal(m))
	}
	f.Add([]byte{0xff}, []byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, key, value []byte) {
		b := NewBatch("md", testIncarnation, 0)
		if _, err := b.Add(1, key, value); err != nil && err.Error() == "" {
			t.Fatal("refused without a word")
		}
		for _, x := range b.Blocks() {
			for _, c := range x.rows.columns() {
				if n := c.col.Rows(); n != 1 {
					t.Fatalf("column %s of %s has %d rows", c.name, x.Table(), n)
				}
			}
		}
	})
}
