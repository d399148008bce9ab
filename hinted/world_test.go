package hinted

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

var errDown = errors.New("no route")

func node(i int) ring.NodeID { return ring.NodeID{0: 0xd0, 15: byte(i)} }

// holder is the node whose worker is under test; the others are targets.
var holder = node(0)

func object(birth uint64, size int) vclock.Object {
	dot := vclock.Dot{Actor: vclock.Actor{Node: holder, Birth: vclock.Birth{Millis: birth, Rand: birth}}, Counter: 1}
	return vclock.Object{
		Context:  vclock.VersionVector{dot},
		Siblings: []vclock.Sibling{{Dot: dot, Value: make([]byte, size), Stamp: vclock.StampAt(int64(birth))}},
	}
}

// memStore is a Store whose content outlives the workers over it.
type memStore struct {
	mu      sync.Mutex
	hints   map[ring.NodeID]map[Key]vclock.Object
	dropped map[ring.NodeID]map[int]uint64
	since   uint64
	round   uint64
	born    time.Time
	lost    func(op string) error // an error: the operation is not carried out
	largest int                   // items in an answer of Hints
}

func newStore() *memStore {
	return &memStore{
		hints: map[ring.NodeID]map[Key]vclock.Object{}, dropped: map[ring.NodeID]map[int]uint64{},
		born: time.Now(), lost: func(string) error { return nil },
	}
}

func (s *memStore) put(target ring.NodeID, k Key, o vclock.Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hints[target] == nil {
		s.hints[target] = map[Key]vclock.Object{}
	}
	s.hints[target][k] = vclock.Merge(s.hints[target][k], o)
}

func (s *memStore) drop(target ring.NodeID, ps ...int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dropped[target] == nil {
		s.dropped[target] = map[int]uint64{}
	}
	for _, p := range ps {
		s.since++
		s.dropped[target][p] = s.since
	}
}

func (s *memStore) get(target ring.NodeID, k Key) vclock.Object {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hints[target][k]
}

func (s *memStore) count(target ring.NodeID) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.hints[target])
}

func compareKeys(a, b Key) int {
	return cmp.Or(cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Bucket, b.Bucket), cmp.Compare(a.Key, b.Key))
}

