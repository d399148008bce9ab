package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

func TestRoundTripSizes(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.node(1, nil), w.node(2, nil)
		if len(mustCall(t, a, nodeID(2), "echo", nil)) != 0 {
			t.Fatal("an empty body came back with bytes")
		}
		for _, n := range []int{1, 1000, directBytes - 1, directBytes, arrivalStep + 1, 1 << 20, 5<<20 + 3} {
			body := bytes.Repeat([]byte{byte(n), 7}, n/2+1)[:n]
			if got := mustCall(t, a, nodeID(2), "echo", body); !bytes.Equal(got, body) {
				t.Fatalf("%d bytes came back as %d other bytes", n, len(got))
			}
		}
		mustEcho(t, b, nodeID(1))
	})
}

func TestHandlerSeesCallerAndOwnsBody(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var kept []byte
		var from ring.NodeID
		w.node(2, map[string]Handler{"keep": func(_ context.Context, peer ring.NodeID, body []byte) ([]byte, error) {
			kept, from = body, peer
			return nil, nil
		}})
		a := w.node(1, nil)
		body := []byte("first")
		mustCall(t, a, nodeID(2), "keep", body)
		copy(body, "XXXXX")
		for range 100 {
			mustEcho(t, a, nodeID(2))
		}
		if string(kept) != "first" || from != nodeID(1) {
			t.Fatalf("handler kept %q from %v", kept, from)
		}
	})
}

func TestConcurrentCallersShareOneConnection(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.node(1, nil), w.node(2, nil)
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() {
				for j := range 20 {
					body := fmt.Appendf(nil, "%d/%d", i, j)
					got, err := a.Call(t.Context(), nodeID(2), "echo", body)
					if err != nil || !bytes.Equal(got, body) {
						t.Errorf("got %q, %v, want %q", got, err, body)
					}
				}
			})
		}
		wg.Wait()
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.inbounds) != 1 {
			t.Errorf("%d connections, want 1", len(b.inbounds))
		}
	})
}

func TestAnswersOutOfOrder(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.node(2, map[string]Handler{"wait": func(ctx context.Context, _ ring.NodeID, body []byte) ([]byte, error) {
			time.Sleep(time.Duration(body[0]) * time.Millisecond)
			return body, nil
		}})
		a := w.node(1, nil)
		var mu sync.Mutex
		var order []byte
		var wg sync.WaitGroup
		for _, n := range []byte{30, 10, 20} {
			wg.Go(func() {
				got := mustCall(t, a, nodeID(2), "wait", []byte{n})
				mu.Lock()
				defer mu.Unlock()
				order = append(order, got...)
			})
		}
		wg.Wait()
		if !bytes.Equal(order, []byte{10, 20, 30}) {
			t.Errorf("answers in order %v", order)
		}
	})
}

type coded uint16

func (c coded) Code() uint16  { return uint16(c) }
func (c coded) Error() string { return strings.Repeat("x", maxText+1000) }

func TestHandlerErrors(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		fail := func(err error) Handler {
			return func(context.Context, ring.NodeID, []byte) ([]byte, error) { return []byte("ignored"), err }
		}
		w.node(2, map[string]Handler{
			"coded":    fail(fmt.Errorf("while working: %w", coded(42))),
			"plain":    fail(errors.New("plain trouble")),
			"reserved": fail(coded(CodeOverloaded)),
			"zero":     fail(coded(0)),
			"nested":   fail(fmt.Errorf("asking another: %w", &Error{Kind: KindRemote, code: 42})),
			"panic":    func(context.Context, ring.NodeID, []byte) ([]byte, error) { panic("boom") },
			"huge":     func(context.Context, ring.NodeID, []byte) ([]byte, error) { return make([]byte, 32<<20), nil },
		})
		a := w.node(1, nil)
		for endpoint, want := range map[string]struct {
			code uint16
			text string
		}{
			"coded": {42, "while working: xxx"}, "plain": {CodeUnspecified, "plain trouble"},
			"reserved": {CodeUnspecified, "xxx"}, "zero": {CodeUnspecified, "xxx"},
			"nested": {CodeUnspecified, "asking another"}, "panic": {CodePanic, "boom"},
			"huge": {CodeTooLarge, "exceeds"}, "nobody": {CodeUnknownEndpoint, `"nobody"`},
		} {
			_, err := a.Call(t.Context(), nodeID(2), endpoint, nil)
			e := wantError(t, err, KindRemote, false)
			if e.Code() != want.code || !strings.Contains(e.Text, want.text) || len(e.Text) > maxText {
				t.Errorf("%s: code %#x, %d bytes of text %.40q, want %#x, %q", endpoint, e.Code(), len(e.Text), e.Text, want.code, want.text)
			}
			if !e.Remote() || e.Unreachable() || e.Overloaded() || e.Peer != nodeID(2) || e.Endpoint != endpoint {
				t.Errorf("%s: wrong verdicts of %#v", endpoint, e)
			}
		}
		mustEcho(t, a, nodeID(2)) // the connection survived all of it
	})
}

func TestErrorAnswersSmallInterfaces(t *testing.T) {
	var err error = fmt.Errorf("wrapped: %w", &Error{Kind: KindLost, code: 7, notSent: true, err: ErrClosed})
	var e interface {
		NotSent() bool
		Code() uint16
		Overloaded() bool
		Unreachable() bool
	}
	if !errors.As(err, &e) || !e.NotSent() || e.Code() != 7 || e.Overloaded() || !e.Unreachable() || !errors.Is(err, ErrClosed) {
		t.Fatalf("%v does not answer", err)
	}
}

