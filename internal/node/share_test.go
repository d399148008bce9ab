package node

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/internal/storage"
)

// records counts what a node's disk holds.
func (n *Node) records(t *testing.T) (count int) {
	t.Helper()
	for p := range n.cluster.Ring().Partitions() {
		keys, _, _, err := n.store.Keys(t.Context(), p, -1, storage.ScanCursor{}, storage.MaxList)
		switch {
		case errors.Is(err, storage.ErrDropping):
			count++ // or more
		case err != nil:
			t.Fatal(err)
		}
		count += len(keys)
	}
	return count
}

// A node that joins is sent its fair share, each key once, and the others let go of it.
func TestJoinMovesTheFairShare(t *testing.T) {
	t.Parallel()
	cfg := settings(t, 4)
	var nodes []*Node
	for i := range cfg {
		cfg[i].N, cfg[i].Partitions, cfg[i].Seeds = 2, 64, cfg[i].Seeds[:3]
	}
	for _, c := range cfg[:3] {
		nodes = append(nodes, start(t, c))
	}
	ready(t, nodes...)
	const keys, size = 600, 1000
	for i := range keys {
		url := fmt.Sprintf("http://%s/kv/b/k%d?w=2", nodes[i%3].Addr(), i)
		if status, b := do(t, "PUT", url, bytes.Repeat([]byte{'v'}, size)); status != 204 {
			t.Fatalf("%d %s", status, b)
		}
	}
	joiner := start(t, cfg[3])
	nodes = append(nodes, joiner)
	ready(t, joiner)
	deadline := time.Now().Add(time.Minute)
	for slices.ContainsFunc(nodes, func(n *Node) bool {
		e := n.cluster.Epochs()
		return e == nil || e.Changing() || len(e.Newest().Members()) != 4
	}) {
		if time.Now().After(deadline) {
			t.Fatalf("the change does not end: %v", nodes[0].cluster.Progress())
		}
		<-time.After(20 * time.Millisecond)
	}
	moved, held := membership{joiner}.Transfers(), joiner.records(t)
	if moved.Objects != int64(held) || held == 0 {
		t.Errorf("%d objects were sent, and the joiner holds %d keys", moved.Objects, held)
	}
	if per := float64(moved.Bytes) / float64(max(held, 1)); per < size || per > 1.25*size {
		t.Errorf("%.0f bytes were sent for each key of %d", per, size)
	}
	ring := joiner.cluster.Ring()
	if fair := float64(ring.Partitions()*ring.N()) / 4; float64(ring.Owns(joiner.self())) > 1.25*fair {
		t.Errorf("it owns %d partitions, a fair share are %.0f", ring.Owns(joiner.self()), fair)
	}
	for {
		all := 0
		for _, n := range nodes {
			all += n.records(t)
		}
		if all == 2*keys {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d copies are on the disks, want %d", all, 2*keys)
		}
		<-time.After(50 * time.Millisecond)
	}
}
