package buckets

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errCut = errors.New("cut off")

// disk is a Store in memory.
type disk struct {
	mu   sync.Mutex
	data map[string][]byte
	err  error
}

func (d *disk) PutMeta(name string, value []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err == nil {
		d.data[name] = slices.Clone(value)
	}
	return d.err
}

func (d *disk) ListMeta(prefix string) (map[string][]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := maps.Clone(d.data)
	maps.DeleteFunc(out, func(name string, _ []byte) bool { return !strings.HasPrefix(name, prefix) })
	return out, d.err
}

// node is a registry among others.
type node struct {
	*Registry
	id    ring.NodeID
	disk  *disk
	hlc   vclock.HLC
	ahead int64 // of its clock, in milliseconds
}

// world is several nodes; a node in cut is alive to the others, and answers none.
type world struct {
	t     testing.TB
	nodes map[ring.NodeID]*node
	mu    sync.Mutex
	cut   map[ring.NodeID]bool
	hang  map[ring.NodeID]bool
	calls map[string]int
}

func newWorld(t testing.TB, n int) *world {
	w := &world{t: t, nodes: map[ring.NodeID]*node{}, cut: map[ring.NodeID]bool{}, hang: map[ring.NodeID]bool{}, calls: map[string]int{}}
	for i := range n {
		w.nodes[ring.NodeID{byte(i + 1)}] = &node{id: ring.NodeID{byte(i + 1)}, disk: &disk{data: map[string][]byte{}}}
	}
	for id := range w.nodes {
		w.restart(id)
	}
	return w
}

func (w *world) node(i int) *node { return w.nodes[ring.NodeID{byte(i)}] }

func (w *world) restart(id ring.NodeID) {
	w.t.Helper()
	n := w.nodes[id]
	var err error
	n.Registry, err = New(Deps{
		Self: id, Store: n.disk, Peers: caller{w, id},
		Alive: func() (out []ring.NodeID) {
			for other := range w.nodes {
				if other != id {
					out = append(out, other)
				}
			}
			return out
		},
		Stamp: func() vclock.Stamp { return n.hlc.Next(time.Now().UnixMilli() + n.ahead) },
		Log:   slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

type caller struct {
	w    *world
	from ring.NodeID
}

func (c caller) Call(ctx context.Context, to ring.NodeID, endpoint string, body []byte) ([]byte, error) {
	c.w.mu.Lock()
	c.w.calls[endpoint]++
	cut, hang := c.w.cut[to] || c.w.cut[c.from], c.w.hang[to]
	c.w.mu.Unlock()
	if hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if cut {
		return nil, errCut
	}
	return c.w.nodes[to].Handlers()[endpoint](ctx, c.from, slices.Clone(body))
}

// agreed reports whether all nodes hold the same.
func (w *world) agreed() bool {
	first := w.node(1).state.Load()
	for _, n := range w.nodes {
		s := n.state.Load()
		if s.digest != first.digest || !maps.Equal(s.props, first.props) {
			return false
		}
	}
	return true
}

func (n *node) set(t testing.TB, bucket string, p Patch) []ring.NodeID {
	t.Helper()
	missing, err := n.Set(t.Context(), bucket, p)
	if err != nil {
		t.Fatal(err)
	}
	return missing
}

func TestSetReachesAll(t *testing.T) {
	w := newWorld(t, 5)
	if missing := w.node(1).set(t, "b", Patch{R: new("2"), W: new("ALL"), Conflict: new(LWW), TTL: new(time.Hour)}); len(missing) != 0 {
		t.Errorf("missing %v", missing)
	}
	for _, n := range w.nodes {
		p := n.Get("b")
		if p.R != "2" || p.W != "all" || !p.LastWriteWins || p.Conflict() != LWW || p.TTL != time.Hour {
			t.Errorf("node %s: %+v", n.id, p)
		}
	}
	// Another node changes one property: the others stay.
	w.node(2).set(t, "b", Patch{R: new("")})
	if p := w.node(5).Get("b"); p.R != "" || p.W != "all" || !p.LastWriteWins {
		t.Errorf("%+v", p)
	}
	if p := w.node(3).Get("never"); p != (Properties{}) || p.Conflict() != Siblings {
		t.Errorf("a bucket without properties: %+v", p)
	}
	if !w.agreed() || !slices.Equal(w.node(4).Names(), []string{"b"}) {
		t.Error("the nodes do not agree")
	}
}

func TestSetTellsWhoMisses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 4)
		w.cut[ring.NodeID{2}], w.hang[ring.NodeID{3}] = true, true
		start := time.Now()
		missing := w.node(1).set(t, "b", Patch{R: new("1")})
		if !slices.Equal(missing, []ring.NodeID{{2}, {3}}) {
			t.Errorf("missing %v", missing)
		}
		if took := time.Since(start); took != pushTimeout {
			t.Errorf("waited %s for a node that hangs, want %s", took, pushTimeout)
		}
		if w.node(4).Get("b").R != "1" {
			t.Error("a node that answers was not told")
		}
	})
}

func TestPullHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 4)
		for _, n := range w.nodes {
			n.Start()
		}
		w.mu.Lock()
		w.cut[ring.NodeID{4}] = true
		w.mu.Unlock()
		w.node(1).set(t, "one", Patch{R: new("1")})
		w.node(4).set(t, "four", Patch{W: new("1")})
		w.node(1).set(t, "both", Patch{TTL: new(time.Minute)})
		time.Sleep(time.Millisecond)
		w.node(4).set(t, "both", Patch{TTL: new(time.Hour)})
		time.Sleep(time.Minute)
		if w.agreed() {
			t.Fatal("agreed across a cut: the test tests nothing")
		}
		w.mu.Lock()
		w.cut = map[ring.NodeID]bool{}
		w.mu.Unlock()
		time.Sleep(2 * time.Minute)
		if !w.agreed() {
			t.Error("not agreed two minutes after the cut")
		}
		if p := w.node(2).Get("both"); p.TTL != time.Hour {
			t.Errorf("the newer change lost: %+v", p)
		}
		w.mu.Lock()
		before := w.calls[EndpointAll]
		w.mu.Unlock()
		time.Sleep(time.Minute)
		w.mu.Lock()
		if got := w.calls[EndpointAll]; got != before {
			t.Errorf("%d pages were sent between nodes that agree", got-before)
		}
		w.mu.Unlock()
		for _, n := range w.nodes {
			n.Close()
		}
	})
}

// What was set while a node was down is there soon after its start, not only at the next turn.
func TestFirstPullIsSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		w.cut[ring.NodeID{2}] = true
		w.node(1).set(t, "b", Patch{Conflict: new(LWW)})
		w.node(2).Start()
		defer w.node(2).Close()
		time.Sleep(3 * firstPull)
		w.mu.Lock()
		w.cut = map[ring.NodeID]bool{}
		w.mu.Unlock()
		time.Sleep(8 * firstPull)
		if p := w.node(2).Get("b"); !p.LastWriteWins {
			t.Errorf("%v after a peer answers: %+v", 8*firstPull, p)
		}
	})
}

// A change made after another was seen is newer, also by a node whose clock is behind.
func TestSlowClock(t *testing.T) {
	w := newWorld(t, 2)
	w.node(1).ahead = time.Hour.Milliseconds()
	w.node(1).set(t, "b", Patch{R: new("1")})
	w.node(2).set(t, "b", Patch{R: new("2")})
	if got := w.node(1).Get("b").R; got != "2" || !w.agreed() {
		t.Errorf("r=%s", got)
	}
}

func TestVersionsOfOneStamp(t *testing.T) {
	low := record{"b", Properties{R: "1", Version: Version{7, ring.NodeID{1}}}}
	high := record{"b", Properties{R: "2", Version: Version{7, ring.NodeID{2}}}}
	for _, order := range [][]record{{low, high}, {high, low}, {high, high, low}} {
		w := newWorld(t, 1)
		for _, r := range order {
			if _, err := w.node(1).handlePut(t.Context(), ring.NodeID{9}, r.bytes()); err != nil {
				t.Fatal(err)
			}
		}
		if got := w.node(1).Get("b"); got != high.Properties {
			t.Errorf("%v: %+v", order, got)
		}
	}
}

func TestRestart(t *testing.T) {
	w := newWorld(t, 1)
	n := w.node(1)
	n.set(t, "b", Patch{R: new("1"), TTL: new(time.Second)})
	n.set(t, "c", Patch{Conflict: new(LWW)})
	before := n.state.Load()
	n.disk.data["other"] = []byte("of another package")
	w.restart(n.id)
	if after := n.state.Load(); !maps.Equal(before.props, after.props) || before.digest != after.digest {
		t.Errorf("%+v, want %+v", after.props, before.props)
	}
	// A damaged record keeps no node from starting, and is healed.
	w = newWorld(t, 2)
	w.node(1).set(t, "b", Patch{R: new("1")})
	w.node(2).disk.data[metaPrefix+"b"][3] ^= 0xff
	w.restart(ring.NodeID{2})
	if got := w.node(2).Sync(t.Context()); got != 1 || w.node(2).Get("b").R != "1" {
		t.Errorf("after a sync with %d peers: %+v", got, w.node(2).Get("b"))
	}
	w.node(2).disk.err = errCut
	if _, err := New(w.node(2).deps); !errors.Is(err, errCut) {
		t.Errorf("a disk that cannot be read: %v", err)
	}
}

