package node

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math"
	"net"
	"sync/atomic"
	"testing"

	"github.com/dunlindb/dunlin/internal/config"
	"github.com/dunlindb/dunlin/internal/transport"
)

// meter counts the bytes that nodes send each other.
type meter struct {
	transport.Network
	sent *atomic.Int64
}

func (m meter) Listen(ctx context.Context, addr string) (net.Listener, error) {
	l, err := m.Network.Listen(ctx, addr)
	return meteredListener{l, m.sent}, err
}

func (m meter) Dial(ctx context.Context, addr string) (net.Conn, error) {
	c, err := m.Network.Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	return metered{c, m.sent}, nil
}

type meteredListener struct {
	net.Listener
	sent *atomic.Int64
}

func (l meteredListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return metered{c, l.sent}, nil
}

type metered struct {
	net.Conn
	sent *atomic.Int64
}

func (c metered) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.sent.Add(int64(n))
	return n, err
}

// cost is what one operation takes of a cluster, none of which depends on the machine.
type cost struct {
	bytes    int64 // between nodes
	messages int64 // requests to other nodes' replicas
	commits  int64 // of badger
	allocs   float64
}

func (c cost) within(most cost) bool {
	return c.bytes <= most.bytes && c.messages <= most.messages && c.commits <= most.commits && c.allocs <= most.allocs
}

// counted is a cluster whose costs are counted.
type counted struct {
	t     *testing.T
	nodes []*Node
	sent  atomic.Int64
}

func startCounted(t *testing.T, n int) *counted {
	c := &counted{t: t}
	for _, cfg := range settings(t, n) {
		cfg.Durability = config.DurabilityOS
		node, err := Start(t.Context(), cfg, slog.New(slog.NewTextHandler(t.Output(), nil)), Deps{Network: meter{transport.TCP(), &c.sent}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := node.Stop(); err != nil {
				t.Error(err)
			}
		})
		c.nodes = append(c.nodes, node)
	}
	ready(t, c.nodes...)
	return c
}

func (c *counted) url(node int, path string) string {
	return "http://" + c.nodes[node].Addr().String() + path
}

// sum adds up a metric of all nodes, whatever its labels.
func (c *counted) sum(name string) (total int64) {
	for _, n := range c.nodes {
		families, err := n.registry.Gather()
		if err != nil {
			c.t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() != name {
				continue
			}
			for _, m := range f.GetMetric() {
				total += int64(m.GetCounter().GetValue()) + int64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return total
}

// of measures an operation: the least of some rounds, since the nodes do other things as well, the more the longer an
// operation takes. Once that is within what it may be, there are no more of them.
func (c *counted) of(operation func(), most cost) cost {
	const rounds, times = 40, 40
	least := cost{math.MaxInt64, math.MaxInt64, math.MaxInt64, math.MaxFloat64}
	for round := 0; round < rounds && (round < 3 || !least.within(most)); round++ {
		before := cost{c.sent.Load(), c.sum("dunlin_coordinator_replica_requests_total"), c.sum("dunlin_storage_batch_ops"), 0}
		allocs := testing.AllocsPerRun(times-1, operation) // once more, to warm up
		least.bytes = min(least.bytes, (c.sent.Load()-before.bytes)/times)
		least.messages = min(least.messages, (c.sum("dunlin_coordinator_replica_requests_total")-before.messages)/times)
		least.commits = min(least.commits, (c.sum("dunlin_storage_batch_ops")-before.commits)/times)
		least.allocs = min(least.allocs, allocs)
	}
	return least
}

func (c *counted) want(method, url string, body []byte, status int) {
	c.t.Helper()
	if got, b := do(c.t, method, url, body); got != status {
		c.t.Fatalf("%s %s: %d %.200s", method, url, got, b)
	}
}

// What an operation costs three nodes, beside time: the client's allocations are in it, and the guard is what was
// measured with a little room. A lower figure belongs here; a higher one needs a reason.
func TestWhatAnOperationCosts(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector, which runs with -short, allocates")
	}
	c := startCounted(t, 3)
	small, large := bytes.Repeat([]byte("v"), 1<<10), bytes.Repeat([]byte("v"), 64<<10)
	c.want("PUT", c.url(0, "/buckets/b"), []byte(`{"conflict":"lww"}`), 200)
	c.want("PUT", c.url(0, "/kv/b/small?w=3"), small, 204)
	c.want("PUT", c.url(0, "/kv/b/large?w=3"), large, 204)
	for name, x := range map[string]struct {
		operation func()
		most      cost
	}{
		"PUT of 1 KiB":       {func() { c.want("PUT", c.url(0, "/kv/b/small?w=3"), small, 204) }, cost{2 * (1<<10 + 200), 2, 3, 296}},
		"GET of 1 KiB, r=2":  {func() { c.want("GET", c.url(0, "/kv/b/small?r=2"), nil, 200) }, cost{100, 1, 0, 160}},
		"GET of 1 KiB, r=1":  {func() { c.want("GET", c.url(0, "/kv/b/small?r=1"), nil, 200) }, cost{0, 0, 0, 138}},
		"GET of 64 KiB, r=2": {func() { c.want("GET", c.url(0, "/kv/b/large?r=2"), nil, 200) }, cost{100, 1, 0, 175}},
		"PUT of 64 KiB":      {func() { c.want("PUT", c.url(0, "/kv/b/large?w=3"), large, 204) }, cost{2 * (64<<10 + 200), 2, 3, 328}},
	} {
		got := c.of(x.operation, x.most)
		t.Logf("%s: %+v", name, got)
		if !got.within(x.most) {
			t.Errorf("%s: %+v, at most %+v", name, got, x.most)
		}
	}
}

// A node that holds no copy gets one from one replica, and from the others digests.
func TestAReadMovesOneCopy(t *testing.T) {
	c := startCounted(t, 4)
	value := bytes.Repeat([]byte("v"), 64<<10)
	for i := range 100 {
		path := fmt.Sprint("/kv/b/", i)
		c.want("PUT", c.url(0, path+"?w=3"), value, 204)
		r := c.nodes[0].cluster.Ring()
		if r.IsPrimary(r.Partition("b", fmt.Sprint(i)), c.nodes[0].self()) {
			continue
		}
		got := c.of(func() { c.want("GET", c.url(0, path+"?r=2"), nil, 200) }, cost{65 << 10, 2, math.MaxInt64, math.MaxFloat64})
		t.Logf("%+v", got)
		if got.bytes < 64<<10 || got.bytes > 65<<10 || got.messages != 2 {
			t.Errorf("a GET of 64 KiB through a node without a copy: %+v, want one copy and two messages", got)
		}
		return
	}
	t.Fatal("this node has a copy of every key")
}
