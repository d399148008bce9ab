package transport

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// pipeBuffer is how many bytes a connection of Pipes takes before Write blocks.
const pipeBuffer = 256 << 10

// Pipes is a Network in memory, for tests and simulations. Addresses are any strings. Its connections behave
// like TCP's: ordered, buffered (256 KiB each way), with deadlines, and the buffered bytes are still read after
// the other side closed. It has no goroutine and waits only in ways that package testing/synctest understands.
//
// Host gives the network as one node sees it, which lets Cut, Heal and Break tell nodes apart. Used directly,
// Pipes is the host with the empty name. Safe for concurrent use.
type Pipes struct {
	mu        sync.Mutex
	changed   sync.Cond // a cut was healed or a dial's context ended: dials wait here
	listeners map[string]*pipeListener
	cut       map[[2]string]bool
	conns     map[*pipeConn]struct{}
	free      int // to name listeners at address ":0"
}

// NewPipes returns an empty network.
func NewPipes() *Pipes {
	p := &Pipes{listeners: map[string]*pipeListener{}, cut: map[[2]string]bool{}, conns: map[*pipeConn]struct{}{}}
	p.changed.L = &p.mu
	return p
}

// Host returns the network as the named host sees it.
func (p *Pipes) Host(name string) Network { return pipeHost{p, name} }

// Listen announces addr on the host with the empty name.
func (p *Pipes) Listen(ctx context.Context, addr string) (net.Listener, error) {
	return p.Host("").Listen(ctx, addr)
}

// Dial connects from the host with the empty name.
func (p *Pipes) Dial(ctx context.Context, addr string) (net.Conn, error) {
	return p.Host("").Dial(ctx, addr)
}

// Cut stops bytes from one host to the other until Heal. Like a black hole: nothing fails, bytes wait, and a
// dial in either direction waits for its context.
func (p *Pipes) Cut(from, to string) { p.set(from, to, true) }

// Heal undoes Cut; the bytes that waited arrive.
func (p *Pipes) Heal(from, to string) { p.set(from, to, false) }

func (p *Pipes) set(from, to string, cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if cut {
		p.cut[[2]string{from, to}] = true
	} else {
		delete(p.cut, [2]string{from, to})
	}
	p.changed.Broadcast()
	for c := range p.conns {
		c.wake()
	}
}

// Break resets all connections between two hosts: both sides fail, buffered bytes are lost.
func (p *Pipes) Break(a, b string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		if h := c.hosts; h == [2]string{a, b} || h == [2]string{b, a} {
			c.in.reset, c.out.reset = true, true
			c.wake()
		}
	}
}

type pipeHost struct {
	p    *Pipes
	name string
}

func (h pipeHost) Listen(_ context.Context, addr string) (net.Listener, error) {
	p := h.p
	p.mu.Lock()
	defer p.mu.Unlock()
	if addr == ":0" {
		p.free++
		addr = fmt.Sprintf("pipe-%d", p.free)
	}
	if p.listeners[addr] != nil {
		return nil, &net.OpError{Op: "listen", Net: "pipe", Addr: pipeAddr(addr), Err: fmt.Errorf("address in use")}
	}
	l := &pipeListener{p: p, host: h.name, addr: addr}
	l.changed.L = &p.mu
	p.listeners[addr] = l
	return l, nil
}

func (h pipeHost) Dial(ctx context.Context, addr string) (net.Conn, error) {
	p := h.p
	stop := context.AfterFunc(ctx, p.wake)
	defer stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if err := ctx.Err(); err != nil {
			return nil, &net.OpError{Op: "dial", Net: "pipe", Addr: pipeAddr(addr), Err: err}
		}
		l := p.listeners[addr]
		if l == nil || len(l.backlog) >= 1024 {
			return nil, &net.OpError{Op: "dial", Net: "pipe", Addr: pipeAddr(addr), Err: fmt.Errorf("connection refused")}
		}
		if !p.cut[[2]string{h.name, l.host}] && !p.cut[[2]string{l.host, h.name}] {
			return p.join(h.name, l), nil
		}
		p.changed.Wait()
	}
}

// join makes both ends of a connection. The lock is held.
func (p *Pipes) join(from string, l *pipeListener) net.Conn {
	there, back := &pipeHalf{}, &pipeHalf{}
	there.changed.L, back.changed.L = &p.mu, &p.mu
	p.free++
	local := pipeAddr(fmt.Sprintf("%s:%d", from, p.free))
	a := &pipeConn{p: p, in: back, out: there, hosts: [2]string{from, l.host}, local: local, remote: pipeAddr(l.addr)}
	b := &pipeConn{p: p, in: there, out: back, hosts: [2]string{l.host, from}, local: pipeAddr(l.addr), remote: local}
	p.conns[a], p.conns[b] = struct{}{}, struct{}{}
	l.backlog = append(l.backlog, b)
	l.changed.Signal()
	return a
}

func (p *Pipes) wake() {
	p.mu.Lock()
	p.changed.Broadcast()
	p.mu.Unlock()
}

