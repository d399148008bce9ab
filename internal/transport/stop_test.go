package transport

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

func TestDisconnect(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		h, release, waiting := hang()
		defer release()
		a, b := w.node(1, map[string]Handler{"hang": h}), w.node(2, map[string]Handler{"hang": h})
		var wg sync.WaitGroup
		for _, side := range []struct {
			from *Transport
			to   ring.NodeID
		}{{a, nodeID(2)}, {b, nodeID(1)}} {
			wg.Go(func() {
				_, err := side.from.Call(t.Context(), side.to, "hang", nil)
				wantError(t, err, KindLost, false)
			})
		}
		synctest.Wait()
		a.Disconnect(nodeID(2))
		a.Disconnect(nodeID(77))
		wg.Wait()
		synctest.Wait()
		if waiting.Load() != 0 {
			t.Errorf("%d handlers go on", waiting.Load())
		}
		mustEcho(t, a, nodeID(2))
		mustEcho(t, b, nodeID(1))
	})
}

func TestCloseFailsCallsAndAnswersTheServed(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		h, release, _ := hang()
		defer release()
		slow := func(ctx context.Context, _ ring.NodeID, body []byte) ([]byte, error) {
			time.Sleep(time.Second)
			return body, ctx.Err()
		}
		a, b := w.node(1, nil), w.node(2, map[string]Handler{"slow": slow, "hang": h})
		c := w.node(3, map[string]Handler{"hang": h})
		mustEcho(t, a, nodeID(2))
		var wg sync.WaitGroup
		wg.Go(func() { mustCall(t, a, nodeID(2), "slow", []byte("served to the end")) })
		wg.Go(func() {
			_, err := b.Call(t.Context(), nodeID(3), "hang", nil)
			if e := wantError(t, err, KindClosed, false); !errors.Is(e, ErrClosed) {
				t.Error(e)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			time.Sleep(time.Millisecond)
			_, err := a.Call(t.Context(), nodeID(2), "echo", nil)
			wantError(t, err, KindOverloaded, false)
		})
		begun := time.Now()
		if err := b.Close(); err != nil || time.Since(begun) != time.Second {
			t.Errorf("Close: %v after %v", err, time.Since(begun))
		}
		wg.Wait()
		_, err := b.Call(t.Context(), nodeID(1), "echo", nil)
		wantError(t, err, KindClosed, true)
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		mustEcho(t, a, nodeID(3))
		mustEcho(t, c, nodeID(1))
	})
}

func TestCloseIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stuck, obedient := make(chan struct{}), make(chan struct{})
		defer close(stuck)
		b := w.node(2, map[string]Handler{
			"stuck": func(context.Context, ring.NodeID, []byte) ([]byte, error) { <-stuck; return nil, nil },
			"obedient": func(ctx context.Context, _ ring.NodeID, _ []byte) ([]byte, error) {
				<-ctx.Done()
				close(obedient)
				return nil, nil
			},
		})
		a := w.node(1, nil)
		var wg sync.WaitGroup
		for _, endpoint := range []string{"stuck", "obedient"} {
			wg.Go(func() {
				_, err := a.Call(within(t, time.Minute), nodeID(2), endpoint, nil)
				wantError(t, err, KindLost, false)
			})
		}
		synctest.Wait()
		begun := time.Now()
		if err := b.Close(); err == nil || time.Since(begun) != drainTimeout+stopTimeout {
			t.Errorf("Close: %v after %v", err, time.Since(begun))
		}
		<-obedient
		wg.Wait()
	})
}

func TestStartFailureNamesTheAddress(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.node(1, nil)
		b := w.make(2, func(o *Options) { o.Listen = hostOf(1) })
		if err := b.Start(t.Context()); err == nil || !strings.Contains(err.Error(), hostOf(1)) {
			t.Errorf("Start: %v", err)
		}
		if err := b.Close(); err != nil || b.Addr() != nil {
			t.Errorf("Close of a transport that never ran: %v, %v", err, b.Addr())
		}
	})
}

// A request that arrives while Close writes the last answers is dropped; it must not end the connection.
func TestRequestsDuringFlushAreDropped(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.make(1, nil)
		in := newInbound(a, newLink(nodeID(2), nil, minMaxFrame))
		defer in.cancel()
		if err := in.refuse(1, CodeOverloaded, "an answer"); err != nil {
			t.Fatal(err)
		}
		in.out.drain()
		if err := in.refuse(2, CodeOverloaded, "one more"); err != nil || len(in.out.queue) != 1 {
			t.Errorf("%v, %d answers queued", err, len(in.out.queue))
		}
	})
}
