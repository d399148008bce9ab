package antientropy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

// world is a small cluster in memory, in a synctest bubble: real Syncers over memStores, with calls that can be lost
// before or after they arrive, doubled, or late.
type world struct {
	t     testing.TB
	ring  *ring.Ring
	nodes []*testNode

	mu    sync.Mutex
	alone map[*ring.Ring]*ring.Epochs // a ring as the only one that lives
	down  map[ring.NodeID]bool        // answers nobody and is known to be down
	fault func(from, to int, endpoint string) fault
	calls []callRecord
	busy  sync.WaitGroup // calls on their way, also those that nobody waits for
}

type callRecord struct {
	from, to int
	endpoint string
	out, in  int // bytes
	failed   bool
	at       time.Time
}

// fault is what happens to one call. The zero value lets it through.
type fault struct {
	lost, lostReply, twice bool
	delay                  time.Duration // before the handler
	late                   time.Duration // the request arrives once more, after this time
}

type testNode struct {
	w        *world
	index    int
	id       ring.NodeID
	store    *memStore
	load     fakeLoad
	progress atomic.Int64 // exchanges while members changed
	s        *Syncer

	epochs *ring.Epochs // under world.mu; nil: the world's ring alone
}

type worldOptions struct {
	nodes, partitions, n int
	members              int // of the first layout; 0: all nodes
	opt                  Options
	idle                 bool // start nothing in the background
}

func newWorld(t testing.TB, o worldOptions) *world {
	if o.partitions == 0 {
		o.partitions = 16
	}
	if o.n == 0 {
		o.n = 3
	}
	w := &world{t: t, down: map[ring.NodeID]bool{}, alone: map[*ring.Ring]*ring.Epochs{}}
	l := ring.Layout{Epoch: 1, Cluster: "test", ClusterID: [16]byte{7}, Partitions: o.partitions, N: o.n}
	for i := range o.nodes {
		id := ring.NodeID{byte(i + 1)}
		if o.members == 0 || i < o.members {
			l.Members = append(l.Members, ring.Member{ID: id, Name: fmt.Sprintf("n%d", i), Weight: 1})
		}
		w.nodes = append(w.nodes, &testNode{w: w, index: i, id: id, store: newMemStore(id, o.partitions)})
	}
	r, err := ring.New(l, o.n)
	if err != nil {
		t.Fatal(err)
	}
	w.ring = r
	for i, n := range w.nodes {
		n.boot(uint64(i), o.opt)
	}
	t.Cleanup(w.close)
	if !o.idle {
		w.start()
	}
	return w
}

func (w *world) start() {
	for _, n := range w.nodes {
		n.s.Start()
	}
}

func (w *world) close() {
	for _, n := range w.nodes {
		n.s.Close()
	}
	w.busy.Wait()
}

// boot makes the node's Syncer, as at a start.
func (n *testNode) boot(seed uint64, o Options) {
	s, err := New(Deps{
		Self: n.id, Local: n.store, Peers: n, View: n, Rand: rand.New(rand.NewPCG(1, seed)), CatchUp: n.store.catchUp, Load: n.load.now,
		Progress: func() { n.progress.Add(1) },
	}, o)
	if err != nil {
		n.w.t.Fatal(err)
	}
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	n.s = s
}

// syncer is the node's Syncer as of now: peers call it while the node starts anew.
func (n *testNode) syncer() *Syncer {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	return n.s
}

func (n *testNode) Epochs() *ring.Epochs {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	return n.epochsLocked()
}

func (n *testNode) epochsLocked() *ring.Epochs {
	w := n.w
	if n.epochs != nil || w.ring == nil {
		return n.epochs
	}
	e := w.alone[w.ring]
	if e == nil {
		e, _ = ring.NewEpochs([]*ring.Ring{w.ring}, w.ring.Epoch(), nil)
		w.alone[w.ring] = e
	}
	return e
}

// Learn takes over what the other node knows.
func (n *testNode) Learn(_ context.Context, from ring.NodeID, epoch uint64) error {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	theirs, own := n.w.nodes[from[0]-1].epochsLocked(), n.epochsLocked()
	if theirs == nil || theirs.Newest().Epoch() < epoch {
		return errors.New("nobody knows that epoch")
	}
	if own == nil || own.Newest().Epoch() < epoch {
		n.epochs, _ = ring.NewEpochs(theirs.Rings(), 0, nil)
	}
	return nil
}

// Settle notes that the newest epoch has settled.
func (n *testNode) Settle(_ context.Context, _ ring.NodeID, epoch uint64) error {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	e := n.epochsLocked()
	n.epochs, _ = ring.NewEpochs(e.Rings(), epoch, nil)
	return nil
}

func (w *world) setRing(r *ring.Ring) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ring = r
}

func (n *testNode) Alive(id ring.NodeID) bool {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	return !n.w.down[id]
}

func (w *world) setDown(n *testNode, down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down[n.id] = down
}

