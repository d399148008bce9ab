package transport

import (
	"sync/atomic"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

// Early answers requests of an endpoint without a goroutine and a context of their own. It is asked first, on the goroutine that
// reads the connection, and so must not block. It reports false, and keeps nothing, if the request needs the endpoint's
// Handler. Otherwise it calls reply once, then or later, on any goroutine; reply does not block. left is what the caller
// still waits; that it gave up is not told. The rest is as with Handler.
type Early func(from ring.NodeID, body []byte, left time.Duration, reply func(answer []byte, err error)) bool

// maxEarly bounds the requests that are worth it: taking a larger one apart would keep others waiting.
const maxEarly = 64 << 10

// HandleEarly registers who is asked before the handler of an endpoint. It panics if there is no handler, and after Start.
func (t *Transport) HandleEarly(endpoint string, e Early) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.started || t.handlers[endpoint] == nil || e == nil {
		panic("transport: HandleEarly of an endpoint without a handler, or after Start")
	}
	t.early[endpoint] = e
}

// receipt is a request in early hands. It holds its place in the gate until the answer is queued.
type receipt struct {
	in   *inbound
	id   uint64
	size int
	done atomic.Bool
}

// try reports whether the request was taken. A panic is an answer, too.
func (r *receipt) try(early Early, f *frame) (taken bool) {
	defer func() {
		if v := recover(); v != nil {
			taken = true
			r.reply(nil, r.in.panicked(v, string(f.endpoint)))
		}
	}()
	return early(r.in.peer, f.payload, f.left, r.reply)
}

func (r *receipt) reply(payload []byte, err error) {
	if r.done.Swap(true) {
		return // it panicked afterwards
	}
	enc := r.in.response(r.id, payload, err)
	switch r.in.out.push(queued{enc, nil}, false) {
	case pushFull:
		go func() {
			defer r.in.t.gate.leave(r.size)
			if r.in.out.push(queued{enc, nil}, true) != pushed {
				enc.Free()
			}
		}()
		return
	case pushClosed:
		enc.Free()
	}
	r.in.t.gate.leave(r.size)
}
