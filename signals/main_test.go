package signals

import (
	"testing"

	"go.uber.org/goleak"
)

// A role, a killed one too, leaves no goroutine behind.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
