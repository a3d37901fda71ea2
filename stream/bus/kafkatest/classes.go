package kafkatest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// trainPatience bounds how long making the archive of classes may take.
const trainPatience = 2 * time.Minute

var (
	classesOnce sync.Once
	classesFile string
)

// sharedClasses returns the option with which Java takes Kafka's classes from an
// archive that lies beside the jars, loaded and checked: a broker then starts in
// less than half the time and work. The first call on a machine makes it, with a
// broker that is started for this and shut down; where that fails, or Java is
// another one, brokers load their classes themselves.
//
// https://docs.oracle.com/en/java/javase/17/docs/specs/man/java.html#application-class-data-sharing
func sharedClasses(lib string) string {
	classesOnce.Do(func() {
		path := classesPath(lib)
		if path == "" {
			return
		}
		if _, err := os.Stat(path); err != nil && train(lib, path) != nil {
			return
		}
		classesFile = path
	})
	if classesFile == "" {
		return ""
	}
	return " -XX:SharedArchiveFile=" + classesFile
}

// classesPath names the archive of one Java, "" where that cannot be told.
func classesPath(lib string) string {
	java, err := exec.LookPath("java")
	if err == nil {
		java, err = filepath.EvalSymlinks(java)
	}
	if err != nil {
		return ""
	}
	info, err := os.Stat(java)
	if err != nil {
		return ""
	}
	id := sha256.Sum256(fmt.Appendf(nil, "%s %d %d", java, info.Size(), info.ModTime().UnixNano()))
	return filepath.Join(filepath.Dir(lib), fmt.Sprintf("classes-%x.jsa", id[:6]))
}

// train makes the archive.
func train(lib, path string) error {
	ctx, cancel := context.WithTimeout(context.Background(), trainPatience)
	defer cancel()
	// Beside its final place, then renamed: nobody sees half of it.
	dir, err := os.MkdirTemp(filepath.Dir(path), "classes")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	made := filepath.Join(dir, "classes.jsa")
	b, err := startWith(ctx, lib, testOptions+" -XX:ArchiveClassesAtExit="+made, Config{})
	if err != nil {
		return err
	}
	defer func() { _, _ = b.Stop(false) }()
	if err := b.Shutdown(ctx); err != nil {
		return err
	}
	return os.Rename(made, path)
}
