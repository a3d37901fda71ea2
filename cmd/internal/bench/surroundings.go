package bench

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/shirou/gopsutil/v4/load"

	"github.com/autohedge/autohedge/stream/bus/kafkatest"
)

// surroundings says what the numbers depend on beside the engine.
func surroundings() string {
	parts := []string{runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH, fmt.Sprintf("%d CPUs", runtime.GOMAXPROCS(0))}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if slices.Contains([]string{"github.com/segmentio/kafka-go", "github.com/twmb/franz-go", "github.com/twmb/franz-go/pkg/kfake"}, m.Path) {
				parts = append(parts, m.Path[strings.LastIndex(m.Path, "/")+1:]+" "+m.Version)
			}
		}
	}
	return "with " + strings.Join(append(parts, "Apache Kafka "+kafkatest.Version+" where it is asked for"), ", ")
}

// loadNow is how many processes want a CPU, for people; empty where nobody tells.
func loadNow() string {
	avg, err := load.Avg()
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" (load %.1f)", avg.Load1)
}
