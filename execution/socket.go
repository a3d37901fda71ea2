package execution

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/autohedge/autohedge/stream/event"
)

// socketRequest and socketAnswer are one line of JSON each.
type socketRequest struct {
	Op    string `json:"op"` // halt, resume or status
	Scope string `json:"scope,omitempty"`
	Who   string `json:"who,omitempty"`
	Why   string `json:"why,omitempty"`
	// Level is that of a halt.
	Level event.HaltLevel `json:"level,omitempty"`
}

type socketAnswer struct {
	HaltReport
	Error string `json:"error,omitempty"`
}

const (
	socketDeadline = 10 * time.Second
	socketMaxLine  = 64 << 10
	socketMaxPath  = 100 // of 108 bytes, less on some systems
)

// socketServer answers halt, resume and status on a Unix socket that only its
// owner may open.
type socketServer struct {
	path  string
	l     net.Listener
	board *board
	conns sync.WaitGroup
}

// errSocketTaken says that a second process runs on the data folder.
var errSocketTaken = errors.New("another engine answers there")

// listenSocket takes the socket's path over from a process that is gone; it
// refuses while one still answers there.
func listenSocket(path string, b *board) (*socketServer, error) {
	if c, err := net.Dial("unix", path); err == nil {
		return nil, errors.Join(fmt.Errorf("listening on %s: %w", path, errSocketTaken), c.Close())
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	// The socket is made in a folder that nobody else can enter and moved once
	// its mode is right.
	private, err := os.MkdirTemp(dir, ".s")
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	defer func() { _ = os.Remove(private) }()
	tmp := filepath.Join(private, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(tmp, 0o600), os.Rename(tmp, path)); err != nil {
		return nil, errors.Join(fmt.Errorf("listening on %s: %w", path, err), l.Close(), os.Remove(tmp))
	}
	return &socketServer{path: path, l: l, board: b}, nil
}

// serve answers until close.
func (s *socketServer) serve(ctx context.Context) {
	for {
		c, err := s.l.Accept()
		if err != nil {
			return
		}
		s.conns.Go(func() { s.answer(ctx, c) })
	}
}

func (s *socketServer) answer(ctx context.Context, c net.Conn) {
	log := s.board.env.Log
	defer func() {
		if err := c.Close(); err != nil {
			log.Debug("closing a connection to the socket", "err", err)
		}
	}()
	if err := c.SetDeadline(time.Now().Add(socketDeadline)); err != nil {
		return
	}
	var req socketRequest
	var a socketAnswer
	line, err := bufio.NewReader(io.LimitReader(c, socketMaxLine)).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &req)
	}
	if err == nil {
		switch req.Op {
		case "halt":
			a.HaltReport, err = s.board.halt(ctx, haltRequest{scope: req.Scope, who: req.Who, why: req.Why, level: req.Level, whence: "socket"})
		case "resume":
			a.HaltReport, err = s.board.resume(ctx, req.Scope, req.Who, req.Why, "socket")
		case "status":
			a.HaltReport = HaltReport{Engine: true, Halts: s.board.list(), InFlight: int(s.board.inFlight.Load())}
		default:
			err = fmt.Errorf("unknown operation %q: want halt, resume or status", req.Op)
		}
	}
	if err != nil {
		a.Error = err.Error()
	}
	text, err := json.Marshal(a)
	if err == nil {
		_, err = c.Write(append(text, '\n'))
	}
	if err != nil {
		log.Debug("answering on the socket", "err", err)
	}
}

// close removes the path first: once nobody answers there another process takes it.
func (s *socketServer) close() error {
	err := os.Remove(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	err = errors.Join(err, s.l.Close())
	s.conns.Wait()
	return err
}

// engineError is what a running engine answered: it heard the request and refuses it.
type engineError struct{ text string }

func (e *engineError) Error() string { return e.text }

// errNoEngine means that no engine answers on the socket.
var errNoEngine = errors.New("no engine answers on the socket")

// ask sends one request to a running engine.
func ask(ctx context.Context, path string, req socketRequest) (HaltReport, error) {
	if len(path) > socketMaxPath {
		return HaltReport{}, errNoEngine // an engine there listens to the file and control only
	}
	ctx, cancel := context.WithTimeout(ctx, socketDeadline)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return HaltReport{}, errNoEngine
	}
	if err != nil {
		return HaltReport{}, fmt.Errorf("reaching the engine: %w", err)
	}
	defer func() { _ = c.Close() }() // the answer was read, or the error is told
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	text, err := json.Marshal(req)
	if err != nil {
		return HaltReport{}, err
	}
	if _, err := c.Write(append(text, '\n')); err != nil {
		return HaltReport{}, fmt.Errorf("asking the engine: %w", err)
	}
	line, err := bufio.NewReader(c).ReadBytes('\n')
	if err != nil {
		return HaltReport{}, fmt.Errorf("waiting for the engine's answer: %w", err)
	}
	var a socketAnswer
	if err := json.Unmarshal(line, &a); err != nil {
		return HaltReport{}, fmt.Errorf("reading the engine's answer: %w", err)
	}
	if a.Error != "" {
		return a.HaltReport, &engineError{a.Error}
	}
	return a.HaltReport, nil
}
