package transport

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dunlindb/dunlin/internal/wire"
	"github.com/dunlindb/dunlin/ring"
)

// CallAsync is Call for who does not wait for the answer: it spares a goroutine and a context. done is called once, with what
// Call would have returned, perhaps before CallAsync returns; it must not block, since the answers of other calls wait behind
// it. body must not be changed before that. limit takes the place of the context's deadline, which the receiver keeps, too;
// here it is noticed up to a second late. cancel gives the call up, if it has not ended: done then gets KindExpired. It may be
// called any number of times.
func (t *Transport) CallAsync(to ring.NodeID, endpoint string, body []byte, limit time.Duration, done func([]byte, error)) (cancel func()) {
	r := request{to, endpoint, body}
	if err := t.check(r); err != nil {
		done(nil, err)
		return func() {}
	}
	p := t.peer(to)
	if p == nil {
		done(nil, r.fail(KindClosed, true, ErrClosed))
		return func() {}
	}
	if !p.enter() {
		done(nil, r.failText(KindOverloaded, true, tooManyCalls))
		return func() {}
	}
	if s := p.live(); s != nil {
		if id, begun := s.start(p, r, limit, done); begun {
			return func() { s.giveUp(id, context.Canceled) }
		}
	}
	return p.startAnew(r, limit, done)
}

// check refuses what cannot be sent to anybody.
func (t *Transport) check(r request) error {
	switch {
	case r.to == t.opt.Self || r.to.IsZero():
		return r.failText(KindInvalid, true, "not a peer")
	case r.endpoint == "" || len(r.endpoint) > maxEndpoint:
		return r.failText(KindInvalid, true, "bad endpoint name")
	case len(r.body) > t.opt.MaxFrame-frameOverhead:
		return r.failText(KindInvalid, true, fmt.Sprintf("request of %d bytes exceeds the largest frame", len(r.body)))
	}
	return nil
}

// live is the session, if there is one that leads where the peer is.
func (p *peer) live() *session {
	addr, known := p.t.opt.Lookup(p.id)
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.session; s != nil && s.cause() == nil && (!known || s.addr == addr) {
		return s
	}
	return nil
}

// startAnew makes the call on a goroutine, since it has to wait for a connection. The call has entered.
func (p *peer) startAnew(r request, limit time.Duration, done func([]byte, error)) (cancel func()) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	if !p.t.spawn(func() {
		defer cancel()
		payload, err := p.try(ctx, r)
		p.leave()
		done(payload, err)
	}) {
		cancel()
		p.leave()
		done(nil, r.fail(KindClosed, true, ErrClosed))
	}
	return cancel
}

// start sends a request whose answer done is told. begun is false, and done is not called, if this session has ended and
// nothing of the request was written.
func (s *session) start(p *peer, r request, limit time.Duration, done func([]byte, error)) (id uint64, begun bool) {
	if s.out.full(len(r.body)) {
		p.leave()
		done(nil, r.failText(KindOverloaded, true, tooManyBytes))
		return 0, true
	}
	// Not of the pool: a call that is lost between here and its push is over before it is queued.
	both := &startedCall{started: started{p: p, request: r, due: time.Now().Add(limit), done: done}}
	c := &both.call
	c.started = &both.started
	id, dead := s.register(c)
	if dead != nil {
		return 0, false
	}
	enc := wire.NewEncoder()
	encodeRequest(enc, id, r.endpoint, max(limit, time.Millisecond), r.body)
	switch result := s.out.push(queued{enc, c}, false); {
	case result == pushed:
		return id, true
	case !s.forget(id):
		enc.Free() // whoever took it out ends it
		return id, true
	case result == pushFull:
		enc.Free()
		p.leave()
		done(nil, r.failText(KindOverloaded, true, tooManyBytes))
		return id, true
	default:
		enc.Free()
		return 0, false
	}
}

// started is what a call has that nobody waits for.
type started struct {
	p       *peer
	request request
	due     time.Time
	done    func([]byte, error)
}

// startedCall is both in one piece of memory.
type startedCall struct {
	call    call
	started started
}

// end tells the outcome of a call that was taken out of session.pending.
func (s *session) end(c *call) {
	st := c.started
	if c.lost != nil && c.notSent && !errors.Is(c.lost, ErrClosed) {
		st.p.startAnew(st.request, max(time.Until(st.due), time.Millisecond), st.done)
		return
	}
	st.p.leave()
	st.done(c.payload, s.failure(c, st.request))
}

// giveUp ends a started call, if it has not ended.
func (s *session) giveUp(id uint64, why error) {
	s.mu.Lock()
	c := s.pending[id]
	delete(s.pending, id)
	s.mu.Unlock()
	if c != nil {
		st := c.started
		err := s.unsend(c, st.request, id, why)
		st.p.leave()
		st.done(nil, err)
	}
}

// expire gives up what was started and is overdue.
func (s *session) expire(now time.Time) {
	var overdue []uint64
	s.mu.Lock()
	for id, c := range s.pending {
		if c.started != nil && now.After(c.started.due) {
			overdue = append(overdue, id)
		}
	}
	s.mu.Unlock()
	for _, id := range overdue {
		s.giveUp(id, context.DeadlineExceeded)
	}
}
