package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dunlindb/dunlin/ring"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a network of nodes that share an address book.
type world struct {
	t     *testing.T
	pipes *Pipes

	mu   sync.Mutex
	book map[ring.NodeID]string
}

func newWorld(t *testing.T) *world {
	return &world{t: t, pipes: NewPipes(), book: map[ring.NodeID]string{}}
}

func nodeID(n byte) ring.NodeID { return ring.NodeID{15: n} }

func (w *world) lookup(id ring.NodeID) (string, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	addr, ok := w.book[id]
	return addr, ok
}

func (w *world) enter(id ring.NodeID, addr string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.book[id] = addr
}

func hostOf(n byte) string { return fmt.Sprintf("host-%d", n) }

// make builds node n without starting it; its address is its host's name.
func (w *world) make(n byte, change func(*Options)) *Transport {
	w.t.Helper()
	o := Options{
		Self: nodeID(n), Cluster: "test", Secret: "s3cret", Network: w.pipes.Host(hostOf(n)),
		Listen: hostOf(n), Lookup: w.lookup,
	}
	if change != nil {
		change(&o)
	}
	tr, err := New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.enter(o.Self, o.Listen)
	return tr
}

func (w *world) start(tr *Transport) *Transport {
	w.t.Helper()
	if err := tr.Start(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = tr.Close() })
	return tr
}

// node starts node n with an endpoint "echo" and the given others.
func (w *world) node(n byte, handlers map[string]Handler) *Transport {
	w.t.Helper()
	tr := w.make(n, nil)
	tr.Handle("echo", echo)
	for name, h := range handlers {
		tr.Handle(name, h)
	}
	return w.start(tr)
}

func echo(_ context.Context, _ ring.NodeID, body []byte) ([]byte, error) { return body, nil }

// bubble runs f in virtual time. Nodes that f starts are closed before the bubble ends.
func bubble(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newWorld(t)) })
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func mustCall(t *testing.T, from *Transport, to ring.NodeID, endpoint string, body []byte) []byte {
	t.Helper()
	got, err := from.Call(within(t, 5*time.Second), to, endpoint, body)
	if err != nil {
		t.Fatalf("call: %v", err)
	}
	return got
}

func mustEcho(t *testing.T, from *Transport, to ring.NodeID) {
	t.Helper()
	if got := mustCall(t, from, to, "echo", []byte("ping")); !bytes.Equal(got, []byte("ping")) {
		t.Fatalf("echo answered %q", got)
	}
}

// wantError checks the kind and NotSent of a failed call.
func wantError(t *testing.T, err error, kind Kind, notSent bool) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Errorf("error is %v, want a *transport.Error", err)
		return &Error{}
	}
	if e.Kind != kind || e.NotSent() != notSent {
		t.Errorf("error %v: kind %v, not sent %v, want %v, %v", e, e.Kind, e.NotSent(), kind, notSent)
	}
	return e
}
