package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// world is a small cluster in memory: real coordinators over replicas that keep their records in maps, with calls
// that can be lost before or after they arrive, or be slow. It runs in a synctest bubble.
type world struct {
	t     testing.TB
	ring  *ring.Ring // of the first epoch
	first *ring.Epochs
	nodes []*testNode
	mu    sync.Mutex
	down  map[ring.NodeID]bool // judged down by everybody
	// fault decides what happens to a call: nil lets it through.
	fault   func(from, to int, endpoint string) *fault
	calls   []string // "0>1 kv.merge", in order
	serving sync.WaitGroup

	calling sync.WaitGroup  // calls that nobody waits for
	open    context.Context // of these
	hangUp  context.CancelFunc
}

// fault is what happens to one call.
type fault struct {
	delay     time.Duration
	notSent   bool // refused before a byte left
	lostReply bool // arrives and is done, but the answer is lost
	lost      bool // never arrives; the caller is not told
}

type testNode struct {
	w      *world
	index  int
	id     ring.NodeID
	c      *Coordinator
	closed bool

	epochs  atomic.Pointer[ring.Epochs] // nil: the world's first
	begun   atomic.Int64
	ended   atomic.Int64
	learns  atomic.Int64
	unlearn atomic.Bool // Learn fails
	merging func()      // called in a merge
	reading func()      // called in a read

	mu          sync.Mutex
	records     map[Key]vclock.Record
	corrupt     map[Key]bool
	incomplete  map[Key]bool
	behind      bool
	rounds      map[int]uint64
	hints       map[ring.NodeID]map[Key]vclock.Object
	incarnation uint64
	births      uint64
	os          bool  // acks without fsync
	full        error // error of every write
	commit      time.Duration
}

