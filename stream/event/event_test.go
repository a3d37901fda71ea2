package event

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/bufbuild/protocompile"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

var cmpDecimal = cmp.AllowUnexported(Decimal{})

func TestParseDecimal(t *testing.T) {
	for _, tc := range []struct {
		in, want string // want "" means refused
	}{
		{"0", "0"}, {"0.00000000", "0.00000000"}, {"-0.5", "-0.5"}, {"14.7775", "14.7775"},
		{"1e3", "1000"}, {"1.5E-3", "0.0015"}, {"1e-18", "0.000000000000000001"}, {"1e-19", ""},
		{"0.0000000000000000010", "0.000000000000000001"}, {"0.0000000000000000011", ""},
		{"99999999999999999999.999999999999999999", "99999999999999999999.999999999999999999"},
		{"100000000000000000000", ""}, {"1e20", ""}, {"1e999999999", ""}, {"1e-999999999", ""}, {"0e99999", "0"},
		{"18446744073709551616", "18446744073709551616"}, {"-9223372036854775808", "-9223372036854775808"},
		{"", ""}, {"-", ""}, {".", ""}, {"1.", ""}, {"1..2", ""}, {"0x1", ""}, {"NaN", ""}, {"1e", ""}, {"0.-10000", ""}, {" 1", ""},
	} {
		d, err := ParseDecimal([]byte(tc.in))
		if tc.want == "" {
			if err == nil {
				t.Errorf("%q gave %s, want it refused", tc.in, d)
			}
			continue
		}
		if err != nil || d.String() != tc.want {
			t.Errorf("%q gave %s, %v; want %s", tc.in, d, err, tc.want)
		}
	}
}

// The value that lands in ClickHouse is the text's, by big-integer arithmetic.
func TestDecimalInt128AgainstBig(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	for range 20000 {
		digits := make([]byte, 1+r.IntN(20))
		for i := range digits {
			digits[i] = byte('0' + r.IntN(10))
		}
		text := string(digits)
		if f := r.IntN(19); f > 0 {
			frac := make([]byte, f)
			for i := range frac {
				frac[i] = byte('0' + r.IntN(10))
			}
			text += "." + string(frac)
		}
		if r.IntN(3) == 0 {
			text = "-" + text
		}
		d, err := ParseDecimal([]byte(text))
		if err != nil {
			t.Fatalf("seed %d: %s: %v", seed, text, err)
		}
		rat, _ := new(big.Rat).SetString(text)
		want := new(big.Int).Mul(rat.Num(), new(big.Int).Exp(big.NewInt(10), big.NewInt(18), nil))
		want.Div(want, rat.Denom())
		hi, lo := d.Int128()
		got := new(big.Int).Add(new(big.Int).Lsh(big.NewInt(hi), 64), new(big.Int).SetUint64(lo))
		if got.Cmp(want) != 0 {
			t.Fatalf("seed %d: %s as Int128 is %s, want %s", seed, text, got, want)
		}
		f, _ := rat.Float64()
		if d.Float64() != f {
			t.Fatalf("seed %d: %s as float is %v, want %v", seed, text, d.Float64(), f)
		}
		back, err := FromMoney(d.Money())
		if err != nil || back.Cmp(d) != 0 {
			t.Fatalf("seed %d: %s through money is %s, %v", seed, text, back, err)
		}
	}
}

