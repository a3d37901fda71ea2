package bus

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/autohedge/autohedge/stream/component"
	"github.com/autohedge/autohedge/stream/event"
)

// updateFaults writes testdata/faults.txt anew. The run fails where a row changed,
// so that nobody takes a change for an agreed one.
var updateFaults = flag.Bool("update-faults", false, "write testdata/faults.txt as it is now")

const (
	faultsFile = "testdata/faults.txt"
	// faultLasts, longer than anything is waited for by itself, is how long a fault
	// that does not go away is there; groupLasts is the same for groups, and
	// faultBound how much longer what waited for its end may take.
	faultLasts = 90 * time.Second
	groupLasts = 10 * time.Second
	faultBound = 2 * time.Minute
	faultCount = 40 // records in md
)

var (
	codeText   = regexp.MustCompile(`\[-?\d+\] [^:]*: [^:;\n]*`)
	attemptRow = regexp.MustCompile(`\br\d+x\d+\b`)
	numberText = regexp.MustCompile(`(records|producer|sequence|first|before offset) \d+`)
	sizeText   = regexp.MustCompile(`record of \d+ bytes`)
	toldText   = regexp.MustCompile(`<code>: [A-Z_]+`) // the broker's own words
	topicText  = regexp.MustCompile(`topic ROW\.[a-z.]+`)
	idText     = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f-]{27}`)
)

// outcome says in a few words what came of a row.
func (r *faultRun) outcome(code kafka.Error, err error, took time.Duration) string {
	text := ""
	if err != nil {
		text = strings.ReplaceAll(err.Error(), code.Error(), "<code>")
		text = toldText.ReplaceAllString(sizeText.ReplaceAllString(text, "record of N bytes"), "<code>")
		text = idText.ReplaceAllString(text, "ID")
		text = attemptRow.ReplaceAllString(codeText.ReplaceAllString(text, "<another code>"), "ROW")
		text = numberText.ReplaceAllString(topicText.ReplaceAllString(text, "topic ROW.TOPIC"), "$1 N")
	}
	switch {
	case component.IsFatal(err):
		return "fatal: " + text
	case err != nil:
		return "error: " + text
	case r.forever && took >= r.lasts:
		return "waits and goes on"
	}
	return "goes on"
}

// faultRows runs every code of one request and returns the codes of each outcome.
func faultRows(t *testing.T, op faultOp, forever bool) map[string][]int {
	t.Helper()
	rows := make(map[string][]int)
	run := func(t *testing.T, v *virtual) {
		v.cfg = op.cfg
		c := v.connect(t)
		p := newProducer(t, c, ProducerConfig{Name: "fill", Blocking: true})
		produce(t, p, event.TopicMarket, 0, faultCount)
		r := &faultRun{t: t, v: v, c: c, forever: forever, lasts: faultLasts}
		if op.group {
			r.lasts = groupLasts
		}
		for code := int16(-1); code < 140; code++ {
			kind := kerr.TypedErrorForCode(code)
			if kind == nil || kind.Code != code {
				continue
			}
			if raced && code%9 != 0 { // for races a part of the codes does; the table is held without
				continue
			}
			r.code, r.row = code, fmt.Sprintf("r%dx%d", op.key, code+1)
			inject := injection(v, op, kind, forever)
			var began time.Time
			r.install = func() {
				began = time.Now()
				inject.install()
				if forever {
					time.AfterFunc(r.lasts, inject.remove)
				}
			}
			time.Sleep(time.Second) // what the row before had asked for last is answered
			ctx, cancel := context.WithTimeout(t.Context(), r.lasts+faultBound+10*time.Second)
			err := op.do(r, ctx)
			took, hits := time.Since(began), inject.hits()
			inject.remove()
			if ctx.Err() != nil {
				t.Errorf("code %d: hangs: %v after %s", code, err, took)
			}
			cancel()
			if err != nil && (strings.Contains(err.Error(), "LOST") || strings.Contains(err.Error(), "HANGS")) {
				t.Errorf("code %d: %v", code, err)
			}
			if hits == 0 {
				t.Errorf("code %d: %s was not asked", code, op.name)
			}
			outcome := r.outcome(kafka.Error(code), err, took)
			rows[outcome] = append(rows[outcome], int(code))
			if op.session {
				if err := c.DropSession(t.Context(), r.row); err != nil {
					t.Errorf("code %d: %v", code, err)
				}
			}
		}
		for _, end := range r.ends {
			end()
		}
		topic := event.TopicMarket
		if op.narrow.Topic == event.TopicSignals {
			topic = event.TopicSignals
		}
		checkFates(t, r, topic)
	}
	inBubble(t, run, op.brokers...)
	return rows
}

// injected is one code of one kind of request, to be answered once or for ever.
type injected struct {
	install, remove func()
	hits            func() int
}

func injection(v *virtual, op faultOp, kind *kerr.Error, forever bool) injected {
	if op.rewrite != nil {
		var hits atomic.Int64
		remove := func() {}
		return injected{
			install: func() {
				remove = v.answers.set(func(res kmsg.Response) bool {
					if (!forever && hits.Load() > 0) || !op.rewrite(res, kind.Code) {
						return false
					}
					hits.Add(1)
					return true
				})
			},
			remove: func() { remove() },
			hits:   func() int { return int(hits.Load()) },
		}
	}
	f := op.narrow
	f.Keys, f.TopLevel, f.Err = []kmsg.Key{op.key}, op.topLevel, kind
	if forever {
		f.Count = -1
	}
	var h *kfake.FaultHandle
	return injected{
		install: func() { h = v.cluster.Fault(f) },
		remove: func() {
			if h != nil {
				h.Remove()
			}
		},
		hits: func() int {
			if h == nil {
				return 0
			}
			return h.Hits()
		},
	}
}

// checkFates reads what the rows appended, copies included, and holds it against
// what the producers were told: what was acknowledged is in the log once, what has
// an unknown outcome at most once, anything else not, and each key's records are in
// the order of their appends.
func checkFates(t *testing.T, r *faultRun, topic string) {
	t.Helper()
	if len(r.fates) == 0 {
		return
	}
	copies, last := make(map[int]int), make(map[string]int)
	err := everyRecord(t, r.c, topic, 0, func(rec Record) error {
		if string(rec.Key) < "a" || len(rec.Key) != 1 || string(rec.Key) == "k" {
			return nil // of before the rows
		}
		n, err := strconv.Atoi(string(rec.Value))
		if err != nil {
			return err
		}
		if before, ok := last[string(rec.Key)]; ok && n <= before {
			t.Errorf("offset %d holds record %d of key %s after %d", rec.Offset, n, rec.Key, before)
		}
		last[string(rec.Key)] = n
		copies[n]++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for n, f := range r.fates {
		least, most := 0, 0
		switch {
		case f.err == nil:
			least, most = 1, 1
		case errors.Is(f.err, ErrUnknownOutcome):
			most = 1
		}
		if got := copies[n]; got < least || got > most {
			t.Errorf("%s: record %d is in the log %d times, and its producer was told %v", f.row, n, got, f.err)
		}
	}
	if len(copies) == 0 {
		t.Error("no record is in the log")
	}
}

const faultsHead = "# What each error code of an answer does, by request; see faults_test.go. once: the code is given one time;\n" +
	"# ever: for 90 s, of groups for 10 s. Under each outcome are its codes. Written with -update-faults, read by people.\n"

// agreedFaults is the table as it is agreed, by the title of the rows.
func agreedFaults(t *testing.T) map[string]string {
	t.Helper()
	data, err := os.ReadFile(faultsFile)
	if err != nil && !*updateFaults {
		t.Fatal(err)
	}
	agreed := make(map[string]string)
	for part := range strings.SplitSeq(strings.TrimPrefix(string(data), faultsHead), "\n== ") {
		if title, rows, ok := strings.Cut(part, "\n"); ok {
			agreed[title] = rows
		}
	}
	return agreed
}

// Each error code a broker can answer, on each request kind, once and for as long
// as one likes: testdata/faults.txt says what is to happen.
func TestFaultMatrixOnKfake(t *testing.T) {
	if onApache() {
		t.Log("it takes no part of Apache Kafka, and two minutes: the run on the embedded broker has it")
		return
	}
	ops, agreed := faultOps(), agreedFaults(t)
	now := make([][2]string, len(ops))
	modes := []string{"once", "ever"}
	title := func(op faultOp, mode string) string { return op.name + ", " + mode }
	t.Run("rows", func(t *testing.T) { // returns when all have
		for i, op := range ops {
			for j, mode := range modes {
				t.Run(op.name+" "+mode, func(t *testing.T) {
					t.Parallel()
					began := time.Now()
					rows := faultRows(t, op, mode == "ever")
					var out strings.Builder
					for _, o := range slices.Sorted(maps.Keys(rows)) {
						fmt.Fprintf(&out, "%s\n  %s\n", o, strings.Trim(fmt.Sprint(rows[o]), "[]"))
					}
					now[i][j] = out.String()
					if diff := cmp.Diff(agreed[title(op, mode)], now[i][j]); diff != "" && !raced {
						t.Errorf("what happens is not what %s says (- agreed, + now):\n%s", faultsFile, diff)
					}
					t.Logf("took %s", time.Since(began).Round(time.Millisecond))
				})
			}
		}
	})
	if raced {
		return
	}
	var out strings.Builder
	out.WriteString(faultsHead)
	for i, op := range ops {
		for j, mode := range modes {
			rows := now[i][j]
			if rows == "" { // -run chose others
				rows = agreed[title(op, mode)]
			}
			fmt.Fprintf(&out, "\n== %s\n%s", title(op, mode), rows)
			delete(agreed, title(op, mode))
		}
	}
	for left := range agreed {
		t.Errorf("%s has rows %q, and nothing gives them", faultsFile, left)
	}
	if *updateFaults {
		if err := os.WriteFile(faultsFile, []byte(out.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
