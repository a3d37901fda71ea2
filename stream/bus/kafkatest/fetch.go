package kafkatest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Version is the release that is run.
const Version = "4.4.0"

// ErrUnavailable says that Apache Kafka cannot be run on this machine.
var ErrUnavailable = errors.New("running Apache Kafka needs Java 17 or later and Maven")

// pom names what is fetched: the broker, its command-line tools, and what its slf4j
// 1.7 logs through, without which it logs nothing.
const pom = `<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>autohedge</groupId><artifactId>kafkatest</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>` + Version + `</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>` + Version + `</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.25.5</version></dependency>
  </dependencies>
</project>
`

// Fetch returns the folder of the jars and fetches them where they are not
// there yet (about 45 MB). An error that errors.Is(err, ErrUnavailable) tells
// says that Java or Maven are missing, or that Maven reached nothing.
func Fetch(ctx context.Context) (lib string, err error) {
	if _, err := exec.LookPath("java"); err != nil {
		return "", fmt.Errorf("%w: no java in PATH", ErrUnavailable)
	}
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("looking for the cache folder: %w", err)
	}
	home := filepath.Join(base, "autohedge", "kafka-"+Version)
	lib = filepath.Join(home, "jars") // lib was without the tools
	if _, err := os.Stat(lib); err == nil {
		return lib, nil // it appears whole, see below
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("looking for Apache Kafka: %w", err)
	}
	mvn, err := exec.LookPath("mvn")
	if err != nil {
		return "", fmt.Errorf("%w: no mvn in PATH to fetch it with, and %s does not exist", ErrUnavailable, lib)
	}
	if err := os.MkdirAll(home, 0o750); err != nil {
		return "", fmt.Errorf("making the cache folder: %w", err)
	}
	// Beside its final place, then renamed: whoever sees it sees it whole, and of
	// two processes that fetch at once the second one's is dropped.
	dir, err := os.MkdirTemp(home, "fetch")
	if err != nil {
		return "", fmt.Errorf("making the cache folder: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	file := filepath.Join(dir, "pom.xml")
	if err := os.WriteFile(file, []byte(pom), 0o600); err != nil {
		return "", fmt.Errorf("writing the pom: %w", err)
	}
	fetched := filepath.Join(dir, "lib")
	cmd := exec.CommandContext(ctx, mvn, "-q", "-B", "-f", file, "dependency:copy-dependencies", "-DoutputDirectory="+fetched) // #nosec G204 -- our own arguments
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: fetching it with Maven: %w: %s", ErrUnavailable, err, firstLines(string(out), 5))
	}
	if err := os.Rename(fetched, lib); err != nil {
		if _, serr := os.Stat(lib); serr != nil {
			return "", fmt.Errorf("keeping the fetched jars: %w", err)
		}
	}
	return lib, nil
}

func firstLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[:min(n, len(lines))], "\n")
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(len(lines)-n, 0):], "\n")
}