func (w *world) setFault(f func(from, to int, endpoint string) fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fault = f
}

// takeCalls returns the calls made since the last time.
func (w *world) takeCalls() []callRecord {
	w.mu.Lock()
	defer w.mu.Unlock()
	calls := w.calls
	w.calls = nil
	return calls
}

// remoteError is a handler's error as it arrives at the caller.
type remoteError struct {
	text string
	code uint16
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Code() uint16  { return e.code }

func (n *testNode) Call(ctx context.Context, to ring.NodeID, endpoint string, body []byte) ([]byte, error) {
	w, target := n.w, n.w.nodes[to[0]-1]
	w.mu.Lock()
	var f fault
	if w.fault != nil {
		f = w.fault(n.index, target.index, endpoint)
	}
	down := w.down[to] || w.down[n.id]
	w.mu.Unlock()
	rec := callRecord{from: n.index, to: target.index, endpoint: endpoint, out: len(body), at: time.Now()}
	reply, err := n.deliver(ctx, target, call{endpoint, slices.Clone(body), f, down})
	rec.in, rec.failed = len(reply), err != nil
	w.mu.Lock()
	w.calls = append(w.calls, rec)
	w.mu.Unlock()
	return reply, err
}

type call struct {
	endpoint string
	body     []byte
	fault    fault
	down     bool
}

func (n *testNode) deliver(ctx context.Context, target *testNode, c call) ([]byte, error) {
	if c.down || c.fault.lost {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	handler := target.syncer().Handlers()[c.endpoint]
	type reply struct {
		b   []byte
		err error
	}
	done := make(chan reply, 1)
	deadline, _ := ctx.Deadline()
	server, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline)
	n.w.busy.Go(func() {
		defer cancel()
		time.Sleep(c.fault.delay + time.Millisecond)
		b, err := handler(server, n.id, slices.Clone(c.body))
		if c.fault.twice {
			_, _ = handler(server, n.id, slices.Clone(c.body))
		}
		done <- reply{b, err}
		if c.fault.late > 0 {
			time.Sleep(c.fault.late)
			_, _ = handler(context.WithoutCancel(server), n.id, slices.Clone(c.body))
		}
	})
	select {
	case r := <-done:
		if c.fault.lostReply {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		if e := (*refusal)(nil); errors.As(r.err, &e) {
			return nil, &remoteError{r.err.Error(), e.Code()}
		}
		return r.b, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (w *world) key(i int) Key {
	k := Key{Bucket: "b", Key: fmt.Sprintf("key-%d", i)}
	k.Partition = w.ring.Partition(k.Bucket, k.Key)
	return k
}

// holders returns the primaries of a partition.
func (w *world) holders(p int) (out []*testNode) {
	for _, id := range w.ring.Primaries(p) {
		out = append(out, w.nodes[id[0]-1])
	}
	return out
}

// write stores a value at one of the key's primaries.
func (w *world) write(k Key, replica int, value string) {
	w.holders(k.Partition)[replica].store.write(k, value, true, false)
}

// writeAll stores a value at one primary and its copy at the others.
func (w *world) writeAll(k Key, value string) {
	hs := w.holders(k.Partition)
	hs[0].store.write(k, value, true, false)
	c, _ := hs[0].store.Get(k)
	for _, h := range hs[1:] {
		if err := h.store.Merge(w.t.Context(), k, c.Object, MergeOptions{Round: c.Round}); err != nil {
			w.t.Error(err)
		}
	}
}

// difference names a partition whose primaries do not hold the same, "" if there is none.
func (w *world) difference() string {
	for p := range w.ring.Partitions() {
		hs := w.holders(p)
		want := hs[0].store.contents(p)
		root, _ := hs[0].store.Root(p)
		for _, h := range hs[1:] {
			if got := h.store.contents(p); !maps.Equal(got, want) {
				return fmt.Sprintf("partition %d: node %d holds %d keys, node %d %d", p, hs[0].index, len(want), h.index, len(got))
			}
			if sum, _ := h.store.Root(p); sum != root {
				return fmt.Sprintf("partition %d: the roots differ", p)
			}
		}
	}
	return ""
}

// settle waits until all replicas are the same, for a time at most.
func (w *world) settle(within time.Duration) {
	w.t.Helper()
	for end := time.Now().Add(within); ; time.Sleep(time.Second) {
		d := w.difference()
		if d == "" {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("not the same after %v: %s", within, d)
		}
	}
}

// until waits until a condition holds, for a time at most.
func (w *world) until(within time.Duration, what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(within); !ok(); time.Sleep(time.Second) {
		if time.Now().After(end) {
			w.t.Fatalf("not after %v: %s", within, what)
		}
	}
}

// once runs one exchange of node a with node b.
func (w *world) once(a, b int) (*exchange, error) {
	n := w.nodes[a]
	return n.s.exchange(w.t.Context(), n.s.peer(w.nodes[b].id), nil, false)
}
