package transport

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

// hang returns a handler that waits for its release or its context, and how many wait.
func hang() (h Handler, release func(), waiting *atomic.Int32) {
	c := make(chan struct{})
	waiting = new(atomic.Int32)
	return func(ctx context.Context, _ ring.NodeID, body []byte) ([]byte, error) {
		waiting.Add(1)
		defer waiting.Add(-1)
		select {
		case <-c:
			return body, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}, sync.OnceFunc(func() { close(c) }), waiting
}

func TestOverloadAtTheCaller(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		h, release, _ := hang()
		w.node(2, map[string]Handler{"hang": h})
		a := w.start(w.make(1, func(o *Options) { o.MaxInFlight = 3 }))
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { mustCall(t, a, nodeID(2), "hang", nil) })
		}
		synctest.Wait()
		_, err := a.Call(t.Context(), nodeID(2), "echo", nil)
		if e := wantError(t, err, KindOverloaded, true); !e.Overloaded() || e.Remote() {
			t.Errorf("verdicts of %v", e)
		}
		release()
		wg.Wait()
		mustEcho(t, a, nodeID(2))
	})
}

func TestOverloadOfQueuedBytes(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.node(2, nil)
		a := w.start(w.make(1, func(o *Options) { o.MaxFrame = minMaxFrame }))
		mustEcho(t, a, nodeID(2))
		w.pipes.Cut(hostOf(1), hostOf(2))
		var full atomic.Int32
		var wg sync.WaitGroup
		for range 40 {
			wg.Go(func() {
				_, err := a.Call(within(t, time.Second), nodeID(2), "echo", make([]byte, 30<<10))
				var e *Error
				if errors.As(err, &e) && e.Overloaded() && e.NotSent() {
					full.Add(1)
				}
			})
		}
		wg.Wait()
		synctest.Wait()
		if s := a.peer(nodeID(2)).session; full.Load() == 0 || s.out.bytes > 2*minMaxFrame {
			t.Errorf("%d calls were refused, %d bytes are queued", full.Load(), s.out.bytes)
		}
	})
}

func TestOverloadAtTheServer(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		h, release, waiting := hang()
		b := w.make(2, func(o *Options) { o.MaxServing = 3 })
		b.Handle("hang", h)
		b.Handle("echo", echo)
		w.start(b)
		a, c := w.node(1, nil), w.node(3, nil)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { mustCall(t, a, nodeID(2), "hang", nil) })
		}
		synctest.Wait()
		_, err := c.Call(t.Context(), nodeID(2), "echo", nil)
		e := wantError(t, err, KindOverloaded, false)
		if e.Code() != CodeOverloaded || waiting.Load() != 3 {
			t.Errorf("code %#x with %d handlers", e.Code(), waiting.Load())
		}
		release()
		wg.Wait()
		mustEcho(t, c, nodeID(2))
	})
}

func TestGateBoundsBytes(t *testing.T) {
	g := newGate(10, 100)
	if g.enter(1000) != "" {
		t.Error("one request alone must always fit")
	}
	if g.enter(1) == "" {
		t.Error("a request fits although the bytes are used up")
	}
	g.leave(1000)
	if g.enter(60) != "" || g.enter(40) != "" || g.enter(1) == "" {
		t.Error("bytes are not counted")
	}
	g.leave(60)
	g.close()
	if g.enter(1) == "" {
		t.Error("a closed gate lets in")
	}
	g.leave(40)
	<-g.idle
}

// An answer that does not fit into the queue waits for room, and holds its place meanwhile.
func TestAnswersWaitForTheReader(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		b := w.make(2, func(o *Options) { o.MaxFrame = minMaxFrame })
		b.Handle("big", func(context.Context, ring.NodeID, []byte) ([]byte, error) { return make([]byte, 60<<10), nil })
		w.start(b)
		a := w.node(1, nil)
		mustCall(t, a, nodeID(2), "big", nil)
		w.pipes.Cut(hostOf(2), hostOf(1))
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if got := mustCall(t, a, nodeID(2), "big", nil); len(got) != 60<<10 {
					t.Errorf("%d bytes", len(got))
				}
			})
		}
		synctest.Wait()
		in := b.inbounds[nodeID(1)]
		if n := b.gate.count; n < 40 || in.out.bytes > 2*minMaxFrame {
			t.Errorf("%d handlers wait, %d bytes queued", n, in.out.bytes)
		}
		w.pipes.Heal(hostOf(2), hostOf(1))
		wg.Wait()
		synctest.Wait()
		if b.gate.count != 0 || b.gate.bytes != 0 {
			t.Errorf("the gate holds %d, %d bytes", b.gate.count, b.gate.bytes)
		}
	})
}
