package app_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/autohedge/autohedge/cmd/internal/config"
	"github.com/autohedge/autohedge/stream"
)

// relanded is what `sinks reland` prints as JSON.
type relanded struct {
	Partitions []struct {
		Topic      string
		Start, End int64
	}
	Records, Expired int64
}

// A ClickHouse whose folder is lost, and one that loses tables while the sinks run, land
// again by the command that the error names, and a kill on the way changes nothing. The
// roles that trade run in one process from the beginning to the end.
func TestLostClickHouseLandsAgain(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	start(t, "kafka", "--data", data, "--output", "json").addresses()
	store := start(t, "clickhouse", "--data", data, "--output", "json")
	store.addresses()
	sim := start(t, "simulate", "--dir", t.TempDir(), "--output", "json", "--rate", "600").addresses()
	file := write(t, data, "autohedge.yaml", unhurried(func(c *config.Config) {
		c.Stream.Feeds = []stream.FeedConfig{{
			Name: "binance", Venue: "binance", URL: sim["binance_ws"] + "/stream", REST: sim["binance_rest"], Symbols: []string{"BTCUSDT", "ETHUSDT"},
		}}
	}))
	land := func() *process { return start(t, "run", "--config", file, "--data", data, "--roles", "sinks") }
	order := func() relanded {
		return decode[relanded](t, succeed(t, "sinks", "reland", "--config", file, "--data", data, "--yes", "--why", "test", "--output", "json"))
	}
	const command = "`autohedge sinks reland`"
	const landed = "SELECT count() FROM ticks"

	sinks := land()
	sinks.ready()
	trading := start(t, "run", "--config", file, "--data", data, "--roles", "stream,signals,agents,execution")
	trading.ready()
	before := atLeast(t, data, 3000, landed)
	atLeast(t, data, 1, "SELECT count() FROM fills")

	// The folder is lost while nothing lands.
	sinks.signal(syscall.SIGTERM)
	sinks.ended()
	store.signal(syscall.SIGTERM)
	store.ended()
	if err := os.RemoveAll(filepath.Join(data, "clickhouse")); err != nil {
		t.Fatal(err)
	}
	store = start(t, "clickhouse", "--data", data, "--output", "json")
	store.addresses()
	refused := land()
	if code := refused.wait(); code == 0 || !strings.Contains(refused.err.String(), command) {
		t.Fatalf("exit code %d, saying %s", code, lastOf(refused.err.String()))
	}
	if said := order(); said.Records < int64(before) || said.Expired != 0 {
		t.Errorf("%d records are said to land again, %d to be gone", said.Records, said.Expired)
	}
	sinks = land()
	sinks.says("landing again what Kafka still holds")
	sinks.kill()
	sinks = land()
	sinks.ready()
	before = atLeast(t, data, before, landed)

	// A table is lost while the sinks run; the others keep their rows.
	succeed(t, "query", "--data", data, "DROP TABLE ticks SYNC")
	sinks.says("level=WARN .*" + command)
	order()
	atLeast(t, data, before, landed)

	// A lot that is too small to be closed is an error too, and no end of trading.
	decided := "SELECT count() FROM decisions"
	atLeast(t, data, number(t, data, decided)+1, decided)
	if !alive(trading.pid()) {
		t.Errorf("trading did not go on: %s", trading.err.String())
	}
	trading.signal(syscall.SIGTERM)
	trading.ended()
	sinks.signal(syscall.SIGTERM)
	sinks.ended()

	// Everything that is in the log is in the database, from its first offset on.
	var held int64
	for _, p := range order().Partitions {
		held += p.End
	}
	for sql, want := range map[string]string{
		"SELECT sum(abs(missing)) FROM v_landed_proof":                                                     "0",
		"SELECT sum(end_offset - start_offset) FROM v_landed_proof":                                        strconv.FormatInt(held, 10),
		"SELECT sum(expired) FROM v_landed_proof":                                                          "0",
		"SELECT count() - uniqExact(kafka_partition, kafka_offset) FROM ticks":                             "0",
		"SELECT count() - uniqExact(kafka_partition, kafka_offset) FROM quotes":                            "0",
		"SELECT count() - uniqExact(topic, kafka_partition, kafka_offset) FROM order_events":               "0",
		"SELECT count() - uniqExact(token) FROM landed":                                                    "0",
		"SELECT count() FROM v_fill_proof WHERE difference != 0":                                           "0",
		"SELECT count() - uniqExact(incarnation, event_id) FROM (SELECT incarnation, event_id FROM ticks)": "0",
	} {
		if got := number(t, data, sql); strconv.Itoa(got) != want {
			t.Errorf("%s: %d, want %s", sql, got, want)
		}
	}
}

// What cannot be ordered is said before anything is asked of Kafka.
func TestRelandRefusesWhatDoesNotLand(t *testing.T) {
	t.Parallel()
	_, stderr, code := run(t, "sinks", "reland", "--topic", "state.sinks", "--yes", "--data", t.TempDir())
	if code != 2 || !strings.Contains(stderr, `topic "state.sinks" does not land`) {
		t.Errorf("exit code %d, saying %s", code, lastOf(stderr))
	}
}
