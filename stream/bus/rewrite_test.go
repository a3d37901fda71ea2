package bus

import (
	"encoding/binary"
	"io"
	"net"
	"slices"
	"sync"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// rewriter stands between the clients of a virtual broker and it: it notes what
// kinds of request are sent, and changes answers, where kfake's faults do not answer
// as Apache Kafka does.
type rewriter struct {
	mu    sync.Mutex
	kinds map[kmsg.Key]bool
	// change, where there is one, reports whether it changed the answer.
	change func(res kmsg.Response) bool
	number int // of the change
}

func newRewriter() *rewriter { return &rewriter{kinds: make(map[kmsg.Key]bool)} }

// set installs a change of the answers from now on, until remove.
func (w *rewriter) set(change func(res kmsg.Response) bool) (remove func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.number++
	w.change = change
	mine := w.number
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.number == mine {
			w.change = nil
		}
	}
}

// unlisted returns the kinds that were sent and that the fault matrix has no rows
// for.
func (w *rewriter) unlisted() (names []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	listed := faultKinds()
	for k := range w.kinds {
		if !listed[k] {
			names = append(names, k.Name())
		}
	}
	slices.Sort(names)
	return names
}

// sent notes a request of that kind.
func (w *rewriter) sent(kind kmsg.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kinds[kind] = true
}

func (w *rewriter) wrap(conn net.Conn) net.Conn {
	return &rewrittenConn{Conn: conn, by: w, asked: make(map[int32]kmsg.Request)}
}

// rewrittenConn is a client's connection: it notes the requests that are written,
// and gives the answers through its rewriter.
type rewrittenConn struct {
	net.Conn
	by *rewriter

	mu    sync.Mutex
	out   []byte // a request that is being written
	asked map[int32]kmsg.Request

	in []byte // an answer that is being read
}

func (c *rewrittenConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	c.out = append(c.out, b...)
	for len(c.out) >= 4 {
		size := 4 + int(binary.BigEndian.Uint32(c.out))
		if len(c.out) < size {
			break
		}
		frame := c.out[4:size]
		if req := kmsg.RequestForKey(int16(binary.BigEndian.Uint16(frame))); req != nil {
			req.SetVersion(int16(binary.BigEndian.Uint16(frame[2:])))
			c.by.sent(kmsg.Key(req.Key()))
			c.asked[int32(binary.BigEndian.Uint32(frame[4:]))] = req
		}
		c.out = c.out[size:]
	}
	c.mu.Unlock()
	return c.Conn.Write(b)
}

func (c *rewrittenConn) Read(b []byte) (int, error) {
	if len(c.in) == 0 {
		frame := make([]byte, 4)
		if _, err := io.ReadFull(c.Conn, frame); err != nil {
			return 0, err
		}
		frame = append(frame, make([]byte, binary.BigEndian.Uint32(frame))...)
		if _, err := io.ReadFull(c.Conn, frame[4:]); err != nil {
			return 0, err
		}
		c.in = c.rewrite(frame)
	}
	n := copy(b, c.in)
	c.in = c.in[n:]
	return n, nil
}

func (c *rewrittenConn) rewrite(frame []byte) []byte {
	id := int32(binary.BigEndian.Uint32(frame[4:]))
	c.mu.Lock()
	req := c.asked[id]
	delete(c.asked, id)
	c.mu.Unlock()
	c.by.mu.Lock()
	defer c.by.mu.Unlock()
	if req == nil || c.by.change == nil {
		return frame
	}
	head := 8
	if req.IsFlexible() && kmsg.Key(req.Key()) != kmsg.ApiVersions {
		head++ // no tags
	}
	res := req.ResponseKind()
	if err := res.ReadFrom(frame[head:]); err != nil || !c.by.change(res) {
		return frame
	}
	frame = res.AppendTo(frame[:head:head])
	binary.BigEndian.PutUint32(frame, uint32(len(frame)-4))
	return frame
}
