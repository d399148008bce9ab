package api

import (
	"net"
	"net/http"
	"sync"
)

// maxHeader is above the longest context that is given out, so that every client can send it back.
const maxHeader = 96 << 10

// Server returns a server for the handler, with the bounds of opt on what a client may take: time for a header, a
// body, an answer, and between requests. Serve it on a listener that Limit bounds.
func Server(opt Options, h http.Handler) *http.Server {
	opt = opt.withDefaults()
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: opt.HeaderTimeout,
		IdleTimeout:       opt.IdleTimeout,
		// A batch or a long listing, which may take longer, moves this on as it goes.
		WriteTimeout:   opt.BodyTimeout + MaxTimeout + opt.WriteTimeout,
		MaxHeaderBytes: maxHeader,
	}
}

// Limit bounds the open connections of a listener to opt.MaxConns. Further clients wait in the system's backlog until
// one is closed; the server closes idle ones after opt.IdleTimeout.
func Limit(l net.Listener, opt Options) net.Listener {
	opt = opt.withDefaults()
	return &limited{Listener: l, slots: make(chan struct{}, opt.MaxConns), closed: make(chan struct{})}
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
