package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

// tcpNode starts a node on a real loopback socket.
func (w *world) tcpNode(n byte) *Transport {
	w.t.Helper()
	tr := w.make(n, func(o *Options) { o.Network, o.Listen = TCP(), "127.0.0.1:0" })
	tr.Handle("echo", echo)
	tr.Handle("hang", func(ctx context.Context, _ ring.NodeID, _ []byte) ([]byte, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	w.start(tr)
	w.enter(nodeID(n), tr.Addr().String())
	return tr
}

func TestTCP(t *testing.T) {
	w := newWorld(t)
	a, b := w.tcpNode(1), w.tcpNode(2)
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			for j := range 100 {
				from, to := a, nodeID(2)
				if (i+j)%2 == 0 {
					from, to = b, nodeID(1)
				}
				body := bytes.Repeat(fmt.Appendf(nil, "%d/%d ", i, j), 1+j*j)
				got, err := from.Call(t.Context(), to, "echo", body)
				if err != nil || !bytes.Equal(got, body) {
					t.Errorf("%d bytes for %d, %v", len(got), len(body), err)
				}
			}
		})
	}
	wg.Wait()
}

// Callers give up at all moments while the connection breaks again and again: nobody hangs, nobody gets an
// answer that is not his.
func TestTCPChaos(t *testing.T) {
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
	for i := range 16 {
		wg.Go(func() {
			for j := range 200 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(j%7)*300*time.Microsecond+time.Microsecond)
				endpoint := []string{"echo", "echo", "hang"}[j%3]
				body := bytes.Repeat(fmt.Appendf(nil, "%d/%d ", i, j), 1+j%50*20)
				got, err := a.Call(ctx, nodeID(2), endpoint, body)
				cancel()
				var e *Error
				if err == nil && !bytes.Equal(got, body) {
					t.Errorf("another call's answer: %.20q for %.20q", got, body)
				} else if err != nil && !errors.As(err, &e) {
					t.Errorf("error %v", err)
				}
				clear(body) // the caller may reuse it
			}
		})
	}
	wg.Wait()
	close(stop)
	breaker.Wait()
	// The last break may not have been noticed yet; a call that meets it fails, the next one dials.
	_, _ = a.Call(within(t, 5*time.Second), nodeID(2), "echo", nil)
	if _, err := a.Call(within(t, 5*time.Second), nodeID(2), "echo", nil); err != nil {
		t.Errorf("after the storm: %v", err)
	}
	if n := a.peer(nodeID(2)).inFlight.Load(); n != 0 {
		t.Errorf("%d calls in flight", n)
	}
}

func TestTCPRefusedDial(t *testing.T) {
	w := newWorld(t)
	a := w.tcpNode(1)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.enter(nodeID(2), l.Addr().String())
	_ = l.Close()
	_, err = a.Call(t.Context(), nodeID(2), "echo", nil)
	if e := wantError(t, err, KindUnreachable, true); !e.Unreachable() {
		t.Error(e)
	}
}
