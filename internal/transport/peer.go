package transport

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

const (
	backoffFirst = 100 * time.Millisecond
	backoffLast  = 500 * time.Millisecond
)

// peer is what the caller's side knows about one node: its session, the dial under way, or when to try again.
type peer struct {
	t        *Transport
	id       ring.NodeID
	inFlight atomic.Int64

	mu       sync.Mutex
	session  *session
	dial     *dial
	addr     string // of the last dial
	failures int
	next     time.Time // no dial of addr before
	last     *Error    // why the last dial failed
}

// dial is one attempt that any number of callers wait for. session and err are set before done is closed.
type dial struct {
	addr    string
	done    chan struct{}
	session *session
	err     *Error
}

// call finds a session and uses it. If the session ends before any of the request is written, a new one is
// tried, once.
func (p *peer) call(ctx context.Context, r request) ([]byte, error) {
	if !p.enter() {
		return nil, r.failText(KindOverloaded, true, tooManyCalls)
	}
	defer p.leave()
	return p.try(ctx, r)
}

// enter counts one more call, if there may be one.
func (p *peer) enter() bool {
	if p.inFlight.Add(1) > int64(p.t.opt.MaxInFlight) {
		p.leave()
		return false
	}
	return true
}

func (p *peer) leave() { p.inFlight.Add(-1) }

// try is call for one that has entered.
func (p *peer) try(ctx context.Context, r request) ([]byte, error) {
	for attempt := 0; ; attempt++ {
		s, err := p.connect(ctx, r)
		if err != nil {
			return nil, err
		}
		payload, again, failed := s.call(ctx, r)
		if !again || attempt > 0 {
			return payload, failed
		}
	}
}

// connect returns the live session, or waits for a dial, or fails at once while the last failure is fresh.
func (p *peer) connect(ctx context.Context, r request) (*session, error) {
	addr, known := p.t.opt.Lookup(p.id)
	p.mu.Lock()
	if s := p.session; s != nil && s.cause() == nil {
		if !known || s.addr == addr {
			p.mu.Unlock()
			return s, nil
		}
		p.session = nil
		// A node that moved does not hear its old address any more.
		defer s.fail(errors.New("the peer has a new address"))
	}
	if !known || addr == "" {
		p.mu.Unlock()
		return nil, r.failText(KindUnreachable, true, "no address is known")
	}
	if addr != p.addr {
		p.addr, p.failures, p.next, p.dial = addr, 0, time.Time{}, nil
	}
	d := p.dial
	if d == nil {
		if wait := time.Until(p.next); wait > 0 {
			last := *p.last
			p.mu.Unlock()
			last.Endpoint = r.endpoint
			return nil, &last
		}
		d = &dial{addr: addr, done: make(chan struct{})}
		if !p.t.spawn(func() { p.run(d) }) {
			p.mu.Unlock()
			return nil, r.fail(KindClosed, true, ErrClosed)
		}
		p.dial = d
	}
	p.mu.Unlock()
	select {
	case <-d.done:
	case <-ctx.Done():
		return nil, r.fail(KindExpired, true, ctx.Err())
	}
	if d.err != nil {
		failed := *d.err
		failed.Endpoint = r.endpoint
		return nil, &failed
	}
	return d.session, nil
}

// run dials, shakes hands, and hands the session over to the callers that wait. It then is the reader of the
// session.
func (p *peer) run(d *dial) {
	l, err := p.t.connect(p.id, d.addr)
	p.mu.Lock()
	current := p.dial == d
	if current {
		p.dial = nil
	}
	if err == nil {
		d.session = newSession(l, d.addr, p.t.opt.MaxFrame)
		if current && p.t.addSession(d.session) {
			p.session, p.failures, p.next = d.session, 0, time.Time{}
		} else {
			l.close()
			err = errors.New("the dial was given up")
			d.session = nil
		}
	}
	if err != nil {
		d.err = p.failed(err)
		if current {
			p.last = d.err
			p.failures++
			p.next = time.Now().Add(backoff(p.failures))
		}
	}
	p.mu.Unlock()
	close(d.done)
	if d.session != nil {
		p.t.runSession(d.session)
	}
}

// backoff doubles from backoffFirst to backoffLast; a quarter of it is chance, so that nodes which lost the
// same peer do not come back in step.
func backoff(failures int) time.Duration {
	d := backoffLast
	if failures < 6 {
		d = min(backoffLast, backoffFirst<<(failures-1))
	}
	return d - time.Duration(rand.Int64N(int64(d/4)))
}

// heard lets the next call dial at once: the peer has just connected by itself, so it is back.
func (p *peer) heard() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failures, p.next = 0, time.Time{}
}

func (p *peer) failed(err error) *Error {
	r := request{to: p.id}
	var no *refusal
	switch {
	case errors.As(err, &no) && no.theirs:
		return r.failText(KindRefused, true, no.text)
	case errors.As(err, &no):
		return r.failText(KindRefused, true, "by this node: "+no.text)
	case p.t.ctx.Err() != nil:
		return r.fail(KindClosed, true, ErrClosed)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		// It is the dial that took too long, and not the call of whoever reads this: a dead host, most likely.
		return r.failText(KindUnreachable, true, err.Error())
	}
	return r.fail(KindUnreachable, true, err)
}

// drop ends the session, and makes a dial under way of no use.
func (p *peer) drop(reason error) {
	p.mu.Lock()
	s := p.session
	p.session, p.dial = nil, nil
	p.mu.Unlock()
	if s != nil {
		s.fail(reason)
	}
}
