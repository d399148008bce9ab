package node

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/internal/config"
	"github.com/dunlindb/dunlin/ring"
)

// running is a node that Run runs, which can be stopped and whose end can be waited for.
type running struct {
	cfg   config.Config
	stop  context.CancelFunc
	ended chan error
}

// leavers are settings of n nodes with N=2 and few partitions that leave when they are stopped.
func leavers(t *testing.T, n int) []config.Config {
	t.Helper()
	cfg := settings(t, n)
	for i := range cfg {
		cfg[i].N, cfg[i].Partitions = 2, 64
		cfg[i].LeaveOnStop, cfg[i].LeaveTimeout = true, time.Minute
	}
	return cfg
}

func runs(t *testing.T, cfg ...config.Config) []*running {
	t.Helper()
	var out []*running
	for _, c := range cfg {
		ctx, stop := context.WithCancel(t.Context())
		r := &running{c, stop, make(chan error, 1)}
		done := make(chan struct{})
		go func() {
			defer close(done)
			r.ended <- Run(ctx, c, slog.New(slog.NewTextHandler(t.Output(), nil)))
		}()
		t.Cleanup(func() {
			stop()
			<-done
		})
		out = append(out, r)
	}
	for _, r := range out {
		r.await(t)
	}
	return out
}

// await waits until the node is ready.
func (r *running) await(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		status, err := statusOf(t, r.url("/readyz"))
		if err == nil && status == 200 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is not ready: %d %v", r.cfg.Name, status, err)
		}
		<-time.After(20 * time.Millisecond)
	}
}

func (r *running) url(path string) string { return "http://" + r.cfg.HTTP + path }

func statusOf(t *testing.T, url string) (int, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// A node that is stopped leaves first: the others hold what it held, and go on without it.
func TestLeaveOnStop(t *testing.T) {
	t.Parallel()
	cfg := leavers(t, 3)
	nodes := []*Node{start(t, cfg[0]), start(t, cfg[1])}
	last := runs(t, cfg[2])[0]
	ready(t, nodes...)
	const keys = 60
	for i := range keys {
		if status, b := do(t, "PUT", last.url(fmt.Sprintf("/kv/b/k%d?w=2", i)), []byte("v")); status != 204 {
			t.Fatalf("%d %s", status, b)
		}
	}
	last.stop()
	if err := <-last.ended; err != nil {
		t.Fatalf("it has not left: %v", err)
	}
	for _, n := range nodes {
		if left := len(n.cluster.Ring().Members()); left != 2 || n.cluster.Epochs().Changing() {
			t.Fatalf("%s: %d members, changing: %v", n.cfg.Name, left, n.cluster.Epochs().Changing())
		}
		for i := range keys {
			url := fmt.Sprintf("http://%s/kv/b/k%d?r=2&sloppy=false", n.Addr(), i)
			if status, b := do(t, "GET", url, nil); status != 200 || string(b) != "v" {
				t.Fatalf("k%d at %s: %d %s", i, n.cfg.Name, status, b)
			}
		}
	}
}

// Without a majority nothing can be decided: the node ends as the member that it is, when its time is over.
func TestLeaveOnStopWithoutAMajority(t *testing.T) {
	t.Parallel()
	cfg := leavers(t, 3)
	cfg[2].LeaveTimeout = 2 * time.Second
	nodes := []*Node{start(t, cfg[0]), start(t, cfg[1])}
	last := runs(t, cfg[2])[0]
	ready(t, nodes...)
	for _, n := range nodes {
		if err := n.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	last.stop()
	err := <-last.ended
	want := "--leave-timeout (DUNLIN_LEAVE_TIMEOUT): this node is still a member after 2s, because its leave could not be decided"
	if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
		t.Fatalf("%v", err)
	}
	nodes = []*Node{start(t, cfg[0]), start(t, cfg[1]), start(t, cfg[2])}
	ready(t, nodes...)
	for _, n := range nodes {
		if got := len(n.cluster.Ring().Members()); got != 3 {
			t.Fatalf("%d members", got)
		}
	}
}

// With less members than N every key would have a replica less, so that a node does not go unasked. A node that never was
// a member just ends.
func TestLeaveOnStopMustStay(t *testing.T) {
	t.Parallel()
	cfg := leavers(t, 3)
	for i := range cfg[:2] {
		cfg[i].Seeds = cfg[i].Seeds[:2]
	}
	node := start(t, cfg[0])
	last := runs(t, cfg[1])[0]
	ready(t, node)
	last.stop()
	if err := <-last.ended; err == nil || !strings.Contains(err.Error(), "--leave-on-stop: this node stays a member: the cluster has 2 members, and N=2") {
		t.Fatalf("%v", err)
	}
	if got := node.cluster.Ring(); len(got.Members()) != 2 || got.Epoch() != 1 {
		t.Fatalf("%d members in epoch %d", len(got.Members()), got.Epoch())
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	if err := Run(stopped, cfg[2], slog.New(slog.DiscardHandler)); err != nil {
		t.Fatalf("a node that waits for founders: %v", err)
	}
}

func TestMustStay(t *testing.T) {
	l := ring.Layout{Epoch: 1, Cluster: "c", ClusterID: [16]byte{1}, Partitions: 16, N: 2}
	for i := range 4 {
		l.Members = append(l.Members, ring.Member{ID: ring.NodeID{byte(i + 1)}, Name: fmt.Sprint("n", i+1), Weight: 1})
	}
	four, three := l, l
	four.Buckets = []ring.BucketN{{Bucket: "wide", N: 3}}
	three.Buckets, three.Members = four.Buckets, l.Members[:3]
	for want, l := range map[string]ring.Layout{"": four, "the n=3 replicas of bucket wide": three} {
		r, err := ring.New(l, l.N)
		if err != nil {
			t.Fatal(err)
		}
		if err := mustStay(r); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%d members: %v", len(l.Members), err)
		}
	}
}
