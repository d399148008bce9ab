package api

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/dunlindb/dunlin/internal/direct"
)

// maxHeader is above the longest context that is given out, so that every client can send it back.
const maxHeader = 96 << 10

// Server answers clients over HTTP/1.1, with the bounds of its options on what a client may take: time for a header, a
// body, an answer, and between requests, and how many connections. Requests for keys that are small and plain are
// answered by [direct], everything else by net/http.
type Server struct {
	http   *http.Server
	direct *direct.Server
	opt    Options
}

// NewServer returns a server that listens nowhere yet.
func NewServer(opt Options, h *Handler) *Server {
	opt = opt.withDefaults()
	s := &Server{opt: opt}
	s.direct = direct.New(direct.Options{
		Handler: h,
		Takes:   isKeyRequest,
		Refuse: func(method, _ string, now time.Time) []byte {
			return h.shed.refuse(method, now, s.direct.Date)
		},
		HeaderTimeout: opt.HeaderTimeout, IdleTimeout: opt.IdleTimeout, WriteTimeout: opt.WriteTimeout,
		GoneAfter: opt.GoneGrace,
	})
	s.http = &http.Server{
		Handler:           h,
		ConnState:         s.direct.ConnState,
		ReadHeaderTimeout: opt.HeaderTimeout,
		IdleTimeout:       opt.IdleTimeout,
		// A batch or a long listing, which may take longer, moves this on as it goes.
		WriteTimeout:   opt.BodyTimeout + MaxTimeout + opt.WriteTimeout,
		MaxHeaderBytes: maxHeader,
	}
	return s
}

// isKeyRequest reports whether a request is one of the key route, except HEAD.
func isKeyRequest(method, target string) bool {
	switch method {
	case http.MethodGet, http.MethodPut, http.MethodDelete:
	default:
		return false
	}
	path, _, _ := strings.Cut(target, "?")
	rest, ok := strings.CutPrefix(path, "/kv/")
	return ok && strings.Contains(rest, "/")
}

// Serve answers the listener's clients until Shutdown or Close, and then returns [http.ErrServerClosed]. Further clients
// than Options.MaxConns wait in the system's backlog.
func (s *Server) Serve(l net.Listener) error {
	ctx, stop := context.WithCancel(context.Background())
	var watch sync.WaitGroup
	watch.Go(func() { s.direct.Watch(ctx) })
	defer watch.Wait()
	defer stop()
	return s.http.Serve(s.direct.Listener(limit(l, s.opt.MaxConns)))
}

// Shutdown takes no more requests, waits until those under way are answered, or ctx ends, and closes the listener and the
// connections. When ctx ends, what is left is to be closed by Close.
func (s *Server) Shutdown(ctx context.Context) error {
	s.direct.Drain(ctx)
	return s.http.Shutdown(ctx)
}

// Close closes the listener and all connections at once.
func (s *Server) Close() error { return s.http.Close() }

// limit bounds the open connections of a listener. Further clients wait in the system's backlog until one is closed; the
// server closes idle ones after a time.
func limit(l net.Listener, conns int) net.Listener {
	return &limited{Listener: l, slots: make(chan struct{}, conns), closed: make(chan struct{})}
}

type limited struct {
	net.Listener
	slots  chan struct{}
	once   sync.Once
	closed chan struct{}
}

// Accept waits for a slot, then for a connection.
func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &limitedConn{Conn: c, free: func() { <-l.slots }}, nil
}

// Close closes the listener, not its connections.
func (l *limited) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type limitedConn struct {
	net.Conn
	once sync.Once
	free func()
}

// Close gives the slot back.
func (c *limitedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.free)
	return err
}

// CloseWrite half-closes, which net/http does before it drops a client that still sends: closing at once would reset
// the connection and lose the answer.
func (c *limitedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// SyscallConn gives access to the socket.
func (c *limitedConn) SyscallConn() (syscall.RawConn, error) {
	if sc, ok := c.Conn.(syscall.Conn); ok {
		return sc.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}
