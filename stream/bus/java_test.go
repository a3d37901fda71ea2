package bus

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/autohedge/autohedge/stream/bus/bustest"
	"github.com/autohedge/autohedge/stream/bus/kafkatest"
	"github.com/autohedge/autohedge/stream/event"
)

// The tests of this file hold the bus against the Java client, which is among
// Apache Kafka's jars: they run with AUTOHEDGE_TEST_KAFKA=apache.

var update = flag.Bool("update", false, "write testdata/murmur2.txt from what the Java client says")

// java runs a program of testdata/java, a source file, with the jars of Apache
// Kafka and returns what it prints.
func java(t testing.TB, stdin []byte, program string, args ...string) string {
	t.Helper()
	bustest.ApacheOnly(t, "the Java client comes with Apache Kafka")
	lib, err := kafkatest.Fetch(t.Context())
	bustest.NeedApache(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	args = append([]string{"-XX:TieredStopAtLevel=1", "-cp", filepath.Join(lib, "*"), filepath.Join("testdata", "java", program)}, args...)
	cmd := exec.CommandContext(ctx, "java", args...)
	var out, problems bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &problems
	if err := cmd.Run(); err != nil {
		if strings.Contains(problems.String(), "jdk.compiler") {
			err = errors.New("this Java has no compiler: install a JDK, such as openjdk-17-jdk-headless")
		}
		t.Fatalf("running %s: %v\n%s", program, err, problems.String())
	}
	return out.String()
}

const goldenMurmur = "testdata/murmur2.txt"

// murmurCounts are numbers of partitions that keys are placed among.
var murmurCounts = []int32{1, 2, 3, 4, 7, 12, 50, 1000, 2147483647}

// murmurKeys returns keys of all lengths up to 100 bytes, some of each, and keys
// as they are and as they may become.
func murmurKeys(ofEach int) (keys [][]byte) {
	r := rand.New(rand.NewPCG(1, 2))
	for length := range 101 {
		for range ofEach {
			key := make([]byte, length)
			for i := range key {
				key[i] = byte(r.Uint32())
			}
			keys = append(keys, key)
		}
	}
	for _, s := range []string{
		"binance|BTCUSDT", "coinbase|ETH-USD", "kraken|XBT/USD", "21", "foobar",
		"Zürich", "日経平均株価", "газпром", "€/$", "🦄|🚀", "é", "e\u0301", "\u0000", "\xff\xfe\xfd", strings.Repeat("ß", 50),
	} {
		keys = append(keys, []byte(s))
	}
	for i := range ofEach * 20 {
		keys = append(keys, fmt.Appendf(nil, "venue%d|SYM%d-ÜSD", i%7, i))
	}
	return keys
}

// murmurTable is what Murmur.java prints for the keys, by this package.
func murmurTable(keys [][]byte) string {
	var b strings.Builder
	for _, key := range keys {
		fmt.Fprintf(&b, "%x %d", key, int32(murmur2(key)))
		for _, n := range murmurCounts {
			fmt.Fprintf(&b, " %d", partitionOf(key, n))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func TestMurmur2AgainstTheJavaClient(t *testing.T) {
	said := func(keys [][]byte) string {
		var in bytes.Buffer
		for _, key := range keys {
			fmt.Fprintf(&in, "%x\n", key)
		}
		counts := make([]string, len(murmurCounts))
		for i, n := range murmurCounts {
			counts[i] = strconv.Itoa(int(n))
		}
		return java(t, in.Bytes(), "Murmur.java", counts...)
	}
	keys := murmurKeys(60)
	if diff := cmp.Diff(said(keys), murmurTable(keys)); diff != "" {
		t.Error("the Java client and this one differ:\n", diff)
	}
	t.Logf("%d keys, the same hash and the same partitions among %v", len(keys), murmurCounts)
	golden := said(murmurKeys(2))
	if *update {
		if err := os.WriteFile(goldenMurmur, []byte(golden), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if kept, err := os.ReadFile(goldenMurmur); err != nil || string(kept) != golden {
		t.Errorf("%s is not what the Java client says (%v): -update writes it", goldenMurmur, err)
	}
}

// What the Java client said is kept, for machines without Java.
func TestMurmur2AsTheJavaClientSaid(t *testing.T) {
	want, err := os.ReadFile(goldenMurmur)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), murmurTable(murmurKeys(2))); diff != "" {
		t.Error(diff)
	}
}

// field is a key or value as Interop.java prints it.
func field(b []byte) string {
	switch {
	case b == nil:
		return "-"
	case len(b) == 0:
		return "="
	}
	return hex.EncodeToString(b)
}

// interopRecords are keys and values of many kinds: nil, empty, text, noise, and
// one of 200 kB.
func interopRecords() (records [][2][]byte) {
	r := rand.New(rand.NewPCG(3, 4))
	for i := range 3000 {
		value := bytes.Repeat([]byte("price 64000.5 qty 0.1 "), i%40)
		if i%3 == 0 {
			for k := range value {
				value[k] = byte(r.Uint32())
			}
		}
		key := fmt.Appendf(nil, "venue|Ü%d", i%50)
		switch i {
		case 1000:
			value = nil
		case 1001:
			value = []byte{}
		case 1003:
			value = bytes.Repeat([]byte{7, 8}, 100_000)
		}
		records = append(records, [2][]byte{key, value})
	}
	return records
}

// The Java consumer, which checks the CRC, reads what our encoder wrote, plain
// and compressed: the same keys, values and offsets.
func TestJavaClientReadsOurRecords(t *testing.T) {
	bustest.ApacheOnly(t, "the Java client comes with Apache Kafka")
	b := startBroker(t)
	records := interopRecords()
	for _, compression := range compressions {
		t.Run(compression, func(t *testing.T) {
			b.admin.Wipe(t)
			cfg := testConfig(b.Addr())
			cfg.Compression = compression
			c := connect(t, cfg)
			p := newProducer(t, c, ProducerConfig{Name: "test", Blocking: true})
			want := make([]string, len(records))
			for i, r := range records {
				done := func(offset int64, err error) {
					if err != nil {
						t.Error(err)
					}
					want[i] = fmt.Sprint(offset, " ", field(r[0]), " ", field(r[1]))
				}
				if err := p.Append(event.TopicControl, 0, r[0], r[1], done); err != nil {
					t.Fatal(err)
				}
			}
			if err := p.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			var got []string
			for line := range strings.Lines(java(t, nil, "Interop.java", "read", b.Addr(), event.TopicControl, "0")) {
				f := strings.Fields(line)
				got = append(got, f[0]+" "+f[2]+" "+f[3]) // all but the timestamp
				if ms, err := strconv.ParseInt(f[1], 10, 64); err != nil || time.Since(time.UnixMilli(ms)).Abs() > 5*time.Minute {
					t.Fatalf("a record's timestamp is %s", f[1])
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("the Java client reads %d records, %d were written: %s", len(got), len(want), bustest.FirstDifference(got, want))
			}
			t.Logf("%d records in %v batches, %v bytes (%s), read by the Java client with the CRC checked", len(got),
				total(t, c.metrics.producedBatches), total(t, c.metrics.producedBytes), compression)
		})
	}
}

// The other way: what the Java producer wrote, with headers and its own
// partitioner, is read by our reader, where our partitioner looks for it.
func TestWeReadTheJavaClientsRecords(t *testing.T) {
	bustest.ApacheOnly(t, "the Java client comes with Apache Kafka")
	b := startBroker(t)
	records := interopRecords()
	var in bytes.Buffer
	for _, r := range records {
		fmt.Fprintln(&in, field(r[0]), field(r[1]))
	}
	for _, compression := range compressions {
		t.Run(compression, func(t *testing.T) {
			b.admin.Wipe(t)
			c := connect(t, testConfig(b.Addr()))
			placed := strings.Split(strings.TrimSpace(java(t, in.Bytes(), "Interop.java", "write", b.Addr(), event.TopicMarket, compression)), "\n")
			if len(placed) != len(records) {
				t.Fatalf("the Java client placed %d records of %d", len(placed), len(records))
			}
			want := make(map[int32][]string)
			for i, r := range records {
				part := c.Partition(event.TopicMarket, r[0])
				if at := fmt.Sprint(part, " ", len(want[part])); placed[i] != at {
					t.Fatalf("record %d lies at %q, want %q (partition, offset)", i, placed[i], at)
				}
				want[part] = append(want[part], field(r[0])+" "+field(r[1]))
			}
			for part := range int32(4) {
				var got []string
				_, err := c.ReadAll(t.Context(), event.TopicMarket, part, FromStart, func(r Record) error {
					got = append(got, field(r.Key)+" "+field(r.Value))
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(got, want[part]) {
					t.Errorf("partition %d: %d records read, %d written: %s", part, len(got), len(want[part]), bustest.FirstDifference(got, want[part]))
				}
			}
		})
	}
}
