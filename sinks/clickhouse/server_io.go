package clickhouse

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/ClickHouse/ch-go/compress"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// frameBytes is the largest piece that is compressed into one native frame.
const frameBytes = 1 << 20

// output writes an answer's body, compressed as the client asked for.
type output struct {
	w      http.ResponseWriter
	r      *http.Request
	frames *compress.Writer // native compression (compress=1)
	enc    io.WriteCloser   // HTTP compression
	tag    string
	wrote  bool
	begun  bool
}

func newOutput(w http.ResponseWriter, r *http.Request, v url.Values) *output {
	o := &output{w: w, r: r}
	if v.Get("compress") == "1" {
		method := compress.LZ4
		if strings.EqualFold(v.Get("network_compression_method"), "zstd") {
			method = compress.ZSTD
		}
		o.frames = compress.NewWriter(compress.LevelZero, method)
	}
	if v.Get("enable_http_compression") == "1" && o.frames == nil {
		switch accept := r.Header.Get("Accept-Encoding"); {
		case strings.Contains(accept, "zstd"):
			if enc, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1)); err == nil {
				w.Header().Set("Content-Encoding", "zstd")
				o.enc = enc
			}
		case strings.Contains(accept, "gzip"):
			w.Header().Set("Content-Encoding", "gzip")
			o.enc = gzip.NewWriter(w)
		}
	}
	return o
}

// plain is the answer without any compression.
func (o *output) plain() io.Writer {
	o.enc = nil
	o.frames = nil
	o.w.Header().Del("Content-Encoding")
	return o.w
}

// header sends the headers of a successful answer.
func (o *output) header(q *request, format string, st stats) {
	if o.begun {
		return
	}
	o.begun = true
	h := o.w.Header()
	h.Set("X-ClickHouse-Format", format)
	h.Set("Content-Type", contentType(format))
	h.Set("X-ClickHouse-Summary", fmt.Sprintf(
		`{"read_rows":"%d","read_bytes":"%d","written_rows":"%d","written_bytes":"%d","total_rows_to_read":"0","result_rows":"%d","result_bytes":"%d","elapsed_ns":"%d"}`,
		st.readRows, st.readBytes, st.writtenRows, st.writtenBytes, st.resultRows, st.resultBytes, time.Since(q.start).Nanoseconds()))
	o.tag = randomTag()
	h.Set("X-ClickHouse-Exception-Tag", o.tag)
}

// randomTag names the exception block of one answer, so that result data cannot
// be taken for one.
func randomTag() string {
	return strings.ToLower(rand.Text()[:16])
}

// Write sends a piece of the body.
func (o *output) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	o.wrote = true
	switch {
	case o.frames != nil:
		for rest := p; len(rest) > 0; {
			piece := rest[:min(len(rest), frameBytes)]
			rest = rest[len(piece):]
			if err := o.frames.Compress(piece); err != nil {
				return 0, fmt.Errorf("compressing the answer: %w", err)
			}
			if _, err := o.w.Write(o.frames.Data); err != nil {
				return 0, err
			}
		}
	case o.enc != nil:
		if _, err := o.enc.Write(p); err != nil {
			return 0, err
		}
	default:
		if _, err := o.w.Write(p); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func (o *output) close() error {
	if o.enc != nil {
		return o.enc.Close()
	}
	return nil
}

// breakOff ends an answer that has begun and cannot be finished: a framed
// exception block, then a broken connection, so that no client takes what it has
// for the whole.
func (o *output) breakOff(text string) {
	block := fmt.Sprintf("\r\n__exception__\r\n%s\r\n%s\n%d %s\r\n__exception__\r\n", o.tag, text, len(text)+1, o.tag)
	if _, err := o.Write([]byte(block)); err == nil {
		if f, ok := o.enc.(interface{ Flush() error }); ok {
			_ = f.Flush()
		}
		_ = http.NewResponseController(o.w).Flush()
	}
	panic(http.ErrAbortHandler)
}

// decodeBody undoes a request body's compression.
func decodeBody(r *http.Request, v url.Values) (io.ReadCloser, error) {
	var body io.ReadCloser
	switch enc := r.Header.Get("Content-Encoding"); enc {
	case "", "identity":
		body = r.Body
	case "gzip":
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			return nil, exceptionf(codeBadArguments, "BAD_ARGUMENTS", "Reading the gzip body: %v", err)
		}
		body = z
	case "deflate":
		z, err := zlib.NewReader(r.Body)
		if err != nil {
			return nil, exceptionf(codeBadArguments, "BAD_ARGUMENTS", "Reading the deflate body: %v", err)
		}
		body = z
	case "zstd":
		z, err := zstd.NewReader(r.Body, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(256<<20))
		if err != nil {
			return nil, exceptionf(codeBadArguments, "BAD_ARGUMENTS", "Reading the zstd body: %v", err)
		}
		body = z.IOReadCloser()
	case "lz4":
		body = io.NopCloser(lz4.NewReader(r.Body)) // the frame format
	default:
		return nil, exceptionf(codeUnknownCompression, "UNKNOWN_COMPRESSION_METHOD", "Unknown compression method %.32q: gzip, deflate, lz4 and zstd are known here", enc)
	}
	if v.Get("decompress") == "1" {
		frames := compress.NewReader(body)
		return struct {
			io.Reader
			io.Closer
		}{readerFunc(func(p []byte) (int, error) {
			n, err := frames.Read(p)
			if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				err = io.EOF // the frame reader wraps it
			}
			return n, err
		}), body}, nil
	}
	return body, nil
}

