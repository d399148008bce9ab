package sim

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// streamBuffer is how many bytes a stream takes in one direction before Write blocks.
const streamBuffer = 256 << 10

// segment is what one Write sent, and when it arrives if nothing is cut.
type segment struct {
	at time.Time
	b  []byte
}

// half is one direction of a stream. All is guarded by the fabric's lock.
type half struct {
	changed sync.Cond
	segs    []segment
	size    int
	last    time.Time // when the last segment arrives: a stream keeps its order
	closed  bool      // by the writer: what is under way is still read
	gone    bool      // by the reader
	reset   bool
}

// conn is one end of a stream. It waits only in ways that package testing/synctest understands.
type conn struct {
	f             *fabric
	host          *host // it belongs to
	link          link  // from its own host to the other one
	in, out       *half
	local, remote net.Addr
	closed        bool
	orphan        bool // the other end's machine is gone without a word
	read, write   deadline
}

type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (d *deadline) set(at time.Time, wake func()) {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if d.at = at; !at.IsZero() {
		d.timer = time.AfterFunc(time.Until(at), wake)
	}
}

var errReset = errors.New("connection reset")

func (c *conn) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "sim", Source: c.local, Addr: c.remote, Err: err}
}

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) {
	f := c.f
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		cut := f.cuts[link{c.link.to, c.link.from}]
		var due time.Duration = -1 // until the next segment arrives
		if len(c.in.segs) > 0 && !cut {
			due = max(0, time.Until(c.in.segs[0].at))
		}
		switch {
		case c.closed:
			return 0, c.fail("read", net.ErrClosed)
		case c.in.reset:
			return 0, c.fail("read", errReset)
		case c.read.passed():
			return 0, c.fail("read", os.ErrDeadlineExceeded)
		case len(b) == 0:
			return 0, nil
		case due == 0:
			return c.in.take(b), nil
		case len(c.in.segs) == 0 && c.in.closed && !cut:
			return 0, io.EOF
		}
		var arrives *time.Timer
		if due > 0 {
			arrives = time.AfterFunc(due, c.expire)
		}
		c.in.changed.Wait()
		if arrives != nil {
			arrives.Stop()
		}
	}
}

// take moves bytes that have arrived into b.
func (h *half) take(b []byte) (n int) {
	for n < len(b) && len(h.segs) > 0 && !time.Now().Before(h.segs[0].at) {
		k := copy(b[n:], h.segs[0].b)
		n += k
		if h.segs[0].b = h.segs[0].b[k:]; len(h.segs[0].b) == 0 {
			h.segs = h.segs[1:]
		}
	}
	h.size -= n
	h.changed.Broadcast()
	return n
}

// Write implements net.Conn.
func (c *conn) Write(b []byte) (int, error) {
	f := c.f
	f.mu.Lock()
	defer f.mu.Unlock()
	for done := 0; ; {
		switch room := streamBuffer - c.out.size; {
		case c.closed:
			return done, c.fail("write", net.ErrClosed)
		case c.out.reset || c.out.gone:
			return done, c.fail("write", errReset)
		case c.write.passed():
			return done, c.fail("write", os.ErrDeadlineExceeded)
		case done == len(b):
			return done, nil
		case room > 0:
			n := min(room, len(b)-done)
			at := time.Now().Add(f.delay())
			if at.Before(c.out.last) {
				at = c.out.last
			}
			c.out.last = at
			c.out.segs = append(c.out.segs, segment{at, append([]byte(nil), b[done:done+n]...)})
			c.out.size += n
			done += n
			c.out.changed.Broadcast()
			continue
		}
		c.out.changed.Wait()
	}
}

// Close implements net.Conn.
func (c *conn) Close() error {
	f := c.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.closed {
		return c.fail("close", net.ErrClosed)
	}
	c.shut()
	c.out.closed, c.in.gone = true, true
	c.wake()
	return nil
}

// shut ends the conn without a word to the other side. The lock is held.
func (c *conn) shut() {
	c.closed = true
	c.read.set(time.Time{}, nil)
	c.write.set(time.Time{}, nil)
	delete(c.f.conns, c)
}

// cutOff is what the conns of a dead host get: the other side hears nothing. The lock is held.
func (c *conn) cutOff() {
	if !c.closed {
		c.shut()
	}
	c.in.changed.Broadcast()
	c.out.changed.Broadcast()
}

// reset breaks both directions. The lock is held.
func (c *conn) reset() {
	c.in.reset, c.out.reset = true, true
	c.wake()
}

// wake makes all that wait on the conn look again. The lock is held.
func (c *conn) wake() {
	c.in.changed.Broadcast()
	c.out.changed.Broadcast()
}

func (c *conn) expire() {
	c.f.mu.Lock()
	c.wake()
	c.f.mu.Unlock()
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(at time.Time) error { return c.deadlines(at, &c.read, &c.write) }

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(at time.Time) error { return c.deadlines(at, &c.read) }

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(at time.Time) error { return c.deadlines(at, &c.write) }

func (c *conn) deadlines(at time.Time, which ...*deadline) error {
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	if c.closed {
		return c.fail("set", net.ErrClosed)
	}
	for _, d := range which {
		d.set(at, c.expire)
	}
	c.wake()
	return nil
}
