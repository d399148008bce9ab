package transport

import (
	"bytes"
	"context"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/dunlindb/dunlin/ring"
)

// goroutine tells who runs: "goroutine 17".
func goroutine() string {
	b := make([]byte, 64)
	line, _, _ := bytes.Cut(b[:runtime.Stack(b, false)], []byte(" ["))
	return string(line)
}

func TestWorkersServeOneAfterTheOther(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.node(2, map[string]Handler{
			"who":   func(context.Context, ring.NodeID, []byte) ([]byte, error) { return []byte(goroutine()), nil },
			"panic": func(context.Context, ring.NodeID, []byte) ([]byte, error) { panic("on purpose") },
		})
		a := w.node(1, nil)
		first := mustCall(t, a, nodeID(2), "who", nil)
		for range 5 {
			synctest.Wait()
			if again := mustCall(t, a, nodeID(2), "who", nil); !bytes.Equal(again, first) {
				t.Errorf("%s served, and %s the next", first, again)
			}
		}
		synctest.Wait()
		if _, err := a.Call(t.Context(), nodeID(2), "panic", nil); err == nil {
			t.Error("no error of a handler that panics")
		}
		synctest.Wait()
		if again := mustCall(t, a, nodeID(2), "who", nil); !bytes.Equal(again, first) {
			t.Errorf("%s served, and %s after a panic", first, again)
		}
	})
}

func TestWorkersDoNotPileUp(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		h, release, waiting := hang()
		b := w.node(2, map[string]Handler{"hang": h})
		a := w.node(1, nil)
		const calls = 3 * maxIdleWorkers
		var wg sync.WaitGroup
		for range calls {
			wg.Go(func() {
				if _, err := a.Call(t.Context(), nodeID(2), "hang", nil); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if n := waiting.Load(); n != calls {
			t.Errorf("%d of %d are served at once", n, calls)
		}
		before := runtime.NumGoroutine()
		release()
		wg.Wait()
		synctest.Wait()
		if n := b.workers.idle.Load(); n != maxIdleWorkers {
			t.Errorf("%d workers wait for more, want %d", n, maxIdleWorkers)
		}
		if n := runtime.NumGoroutine(); n > before-calls-(calls-maxIdleWorkers) {
			t.Errorf("%d goroutines, and %d while %d requests were served", n, before, calls)
		}
	})
}