func newWorld(t testing.TB, n int) *world {
	w := &world{t: t, down: map[ring.NodeID]bool{}}
	w.open, w.hangUp = context.WithCancel(context.Background())
	l := ring.Layout{Epoch: 1, Cluster: "test", ClusterID: [16]byte{7}, Partitions: 16, N: 3}
	for i := range n {
		id := ring.NodeID{byte(i + 1)}
		l.Members = append(l.Members, ring.Member{ID: id, Name: fmt.Sprintf("n%d", i), Weight: 1})
		w.nodes = append(w.nodes, &testNode{w: w, index: i, id: id, incarnation: uint64(i + 1),
			records: map[Key]vclock.Record{}, corrupt: map[Key]bool{}, incomplete: map[Key]bool{},
			rounds: map[int]uint64{}, hints: map[ring.NodeID]map[Key]vclock.Object{}})
	}
	r, err := ring.New(l, 3)
	if err != nil {
		t.Fatal(err)
	}
	w.ring = r
	if w.first, err = ring.NewEpochs([]*ring.Ring{r}, 1, nil); err != nil {
		t.Fatal(err)
	}
	for _, n := range w.nodes {
		c, err := New(Deps{Self: n.id, Local: n, Hints: testHints{n}, Peers: n, View: n}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		n.c = c
	}
	t.Cleanup(w.close)
	return w
}

func (w *world) close() {
	for _, n := range w.nodes {
		if !n.closed {
			n.c.Close()
			n.closed = true
		}
	}
	w.hangUp()
	w.calling.Wait()
	w.serving.Wait() // also what its caller gave up
	for _, n := range w.nodes {
		if b, e := n.begun.Load(), n.ended.Load(); b != e {
			w.t.Errorf("node %d: %d operations begun, %d ended: an epoch would never settle", n.index, b, e)
		}
	}
}

// primaries returns the nodes that hold the key, in the ring's order, and one that does not, if there is one.
func (w *world) primaries(key string) (own []*testNode, other *testNode) {
	p := w.ring.Partition("b", key)
	for _, id := range w.ring.Primaries(p) {
		own = append(own, w.nodes[id[0]-1])
	}
	for _, n := range w.nodes {
		if !w.ring.IsPrimary(p, n.id) {
			other = n
		}
	}
	return own, other
}

func (n *testNode) Epochs() *ring.Epochs {
	if e := n.epochs.Load(); e != nil {
		return e
	}
	return n.w.first
}

func (n *testNode) Begin() (*ring.Epochs, func()) {
	n.begun.Add(1)
	var called atomic.Bool
	return n.Epochs(), func() {
		if called.Swap(true) {
			n.w.t.Error("an operation ended twice")
		}
		n.ended.Add(1)
	}
}

// Learn takes what the other node knows.
func (n *testNode) Learn(ctx context.Context, from ring.NodeID, epoch uint64) error {
	n.learns.Add(1)
	if n.Epochs().Newest().Epoch() >= epoch {
		return nil
	}
	theirs := n.w.nodes[from[0]-1].Epochs()
	if n.unlearn.Load() || theirs.Newest().Epoch() < epoch {
		<-ctx.Done()
		return ctx.Err()
	}
	n.epochs.Store(theirs)
	return nil
}

func (n *testNode) Alive(id ring.NodeID) bool {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	return !n.w.down[id]
}

// stored is a key as the node keeps it: by its slice, whatever number its partition has.
func (n *testNode) stored(k Key) Key {
	k.Partition %= n.w.ring.Q()
	return k
}

func (n *testNode) key(key string) Key { return Key{n.w.ring.Partition("b", key), "b", key} }

func (n *testNode) copyOf(k Key) Copy {
	o := n.records[k].Object
	c := Copy{Object: o, Incomplete: n.incomplete[k], Behind: n.behind, Round: n.rounds[k.Partition]}
	if !o.IsZero() {
		c.Digest = o.Digest(k.Bucket, k.Key)
	}
	return c
}

func (n *testNode) Get(k Key) (Copy, error) {
	k = n.stored(k)
	if n.reading != nil {
		n.reading()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.corrupt[k] {
		return Copy{}, ErrCorrupt
	}
	return n.copyOf(k), nil
}

func (n *testNode) Recent(k Key) (Copy, bool) {
	c, err := n.Get(k)
	return c, err == nil && !c.Object.IsZero() && !c.Incomplete
}

func (n *testNode) MintAsync(ctx context.Context, k Key, w vclock.Write, applied func(Applied), done func(Applied, error)) (abandon func() bool) {
	n.w.calling.Go(func() { done(n.Mint(ctx, k, w, applied)) })
	return func() bool { return false }
}

func (n *testNode) MergeAsync(k Key, o vclock.Object, how Merging, _ time.Duration, done func(bool, error)) {
	n.w.serving.Go(func() { done(n.Merge(context.Background(), k, o, how)) })
}

func (n *testNode) Mint(ctx context.Context, k Key, w vclock.Write, applied func(Applied)) (Applied, error) {
	if err := ctx.Err(); err != nil {
		return Applied{}, err
	}
	k = n.stored(k)
	n.mu.Lock()
	if n.full != nil || n.corrupt[k] {
		defer n.mu.Unlock()
		if n.full != nil {
			return Applied{}, n.full
		}
		return Applied{}, ErrCorrupt
	}
	now := time.Now().UnixMilli()
	m, err := vclock.Minter{
		Node: n.id, Incarnation: n.incarnation, Now: now, Stamp: vclock.StampAt(now), Limits: vclock.DefaultLimits(1 << 20),
		Birth: func() vclock.Birth { n.births++; return vclock.Birth{Millis: uint64(now), Rand: n.births} },
	}.Mint(n.records[k], w)
	if err != nil {
		n.mu.Unlock()
		return Applied{}, err
	}
	n.records[k] = m.Record
	n.mu.Unlock()
	a := Applied{Object: m.Record.Object, Existing: m.Existing, Fsynced: !n.os, Round: n.rounds[k.Partition]}
	applied(a)
	time.Sleep(n.commit)
	return a, nil
}

func (n *testNode) Merge(_ context.Context, k Key, o vclock.Object, how Merging) (bool, error) {
	if n.merging != nil {
		n.merging()
	}
	k = n.stored(k)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.full != nil {
		return false, n.full
	}
	if n.corrupt[k] {
		delete(n.corrupt, k)
		delete(n.records, k)
		n.incomplete[k] = true
	}
	if how.Round < n.rounds[k.Partition] {
		return false, ErrStaleRound
	}
	if how.Heal {
		delete(n.incomplete, k)
	}
	n.records[k] = n.records[k].Absorb(o)
	return !n.os, nil
}

func (n *testNode) List(_ context.Context, q ListQuery) (out []ListEntry, more bool, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for k, r := range n.records {
		if k.Bucket != q.Bucket || !strings.HasPrefix(k.Key, q.Prefix) || k.Key <= q.After || !slices.ContainsFunc(q.Partitions, func(p int) bool { return p%n.w.ring.Q() == k.Partition }) {
			continue
		}
		e := ListEntry{Key: k.Key, Digest: r.Digest(k.Bucket, k.Key), All: Life{Deleted: len(r.Answer(0, false).Live) == 0}}
		e.Winner.Deleted = len(r.Answer(0, true).Live) == 0
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b ListEntry) int { return strings.Compare(a.Key, b.Key) })
	if len(out) > q.Limit {
		out, more = out[:q.Limit], true
	}
	return out, more, nil
}

// callError is a Caller's error as the transport makes them.
type callError struct {
	error
	notSent bool
	code    uint16
}

func (e *callError) NotSent() bool    { return e.notSent }
func (e *callError) Overloaded() bool { return false }
func (e *callError) Code() uint16     { return e.code }
func (e *callError) Unwrap() error    { return e.error }

func (n *testNode) CallAsync(to ring.NodeID, endpoint string, body []byte, limit time.Duration, done func([]byte, error)) (cancel func()) {
	ctx, cancel := context.WithTimeout(n.w.open, limit)
	n.w.calling.Go(func() {
		defer cancel()
		done(n.Call(ctx, to, endpoint, body))
	})
	return cancel
}

func (n *testNode) Call(ctx context.Context, to ring.NodeID, endpoint string, body []byte) ([]byte, error) {
	w := n.w
	target := w.nodes[to[0]-1]
	w.mu.Lock()
	w.calls = append(w.calls, fmt.Sprintf("%d>%d %s", n.index, target.index, endpoint))
	var f fault
	if w.fault != nil {
		if g := w.fault(n.index, target.index, endpoint); g != nil {
			f = *g
		}
	}
	w.mu.Unlock()
	switch {
	case f.notSent:
		return nil, &callError{error: errors.New("connection refused"), notSent: true}
	case f.lost:
		<-ctx.Done()
		return nil, &callError{error: ctx.Err()}
	}
	type reply struct {
		b   []byte
		err error
	}
	done := make(chan reply, 1)
	handler := target.c.Handlers()[endpoint]
	server, cancel := context.WithCancel(context.WithoutCancel(ctx))
	if deadline, ok := ctx.Deadline(); ok {
		server, cancel = context.WithDeadline(context.WithoutCancel(ctx), deadline)
	}
	w.serving.Go(func() {
		defer cancel()
		time.Sleep(f.delay)
		answered := make(chan reply, 1)
		if early := target.c.EarlyHandlers()[endpoint]; early != nil && early(n.id, slices.Clone(body), time.Minute, func(b []byte, err error) {
			answered <- reply{b, err}
		}) {
			done <- <-answered
			return
		}
		b, err := handler(server, n.id, slices.Clone(body))
		done <- reply{b, err}
	})
	select {
	case r := <-done:
		if f.lostReply {
			return nil, &callError{error: errors.New("connection reset")}
		}
		if e, ok := errors.AsType[codeError](r.err); ok {
			return nil, &callError{error: r.err, code: e.Code()}
		}
		return r.b, r.err
	case <-ctx.Done():
		return nil, &callError{error: ctx.Err()}
	}
}

func (w *world) put(n *testNode, req PutRequest) (PutResult, error) {
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*time.Second)
	defer cancel()
	req.Bucket = "b"
	if req.W == 0 {
		req.W = 2
	}
	if req.R == 0 {
		req.R = 2
	}
	return n.c.Put(ctx, req)
}

