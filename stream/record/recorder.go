package record

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// Recorder writes one connection's frames to a file, in the format that Reader
// reads. It is safe for concurrent use. Lines are buffered: Flush at moments
// that must survive a kill; a line torn by one is found and named by Reader.
type Recorder struct {
	mu  sync.Mutex
	f   *os.File
	w   *bufio.Writer
	buf []byte
}

// NewRecorder appends to the file at path, which it creates if needed. What a
// killed recorder left half-written stays a line of its own.
func NewRecorder(path string) (*Recorder, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the recording: %w", err)
	}
	r := &Recorder{f: f, w: bufio.NewWriterSize(f, 256<<10)}
	info, err := f.Stat()
	if err == nil && info.Size() > 0 {
		last := make([]byte, 1)
		if _, err = f.ReadAt(last, info.Size()-1); err == nil && last[0] != '\n' {
			err = r.w.WriteByte('\n')
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, errors.Join(fmt.Errorf("opening the recording: %w", err), f.Close())
	}
	return r, nil
}

// Opened notes that the connection to url was opened at t (Unix ns).
func (r *Recorder) Opened(url string, t int64) error { return r.put(url, markOpen, t, nil, false) }

// Sent notes a frame that the client sent.
func (r *Recorder) Sent(url string, t int64, frame []byte) error {
	return r.put(url, markSent, t, frame, true)
}

// Received notes a frame that came in at t (Unix ns, taken right after the read).
func (r *Recorder) Received(t int64, frame []byte) error { return r.put("", nil, t, frame, true) }

// Response notes a REST response.
func (r *Recorder) Response(url string, t int64, body []byte) error {
	return r.put(url, markREST, t, body, true)
}

func (r *Recorder) put(url string, mark []byte, t int64, data []byte, hasData bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.buf = append(r.buf[:0], url...)
	r.buf = append(r.buf, mark...)
	r.buf = appendSeconds(r.buf, t)
	if hasData {
		r.buf = append(r.buf, markData...)
		if bytes.ContainsAny(data, "\r\n") {
			// Inside JSON a line break can only stand between tokens.
			var flat bytes.Buffer
			if err := json.Compact(&flat, data); err != nil {
				return fmt.Errorf("recording a frame that has line breaks and is no JSON: %w", err)
			}
			data = flat.Bytes()
		}
		r.buf = append(r.buf, data...)
	}
	r.buf = append(r.buf, '\n')
	if _, err := r.w.Write(r.buf); err != nil {
		return fmt.Errorf("recording a frame: %w", err)
	}
	return nil
}

// Flush hands what is buffered to the kernel.
func (r *Recorder) Flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.w.Flush(); err != nil {
		return fmt.Errorf("writing the recording: %w", err)
	}
	return nil
}

// Close flushes and closes the file.
func (r *Recorder) Close() error {
	err := r.Flush()
	return errors.Join(err, r.f.Close())
}
