package api

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dunlindb/dunlin/coordinator"
	"github.com/dunlindb/dunlin/internal/buckets"
	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// replicaKV is a cluster as seen from outside: one copy of everything, minted as a replica does.
type replicaKV struct {
	mu      sync.Mutex
	now     func() time.Time
	hlc     vclock.HLC
	births  uint64
	records map[[2]string]vclock.Record
	puts    []coordinator.PutRequest
	gets    []coordinator.GetRequest
	lists   []coordinator.ListRequest
	err     error                     // answers everything, when set
	block   func(ctx context.Context) // called first, when set
	pages   int                       // List gives at most so many keys at once; 0: as many as asked for
}

var (
	selfID  = ring.NodeID{1}
	otherID = ring.NodeID{2}
	thirdID = ring.NodeID{3}
)

func (k *replicaKV) enter(ctx context.Context) error {
	if k.block != nil {
		k.block(ctx)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return k.err
}

func (k *replicaKV) Put(ctx context.Context, req coordinator.PutRequest) (coordinator.PutResult, error) {
	if err := k.enter(ctx); err != nil {
		return coordinator.PutResult{}, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.puts = append(k.puts, req)
	id := [2]string{req.Bucket, req.Key}
	cur := k.records[id]
	if req.Write.Deleted && !req.HasContext {
		req.Write.Context = cur.Answer(0, false).Context
	}
	now := k.now().UnixMilli()
	m := vclock.Minter{
		Node: selfID, Incarnation: 1, Now: now, Stamp: k.hlc.Next(now), Limits: vclock.DefaultLimits(1 << 20),
		Birth: func() vclock.Birth { k.births++; return vclock.Birth{Millis: uint64(now), Rand: k.births} },
	}
	m.Limits.Siblings = 10
	minted, err := m.Mint(cur, req.Write)
	if err != nil {
		return coordinator.PutResult{}, err
	}
	k.records[id] = minted.Record
	res := coordinator.PutResult{Coordinator: otherID, Acks: ofThree(req.W), N: 3, Repeated: minted.Existing, Object: minted.Record.Clone()}
	for i := range res.Object.Siblings {
		if !req.ReturnBody {
			res.Object.Siblings[i].Value = nil
		}
	}
	return res, nil
}

func (k *replicaKV) Get(ctx context.Context, req coordinator.GetRequest) (coordinator.GetResult, error) {
	if err := k.enter(ctx); err != nil {
		return coordinator.GetResult{}, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.gets = append(k.gets, req)
	return coordinator.GetResult{Object: k.records[[2]string{req.Bucket, req.Key}].Clone(), Acks: ofThree(req.R), N: 3}, nil
}

func (k *replicaKV) List(ctx context.Context, req coordinator.ListRequest) (coordinator.ListPage, error) {
	if err := k.enter(ctx); err != nil {
		return coordinator.ListPage{}, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lists = append(k.lists, req)
	var keys []string
	for id, rec := range k.records {
		if id[0] == req.Bucket && strings.HasPrefix(id[1], req.Prefix) && id[1] > req.After &&
			rec.Answer(k.now().UnixMilli(), req.LastWriteWins).Found() {
			keys = append(keys, id[1])
		}
	}
	slices.Sort(keys)
	limit := req.Limit
	if k.pages > 0 {
		limit = min(limit, k.pages)
	}
	if len(keys) <= limit {
		return coordinator.ListPage{Keys: keys}, nil
	}
	return coordinator.ListPage{Keys: keys[:limit], Next: keys[limit-1]}, nil
}

// written is how many writes reached the coordinator.
func (k *replicaKV) written() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.puts)
}

func (k *replicaKV) lastPut() coordinator.PutRequest { return k.puts[len(k.puts)-1] }

// ofThree is what a number or a word of the coordinator's asks for of three replicas.
func ofThree(k int) int {
	switch k {
	case coordinator.Quorum:
		return 2
	case coordinator.All:
		return 3
	}
	return k
}

// metaStore is the disk of the bucket registry, in memory.
type metaStore struct{ err error }

func (m *metaStore) PutMeta(string, []byte) error               { return m.err }
func (m *metaStore) ListMeta(string) (map[string][]byte, error) { return nil, nil }

// peers confirm everything but what is sent to deaf ones.
type peers struct{ deaf map[ring.NodeID]bool }

func (p *peers) Call(_ context.Context, to ring.NodeID, _ string, _ []byte) ([]byte, error) {
	if p.deaf[to] {
		return nil, errBroken
	}
	return nil, nil
}

type fakeCluster struct {
	ready    error
	degraded []string
	ring     *ring.Ring
	next     *ring.Ring // of a newer epoch, if one lives
	mu       sync.Mutex
	made     *ring.Epochs // under mu
}

func (c *fakeCluster) Ready() error       { return c.ready }
func (c *fakeCluster) Degraded() []string { return c.degraded }
func (c *fakeCluster) Ring() *ring.Ring   { return c.ring }
func (c *fakeCluster) Epochs() *ring.Epochs {
	if c.ring == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.made == nil || c.made.Newest() != c.ring && c.made.Newest() != c.next {
		rings := []*ring.Ring{c.ring}
		if c.next != nil {
			rings = append(rings, c.next)
		}
		var err error
		if c.made, err = ring.NewEpochs(rings, 1, nil); err != nil {
			panic(err)
		}
	}
	return c.made
}

func (c *fakeCluster) Alive(id ring.NodeID) bool { return id != thirdID }

func (c *fakeCluster) Name(id ring.NodeID) string {
	return map[ring.NodeID]string{selfID: "n1", otherID: "n2", thirdID: "n3"}[id]
}

func (c *fakeCluster) Members() []Member {
	return []Member{
		{ID: selfID, Name: "n1", HTTP: "h1:8000", RPC: "h1:8100", Gossip: "h1:8200", Zone: "a", Weight: 1, State: "member", Alive: true, Epoch: 1},
		{ID: otherID, Name: "n2", Weight: 1, State: "member", Alive: true, Epoch: 1},
		{ID: thirdID, Name: "n3", Weight: 1, State: "member"},
	}
}

func newRing(t testing.TB) *ring.Ring {
	t.Helper()
	l := ring.Layout{Epoch: 1, Cluster: "test", ClusterID: [16]byte{9}, Partitions: 16, N: 3}
	for i, id := range []ring.NodeID{selfID, otherID, thirdID} {
		l.Members = append(l.Members, ring.Member{ID: id, Name: "n" + string(rune('1'+i)), Weight: 1})
	}
	r, err := ring.New(l, 3)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// world is a handler over fakes.
type world struct {
	t       testing.TB
	kv      *replicaKV
	store   *metaStore
	peers   *peers
	buckets *buckets.Registry
	cluster *fakeCluster
	clock   time.Time // what Now says
	handler *Handler

	membership *fakeMembership
}

func newWorld(t testing.TB, opt Options) *world {
	t.Helper()
	w := &world{
		t:          t,
		membership: &fakeMembership{},
		kv:         &replicaKV{records: map[[2]string]vclock.Record{}},
		store:      &metaStore{},
		peers:      &peers{deaf: map[ring.NodeID]bool{}},
		cluster:    &fakeCluster{ring: newRing(t)},
		clock:      time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC),
	}
	w.kv.now = func() time.Time { return w.clock }
	var err error
	var hlc vclock.HLC
	w.buckets, err = buckets.New(buckets.Deps{
		Self: selfID, Store: w.store, Peers: w.peers,
		Alive: func() []ring.NodeID { return []ring.NodeID{otherID, thirdID} },
		Stamp: func() vclock.Stamp { return hlc.Next(w.clock.UnixMilli()) },
	})
	if err != nil {
		t.Fatal(err)
	}
	w.handler, err = New(Deps{
		KV: w.kv, Buckets: w.buckets, Cluster: w.cluster, Self: selfID, Name: "n1", Version: "1.2.3",
		Holding:    func() []string { return []string{"held"} },
		Explain:    fakeExplainer{},
		Healing:    fakeHealing{},
		Membership: w.membership,
		Registry:   prometheus.NewRegistry(),
		Log:        slog.New(slog.NewTextHandler(io.Discard, nil)),
		Now:        w.kv.now,
	}, opt)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// do sends a request; headers are name, value, name, value, ….
func (w *world) do(method, target, body string, headers ...string) *httptest.ResponseRecorder {
	w.t.Helper()
	var in io.Reader
	if body != "" {
		in = strings.NewReader(body)
	}
	r := httptest.NewRequest(method, target, in)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	rec := httptest.NewRecorder()
	w.handler.ServeHTTP(rec, r)
	return rec
}

// want does a request and checks its status.
func (w *world) want(status int, method, target, body string, headers ...string) *httptest.ResponseRecorder {
	w.t.Helper()
	rec := w.do(method, target, body, headers...)
	if rec.Code != status {
		w.t.Fatalf("%s %s: %d, want %d; %s", method, target, rec.Code, status, rec.Body)
	}
	return rec
}

func (w *world) put(target, body string, headers ...string) string {
	w.t.Helper()
	return w.want(http.StatusNoContent, "PUT", target, body, headers...).Header().Get(headerContext)
}

var errBroken = errors.New("broken")
