package direct

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Options are the settings of a [Server]. All are required but Refuse.
type Options struct {
	// Handler answers. Unlike those of net/http, the contexts of the requests that it gets here do not end when the
	// client goes away: see OnGone.
	Handler http.Handler
	// Takes says whether a request may be answered here. Its handler must not stream, hijack, or be asked by HEAD.
	Takes func(method, target string) bool
	// Refuse, nil for never, is asked before anything is done for a request. What it returns is sent instead of an
	// answer of the handler, as it is; nothing: the request is let in.
	Refuse func(method, target string, now time.Time) []byte

	HeaderTimeout time.Duration // for a client to send the rest of a header
	IdleTimeout   time.Duration // between requests
	WriteTimeout  time.Duration // for a client to take an answer
	// GoneAfter is how long a client has been gone when OnGone's function is called; up to a half longer.
	GoneAfter time.Duration
}

// Server answers the plain requests on the connections of its listener, beneath an http.Server that gets everything
// else. Safe for concurrent use.
type Server struct {
	opt     Options
	closing atomic.Bool
	busy    atomic.Int64 // requests under way
	today   atomic.Pointer[day]

	mu    sync.Mutex
	conns map[*conn]struct{}
}

// day is a rendered Date.
type day struct {
	second int64
	text   string
}

// New returns a server that starts nothing.
func New(opt Options) *Server {
	return &Server{opt: opt, conns: map[*conn]struct{}{}}
}

// Date is the value of the field Date, also for an answer that Refuse makes.
func (s *Server) Date(now time.Time) string {
	d := s.today.Load()
	if d == nil || d.second != now.Unix() {
		d = &day{now.Unix(), now.UTC().Format(http.TimeFormat)}
		s.today.Store(d)
	}
	return d.text
}

// ConnState is to be the http.Server's: it says when net/http has answered a request.
func (s *Server) ConnState(c net.Conn, state http.ConnState) {
	if c, ok := c.(*conn); ok && state == http.StateIdle {
		// It has read all of that request and waits for the next.
		c.between, c.due = c.left == 0 || c.left == ahead, time.Time{}
	}
}

// Drain takes no more requests, and returns when those under way are answered, or ctx ends. Then it is the
// http.Server's turn to shut down.
func (s *Server) Drain(ctx context.Context) {
	s.closing.Store(true)
	s.mu.Lock()
	for c := range s.conns {
		if c.waiting.Load() {
			_ = c.SetReadDeadline(time.Unix(1, 0)) // net/http then closes it
		}
	}
	s.mu.Unlock()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for s.busy.Load() > 0 {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Watch looks for the clients of requests under way that have gone away, until ctx ends.
func (s *Server) Watch(ctx context.Context) {
	every := max(s.opt.GoneAfter/4, time.Millisecond)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if s.busy.Load() == 0 {
			continue
		}
		now := time.Now()
		for _, c := range s.all() {
			x := c.under.Load()
			if x == nil || now.Sub(x.began) < every {
				continue
			}
			switch {
			case !c.gone():
			case x.left.IsZero():
				x.left = now
			case now.Sub(x.left) >= s.opt.GoneAfter:
				if f := x.onGone.Load(); f != nil {
					(*f)()
				}
			}
		}
	}
}

func (s *Server) all() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		if c.under.Load() != nil {
			out = append(out, c)
		}
	}
	return out
}

// Listener returns one whose connections this server stands in.
func (s *Server) Listener(l net.Listener) net.Listener { return &listener{l, s} }

type listener struct {
	net.Listener
	server *Server
}

// Accept waits for a connection.
func (l *listener) Accept() (net.Conn, error) {
	inner, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: inner, server: l.server, between: true}
	l.server.mu.Lock()
	l.server.conns[c] = struct{}{}
	l.server.mu.Unlock()
	return c, nil
}

// What conn.left is, if not a number of bytes.
const (
	lost = -1 // it is not known where the next request begins
	// ahead: net/http has the first byte of the next request. It reads one while it watches for a client to go away,
	// and a client may have its answer, and ask again, before that ends.
	ahead = -2
)

// conn is a connection as net/http sees it. What is not atomic belongs to who reads, which net/http does on one
// goroutine at a time.
type conn struct {
	net.Conn
	server  *Server
	between bool      // what comes next begins a request that net/http knows nothing of
	left    int       // bytes that net/http has not read yet of the request that it was given; or lost, or ahead
	first   byte      // which one, when left is ahead
	due     time.Time // when the deadlines have to be set again
	remote  string    // address, once it was asked for
	waiting atomic.Bool
	under   atomic.Pointer[exchange]
}