// fill sets every field of an event to a random value, at times to nothing.
func fill(r *rand.Rand, v reflect.Value) {
	switch x := v.Addr().Interface().(type) {
	case *Decimal:
		if r.IntN(3) == 0 {
			*x = MustDecimal("-12345678901234567890.123456789012345678")
		} else {
			*x = NewDecimal(r.Int64N(1<<50)-1<<49, uint8(r.IntN(9)))
		}
		return
	case *NullDecimal:
		if x.Valid = r.IntN(3) > 0; x.Valid {
			fill(r, v.FieldByName("Decimal"))
		}
		return
	case *ID:
		*x = Hash([]byte{byte(r.Uint32())})
		return
	case *[]byte:
		*x = []byte(strings.Repeat("b", 1+r.IntN(300)))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(r, v.Field(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1+r.IntN(3), 4))
		for i := range v.Len() {
			fill(r, v.Index(i))
		}
	case reflect.String:
		v.SetString(strings.Repeat("s", 1+r.IntN(9)))
	case reflect.Uint8: // an enum: all have at least 1 and 2
		v.SetUint(uint64(r.IntN(3)))
	case reflect.Uint32:
		v.SetUint(uint64(r.Uint32()))
	case reflect.Uint64:
		v.SetUint(r.Uint64())
	case reflect.Int32:
		v.SetInt(int64(r.Int32()))
	case reflect.Int64:
		v.SetInt(r.Int64() - 1<<62)
	case reflect.Float64:
		v.SetFloat(r.NormFloat64())
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	}
}

func schema(t testing.TB) protoreflect.MessageDescriptor {
	t.Helper()
	c := protocompile.Compiler{Resolver: &protocompile.SourceResolver{Accessor: protocompile.SourceAccessorFromMap(map[string]string{"event.proto": Schema})}}
	files, err := c.Compile(context.Background(), "event.proto")
	if err != nil {
		t.Fatalf("compiling event.proto: %v", err)
	}
	return files[0].Messages().ByName("Event")
}

// Every event survives our coder, and the Protobuf library with the published
// schema reads all of it: decoding there and encoding again gives an event
// equal to ours.
func TestWireAgainstProtobufLibrary(t *testing.T) {
	desc := schema(t)
	oneof := desc.Oneofs().ByName("body").Fields()
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 2))
	for i := range oneof.Len() {
		typ := Type(oneof.Get(i).Number())
		for range 50 {
			m := newMessage(typ)
			if m == nil {
				t.Fatalf("type %d of the schema has no Go type", typ)
			}
			fill(r, reflect.ValueOf(m).Elem())
			wire := Marshal(m)
			if got := TypeOf(wire); got != typ {
				t.Fatalf("TypeOf a %T is %d, want %d", m, got, typ)
			}
			back, err := Decode(wire)
			if err != nil {
				t.Fatalf("seed %d: decoding %T: %v", seed, m, err)
			}
			if diff := cmp.Diff(m, back, cmpDecimal); diff != "" {
				t.Fatalf("seed %d: %T changed on the way (-sent +got):\n%s", seed, m, diff)
			}
			lib := dynamicpb.NewMessage(desc)
			if err := proto.Unmarshal(wire, lib); err != nil {
				t.Fatalf("seed %d: library reading %T: %v", seed, m, err)
			}
			assertNoUnknown(t, lib.ProtoReflect())
			again, err := proto.Marshal(lib)
			if err != nil {
				t.Fatal(err)
			}
			back, err = Decode(again)
			if err != nil {
				t.Fatalf("seed %d: decoding the library's %T: %v", seed, m, err)
			}
			if diff := cmp.Diff(m, back, cmpDecimal); diff != "" {
				t.Fatalf("seed %d: %T changed through the library (-sent +got):\n%s", seed, m, diff)
			}
		}
	}
}

func assertNoUnknown(t *testing.T, m protoreflect.Message) {
	t.Helper()
	if len(m.GetUnknown()) > 0 {
		t.Fatalf("%s has fields that the schema lacks: %x", m.Descriptor().FullName(), m.GetUnknown())
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if f.Message() != nil && !f.IsList() {
			assertNoUnknown(t, v.Message())
		}
		return true
	})
}

