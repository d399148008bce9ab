package transport

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestRestartAtNewAddress(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.node(1, nil), w.node(2, nil)
		mustEcho(t, a, nodeID(2))
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		_, err := a.Call(t.Context(), nodeID(2), "echo", nil)
		wantError(t, err, KindUnreachable, true)
		b2 := w.make(2, func(o *Options) { o.Listen = "elsewhere" })
		b2.Handle("echo", echo)
		w.start(b2)
		begun := time.Now()
		mustEcho(t, a, nodeID(2))
		if time.Since(begun) != 0 {
			t.Errorf("a new address had to wait %v for the old one's backoff", time.Since(begun))
		}
	})
}

// The old process is a black hole: only the new address tells that the old connection is of no use.
func TestNewAddressReplacesLiveConnection(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		h, release, waiting := hang()
		defer release()
		a := w.node(1, nil)
		w.node(2, map[string]Handler{"hang": h})
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := a.Call(t.Context(), nodeID(2), "hang", nil)
			wantError(t, err, KindLost, false)
		})
		synctest.Wait()
		b2 := w.make(2, func(o *Options) { o.Listen, o.Network = "elsewhere", w.pipes.Host("other") })
		b2.Handle("echo", echo)
		w.start(b2)
		mustEcho(t, a, nodeID(2))
		wg.Wait()
		synctest.Wait()
		if waiting.Load() != 0 {
			t.Error("the handler outlived its connection")
		}
	})
}

func TestCutMidRequestIsNotNotSent(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		h, release, _ := hang()
		defer release()
		w.node(2, map[string]Handler{"hang": h})
		a := w.node(1, nil)
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				_, err := a.Call(t.Context(), nodeID(2), "hang", nil)
				if e := wantError(t, err, KindLost, false); !e.Unreachable() {
					t.Error("a lost peer is not unreachable")
				}
			})
		}
		synctest.Wait()
		w.pipes.Break(hostOf(1), hostOf(2))
		wg.Wait()
		mustEcho(t, a, nodeID(2)) // dials anew at once: losing a connection is no failed dial
	})
}

// Frames that the writer had not taken when the connection broke were certainly not sent: they are tried on a
// new connection, which cannot be made here.
func TestBreakTellsQueuedFromWritten(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.node(2, nil)
		a := w.node(1, nil)
		mustEcho(t, a, nodeID(2))
		w.pipes.Cut(hostOf(1), hostOf(2))
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := a.Call(t.Context(), nodeID(2), "echo", make([]byte, 2*pipeBuffer))
			wantError(t, err, KindLost, false)
		})
		synctest.Wait()
		for range 5 {
			wg.Go(func() {
				_, err := a.Call(t.Context(), nodeID(2), "echo", nil)
				wantError(t, err, KindUnreachable, true)
			})
		}
		synctest.Wait()
		w.pipes.Break(hostOf(1), hostOf(2))
		wg.Wait()
	})
}

type writeFails struct{ net.Conn }

func (writeFails) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

// The writer may notice the end of a connection long before the reader: the session must be dead by then, or
// the retry of a request that was not sent picks it again.
func TestFailedWriteKillsTheSession(t *testing.T) {
	here, there := net.Pipe()
	defer there.Close()
	s := newSession(newLink(nodeID(2), writeFails{here}, minMaxFrame), "addr", minMaxFrame)
	s.out.signal(kindPing)
	s.write(s.fail)
	_, again, err := s.call(within(t, time.Second), request{to: nodeID(2), endpoint: "echo"})
	if e := wantError(t, err, KindLost, true); !again || s.cause() == nil || !strings.Contains(e.Error(), "broken pipe") {
		t.Errorf("again %v, cause %v, error %v", again, s.cause(), e)
	}
}

// counted counts dials.
type counted struct {
	Network
	n atomic.Int32
}

func (c *counted) Dial(ctx context.Context, addr string) (net.Conn, error) {
	c.n.Add(1)
	return c.Network.Dial(ctx, addr)
}

func TestFailedDialsBackOff(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		dials := &counted{Network: w.pipes.Host(hostOf(1))}
		a := w.start(w.make(1, func(o *Options) { o.Network = dials }))
		w.enter(nodeID(2), hostOf(2))
		call := func() error {
			_, err := a.Call(t.Context(), nodeID(2), "echo", nil)
			return err
		}
		begun := time.Now()
		for range 1000 {
			if e := wantError(t, call(), KindUnreachable, true); !e.Unreachable() || !strings.Contains(e.Error(), "refused") {
				t.Fatal(e)
			}
		}
		if n := dials.n.Load(); n != 1 || time.Since(begun) != 0 {
			t.Errorf("%d dials in %v", n, time.Since(begun))
		}
		for time.Since(begun) < time.Minute {
			wantError(t, call(), KindUnreachable, true)
			time.Sleep(10 * time.Millisecond)
		}
		if n := dials.n.Load(); n < 115 || n > 170 {
			t.Errorf("%d dials in a minute, want one every 0.38 to 0.5 s", n)
		}
		b := w.make(2, nil)
		b.Handle("echo", echo)
		w.start(b)
		time.Sleep(backoffLast)
		mustEcho(t, a, nodeID(2))
	})
}

