package clickhouse

import (
	"fmt"
	"strconv"
	"strings"
)

// Exception is an error that the ClickHouse server or the embedded engine
// answered with. Message is its whole text, "Code: 60. DB::Exception: ...".
type Exception struct {
	Code    int
	Message string
}

func (e *Exception) Error() string { return e.Message }

// Error codes of ClickHouse that choose behaviour here.
const (
	codeBadArguments       = 36
	codeNotImplemented     = 48
	codeLogical            = 49
	codeSyntax             = 62
	codeUnknownCompression = 89
	codeReadonly           = 164
	codeTooManyQueries     = 202
	codeAborted            = 236
	codeTooLarge           = 475
	codeAccessDenied       = 497
	codeAuthentication     = 516
)

// exceptionf makes an exception of our own in ClickHouse's form.
func exceptionf(code int, name, format string, args ...any) *Exception {
	return &Exception{Code: code, Message: fmt.Sprintf("Code: %d. DB::Exception: %s. (%s)", code, fmt.Sprintf(format, args...), name)}
}

// parseException reads the engine's error text; a text without a code gets 49
// (LOGICAL_ERROR), so that clients always find one.
func parseException(msg string) *Exception {
	msg = strings.TrimSpace(msg)
	rest, ok := strings.CutPrefix(msg, "Code: ")
	if ok {
		if digits, _, ok := strings.Cut(rest, "."); ok {
			if code, err := strconv.Atoi(digits); err == nil {
				return &Exception{Code: code, Message: msg}
			}
		}
	}
	return &Exception{Code: codeLogical, Message: "Code: 49. DB::Exception: " + msg}
}