// readFull fills buf as far as the data go. Unlike io.ReadFull it tells the end of
// the data from a body that broke off, which is io.ErrUnexpectedEOF too.
func readFull(r io.Reader, buf []byte) (n int, end bool, err error) {
	for n < len(buf) {
		k, err := r.Read(buf[n:])
		n += k
		if err == io.EOF {
			return n, true, nil
		}
		if err != nil {
			return n, false, err
		}
	}
	return n, false, nil
}

// readStatement returns the statement's text and, where the body is longer than
// what was read of it, the rest: the data of an insert. ClickHouse puts the
// query parameter before the body.
func readStatement(query string, body io.Reader) (text string, rest io.Reader, err error) {
	if query != "" {
		st := parseStatement(query)
		if st.insert {
			if st.format == "" && st.data == len(query) { // no data clause: all data are in the body
				return query, body, nil
			}
			if st.data < len(query) && !strings.EqualFold(st.format, "Values") {
				// Data in both: ClickHouse joins them with a line end.
				return query + "\n", body, nil
			}
			return query, body, nil
		}
		query += "\n"
	}
	head := make([]byte, headBytes)
	n, end, err := readFull(body, head)
	if err != nil {
		return "", nil, fmt.Errorf("reading the request: %w", err)
	}
	if end {
		if n == 0 {
			query = strings.TrimSuffix(query, "\n")
		}
		return query + string(head[:n]), nil, nil
	}
	text = query + string(head)
	if parseStatement(text).insert {
		return text, body, nil
	}
	var more bytes.Buffer
	if _, err := io.Copy(&more, io.LimitReader(body, maxQueryBytes-headBytes+1)); err != nil {
		return "", nil, fmt.Errorf("reading the request: %w", err)
	}
	if more.Len() > maxQueryBytes-headBytes {
		return "", nil, exceptionf(codeTooLarge, "QUERY_IS_TOO_LARGE", "The query's text is longer than %d bytes; send data with INSERT ... FORMAT", maxQueryBytes)
	}
	return text + more.String(), nil, nil
}

func contentType(format string) string {
	f := strings.ToLower(format)
	switch {
	case strings.Contains(f, "eachrow") || f == "ndjson" || f == "jsonlines":
		return "application/x-ndjson; charset=UTF-8"
	case strings.HasPrefix(f, "json"):
		return "application/json; charset=UTF-8"
	case strings.HasPrefix(f, "csv"):
		return "text/csv; charset=UTF-8; header=" + map[bool]string{true: "present", false: "absent"}[strings.Contains(f, "names")]
	case strings.HasPrefix(f, "tabseparated") || strings.HasPrefix(f, "tsv"):
		return "text/tab-separated-values; charset=UTF-8"
	case f == "xml":
		return "application/xml; charset=UTF-8"
	case f == "native" || strings.HasPrefix(f, "rowbinary") || f == "parquet" || strings.HasPrefix(f, "arrow"):
		return "application/octet-stream"
	}
	return "text/plain; charset=UTF-8"
}

// httpStatus is the status with which ClickHouse answers an exception.
func httpStatus(code int) int {
	switch code {
	case 36, 427, 6, 26, 27, 33, 38, 41, 72, 376, 167, 168, 62, 117, 53, 131, 223, 224, 456, 457:
		return http.StatusBadRequest
	case 60, 46, 47, 50, 56, 81, 115, 150, 63, 73, 206, 336, 511:
		return http.StatusNotFound
	case 516, 192, 193, 497:
		return http.StatusForbidden
	case 194:
		return http.StatusUnauthorized
	case codeTooLarge:
		return http.StatusRequestEntityTooLarge
	case codeNotImplemented:
		return http.StatusNotImplemented
	case 159:
		return http.StatusRequestTimeout
	case 209, 439, codeAborted, codeTooManyQueries:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}
