package kafkatest

import (
	"math/rand/v2"
	"net"
	"strconv"
)

// The ports below are under the range that systems hand out to connections (from
// 32768 on Linux, from 49152 elsewhere). From that range, the port of a broker
// that was killed could become the near end of somebody's connection, and a
// Restart would find it taken.
const (
	lowestPort  = 15_000
	highestPort = 32_000
)

// freePorts returns n addresses on loopback that nobody listens on. Another
// process may take one before the broker does: whoever starts one tries again
// with others.
func freePorts(n int) ([]string, error) {
	addrs := make([]string, 0, n)
	for attempt := 0; len(addrs) < n; attempt++ {
		port := lowestPort + rand.IntN(highestPort-lowestPort) // #nosec G404 -- no secret
		if attempt >= 100 {
			port = 0 // whatever the system has
		}
		ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			if port == 0 {
				return nil, err
			}
			continue
		}
		defer func() { _ = ln.Close() }() // at the end, or the same one comes again
		addrs = append(addrs, ln.Addr().String())
	}
	return addrs, nil
}
