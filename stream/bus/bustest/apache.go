package bustest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/autohedge/autohedge/stream/bus/kafkatest"
)

// kafkaVar chooses the broker of the tests: empty is the embedded one, "apache"
// a real Apache Kafka. Tests that need kfake's faults say OnKfake in their name
// and run on it in either case.
const kafkaVar = "AUTOHEDGE_TEST_KAFKA"

// OnApache reports whether the tests run on Apache Kafka.
func OnApache() bool { return os.Getenv(kafkaVar) == "apache" }

// Run runs tests, for TestMain, and then stops the brokers that they shared.
type Run struct {
	M interface{ Run() int }
	// Brokers returns what stops the brokers that were started: it keeps their logs
	// where it is told to and returns the folder.
	Brokers func() []func(keep bool) (kept string, err error)
}

// Run returns the code to exit with. Brokers' logs stay when a test failed.
func (r Run) Run() int {
	code := 1
	if v := os.Getenv(kafkaVar); v != "" && v != "apache" && v != "embedded" {
		fmt.Fprintf(os.Stderr, "%s is %q: want apache, embedded or nothing\n", kafkaVar, v)
		return code
	}
	if OnApache() && os.Getenv("CI") == "true" {
		if _, err := kafkatest.Fetch(context.Background()); err != nil {
			fmt.Fprintf(os.Stderr, "%s=apache: %v\n", kafkaVar, err)
			return code
		}
	}
	code = r.M.Run()
	for _, stop := range r.Brokers() {
		kept, err := stop(code != 0)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		if kept != "" {
			fmt.Fprintf(os.Stderr, "the log of Apache Kafka is in %s\n", kept)
		}
	}
	return code
}

// NeedApache skips the test where Apache Kafka cannot run; in CI, Run has failed
// before.
func NeedApache(t testing.TB, err error) {
	t.Helper()
	if errors.Is(err, kafkatest.ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// ApacheOnly skips the test where the tests do not run on Apache Kafka. In CI
// they do so in a step of their own, with CI=true, in which nothing is skipped.
func ApacheOnly(t testing.TB, why string) {
	t.Helper()
	if !OnApache() {
		t.Skipf("%s: %s=apache runs this", why, kafkaVar)
	}
}
