package node

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/internal/cluster"
	"github.com/dunlindb/dunlin/internal/config"
	"github.com/dunlindb/dunlin/internal/fleet"
	"github.com/dunlindb/dunlin/internal/storage"
)

// settings are those of n nodes on this machine that found a cluster together.
func settings(t *testing.T, n int) []config.Config {
	t.Helper()
	host := fleet.Loopback() // other tests of this machine take ports meanwhile
	ports, err := fleet.FreePorts(host, 3*n)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var out []config.Config
	var seeds []config.Seed
	for i := range n {
		seeds = append(seeds, config.Seed{Name: fmt.Sprintf("n%d", i+1), Addr: fmt.Sprintf("%s:%d", host, ports[3*i+2])})
	}
	for i := range n {
		c := config.Default()
		c.Name = seeds[i].Name
		c.Data = filepath.Join(dir, c.Name)
		c.HTTP, c.RPC = fmt.Sprintf("%s:%d", host, ports[3*i]), fmt.Sprintf("%s:%d", host, ports[3*i+1])
		c.Gossip = seeds[i].Addr
		c.Seeds, c.Secret = seeds, "sesame"
		c.MinFree = config.Free{Bytes: 1}
		out = append(out, c)
	}
	return out
}

func start(t *testing.T, c config.Config) *Node {
	t.Helper()
	n, err := Start(t.Context(), c, slog.New(slog.NewTextHandler(t.Output(), nil)), Deps{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Stop(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func ready(t *testing.T, nodes ...*Node) {
	t.Helper()
	for _, n := range nodes {
		for deadline := time.Now().Add(30 * time.Second); ; {
			if status, _ := do(t, "GET", "http://"+n.Addr().String()+"/readyz", nil); status == 200 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s is not ready: %v", n.cfg.Name, n.cluster.Ready())
			}
			<-time.After(20 * time.Millisecond)
		}
	}
}

func do(t *testing.T, method, url string, body []byte) (int, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, b
}

func TestThreeNodesServeAndComeBack(t *testing.T) {
	cfg := settings(t, 3)
	var nodes []*Node
	for _, c := range cfg {
		nodes = append(nodes, start(t, c))
	}
	ready(t, nodes...)
	url := func(i int, path string) string { return "http://" + nodes[i].Addr().String() + path }
	for i := range 30 {
		path := fmt.Sprintf("/kv/b/key%d", i)
		if status, b := do(t, "PUT", url(i%3, path+"?w=3"), []byte("value")); status != 204 {
			t.Fatalf("PUT: %d %s", status, b)
		}
		if status, b := do(t, "GET", url((i+1)%3, path+"?r=1"), nil); status != 200 || string(b) != "value" {
			t.Fatalf("GET: %d %s", status, b)
		}
	}
	for _, n := range nodes {
		if err := n.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	for i, c := range cfg {
		nodes[i] = start(t, c)
	}
	ready(t, nodes...)
	for i := range 30 {
		if status, b := do(t, "GET", url(i%3, fmt.Sprintf("/kv/b/key%d?r=2", i)), nil); status != 200 || string(b) != "value" {
			t.Fatalf("after a restart: %d %s", status, b)
		}
	}
}

// A directory that is put back from an older copy must not acknowledge anything: its peers know a later start.
func TestRestoredDirectoryServesNothing(t *testing.T) {
	cfg := settings(t, 3)
	var nodes []*Node
	for _, c := range cfg {
		nodes = append(nodes, start(t, c))
	}
	ready(t, nodes...)
	restart := func() {
		if err := nodes[2].Stop(); err != nil {
			t.Fatal(err)
		}
		nodes[2] = start(t, cfg[2])
		ready(t, nodes[2])
	}
	if err := nodes[2].Stop(); err != nil {
		t.Fatal(err)
	}
	backup := filepath.Join(t.TempDir(), "backup")
	if err := os.CopyFS(backup, os.DirFS(cfg[2].Data)); err != nil {
		t.Fatal(err)
	}
	nodes[2] = start(t, cfg[2])
	ready(t, nodes[2])
	restart()
	if err := nodes[2].Stop(); err != nil {
		t.Fatal(err)
	}
	cfg[2].Data = backup
	restored := start(t, cfg[2])
	deadline := time.Now().Add(verifyLimit + 3*time.Second)
	for time.Now().Before(deadline) {
		if status, b := do(t, "PUT", "http://"+restored.Addr().String()+"/kv/b/k?w=1", []byte("lost")); status != 503 {
			t.Fatalf("a restored directory answered %d %s", status, b)
		}
		_, b := do(t, "GET", "http://"+restored.Addr().String()+"/readyz", nil)
		if strings.Contains(string(b), cluster.RolledBack) {
			// Nor can it leave: nobody would hear it, and it must not wait for that.
			restored.cfg.LeaveOnStop, restored.cfg.LeaveTimeout = true, time.Hour
			if err := restored.leaveOnStop(); err == nil || !strings.Contains(err.Error(), cluster.RolledBack) {
				t.Fatalf("it has left: %v", err)
			}
			return
		}
		<-time.After(20 * time.Millisecond)
	}
	t.Fatalf("it does not say why it is not ready: %v", restored.cluster.Ready())
}

// A deleted key's tombstone goes once every replica has it and nobody can bring the value back; a key that is written
// again lives. So it is in a bucket with an n of its own, where a node of the same slice of the hash space may hold none.
func TestTombstonesAreReaped(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for tombstones to come of age")
	}
	cfg := settings(t, 3)
	var nodes []*Node
	for _, c := range cfg {
		n, err := Start(t.Context(), c, slog.New(slog.DiscardHandler), Deps{ReapAfter: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = n.Stop() })
		nodes = append(nodes, n)
	}
	ready(t, nodes...)
	url := "http://" + nodes[0].Addr().String()
	// One tombstone of the bucket is from before it had an n of its own.
	for _, method := range []string{"PUT", "DELETE"} {
		if status, b := do(t, method, url+"/kv/narrow/old?w=all", []byte("v")); status != 204 {
			t.Fatalf("%d %s", status, b)
		}
	}
	if status, b := do(t, "PUT", url+"/buckets/narrow", []byte(`{"n":2}`)); status != 202 {
		t.Fatalf("%d %s", status, b)
	}
	wait(t, "the bucket has two replicas", func() error {
		for _, n := range nodes {
			if e := n.cluster.Epochs(); e.Changing() || e.Base().Epoch() != 2 {
				return fmt.Errorf("%+v", n.cluster.Progress())
			}
		}
		return nil
	})
	for _, bucket := range []string{"b", "narrow"} {
		for i := range 20 {
			path := fmt.Sprintf("%s/kv/%s/k%d?w=all", url, bucket, i)
			if status, b := do(t, "PUT", path, []byte("v")); status != 204 {
				t.Fatalf("%d %s", status, b)
			}
			if status, b := do(t, "DELETE", path, nil); status != 204 {
				t.Fatalf("%d %s", status, b)
			}
		}
		if status, b := do(t, "PUT", url+"/kv/"+bucket+"/k0?w=all", []byte("again")); status != 204 {
			t.Fatalf("%d %s", status, b)
		}
	}
	for deadline := time.Now().Add(60 * time.Second); ; {
		left := 0
		for _, n := range nodes {
			for p := range n.cluster.Ring().Partitions() {
				keys, _, _, err := n.store.Keys(t.Context(), p, -1, storage.ScanCursor{}, 10)
				if err != nil {
					t.Fatal(err)
				}
				left += len(keys)
			}
		}
		if left == 5 {
			break // only the keys that live, on three replicas and on two
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d records are left, want 5: %+v", left, nodes[0].reaper.Status())
		}
		<-time.After(100 * time.Millisecond)
	}
	for _, bucket := range []string{"b", "narrow"} {
		if status, b := do(t, "GET", url+"/kv/"+bucket+"/k0?r=all", nil); status != 200 || string(b) != "again" {
			t.Fatalf("the key written again: %d %s", status, b)
		}
		if status, _ := do(t, "GET", url+"/kv/"+bucket+"/k1?r=all", nil); status != 404 {
			t.Fatalf("a reaped key: %d", status)
		}
	}
}
