package transport

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

// early starts node 2 with an endpoint that is asked early; its handler answers "handler".
func (w *world) early(e Early) *Transport {
	w.t.Helper()
	tr := w.make(2, nil)
	tr.Handle("echo", echo)
	tr.Handle("early", func(context.Context, ring.NodeID, []byte) ([]byte, error) { return []byte("handler"), nil })
	tr.HandleEarly("early", e)
	return w.start(tr)
}

func TestEarly(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		b := w.early(func(from ring.NodeID, body []byte, left time.Duration, reply func([]byte, error)) bool {
			if from != nodeID(1) || left != 5*time.Second {
				t.Errorf("from %v, %v left", from, left)
			}
			switch string(body) {
			case "at once":
				reply([]byte("early"), nil)
			case "later":
				time.AfterFunc(time.Second, func() { reply([]byte("late"), nil) })
			case "fail":
				reply(nil, coded(7))
			case "panic":
				panic("early")
			case "panic afterwards":
				reply([]byte("early"), nil)
				panic("after the answer")
			default:
				return false
			}
			return true
		})
		a := w.node(1, nil)
		for body, want := range map[string]string{
			"at once": "early", "later": "late", "panic afterwards": "early", "for the handler": "handler",
			string(make([]byte, maxEarly+1)): "handler",
		} {
			if got := mustCall(t, a, nodeID(2), "early", []byte(body)); string(got) != want {
				t.Errorf("%.20q: %q", body, got)
			}
		}
		_, err := a.Call(within(t, 5*time.Second), nodeID(2), "early", []byte("fail"))
		if e := wantError(t, err, KindRemote, false); e.Code() != 7 {
			t.Errorf("code %d", e.Code())
		}
		_, err = a.Call(within(t, 5*time.Second), nodeID(2), "early", []byte("panic"))
		if e := wantError(t, err, KindRemote, false); e.Code() != CodePanic {
			t.Errorf("code %d", e.Code())
		}
		mustEcho(t, a, nodeID(2))
		if synctest.Wait(); b.gate.count != 0 || b.gate.bytes != 0 {
			t.Errorf("the gate counts %d requests of %d bytes", b.gate.count, b.gate.bytes)
		}
	})
}

// Answers that find no room wait with their place in the gate, and block nobody who reads.
func TestEarlyAnswersWaitForRoom(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var asked atomic.Int32
		big := make([]byte, 20<<20) // two of them are more than an outbox takes
		b := w.early(func(_ ring.NodeID, _ []byte, _ time.Duration, reply func([]byte, error)) bool {
			asked.Add(1)
			reply(big, nil)
			return true
		})
		a := w.node(1, nil)
		mustEcho(t, a, nodeID(2))
		w.pipes.Cut(hostOf(2), hostOf(1))
		const calls = 6
		got := make(chan error, calls)
		for range calls {
			go func() {
				p, err := a.Call(within(t, 9*time.Second), nodeID(2), "early", nil)
				if err == nil && len(p) != len(big) {
					err = errors.New("another answer")
				}
				got <- err
			}()
		}
		synctest.Wait()
		b.gate.mu.Lock()
		held := b.gate.count
		b.gate.mu.Unlock()
		if asked.Load() != calls || held < 3 {
			t.Errorf("%d of %d were asked, %d hold their place", asked.Load(), calls, held)
		}
		w.pipes.Heal(hostOf(2), hostOf(1))
		for range calls {
			if err := <-got; err != nil {
				t.Error(err)
			}
		}
		if synctest.Wait(); b.gate.count != 0 {
			t.Errorf("the gate counts %d requests", b.gate.count)
		}
	})
}

// A node that stops waits for what is answered later, and cuts it off after its time.
func TestCloseWaitsForEarlyAnswers(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		b := w.early(func(_ ring.NodeID, _ []byte, _ time.Duration, reply func([]byte, error)) bool {
			time.AfterFunc(drainTimeout/2, func() { reply([]byte("late"), nil) })
			return true
		})
		a := w.node(1, nil)
		mustEcho(t, a, nodeID(2))
		got, _, _ := async(a, nodeID(2), "early", nil, time.Minute)
		synctest.Wait()
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		if o := <-got; o.err != nil || string(o.payload) != "late" {
			t.Errorf("%q, %v", o.payload, o.err)
		}
	})
}