func (w *world) get(n *testNode, key string, r int) (GetResult, error) {
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*time.Second)
	defer cancel()
	return n.c.Get(ctx, GetRequest{Bucket: "b", Key: key, R: r})
}

func value(v string) vclock.Write { return vclock.Write{Value: []byte(v), ContentType: "text/plain"} }

func values(o vclock.Object) (out []string) {
	for _, s := range o.Answer(0, false).Live {
		out = append(out, string(s.Value))
	}
	return out
}

func (n *testNode) values(key string) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return values(n.records[n.key(key)].Object)
}

func (w *world) setFault(f func(from, to int, endpoint string) *fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fault = f
}

func (w *world) setDown(n *testNode, down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down[n.id] = down
}

func (w *world) takeCalls() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	calls := w.calls
	w.calls = nil
	return calls
}

// testHints are the node's hints.
type testHints struct{ *testNode }

func (h testHints) Put(_ context.Context, target ring.NodeID, k Key, o vclock.Object, round uint64) (bool, error) {
	n := h.testNode
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.full != nil:
		return false, n.full
	case round < n.rounds[k.Partition]:
		return false, ErrStaleRound
	}
	if n.hints[target] == nil {
		n.hints[target] = map[Key]vclock.Object{}
	}
	n.hints[target][k] = vclock.Merge(n.hints[target][k], o)
	return !n.os, nil
}

func (h testHints) Mint(ctx context.Context, target ring.NodeID, k Key, w vclock.Write, applied func(Applied)) (Applied, error) {
	n := h.testNode
	n.mu.Lock()
	now := time.Now().UnixMilli()
	m, err := vclock.Minter{
		Node: n.id, Incarnation: n.incarnation, Now: now, Stamp: vclock.StampAt(now), Limits: vclock.DefaultLimits(1 << 20),
		Birth: func() vclock.Birth { n.births++; return vclock.Birth{Millis: uint64(now), Rand: n.births} },
	}.Mint(vclock.Record{Object: n.hints[target][k]}, w)
	round := n.rounds[k.Partition]
	n.mu.Unlock()
	if err != nil {
		return Applied{}, err
	}
	if _, err := h.Put(ctx, target, k, m.Record.Object, round); err != nil {
		return Applied{}, err
	}
	a := Applied{Object: m.Record.Object, Existing: m.Existing, Fsynced: true, Round: round}
	applied(a)
	return a, nil
}

func (h testHints) Get(k Key) (c Copy, found bool, err error) {
	n := h.testNode
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, hints := range n.hints {
		if o, ok := hints[k]; ok {
			c.Object, found = vclock.Merge(c.Object, o), true
		}
	}
	if found {
		c.Digest, c.Round = c.Object.Digest(k.Bucket, k.Key), n.rounds[k.Partition]
	}
	return c, found, nil
}

// hinted counts the hints for a key that any node holds for the target.
func (w *world) hinted(target *testNode, key string) (n int) {
	for _, x := range w.nodes {
		x.mu.Lock()
		if _, ok := x.hints[target.id][x.key(key)]; ok {
			n++
		}
		x.mu.Unlock()
	}
	return n
}