// exchange is a request under way, and its context.
type exchange struct {
	context.Context // the background's: it does not end
	began           time.Time
	left            time.Time // when Watch saw first that the client has gone
	onGone          atomic.Pointer[func()]
}

type exchangeKey struct{}

// Value finds the exchange itself.
func (x *exchange) Value(key any) any {
	if key == (exchangeKey{}) {
		return x
	}
	return nil
}

// OnGone has f called when the client of a request that a [Server] gave to its handler has been gone for
// Options.GoneAfter. Only one f is called, the last; perhaps more than once, and perhaps when the request is over. OnGone
// does nothing and reports false when ctx is no context of such a request.
func OnGone(ctx context.Context, f func()) bool {
	x, ok := ctx.Value(exchangeKey{}).(*exchange)
	if ok {
		last := f // so that nothing is allocated for others
		x.onGone.Store(&last)
	}
	return ok
}

// Close closes the connection and forgets it.
func (c *conn) Close() error {
	c.server.mu.Lock()
	delete(c.server.conns, c)
	c.server.mu.Unlock()
	return c.Conn.Close()
}

// CloseWrite half-closes, which net/http does before it drops a client that still sends: closing at once would reset
// the connection and lose the answer.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// Read gives net/http what it is to deal with.
func (c *conn) Read(p []byte) (int, error) {
	if !c.between {
		n, err := c.Conn.Read(p)
		if n == 1 && c.left == 0 {
			c.left, c.first = ahead, p[0]
		} else {
			c.handOver(c.left, n)
		}
		return n, err
	}
	var m message
	if c.left == ahead {
		n, err := c.Conn.Read(p)
		c.between, c.left = false, lost
		if m.parse(append([]byte{c.first}, p[:n]...)) {
			c.handOver(m.size()-1, n)
		}
		return n, err
	}
	for {
		n, err := c.Conn.Read(p)
		c.waiting.Store(false)
		if n == 0 {
			return n, err
		}
		whole := m.parse(p[:n])
		if whole && err == nil && m.size() == n && c.answered(&m, p[m.head:n]) {
			if c.left == lost {
				return 0, io.EOF // which makes net/http close it
			}
			if c.waiting.Store(true); !c.server.closing.Load() {
				continue
			}
			return 0, io.EOF
		}
		if !c.due.IsZero() {
			_ = c.SetReadDeadline(time.Now().Add(c.server.opt.HeaderTimeout)) // instead of that of idle ones
		}
		c.between = false
		if whole {
			c.handOver(m.size(), n)
		} else {
			c.left = lost
		}
		return n, err
	}
}

// handOver notes that net/http has got n of the bytes left of its request.
func (c *conn) handOver(left, n int) {
	if c.left = left - n; left < 0 || c.left < 0 {
		c.left = lost
	}
}

// slack is how much longer than it should be a time limit may be, so that it need not be set for each request.
const slack = time.Second

// answered answers a request, if it is one to be answered here. When the connection is to be closed then, left is
// lost.
func (c *conn) answered(m *message, body []byte) bool {
	s := c.server
	if !s.opt.Takes(m.method, m.target) {
		return false
	}
	s.busy.Add(1) // before closing is looked at: Drain sets that before it looks at busy
	defer s.busy.Add(-1)
	if s.closing.Load() {
		return false
	}
	now := time.Now()
	if s.opt.Refuse != nil {
		if refusal := s.opt.Refuse(m.method, m.target, now); refusal != nil {
			c.send(now, refusal)
			return true
		}
	}
	r, err := m.request()
	if err != nil {
		return false
	}
	if len(body) > 0 {
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	if c.remote == "" {
		c.remote = c.RemoteAddr().String()
	}
	r.RemoteAddr = c.remote
	x := &exchange{Context: context.Background(), began: now}
	c.under.Store(x)
	defer c.under.Store(nil)
	a := newAnswer(c)
	s.opt.Handler.ServeHTTP(a, r.WithContext(x)) // when it panics, net/http closes the connection
	if !a.finish() {
		c.left = lost
	}
	a.release()
	return true
}

// send writes an answer, and sees to the deadlines of this and the next Read.
func (c *conn) send(now time.Time, parts ...[]byte) {
	if now.After(c.due) {
		c.due = now.Add(slack)
		_ = c.SetWriteDeadline(now.Add(c.server.opt.WriteTimeout + slack))
		_ = c.SetReadDeadline(now.Add(c.server.opt.IdleTimeout + slack))
	}
	var err error
	if len(parts) == 1 {
		_, err = c.Write(parts[0])
	} else {
		buffers := net.Buffers(parts)
		_, err = buffers.WriteTo(c.Conn)
	}
	if err != nil {
		c.left = lost
	}
}
