package component

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Register adds a collector, or returns the one of the same name that is there
// already: what is made again in one process goes on with its metrics. Without a
// registerer the collector just counts. Two different collectors of one name are
// a mistake of the programmer and panic.
func Register[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	if reg == nil {
		return c
	}
	err := reg.Register(c)
	if err == nil {
		return c
	}
	var twice prometheus.AlreadyRegisteredError
	if errors.As(err, &twice) {
		if have, ok := twice.ExistingCollector.(C); ok {
			return have
		}
	}
	panic(fmt.Sprintf("registering a metric: %v", err))
}