// The fast coders of trades and quotes agree with the general one.
func TestMarketWire(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 3))
	for range 2000 {
		var tr, tr2 Trade
		fill(r, reflect.ValueOf(&tr).Elem())
		fast := tr.AppendWire(nil)
		general, err := Decode(fast)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if err := DecodeTrade(Marshal(&tr), &tr2); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if diff := cmp.Diff(&tr, general, cmpDecimal) + cmp.Diff(tr, tr2, cmpDecimal); diff != "" {
			t.Fatalf("seed %d: trade differs:\n%s", seed, diff)
		}
		var q, q2 Quote
		fill(r, reflect.ValueOf(&q).Elem())
		general, err = Decode(q.AppendWire(nil))
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if err := DecodeQuote(Marshal(&q), &q2); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if diff := cmp.Diff(&q, general, cmpDecimal) + cmp.Diff(q, q2, cmpDecimal); diff != "" {
			t.Fatalf("seed %d: quote differs:\n%s", seed, diff)
		}
	}
	long := Trade{TradeIDText: strings.Repeat("x", 20000)}
	var back Trade
	if err := DecodeTrade(long.AppendWire(nil), &back); err != nil || back.TradeIDText != long.TradeIDText {
		t.Fatalf("a long text id did not survive: %v", err)
	}
}

// Golden wire bytes make a change of the wire form visible.
func TestGoldenWire(t *testing.T) {
	tr := Trade{Channel: ChannelTrade, TradeID: 12345, Price: MustDecimal("64591.75000000"), Qty: Some(MustDecimal("0.00024000")),
		Aggressor: Sell, EventTime: 1787086910902000000, TimeSource: TimeEvent, RecvTime: 1787086910903000001, Connection: 7}
	const golden = "0ab100080110b960220a0880dfa6cdfcf70210082a060880f7021008300239805910bb1302cd18400149c19b1fbb1302cd185807"
	if got := hex.EncodeToString(tr.AppendWire(nil)); got != golden {
		t.Errorf("wire form is\n%s, want\n%s", got, golden)
	}
	b, err := json.Marshal(&tr)
	if err != nil {
		t.Fatal(err)
	}
	const text = `{"channel":"trade","aggressor":"sell","trade_id":12345,"price":"64591.75000000","qty":"0.00024000","event_time":1787086910902000000,"recv_time":1787086910903000001,"time_source":"event","connection":7}`
	if string(b) != text {
		t.Errorf("JSON is\n%s, want\n%s", b, text)
	}
}

// The records that the bus itself keeps, as they lie in logs.
func TestGoldenWireOfTheBus(t *testing.T) {
	id := HashStrings("x")
	for _, tc := range []struct {
		m    Message
		want string
	}{
		{&Epoch{Key: "execution.2", Number: 7, Instance: id, Who: "execution@h:1", ProducerID: 4001, ProducerEpoch: 6, Time: 1787086910902000000},
			"fa013e0a0b657865637574696f6e2e3210071a10028f0df5b8596fbcd10c9720b7a4784f220d657865637574696f6e40683a3128a11f300639805910bb1302cd18"},
		{&SnapshotChunk{Name: "engine", Save: id, Index: 3, Data: []byte{1, 2, 0}}, "8202210a06656e67696e651210028f0df5b8596fbcd10c9720b7a4784f18032203010200"},
		{&SnapshotManifest{Name: "engine", Epoch: 7, Save: id, Slot: 1, InputTopic: "md", Incarnation: id, Input: 42, Form: 1,
			Outputs: []SnapshotOutput{{"signals", 2, 9}}, Chunks: 4, Size: 1572867, First: -1, Time: 1787086910902000000, StateChecksum: 0xdeadbeef, Checksum: 0xcafe},
			"8a026b0a06656e67696e6510071a10028f0df5b8596fbcd10c9720b7a4784f20012a026d643210028f0df5b8596fbcd10c9720b7a4784f382a420d0a077369676e616c7310021809480150045883806060ffffffffffffffffff0169805910bb1302cd1870effdb6f50d78fe9503"},
	} {
		if got := hex.EncodeToString(Marshal(tc.m)); got != tc.want {
			t.Errorf("wire form of %T is\n%s, want\n%s", tc.m, got, tc.want)
		}
	}
}

