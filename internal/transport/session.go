package transport

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/dunlindb/dunlin/internal/wire"
	"github.com/dunlindb/dunlin/ring"
)

// call is one request that waits for its answer. Whoever takes it out of session.pending completes it, once.
type call struct {
	done    chan struct{} // holds one token when complete
	started *started      // nobody waits, and done is not used
	code    uint16
	text    string
	payload []byte
	lost    error // why there is no answer

	// Guarded by the outbox's lock; notSent is settled before the call completes.
	queued   bool
	position uint64
	notSent  bool
}

// session is the caller's side of a connection. Only fail closes its link, so that a closed outbox always comes
// with a dead session and no caller picks it again.
type session struct {
	*link
	addr     string
	maxFrame int
	calls    sync.Pool // per session: a channel must not wander between synctest bubbles

	mu      sync.Mutex
	pending map[uint64]*call
	nextID  uint64
	dead    error
}

func newSession(l *link, addr string, maxFrame int) *session {
	l.caller = true
	s := &session{link: l, addr: addr, maxFrame: maxFrame, pending: make(map[uint64]*call)}
	s.calls.New = func() any { return &call{done: make(chan struct{}, 1)} }
	return s
}

func (s *session) free(c *call) {
	*c = call{done: c.done}
	s.calls.Put(c)
}

const (
	tooManyBytes = "too many bytes are queued for this peer"
	tooManyCalls = "too many calls in flight to this peer"
)

// request is what Call was asked.
type request struct {
	to       ring.NodeID
	endpoint string
	body     []byte
}

func (r request) fail(kind Kind, notSent bool, err error) *Error {
	return &Error{Peer: r.to, Endpoint: r.endpoint, Kind: kind, notSent: notSent, err: err}
}

func (r request) failText(kind Kind, notSent bool, text string) *Error {
	return &Error{Peer: r.to, Endpoint: r.endpoint, Kind: kind, notSent: notSent, Text: text}
}

// call sends a request and waits for its answer. The second result asks the caller to try a new connection:
// this one ended and nothing of the request was written.
func (s *session) call(ctx context.Context, r request) (payload []byte, again bool, err error) {
	if s.out.full(len(r.body)) {
		return nil, false, r.failText(KindOverloaded, true, tooManyBytes)
	}
	c := s.calls.Get().(*call)
	id, dead := s.register(c)
	if dead != nil {
		s.free(c)
		return nil, true, r.fail(KindLost, true, dead)
	}
	deadline, _ := ctx.Deadline()
	enc := wire.NewEncoder()
	encodeRequest(enc, id, r.endpoint, max(time.Until(deadline), time.Millisecond), r.body)
	if result := s.out.push(queued{enc, c}, false); result != pushed {
		enc.Free()
		if !s.forget(id) {
			<-c.done
		}
		s.free(c)
		if result == pushFull {
			return nil, false, r.failText(KindOverloaded, true, tooManyBytes)
		}
		return nil, true, r.fail(KindLost, true, s.cause())
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		if s.forget(id) {
			return nil, false, s.abandon(ctx, c, r, id)
		}
		<-c.done // the answer is here already
	}
	defer s.free(c)
	again = c.lost != nil && c.notSent && c.lost != ErrClosed
	return c.payload, again, s.failure(c, r)
}

// abandon ends a call whose context ended first. Nobody else holds c.
func (s *session) abandon(ctx context.Context, c *call, r request, id uint64) *Error {
	err := s.unsend(c, r, id, ctx.Err())
	s.free(c)
	return err
}

// unsend takes back a call that was given up, or tells the peer so if it may have been sent.
func (s *session) unsend(c *call, r request, id uint64, why error) *Error {
	notSent := s.out.remove(c) || c.notSent
	if !notSent {
		enc := wire.NewEncoder()
		encodeCancel(enc, id)
		if s.out.push(queued{enc, nil}, false) != pushed {
			enc.Free() // the peer works in vain until the deadline
		}
	}
	return r.fail(KindExpired, notSent, why)
}

// failure is the error of a completed call, an untyped nil if there is none.
func (s *session) failure(c *call, r request) error {
	switch {
	case c.lost != nil:
		kind := KindLost
		if c.lost == ErrClosed {
			kind = KindClosed
		}
		return r.fail(kind, c.notSent, c.lost)
	case c.code == 0:
		return nil
	case c.code == CodeOverloaded:
		e := r.failText(KindOverloaded, false, c.text)
		e.code = c.code
		return e
	}
	e := r.failText(KindRemote, false, c.text)
	e.code = c.code
	return e
}

func (s *session) register(c *call) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead != nil {
		return 0, s.dead
	}
	s.nextID++
	s.pending[s.nextID] = c
	return s.nextID, nil
}

// forget takes a call out and reports whether it was still there.
func (s *session) forget(id uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.pending[id]
	delete(s.pending, id)
	return ok
}

func (s *session) cause() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dead
}

// fail ends the session and every call in it. The first reason counts.
func (s *session) fail(reason error) {
	s.mu.Lock()
	if s.dead == nil {
		s.dead = reason
	}
	reason = s.dead
	s.mu.Unlock()
	s.close() // settles which calls were not sent

	s.mu.Lock()
	lost := s.pending
	s.pending = make(map[uint64]*call)
	s.mu.Unlock()
	for _, c := range lost {
		c.lost = reason
		s.complete(c)
	}
}

// read completes calls as answers arrive, until the connection ends.
func (s *session) read() error {
	for {
		b, err := readFrame(s.reader, s.maxFrame)
		if err != nil {
			return err
		}
		f, err := decodeFrame(b)
		if err != nil {
			return err
		}
		switch f.kind {
		case kindPong:
		case kindResponse:
			s.answer(f)
		default:
			return fmt.Errorf("%w: a frame of kind %d where an answer was expected", wire.ErrMalformed, f.kind)
		}
	}
}

// answer completes a call; one that nobody waits for any more is dropped.
func (s *session) answer(f frame) {
	s.mu.Lock()
	c := s.pending[f.id]
	delete(s.pending, f.id)
	s.mu.Unlock()
	if c != nil {
		c.code, c.text, c.payload = f.code, f.text, f.payload
		s.complete(c)
	}
}

// complete tells whoever made a call that was taken out of pending.
func (s *session) complete(c *call) {
	if c.started != nil {
		s.end(c)
	} else {
		c.done <- struct{}{}
	}
}
