package node

import (
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/internal/storage"
	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// A key that was written through many starts of a node gets a short version vector again, on all replicas the same, and
// keeps its value; who has read it before can replace it.
func TestVersionVectorsArePruned(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the reaper")
	}
	var nodes []*Node
	for _, c := range settings(t, 3) {
		n, err := Start(t.Context(), c, slog.New(slog.DiscardHandler), Deps{ReapAfter: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = n.Stop() })
		nodes = append(nodes, n)
	}
	ready(t, nodes...)
	key := func(i int) storage.Key {
		name := fmt.Sprint("k", i)
		return storage.Key{Partition: nodes[0].cluster.Ring().Partition("b", name), Bucket: "b", Key: name}
	}
	const keys = 10
	began := time.Now().Add(-time.Hour).UnixMilli()
	for i := range keys {
		var o vclock.Object
		for start := range 100 {
			at := began + int64(start)
			dot := vclock.Dot{Actor: vclock.Actor{Node: ring.NodeID{9}, Birth: vclock.Birth{Millis: uint64(at), Rand: 1}}, Counter: 1}
			o.Context = o.Context.With(dot)
			o.Siblings = []vclock.Sibling{{Dot: dot, Value: fmt.Append(nil, "v", i), Stamp: vclock.StampAt(at)}}
		}
		for _, n := range nodes {
			if _, err := n.store.Merge(t.Context(), key(i), o, storage.MergeOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	url := "http://" + nodes[0].Addr().String()
	before := map[int]string{}
	for i := range keys {
		_, before[i] = withContext(t, "GET", fmt.Sprintf("%s/kv/b/k%d?r=3", url, i), "", "")
	}
	wait(t, "all version vectors are short", func() error {
		for i := range keys {
			for _, n := range nodes {
				st, err := n.store.Get(key(i))
				if err != nil {
					t.Fatal(err)
				}
				if entries := len(st.Record.Context); entries != 1 {
					return fmt.Errorf("key %d has %d entries, %+v", i, entries, nodes[0].reaper.Status())
				}
			}
		}
		return nil
	})
	for i := range keys {
		path := fmt.Sprintf("%s/kv/b/k%d?r=3", url, i)
		if status, b := do(t, "GET", path, nil); status != 200 || string(b) != fmt.Sprint("v", i) {
			t.Errorf("key %d: %d %s", i, status, b)
		}
		if status, _ := withContext(t, "PUT", fmt.Sprintf("%s/kv/b/k%d?w=3", url, i), "next", before[i]); status != 204 {
			t.Errorf("key %d: PUT with the context of before: %d", i, status)
		}
		if status, b := do(t, "GET", path, nil); status != 200 || string(b) != "next" {
			t.Errorf("key %d: %d %s", i, status, b)
		}
	}
}

// withContext makes a request with a context, and returns status and context of the answer.
func withContext(t *testing.T, method, url, body, context string) (status int, after string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if context != "" {
		req.Header.Set("Dunlin-Context", context)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode, resp.Header.Get("Dunlin-Context")
}
