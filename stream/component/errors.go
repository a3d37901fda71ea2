package component

import (
	"errors"
	"fmt"
	"time"
)

// The error types below choose what the host does; any other error is reported
// and handled as the host sees fit. A rejected order is data, not an error.

// ErrNotConnected tells the host to reconnect with back-off.
var ErrNotConnected = errors.New("not connected")

// RetryAfterError tells the host to try the same thing again after Wait.
type RetryAfterError struct {
	Wait time.Duration
	Err  error
}

func (e *RetryAfterError) Error() string { return fmt.Sprintf("%v (retry after %s)", e.Err, e.Wait) }
func (e *RetryAfterError) Unwrap() error { return e.Err }

// FatalError tells the host to stop the role: going on would lose, double or
// misjudge something. The message says what to do.
type FatalError struct{ Err error }

func (e *FatalError) Error() string { return e.Err.Error() }
func (e *FatalError) Unwrap() error { return e.Err }

// Fatal wraps err as a FatalError; it returns nil for nil.
func Fatal(err error) error {
	if err == nil {
		return nil
	}
	return &FatalError{Err: err}
}

// IsFatal reports whether err, or an error it wraps, is a FatalError.
func IsFatal(err error) bool {
	var f *FatalError
	return errors.As(err, &f)
}
