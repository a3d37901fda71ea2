package bustest

import (
	"strings"
	"sync"
)

// Log keeps what components log; several may write it at once.
type Log struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write implements io.Writer.
func (l *Log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

// String returns all that was logged.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Contains reports whether s was logged.
func (l *Log) Contains(s string) bool { return strings.Contains(l.String(), s) }
