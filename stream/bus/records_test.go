package bus

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/segmentio/kafka-go/compress"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func sealed(t testing.TB, codec compress.Codec, records ...[2][]byte) []byte {
	t.Helper()
	var b batch
	b.reset()
	b.time = 1_700_000_000_000
	for _, r := range records {
		b.add(r[0], r[1], nil)
	}
	out, err := b.seal(codec, 7, 3, 11)
	if err != nil {
		t.Fatal(err)
	}
	if int(binary.BigEndian.Uint32(out)) != len(out)-sizePrefix {
		t.Fatalf("size prefix %d of %d bytes", binary.BigEndian.Uint32(out), len(out))
	}
	return bytes.Clone(out[sizePrefix:])
}

// The encoder is held against another implementation of the format, franz-go's.
func TestBatchAsAnotherClientReadsIt(t *testing.T) {
	long := bytes.Repeat([]byte("x"), 300)
	records := [][2][]byte{{[]byte("k"), []byte("v")}, {nil, long}, {long, nil}, {[]byte{}, []byte{}}}
	for _, codec := range []compress.Codec{nil, &compress.GzipCodec, &compress.SnappyCodec, &compress.Lz4Codec, &compress.ZstdCodec} {
		data := sealed(t, codec, records...)
		var b kmsg.RecordBatch
		if err := b.ReadFrom(data); err != nil {
			t.Fatal(err)
		}
		if b.ProducerID != 7 || b.ProducerEpoch != 3 || b.FirstSequence != 11 || b.NumRecords != 4 || b.LastOffsetDelta != 3 || b.FirstTimestamp != 1_700_000_000_000 || b.PartitionLeaderEpoch != -1 {
			t.Errorf("head %+v", b)
		}
		got, err := kfake.BatchRecords(b)
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range got {
			if !same(r.Key, records[i][0]) || !same(r.Value, records[i][1]) || int(r.OffsetDelta) != i || len(r.Headers) != 0 {
				t.Errorf("record %d is %q = %q", i, r.Key, r.Value)
			}
		}
		if codec != nil && (b.Attributes&7 != int16(codec.Code()) || len(data) > 400) {
			t.Errorf("%s: attributes %x, %d bytes", codec.Name(), b.Attributes, len(data))
		}
	}
}

func same(a, b []byte) bool { return bytes.Equal(a, b) && (a == nil) == (b == nil) }

func TestEveryFlippedBitUnderTheChecksumIsSeen(t *testing.T) {
	data := sealed(t, nil, [2][]byte{[]byte("key"), []byte("value")})
	for bit := crcAt * 8; bit < len(data)*8; bit++ {
		data[bit/8] ^= 1 << (bit % 8)
		if _, _, err := parseBatch(data); err == nil {
			t.Fatalf("bit %d flipped and not seen", bit)
		}
		data[bit/8] ^= 1 << (bit % 8)
	}
}
