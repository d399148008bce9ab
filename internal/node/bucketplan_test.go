package node

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/api"
)

// The plan of a bucket's n tells what its change then moves, and what other buckets hold does not count.
func TestPlanOfABucketsN(t *testing.T) {
	t.Parallel()
	cfg := settings(t, 3)
	var nodes []*Node
	for i := range cfg {
		cfg[i].N, cfg[i].Partitions = 2, 64
	}
	for _, c := range cfg {
		nodes = append(nodes, start(t, c))
	}
	ready(t, nodes...)
	const keys, size = 300, 1000
	for i := range keys {
		for bucket, size := range map[string]int{"b": size, "other": 5 * size} {
			url := fmt.Sprintf("http://%s/kv/%s/k%d?w=2", nodes[i%3].Addr(), bucket, i)
			if status, b := do(t, "PUT", url, bytes.Repeat([]byte{'v'}, size)); status != 204 {
				t.Fatalf("%d %s", status, b)
			}
		}
	}
	plan := func(n int) api.MemberPlan {
		t.Helper()
		p, err := membership{nodes[0]}.Plan(t.Context(), api.MemberChange{Action: "bucket", Bucket: "b", N: n})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	raise := plan(3)
	if raise.Moved != 64 || raise.Slots != 3*64 || len(raise.Nodes) != 3 || raise.Duration <= 0 {
		t.Errorf("raising n: %+v", raise)
	}
	gains := map[string]int{}
	for _, s := range raise.Nodes {
		gains[s.Name] = s.Gains
		if s.After != 64 || s.Before+s.Gains != 64 || s.Loses != 0 {
			t.Errorf("raising n at %s: %+v", s.Name, s)
		}
	}
	if lower := plan(1); lower.Moved != 0 || lower.Bytes != 0 || lower.Slots != 64 {
		t.Errorf("lowering n: %+v", lower)
	}
	if _, err := (membership{nodes[0]}).Plan(t.Context(), api.MemberChange{Action: "bucket", Bucket: "b", N: 4}); err == nil {
		t.Error("a plan for more replicas than there are members")
	}
	if status, b := do(t, "PUT", fmt.Sprintf("http://%s/buckets/b", nodes[0].Addr()), []byte(`{"n":3}`)); status != 202 {
		t.Fatalf("%d %s", status, b)
	}
	deadline := time.Now().Add(time.Minute)
	for _, n := range nodes {
		for e := n.cluster.Epochs(); e.Changing() || e.Newest().Epoch() < 2; e = n.cluster.Epochs() {
			if time.Now().After(deadline) {
				t.Fatalf("the change does not end: %v", n.cluster.Progress())
			}
			<-time.After(20 * time.Millisecond)
		}
	}
	var moved int64
	for _, n := range nodes {
		moved += membership{n}.Transfers().Bytes
		e := n.cluster.Epochs()
		owned := 0
		for p, end := e.Newest().PartitionsOf("b"); p < end; p++ {
			count(&owned, e.Newest().IsPrimary(p, n.self()))
		}
		if owned != 64 {
			t.Errorf("%s owns %d of the bucket's partitions, the plan said 64 with %d gained", n.cfg.Name, owned, gains[n.cfg.Name])
		}
	}
	// The estimate is of all that the node that was asked holds, so nothing was drawn.
	if ratio := float64(raise.Bytes) / float64(moved); moved < keys*size || ratio < 0.8 || ratio > 1.25 {
		t.Errorf("%d bytes were planned and %d moved", raise.Bytes, moved)
	}
}