func TestSyncFromThoseThatAnswer(t *testing.T) {
	w := newWorld(t, 4)
	w.cut[ring.NodeID{4}] = true
	w.node(1).set(t, "b", Patch{R: new("1")})
	w.cut = map[ring.NodeID]bool{{2}: true}
	if got := w.node(4).Sync(t.Context()); got != 2 || w.node(4).Get("b").R != "1" {
		t.Errorf("%d answered, %+v", got, w.node(4).Get("b"))
	}
}

func TestPages(t *testing.T) {
	w := newWorld(t, 2)
	var all []record
	for i := range 2*maxRecords + 500 {
		all = append(all, record{fmt.Sprintf("b%05d", i), Properties{R: "1", Version: Version{vclock.Stamp(i + 1), ring.NodeID{1}}}})
	}
	if err := w.node(1).merge(all); err != nil {
		t.Fatal(err)
	}
	if w.node(2).Sync(t.Context()) != 1 || !w.agreed() || len(w.node(2).Names()) != len(all) {
		t.Errorf("%d of %d came", len(w.node(2).Names()), len(all))
	}
	if got := w.calls[EndpointAll]; got != 3 {
		t.Errorf("%d pages", got)
	}
}

func TestBounds(t *testing.T) {
	w := newWorld(t, 1)
	n := w.node(1)
	fill := func(from, to int) error {
		var all []record
		for i := from; i < to; i++ {
			all = append(all, record{fmt.Sprint(i), Properties{Version: Version{1, ring.NodeID{1}}}})
		}
		return n.merge(all)
	}
	if err := fill(0, MaxBuckets-1); err != nil {
		t.Fatal(err)
	}
	n.set(t, "last", Patch{})
	if _, err := n.Set(t.Context(), "more", Patch{}); !errors.Is(err, ErrTooMany) {
		t.Errorf("bucket %d: %v", MaxBuckets+1, err)
	}
	n.set(t, "last", Patch{R: new("1")}) // known ones can be changed
	// What peers hold is taken in beyond that, so that two sides of a cut converge, but not without end.
	if err := fill(MaxBuckets, maxKnown); err != nil {
		t.Errorf("from peers: %v", err)
	}
	if err := fill(maxKnown, maxKnown+10); !errors.Is(err, ErrTooMany) || len(n.Names()) != maxKnown {
		t.Errorf("%d from peers: %v", len(n.Names()), err)
	}
}

func TestSetRefuses(t *testing.T) {
	w := newWorld(t, 1)
	n := w.node(1)
	for name, c := range map[string]struct {
		bucket string
		patch  Patch
	}{
		"bucket":   {"", Patch{}},
		"bucket ":  {"a b", Patch{}},
		"bucket  ": {strings.Repeat("b", MaxName+1), Patch{}},
		"r":        {"b", Patch{R: new("0")}},
		"w":        {"b", Patch{W: new("17")}},
		"w ":       {"b", Patch{W: new("most")}},
		"conflict": {"b", Patch{Conflict: new("newest")}},
		"ttl":      {"b", Patch{TTL: new(-time.Second)}},
		"ttl ":     {"b", Patch{TTL: new(MaxTTL + 1)}},
	} {
		_, err := n.Set(t.Context(), c.bucket, c.patch)
		var invalid *InvalidError
		if !errors.Is(err, ErrInvalid) || !errors.As(err, &invalid) || invalid.Property != strings.TrimSpace(name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	n.disk.err = errCut
	if _, err := n.Set(t.Context(), "b", Patch{R: new("1")}); !errors.Is(err, errCut) {
		t.Errorf("a disk that fails: %v", err)
	}
	if n.Get("b") != (Properties{}) || len(n.Names()) != 0 {
		t.Error("shown and not on disk")
	}
	if _, err := New(Deps{}); err == nil {
		t.Error("New without dependencies")
	}
}

// Readers never see half a change.
func TestReadersBesideWriters(t *testing.T) {
	w := newWorld(t, 1)
	n := w.node(1)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if p := n.Get("b"); p.R != p.W {
					t.Errorf("half a change: %+v", p)
					return
				}
			}
		})
	}
	for i := range 200 {
		s := fmt.Sprint(i%16 + 1)
		n.set(t, "b", Patch{R: &s, W: &s})
	}
	close(stop)
	wg.Wait()
}
