package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

type outcome struct {
	payload []byte
	err     error
}

// async makes a call whose outcomes are counted and, the first, sent.
func async(a *Transport, to ring.NodeID, endpoint string, body []byte, limit time.Duration) (got chan outcome, times *atomic.Int32, cancel func()) {
	got, times = make(chan outcome, 1), new(atomic.Int32)
	cancel = a.CallAsync(to, endpoint, body, limit, func(b []byte, err error) {
		if times.Add(1) == 1 {
			got <- outcome{b, err}
		}
	})
	return got, times, cancel
}

func once(t *testing.T, what string, times *atomic.Int32) {
	t.Helper()
	if n := times.Load(); n != 1 {
		t.Errorf("%s: told %d times", what, n)
	}
}

func TestCallAsync(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.node(2, map[string]Handler{"fail": func(context.Context, ring.NodeID, []byte) ([]byte, error) { return nil, coded(7) }})
		a := w.node(1, nil)
		for i := range 3 { // the first one waits for a connection
			got, times, cancel := async(a, nodeID(2), "echo", []byte("ping"), time.Second)
			if o := <-got; o.err != nil || string(o.payload) != "ping" {
				t.Errorf("call %d: %q, %v", i, o.payload, o.err)
			}
			cancel() // too late
			synctest.Wait()
			once(t, "an echo", times)
		}
		got, times, _ := async(a, nodeID(2), "fail", nil, time.Second)
		if e := wantError(t, (<-got).err, KindRemote, false); e.Code() != 7 {
			t.Errorf("code %d", e.Code())
		}
		once(t, "a failure", times)
		for _, bad := range []struct {
			to       ring.NodeID
			endpoint string
			kind     Kind
		}{{nodeID(1), "echo", KindInvalid}, {nodeID(2), "", KindInvalid}, {nodeID(9), "echo", KindUnreachable}} {
			got, times, _ := async(a, bad.to, bad.endpoint, nil, time.Second)
			wantError(t, (<-got).err, bad.kind, true)
			once(t, "a bad call", times)
		}
		_ = a.Close()
		got, _, _ = async(a, nodeID(2), "echo", nil, time.Second)
		wantError(t, (<-got).err, KindClosed, true)
		if n := a.peers[nodeID(2)].inFlight.Load(); n != 0 {
			t.Errorf("%d calls in flight", n)
		}
	})
}

// A call that is given up, or overdue, ends here and at the peer.
func TestCallAsyncEnds(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		ended := make(chan error, 2)
		entered := make(chan struct{}, 2)
		w.node(2, map[string]Handler{"hang": func(ctx context.Context, _ ring.NodeID, _ []byte) ([]byte, error) {
			entered <- struct{}{}
			<-ctx.Done()
			ended <- ctx.Err()
			return nil, nil
		}})
		a := w.node(1, nil)
		mustEcho(t, a, nodeID(2))
		got, cancelled, cancel := async(a, nodeID(2), "hang", nil, time.Hour)
		<-entered
		cancel()
		cancel()
		o := <-got
		if wantError(t, o.err, KindExpired, false); !errors.Is(o.err, context.Canceled) {
			t.Errorf("given up: %v", o.err)
		}
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the handler of what was given up: %v", err)
		}
		begun := time.Now()
		got, overdue, _ := async(a, nodeID(2), "hang", nil, 2500*time.Millisecond)
		o = <-got
		if wantError(t, o.err, KindExpired, false); !errors.Is(o.err, context.DeadlineExceeded) {
			t.Errorf("overdue: %v", o.err)
		}
		if took := time.Since(begun); took < 2500*time.Millisecond || took > 2500*time.Millisecond+watchInterval {
			t.Errorf("overdue after %v", took)
		}
		if err := <-ended; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the handler of what was overdue: %v", err)
		}
		synctest.Wait()
		once(t, "given up", cancelled)
		once(t, "overdue", overdue)
		if p := a.peer(nodeID(2)); p.inFlight.Load() != 0 || len(p.session.pending) != 0 {
			t.Errorf("left behind: %d in flight, %d pending", p.inFlight.Load(), len(p.session.pending))
		}
	})
}

// When a connection breaks, what was written is lost, and what still waited is sent over another one.
func TestCallAsyncOverABreak(t *testing.T) {
	for name, back := range map[string]bool{"the peer stays away": false, "it is back at once": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.node(2, nil)
				a := w.node(1, nil)
				mustEcho(t, a, nodeID(2))
				w.pipes.Cut(hostOf(1), hostOf(2))
				written, once1, _ := async(a, nodeID(2), "echo", make([]byte, 2*pipeBuffer), time.Minute)
				synctest.Wait() // the writer is stuck in it
				waiting, once2, _ := async(a, nodeID(2), "echo", []byte("waits"), time.Minute)
				taken, once3, cancel := async(a, nodeID(2), "echo", []byte("taken back"), time.Minute)
				cancel()
				wantError(t, (<-taken).err, KindExpired, true)
				w.pipes.Break(hostOf(1), hostOf(2))
				if back {
					w.pipes.Heal(hostOf(1), hostOf(2))
				}
				wantError(t, (<-written).err, KindLost, false)
				o := <-waiting
				if !back {
					wantError(t, o.err, KindUnreachable, true)
				} else if o.err != nil || string(o.payload) != "waits" {
					t.Errorf("what waited: %q, %v", o.payload, o.err)
				}
				synctest.Wait()
				for _, times := range []*atomic.Int32{once1, once2, once3} {
					once(t, "a call", times)
				}
			})
		})
	}
}

// Every call is told once what became of it, with its own answer, while connections break and calls are given up.
func TestCallAsyncChaos(t *testing.T) {
	w := newWorld(t)
	a, b := w.tcpNode(1), w.tcpNode(2)
	stop := make(chan struct{})
	var breaker, wg sync.WaitGroup
	breaker.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(3 * time.Millisecond):
				b.Disconnect(nodeID(1))
			}
		}
	})
	var told atomic.Int64
	const callers, calls = 16, 200
	for i := range callers {
		wg.Go(func() {
			for j := range calls {
				body := bytes.Repeat(fmt.Appendf(nil, "%d/%d ", i, j), 1+j%50*20)
				got, times, cancel := async(a, nodeID(2), []string{"echo", "echo", "hang"}[j%3], body, 5*time.Second)
				if j%3 == 2 {
					time.Sleep(time.Duration(j%7) * 100 * time.Microsecond)
					cancel()
				}
				o := <-got
				told.Add(int64(times.Load()))
				var e *Error
				if o.err == nil && !bytes.Equal(o.payload, body) {
					t.Errorf("another call's answer: %.20q for %.20q", o.payload, body)
				} else if o.err != nil && !errors.As(o.err, &e) {
					t.Errorf("error %v", o.err)
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	breaker.Wait()
	if told.Load() != callers*calls {
		t.Errorf("told %d times of %d calls", told.Load(), callers*calls)
	}
	if n := a.peer(nodeID(2)).inFlight.Load(); n != 0 {
		t.Errorf("%d calls in flight", n)
	}
}
