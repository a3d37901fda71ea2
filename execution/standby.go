package execution

import (
	"context"
	"errors"
	"sync"
	"time"
)

// standbyEvery is how often a process looks whether the socket is free.
const standbyEvery = time.Second

// serveSocket answers halt, resume and status until stop is called. Where another
// process on the data folder does, this one stands by and takes the socket over when
// that one is gone: what is halted there it reads from the halt file before each order,
// and from control.
func (r *Role) serveSocket(ctx context.Context) (stop func(), err error) {
	s, err := listenSocket(r.paths.Socket, r.board)
	if err != nil && !errors.Is(err, errSocketTaken) {
		return nil, err
	}
	var waiting, serving sync.WaitGroup
	// What is asked for is carried out to its end, also while the role ends.
	requests := context.WithoutCancel(ctx)
	ctx, cancel := context.WithCancel(ctx)
	serve := func() { serving.Go(func() { s.serve(requests) }) }
	if err == nil {
		serve()
	} else {
		r.env.Log.Warn("standing by for the socket: another process on this data folder answers there", "path", r.paths.Socket)
		waiting.Go(func() {
			if s = r.awaitSocket(ctx); s != nil {
				serve()
			}
		})
	}
	return func() {
		cancel()
		waiting.Wait()
		if s != nil {
			if cerr := s.close(); cerr != nil {
				r.env.Log.Warn("closing the socket", "err", cerr)
			}
		}
		serving.Wait()
	}, nil
}

// awaitSocket listens on the socket as soon as nobody else does; it returns nil when
// ctx ends.
func (r *Role) awaitSocket(ctx context.Context) *socketServer {
	for sleep(ctx, standbyEvery) {
		s, err := listenSocket(r.paths.Socket, r.board)
		if err == nil {
			r.env.Log.Info("answering on the socket: the other process is gone", "path", r.paths.Socket)
			return s
		}
		if !errors.Is(err, errSocketTaken) {
			r.env.Log.Warn("the socket cannot be taken over, will be tried again", "err", err)
		}
	}
	return nil
}