func (s *memStore) Hints(target ring.NodeID, after Cursor, maxItems, maxBytes int) ([]Hint, Cursor, bool, error) {
	if err := s.lost("hints"); err != nil {
		return nil, nil, false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []Key
	for k := range s.hints[target] {
		if after == nil || compareKeys(k, after.(Key)) > 0 {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, compareKeys)
	var out []Hint
	bytes := 0
	for _, k := range keys {
		o := s.hints[target][k]
		bytes += o.Bytes()
		if len(out) == maxItems || len(out) > 0 && bytes > maxBytes {
			break
		}
		out = append(out, Hint{Key: k, Object: o, Digest: o.Digest(k.Bucket, k.Key), Round: s.round})
		after = k
	}
	s.largest = max(s.largest, len(out))
	return out, after, len(out) < len(keys), nil
}

func (s *memStore) DeleteHint(ctx context.Context, target ring.NodeID, k Key, d vclock.Digest) (bool, error) {
	if err := cmp.Or(ctx.Err(), s.lost("delete")); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o, held := s.hints[target][k]
	if !held || o.Digest(k.Bucket, k.Key) != d {
		return false, nil
	}
	delete(s.hints[target], k)
	return true, nil
}

func (s *memStore) HintTargets() []Target {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Target
	for id, hints := range s.hints {
		t := Target{ID: id, Hints: len(hints), Oldest: s.born}
		for k, o := range hints {
			t.Bytes += int64(o.Bytes())
			t.Partitions = append(t.Partitions, k.Partition)
		}
		if t.Hints > 0 {
			out = append(out, t)
		}
	}
	return out
}

func (s *memStore) DroppedTargets() (out []ring.NodeID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, ps := range s.dropped {
		if len(ps) > 0 {
			out = append(out, id)
		}
	}
	return out
}

func (s *memStore) Dropped(target ring.NodeID) []Dropped {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Dropped
	for p, since := range s.dropped[target] {
		out = append(out, Dropped{p, since})
	}
	return out
}

func (s *memStore) ClearDropped(_ context.Context, target ring.NodeID, ds []Dropped) error {
	if err := s.lost("clear"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range ds {
		if s.dropped[target][d.Partition] == d.Since {
			delete(s.dropped[target], d.Partition)
		}
	}
	return nil
}

// replica is a target's own copy.
type replica struct {
	mu     sync.Mutex
	held   map[Key]vclock.Object
	behind map[int]int // partition: how often marked
	round  uint64
	err    error // of Merge
	markTo error // of MarkBehind
	merges int
	rounds []uint64
}

func (r *replica) Merge(_ context.Context, p int, bucket, key string, o vclock.Object, round uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rounds = append(r.rounds, round)
	if round < r.round {
		return fmt.Errorf("partition %d: %w", p, ErrStaleRound)
	}
	if r.err != nil {
		return r.err
	}
	r.merges++
	k := Key{p, bucket, key}
	r.held[k] = vclock.Merge(r.held[k], o.Clone())
	return nil
}

func (r *replica) Round(int) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.round
}

func (r *replica) MarkBehind(_ context.Context, ps []int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.markTo != nil {
		return r.markTo
	}
	for _, p := range ps {
		r.behind[p]++
	}
	return nil
}

func (r *replica) get(k Key) vclock.Object {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.held[k]
}

// set changes the replica's behaviour.
func (r *replica) set(do func(*replica)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	do(r)
}

// sight is a call that reached the network.
type sight struct {
	at       time.Duration
	to       ring.NodeID
	endpoint string
	bytes    int
}

// world is a holder and three or more targets on a network in virtual time.
type world struct {
	t     testing.TB
	start time.Time
	store *memStore
	opt   Options

	mu       sync.Mutex
	layout   *ring.Ring
	epochs   *ring.Epochs // nil: the layout alone
	catchUp  func(ctx context.Context, partition int, round uint64) error
	alive    map[ring.NodeID]bool
	latency  time.Duration
	fault    func(ctx context.Context, to ring.NodeID, endpoint string, body []byte) error // before the handler
	after    func(to ring.NodeID, endpoint string, body []byte) error                      // after it
	calls    []sight
	flying   map[ring.NodeID]int
	most     int // targets with a call in flight at once
	twice    bool
	handlers map[ring.NodeID]map[string]Handler
	replicas map[ring.NodeID]*replica
}

func layout(t testing.TB, epoch uint64, members int) *ring.Ring {
	t.Helper()
	l := ring.Layout{Epoch: epoch, Cluster: "test", ClusterID: [16]byte{1}, Partitions: 16, N: 3}
	for i := range members {
		l.Members = append(l.Members, ring.Member{ID: node(i), Name: fmt.Sprint("n", i), Weight: 1})
	}
	r, err := ring.New(l, 3)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func newWorld(t testing.TB, members int) *world {
	t.Helper()
	w := &world{
		t: t, start: time.Now(), store: newStore(), layout: layout(t, 1, members), alive: map[ring.NodeID]bool{},
		latency: time.Millisecond, flying: map[ring.NodeID]int{},
		handlers: map[ring.NodeID]map[string]Handler{}, replicas: map[ring.NodeID]*replica{},
	}
	for i := range members {
		id := node(i)
		w.replicas[id] = &replica{held: map[Key]vclock.Object{}, behind: map[int]int{}}
		w.alive[id] = true
		x, err := New(Deps{Self: id, Store: newStore(), Receiver: w.replicas[id], Peers: w, View: w}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		w.handlers[id] = x.Handlers()
	}
	return w
}

// worker starts a worker of the holder over the same store.
func (w *world) worker() *Worker {
	w.t.Helper()
	x, err := New(Deps{
		Self: holder, Store: w.store, Receiver: w.replicas[holder], Peers: w, View: w,
		Registry: prometheus.NewRegistry(), Rand: rand.New(rand.NewPCG(1, 2)), CatchUp: w.catchUp,
	}, w.opt)
	if err != nil {
		w.t.Fatal(err)
	}
	x.Start()
	return x
}

func (w *world) Epochs() *ring.Epochs {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.epochs != nil || w.layout == nil {
		return w.epochs
	}
	e, err := ring.NewEpochs([]*ring.Ring{w.layout}, w.layout.Epoch(), nil)
	if err != nil {
		panic(err)
	}
	return e
}

func (w *world) Learn(_ context.Context, _ ring.NodeID, epoch uint64) error {
	if e := w.Epochs(); e == nil || e.Newest().Epoch() < epoch {
		return errors.New("nobody knows that epoch")
	}
	return nil
}

func (w *world) Alive(id ring.NodeID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.alive[id]
}

// with changes the world.
func (w *world) with(do func(*world)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	do(w)
}

func (w *world) up(id ring.NodeID, alive bool) { w.with(func(w *world) { w.alive[id] = alive }) }

// Call is the holder's network.
func (w *world) Call(ctx context.Context, to ring.NodeID, endpoint string, body []byte) ([]byte, error) {
	w.mu.Lock()
	w.calls = append(w.calls, sight{time.Since(w.start), to, endpoint, len(body)})
	if w.flying[to]++; w.flying[to] > 1 {
		w.twice = true
	}
	w.most = max(w.most, len(w.flying))
	fault, after, latency, alive, h := w.fault, w.after, w.latency, w.alive[to], w.handlers[to][endpoint]
	w.mu.Unlock()
	defer w.with(func(w *world) {
		if w.flying[to]--; w.flying[to] == 0 {
			delete(w.flying, to)
		}
	})
	time.Sleep(latency)
	if !alive {
		return nil, errDown
	}
	if fault != nil {
		if err := fault(ctx, to, endpoint, body); err != nil {
			return nil, err
		}
	}
	out, err := h(ctx, holder, slices.Clone(body))
	if err == nil && after != nil {
		err = after(to, endpoint, body)
	}
	return out, cmp.Or(err, ctx.Err())
}

func (w *world) seen(endpoint string) (out []sight) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.calls {
		if endpoint == "" || c.endpoint == endpoint {
			out = append(out, c)
		}
	}
	return out
}

// keys returns n keys of which every given node is a primary.
func (w *world) keys(n int, of ...ring.NodeID) (out []Key) {
	for i := 0; len(out) < n; i++ {
		k := fmt.Sprintf("key-%06d", i)
		p := w.layout.Partition("b", k)
		if !slices.ContainsFunc(of, func(id ring.NodeID) bool { return !w.layout.IsPrimary(p, id) }) {
			out = append(out, Key{p, "b", k})
		}
	}
	return out
}

// hint gives the holder n hints of size bytes for the target.
func (w *world) hint(target ring.NodeID, n, size int) []Key {
	ks := w.keys(n, target)
	for i, k := range ks {
		w.store.put(target, k, object(uint64(i+1), size))
	}
	return ks
}

// until waits, at most limit of virtual time, for a condition.
func (w *world) until(limit time.Duration, what string, ok func() bool) {
	w.t.Helper()
	for range int(limit / (100 * time.Millisecond)) {
		synctest.Wait()
		if ok() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	w.t.Fatalf("not within %v: %s", limit, what)
}

func (w *world) drained(limit time.Duration, target ring.NodeID) {
	w.t.Helper()
	w.until(limit, "drained", func() bool { return w.store.count(target) == 0 })
}

// holds checks that the target has all of what the hints of hint(target, n, size) held.
func (w *world) holds(target ring.NodeID, ks []Key, size int) {
	w.t.Helper()
	for i, k := range ks {
		if got := w.replicas[target].get(k); !got.Covers(object(uint64(i+1), size)) {
			w.t.Fatalf("hint %d (%v) is lost: the target holds %v", i, k, got)
		}
	}
}

func of(s Status, id ring.NodeID) TargetStatus {
	for _, t := range s.Targets {
		if t.Target == id {
			return t
		}
	}
	return TargetStatus{}
}
