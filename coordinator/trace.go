package coordinator

import (
	"sync"
	"time"

	"github.com/dunlindb/dunlin/internal/wire"
	"github.com/dunlindb/dunlin/ring"
)

// Trace records what one request did: who was asked when, who answered what when, what was hinted or repaired. A nil
// Trace records nothing and costs nothing. Safe for concurrent use.
type Trace struct {
	start time.Time

	mu     sync.Mutex
	events []TraceEvent
}

// TraceEvent is one step of a request.
type TraceEvent struct {
	At     time.Duration // since the request began at the node that recorded it first
	Node   ring.NodeID   // the node that the step is about
	Kind   string        // forward, look, mint, send, hint, ask, fetch, hedge, answer, repair, result
	Detail string
}

const maxTraceEvents = 256

// NewTrace begins a trace now.
func NewTrace() *Trace { return &Trace{start: time.Now()} }

// Events returns the steps so far, in the order in which they were recorded.
func (t *Trace) Events() []TraceEvent {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]TraceEvent(nil), t.events...)
}

func (t *Trace) add(kind string, node ring.NodeID, detail string) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.events) < maxTraceEvents {
		t.events = append(t.events, TraceEvent{time.Since(t.start), node, kind, detail})
	}
}

// now is the time since the trace began.
func (t *Trace) now() time.Duration {
	if t == nil {
		return 0
	}
	return time.Since(t.start)
}

// join takes in what another node recorded, which began at the given time of this trace.
func (t *Trace) join(at time.Duration, events []TraceEvent) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range events {
		e.At += at
		if len(t.events) < maxTraceEvents {
			t.events = append(t.events, e)
		}
	}
}

func encodeTrace(e *wire.Encoder, events []TraceEvent) {
	e.Array(4 * len(events))
	for i := range events {
		x := &events[i]
		e.Int(int64(x.At))
		e.Raw(x.Node[:])
		e.String(x.Kind)
		e.String(clip(x.Detail))
	}
}

func decodeTrace(d *wire.Decoder) (out []TraceEvent) {
	n := d.Array(4 * maxTraceEvents)
	if n%4 != 0 {
		d.Fail("odd trace")
		return nil
	}
	for range n / 4 {
		x := TraceEvent{At: time.Duration(d.Int())}
		d.Fixed(x.Node[:])
		x.Kind, x.Detail = d.String(64), d.String(maxText)
		out = append(out, x)
	}
	return out
}