func TestDeadlineTravels(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var left time.Duration
		ended := make(chan error, 1)
		w.node(2, map[string]Handler{
			"left": func(ctx context.Context, _ ring.NodeID, _ []byte) ([]byte, error) {
				deadline, _ := ctx.Deadline()
				left = time.Until(deadline)
				return nil, nil
			},
			"hang": func(ctx context.Context, _ ring.NodeID, _ []byte) ([]byte, error) {
				<-ctx.Done()
				ended <- ctx.Err()
				return nil, nil
			},
		})
		a := w.node(1, nil)
		if _, err := a.Call(within(t, 1500*time.Millisecond), nodeID(2), "left", nil); err != nil || left != 1500*time.Millisecond {
			t.Errorf("handler had %v left, err %v", left, err)
		}
		if _, err := a.Call(context.Background(), nodeID(2), "left", nil); err != nil || left != defaultDeadline {
			t.Errorf("without a deadline the handler had %v left, err %v", left, err)
		}
		begun := time.Now()
		_, err := a.Call(within(t, 70*time.Millisecond), nodeID(2), "hang", nil)
		wantError(t, err, KindExpired, false)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != 70*time.Millisecond {
			t.Errorf("call ended with %v after %v", err, time.Since(begun))
		}
		if err := <-ended; err == nil {
			t.Error("the handler's context did not end")
		}
	})
}

// A request that expired before its handler starts does not run it and is not answered.
func TestExpiredWorkIsDropped(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.make(1, nil)
		in := newInbound(a, newLink(nodeID(2), nil, a.opt.MaxFrame))
		defer in.cancel()
		ran := false
		h := func(ctx context.Context, _ ring.NodeID, _ []byte) ([]byte, error) {
			ran = true
			<-ctx.Done()
			return []byte("late"), nil
		}
		for _, left := range []time.Duration{0, time.Second} {
			ctx, cancel := context.WithTimeout(t.Context(), left)
			if full := a.gate.enter(0); full != "" {
				t.Fatal(full)
			}
			in.serve(&job{ctx: ctx, cancel: cancel, handler: h})
			if ran != (left > 0) || len(in.out.queue) != 0 || a.gate.count != 0 {
				t.Errorf("%v left: ran %v, %d answers, %d in the gate", left, ran, len(in.out.queue), a.gate.count)
			}
		}
	})
}

func TestCancelReachesTheHandler(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		entered, ended := make(chan struct{}), make(chan error, 1)
		w.node(2, map[string]Handler{"hang": func(ctx context.Context, _ ring.NodeID, _ []byte) ([]byte, error) {
			close(entered)
			<-ctx.Done()
			ended <- ctx.Err()
			return nil, nil
		}})
		a := w.node(1, nil)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-entered
			cancel()
		}()
		begun := time.Now()
		_, err := a.Call(ctx, nodeID(2), "hang", nil)
		wantError(t, err, KindExpired, false)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v does not wrap the context's", err)
		}
		if err := <-ended; !errors.Is(err, context.Canceled) || time.Since(begun) != 0 {
			t.Errorf("the handler's context ended with %v after %v", err, time.Since(begun))
		}
	})
}

// Requests that wait behind a connection that takes no bytes can be taken back, and say so.
func TestQueuedRequestIsTakenBack(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.node(2, nil)
		a := w.node(1, nil)
		mustEcho(t, a, nodeID(2))
		w.pipes.Cut(hostOf(1), hostOf(2))
		big := make([]byte, 2*pipeBuffer)
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := a.Call(within(t, 3*time.Second), nodeID(2), "echo", big)
			wantError(t, err, KindExpired, false)
		})
		synctest.Wait() // the writer is stuck in the big one
		for range 10 {
			wg.Go(func() {
				_, err := a.Call(within(t, time.Second), nodeID(2), "echo", []byte("small"))
				wantError(t, err, KindExpired, true)
			})
		}
		wg.Wait()
		w.pipes.Heal(hostOf(1), hostOf(2))
		mustEcho(t, a, nodeID(2))
		s := a.peer(nodeID(2)).session
		synctest.Wait()
		if len(s.pending) != 0 || s.out.bytes != 0 || len(s.out.queue) != 0 {
			t.Errorf("left behind: %d pending, %d bytes, %d frames", len(s.pending), s.out.bytes, len(s.out.queue))
		}
	})
}

func TestInvalidCalls(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.node(1, nil), w.make(2, nil)
		for name, call := range map[string]func() ([]byte, error){
			"self":      func() ([]byte, error) { return a.Call(t.Context(), nodeID(1), "echo", nil) },
			"zero":      func() ([]byte, error) { return a.Call(t.Context(), ring.NodeID{}, "echo", nil) },
			"no name":   func() ([]byte, error) { return a.Call(t.Context(), nodeID(2), "", nil) },
			"too large": func() ([]byte, error) { return a.Call(t.Context(), nodeID(2), "echo", make([]byte, 32<<20)) },
		} {
			_, err := call()
			if e := wantError(t, err, KindInvalid, true); e.Error() == "" {
				t.Error(name)
			}
		}
		_, err := b.Call(t.Context(), nodeID(1), "echo", nil)
		wantError(t, err, KindClosed, true)
		_, err = a.Call(t.Context(), nodeID(9), "echo", nil)
		if e := wantError(t, err, KindUnreachable, true); !e.Unreachable() {
			t.Error("an unknown address is not unreachable")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = a.Call(ctx, nodeID(2), "echo", nil)
		wantError(t, err, KindExpired, true)
	})
}