func TestDecodeRefusesDamage(t *testing.T) {
	sig := Signal{ID: HashStrings("x"), Rule: "r", RefPrice: MustDecimal("1.5"), Triggers: []string{"a"}}
	wire := Marshal(&sig)
	for n := range len(wire) {
		if _, err := Decode(wire[:n]); err == nil {
			t.Errorf("the first %d of %d bytes decoded", n, len(wire))
		}
	}
	if _, err := Decode(protowire.AppendBytes(protowire.AppendTag(nil, 99, protowire.BytesType), nil)); err == nil {
		t.Error("a type of the future decoded")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(Marshal(&Trade{Price: MustDecimal("1.5"), TradeIDText: "x"}))
	f.Add(Marshal(&Signal{ID: HashStrings("x"), Values: []Value{{"a", 1}}}))
	f.Add(Marshal(&Verdict{Roles: []RoleVerdict{{"a", "b", "c"}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(b)
		var tr Trade
		var q Quote
		switch TypeOf(b) {
		case TypeTrade:
			if e := DecodeTrade(b, &tr); (e == nil) != (err == nil) {
				t.Fatalf("the two trade decoders disagree: %v, %v", err, e)
			}
		case TypeQuote:
			if e := DecodeQuote(b, &q); (e == nil) != (err == nil) {
				t.Fatalf("the two quote decoders disagree: %v, %v", err, e)
			}
		}
		if err == nil {
			if _, err := Decode(Marshal(m)); err != nil {
				t.Fatalf("what decoded does not survive: %v", err)
			}
		}
	})
}

func TestIdentity(t *testing.T) {
	tr := Trade{Channel: ChannelTrade, TradeID: 9, Connection: 2, Ordinal: 5}
	key := Key("binance", "BTCUSDT")
	if got := string(tr.AppendID(nil, key)); got != "binance|trade|BTCUSDT|9" {
		t.Error(got)
	}
	tr.TradeIDText = "t-9"
	if got := string(tr.AppendID(nil, key)); got != "binance|trade|BTCUSDT|t-9" {
		t.Error(got)
	}
	tr.TradeIDText, tr.TradeID = "", 0
	if got := string(tr.AppendID(nil, key)); got != "binance|trade|BTCUSDT|#2.5" {
		t.Error(got)
	}
	id := HashStrings("a", "bc")
	if id == HashStrings("ab", "c") {
		t.Error("fields run into one another")
	}
	var back ID
	if err := back.UnmarshalText([]byte(id.String())); err != nil || back != id {
		t.Errorf("id %s came back as %s, %v", id, back, err)
	}
	cid := ClientOrderID(id, 0)
	if len(cid) != 20 || strings.Trim(cid, "abcdefghijklmnopqrstuvwxyz234567") != "" || cid == ClientOrderID(id, 1) {
		t.Errorf("client order id %q", cid)
	}
}

func BenchmarkTradeWire(b *testing.B) {
	tr := Trade{Channel: ChannelTrade, TradeID: 4034876058, Price: MustDecimal("64591.75000000"), Qty: Some(MustDecimal("0.00024000")),
		Aggressor: Sell, EventTime: 1787086910902000000, TimeSource: TimeEvent, RecvTime: 1787086910903000001, Connection: 7}
	var buf []byte
	b.Run("append", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			buf = tr.AppendWire(buf[:0])
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := DecodeTrade(buf, &tr); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// Encoding writes nothing into the message, which others may read meanwhile: the race
// detector sees it, and a value beyond an enum shows it.
func TestMarshalLeavesTheMessageAlone(t *testing.T) {
	p := &Position{Account: "paper", Qty: MustDecimal("1.50"), Mark: Some(MustDecimal("2")), Fills: 3, Version: 4, Time: 5, Lineage: Lineage{Topic: "fills", Partition: 1, Offset: 2}}
	s := &Signal{Account: "paper", Side: 200, Value: 1.5, Time: 5}
	var others sync.WaitGroup
	for range 2 {
		others.Go(func() { Marshal(p) })
		others.Go(func() { Marshal(s) })
	}
	others.Wait()
	if s.Side != 200 {
		t.Errorf("encoding made side 200 %d", s.Side)
	}
}