// A peer that connects by itself is back: nobody waits for the rest of the backoff.
func TestHearingFromAPeerEndsItsBackoff(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.node(1, nil)
		w.enter(nodeID(2), hostOf(2))
		for range 20 {
			_, err := a.Call(t.Context(), nodeID(2), "echo", nil)
			wantError(t, err, KindUnreachable, true)
			time.Sleep(backoffLast)
		}
		_, err := a.Call(t.Context(), nodeID(2), "echo", nil)
		wantError(t, err, KindUnreachable, true)
		begun := time.Now()
		mustEcho(t, w.node(2, nil), nodeID(1))
		synctest.Wait()
		mustEcho(t, a, nodeID(2))
		if d := time.Since(begun); d != 0 {
			t.Errorf("waited %v", d)
		}
	})
}

func TestCallersShareADial(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.node(2, nil)
		dials := &counted{Network: w.pipes.Host(hostOf(1))}
		a := w.start(w.make(1, func(o *Options) { o.Network = dials }))
		w.pipes.Cut(hostOf(2), hostOf(1))
		var wg sync.WaitGroup
		wg.Go(func() {
			// The first caller gives up; the dial goes on for the others.
			_, err := a.Call(within(t, 100*time.Millisecond), nodeID(2), "echo", nil)
			wantError(t, err, KindExpired, true)
		})
		for range 20 {
			wg.Go(func() { mustEcho(t, a, nodeID(2)) })
		}
		time.Sleep(500 * time.Millisecond)
		w.pipes.Heal(hostOf(2), hostOf(1))
		wg.Wait()
		if dials.n.Load() != 1 {
			t.Errorf("%d dials, want 1", dials.n.Load())
		}
	})
}

func TestDialTimesOut(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.node(2, nil)
		a := w.node(1, nil)
		w.pipes.Cut(hostOf(2), hostOf(1))
		begun := time.Now()
		_, err := a.Call(t.Context(), nodeID(2), "echo", nil)
		wantError(t, err, KindUnreachable, true)
		if errors.Is(err, context.DeadlineExceeded) {
			t.Error("a dial that takes too long looks like a caller whose time is over")
		}
		if d := time.Since(begun); d != defaultDialTimeout {
			t.Errorf("the dial took %v", d)
		}
	})
}

func TestBlackHoleIsNoticed(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		h, release, _ := hang()
		defer release()
		b := w.node(2, map[string]Handler{"hang": h})
		a := w.node(1, nil)
		mustEcho(t, a, nodeID(2))
		time.Sleep(time.Hour) // an idle connection stays
		synctest.Wait()
		if len(b.inbounds) != 1 || len(a.sessions) != 1 {
			t.Fatal("an idle connection was closed")
		}
		w.pipes.Cut(hostOf(2), hostOf(1))
		w.pipes.Cut(hostOf(1), hostOf(2))
		begun := time.Now()
		_, err := a.Call(within(t, time.Minute), nodeID(2), "hang", nil)
		wantError(t, err, KindLost, false)
		if d := time.Since(begun); d > silenceCaller+watchInterval {
			t.Errorf("noticed after %v", d)
		}
		time.Sleep(silenceServer)
		synctest.Wait()
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.inbounds) != 0 {
			t.Error("the server keeps a connection on which it hears nothing")
		}
	})
}

// A peer that keeps sending but reads nothing is cut by the stalled write.
func TestStalledWriteIsNoticed(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.node(2, nil)
		a := w.node(1, nil)
		mustEcho(t, a, nodeID(2))
		w.pipes.Cut(hostOf(1), hostOf(2))
		s := a.peer(nodeID(2)).session
		stop := make(chan struct{})
		defer close(stop)
		go func() { // as if pongs came on
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Second):
					s.reads.Add(1)
				}
			}
		}()
		begun := time.Now()
		_, err := a.Call(within(t, time.Minute), nodeID(2), "echo", make([]byte, 2*pipeBuffer))
		wantError(t, err, KindLost, false)
		if d := time.Since(begun); d > stallLimit+2*watchInterval {
			t.Errorf("noticed after %v", d)
		}
	})
}