type pipeAddr string

func (pipeAddr) Network() string  { return "pipe" }
func (a pipeAddr) String() string { return string(a) }

type pipeListener struct {
	p       *Pipes
	host    string
	addr    string
	changed sync.Cond
	backlog []*pipeConn
	closed  bool
}

func (l *pipeListener) Addr() net.Addr { return pipeAddr(l.addr) }

func (l *pipeListener) Accept() (net.Conn, error) {
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	for len(l.backlog) == 0 && !l.closed {
		l.changed.Wait()
	}
	if l.closed {
		return nil, &net.OpError{Op: "accept", Net: "pipe", Addr: l.Addr(), Err: net.ErrClosed}
	}
	c := l.backlog[0]
	l.backlog = l.backlog[1:]
	return c, nil
}

func (l *pipeListener) Close() error {
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	if l.closed {
		return net.ErrClosed
	}
	l.closed = true
	delete(l.p.listeners, l.addr)
	for _, c := range l.backlog {
		c.in.reset, c.out.reset = true, true
		c.wake()
		delete(l.p.conns, c)
	}
	l.backlog = nil
	l.changed.Broadcast()
	l.p.changed.Broadcast()
	return nil
}

// pipeHalf is one direction of a connection.
type pipeHalf struct {
	changed sync.Cond
	buf     []byte
	closed  bool // by the writer: what is buffered can still be read
	gone    bool // by the reader
	reset   bool
}

type pipeConn struct {
	p             *Pipes
	in, out       *pipeHalf
	hosts         [2]string // own, other
	local, remote pipeAddr
	closed        bool
	read, write   pipeDeadline
}

type pipeDeadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *pipeDeadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (d *pipeDeadline) set(at time.Time, wake func()) {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if d.at = at; !at.IsZero() {
		d.timer = time.AfterFunc(time.Until(at), wake)
	}
}

func (c *pipeConn) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "pipe", Source: c.local, Addr: c.remote, Err: err}
}

func (c *pipeConn) Read(b []byte) (int, error) {
	p := c.p
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		cut := p.cut[[2]string{c.hosts[1], c.hosts[0]}]
		switch {
		case c.closed:
			return 0, c.fail("read", net.ErrClosed)
		case c.in.reset:
			return 0, c.fail("read", fmt.Errorf("connection reset"))
		case c.read.passed():
			return 0, c.fail("read", os.ErrDeadlineExceeded)
		case len(b) == 0:
			return 0, nil
		case len(c.in.buf) > 0 && !cut:
			n := copy(b, c.in.buf)
			c.in.buf = c.in.buf[n:]
			c.in.changed.Broadcast()
			return n, nil
		case c.in.closed && !cut:
			return 0, io.EOF
		}
		c.in.changed.Wait()
	}
}

func (c *pipeConn) Write(b []byte) (int, error) {
	p := c.p
	p.mu.Lock()
	defer p.mu.Unlock()
	for done := 0; ; {
		switch room := pipeBuffer - len(c.out.buf); {
		case c.closed:
			return done, c.fail("write", net.ErrClosed)
		case c.out.reset || c.out.gone:
			return done, c.fail("write", fmt.Errorf("connection reset"))
		case c.write.passed():
			return done, c.fail("write", os.ErrDeadlineExceeded)
		case done == len(b):
			return done, nil
		case room > 0:
			n := min(room, len(b)-done)
			c.out.buf = append(c.out.buf, b[done:done+n]...)
			done += n
			c.out.changed.Broadcast()
			continue
		}
		c.out.changed.Wait()
	}
}

func (c *pipeConn) Close() error {
	p := c.p
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.closed {
		return c.fail("close", net.ErrClosed)
	}
	c.closed, c.out.closed, c.in.gone = true, true, true
	c.read.set(time.Time{}, nil)
	c.write.set(time.Time{}, nil)
	delete(p.conns, c)
	c.wake()
	return nil
}

// wake makes all that wait on the connection look again. The lock is held.
func (c *pipeConn) wake() {
	c.in.changed.Broadcast()
	c.out.changed.Broadcast()
}

func (c *pipeConn) expire() {
	c.p.mu.Lock()
	c.wake()
	c.p.mu.Unlock()
}

func (c *pipeConn) LocalAddr() net.Addr  { return c.local }
func (c *pipeConn) RemoteAddr() net.Addr { return c.remote }

func (c *pipeConn) SetDeadline(at time.Time) error {
	return c.deadlines(at, &c.read, &c.write)
}
func (c *pipeConn) SetReadDeadline(at time.Time) error  { return c.deadlines(at, &c.read) }
func (c *pipeConn) SetWriteDeadline(at time.Time) error { return c.deadlines(at, &c.write) }

func (c *pipeConn) deadlines(at time.Time, which ...*pipeDeadline) error {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	if c.closed {
		return c.fail("set", net.ErrClosed)
	}
	for _, d := range which {
		d.set(at, c.expire)
	}
	c.wake()
	return nil
}
