package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/internal/cluster"
	"github.com/dunlindb/dunlin/internal/config"
	"github.com/dunlindb/dunlin/internal/storage"
	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// badDisk stands around a node's commits, and lets some of them fail.
type badDisk struct {
	mu      sync.Mutex
	err     error
	left    int  // commits that will fail; negative: all
	written bool // they reach the disk all the same, as far as anybody can tell
	failed  int
}

func (d *badDisk) commit(commit func() error) error {
	d.mu.Lock()
	fail, written, err := d.left != 0, d.written, d.err
	if fail {
		d.left--
		d.failed++
	}
	d.mu.Unlock()
	switch {
	case !fail:
		return commit()
	case written:
		return errors.Join(commit(), err)
	}
	return err
}

func (d *badDisk) fail(err error, times int, written bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err, d.left, d.written, d.failed = err, times, written, 0
}

func (d *badDisk) failures() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failed
}

func startOn(t *testing.T, c config.Config, d *badDisk) *Node {
	t.Helper()
	n, err := Start(t.Context(), c, slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError})), Deps{
		Tune: func(o *storage.Options, _ *cluster.Config) { o.Commit = d.commit },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Stop() })
	return n
}

// ledger is what clients were told, and every dot that was ever seen on a disk.
type ledger struct {
	t     *testing.T
	acked map[string][]string // values by key
	dots  map[vclock.Dot]string
}

// put writes a value of its own to a key that keeps all of them, and returns status and answer.
func (l *ledger) put(n *Node, key, value, query string) (status int, body string) {
	l.t.Helper()
	status, b := do(l.t, "PUT", "http://"+n.Addr().String()+"/kv/b/"+key+query, []byte(value))
	if status == 204 {
		l.acked[key] = append(l.acked[key], value)
	}
	return status, string(b)
}

// look reads every key on every disk: no dot may ever stand for two values.
func (l *ledger) look(nodes ...*Node) {
	l.t.Helper()
	for _, n := range nodes {
		for key := range l.acked {
			for _, s := range l.on(n, key) {
				is := key + "=" + string(s.Value)
				if was, ok := l.dots[s.Dot]; ok && was != is {
					l.t.Errorf("%v was used twice: for %s and %s", s.Dot, was, is)
				}
				l.dots[s.Dot] = is
			}
		}
	}
}

func (l *ledger) on(n *Node, key string) []vclock.Sibling {
	l.t.Helper()
	st, err := n.store.Get(storage.Key{Partition: n.cluster.Ring().Partition("b", key), Bucket: "b", Key: key})
	if err != nil {
		l.t.Fatal(err)
	}
	return st.Record.Siblings
}

// missing names an acknowledged value that a disk has not got.
func (l *ledger) missing(nodes ...*Node) error {
	for _, n := range nodes {
		for key, values := range l.acked {
			held := l.on(n, key)
			for _, v := range values {
				if !slices.ContainsFunc(held, func(s vclock.Sibling) bool { return string(s.Value) == v }) {
					return fmt.Errorf("%s lacks %s=%s", n.cfg.Name, key, v)
				}
			}
		}
	}
	return nil
}

// A commit that fails is never acknowledged, and nobody can know whether it will show: so the dots that it minted are
// never continued. A disk that goes on failing makes the node say so and refuse; a restart on a disk that works is all
// that it needs.
func TestCommitErrorsOnARunningNode(t *testing.T) {
	cfg := settings(t, 3)
	disk, sound := &badDisk{}, &badDisk{}
	bad := startOn(t, cfg[0], disk)
	peers := []*Node{startOn(t, cfg[1], sound), startOn(t, cfg[2], sound)}
	ready(t, append(peers, bad)...)
	l := &ledger{t: t, acked: map[string][]string{}, dots: map[vclock.Dot]string{}}
	for i, c := range []struct {
		err     error
		always  bool
		written bool
	}{
		{syscall.EIO, false, false}, {syscall.EIO, false, true}, {syscall.EIO, true, false}, {syscall.EIO, true, true},
		{syscall.ENOSPC, false, false}, {syscall.ENOSPC, true, true},
	} {
		name := fmt.Sprintf("%v, always %v, written %v", c.err, c.always, c.written)
		keys := []string{fmt.Sprintf("a%d", i), fmt.Sprintf("b%d", i)}
		for n, key := range keys {
			for v := range 3 {
				if status, b := l.put(bad, key, fmt.Sprintf("%d-%d", n, v), "?w=3"); status != 204 {
					t.Fatalf("%s: %d %s", name, status, b)
				}
			}
		}
		before := actorsOf(l.on(bad, keys[0]), bad.self())
		l.look(bad)
		refuse(t, l, bad, disk, keys[0], c.err, c.written, name)
		if c.always {
			disk.fail(c.err, -1, c.written)
			breaks(t, l, bad, disk, keys[1], name)
			for v := range 5 { // the others go on
				if status, b := l.put(peers[v%2], keys[1], fmt.Sprintf("meanwhile-%d", v), "?w=2"); status != 204 {
					t.Fatalf("%s: %d %s", name, status, b)
				}
			}
		} else if status, b := do(t, "GET", "http://"+bad.Addr().String()+"/readyz", nil); status != 200 {
			t.Errorf("%s: one failure made the node unready: %d %s", name, status, b)
		} else if status, b := l.put(bad, keys[0], "next", "?w=3"); status != 204 {
			t.Errorf("%s: the next write: %d %s", name, status, b)
		} else if s := find(l.on(bad, keys[0]), "next"); slices.Contains(before, s.Dot.Actor) {
			t.Errorf("%s: %v is continued after a failed commit", name, s.Dot)
		}
		l.look(append(peers, bad)...)

		if err := bad.Stop(); err != nil {
			t.Errorf("%s: stopping: %v", name, err)
		}
		disk.fail(nil, 0, false)
		bad = startOn(t, cfg[0], disk)
		ready(t, bad)
		for _, key := range keys {
			if status, b := l.put(bad, key, "after the restart", "?w=3"); status != 204 {
				t.Errorf("%s: after the restart: %d %s", name, status, b)
			}
		}
		wait(t, name+": nothing acknowledged is missing", func() error { return l.missing(append(peers, bad)...) })
		l.look(append(peers, bad)...)
	}
	t.Logf("%d dots, each of one value", len(l.dots))
}

// refuse lets the commit of one write fail, which must be answered as indeterminate.
func refuse(t *testing.T, l *ledger, bad *Node, disk *badDisk, key string, fault error, written bool, name string) {
	t.Helper()
	for try := range 10 {
		disk.fail(fault, 1, written)
		status, body := l.put(bad, key, fmt.Sprintf("fails-%d", try), "?w=3&timeout=3s")
		switch {
		case status == 204 && disk.failures() == 0:
			t.Fatalf("%s: nothing was committed", name)
		case status == 204: // the node's own work was hit
			continue
		}
		var p struct{ Outcome string }
		if err := json.Unmarshal([]byte(body), &p); err != nil || status < 500 || p.Outcome != "indeterminate" {
			t.Errorf("%s: a write whose commit failed: %d %s", name, status, body)
		}
		return
	}
	t.Fatalf("%s: no write was hit", name)
}

// breaks writes to a node whose commits all fail, until the node has given up.
func breaks(t *testing.T, l *ledger, bad *Node, disk *badDisk, key, name string) {
	t.Helper()
	for v := range 10 {
		if status, body := l.put(bad, key, fmt.Sprintf("never-%d", v), "?w=3&timeout=3s"); status < 500 {
			t.Fatalf("%s: acknowledged though nothing can be committed: %d %s", name, status, body)
		}
	}
	status, body := do(t, "GET", "http://"+bad.Addr().String()+"/readyz", nil)
	if text := string(body); status != 503 || !strings.Contains(text, disk.err.Error()) || !strings.Contains(text, "restart the node") {
		t.Errorf("%s: /readyz: %d %s", name, status, text)
	}
	if status, body := l.put(bad, key, "refused", ""); status != 503 || !strings.Contains(body, `"outcome":"none"`) {
		t.Errorf("%s: a write to a node that gave up: %d %s", name, status, body)
	}
	if _, body := do(t, "GET", "http://"+bad.Addr().String()+"/metrics", nil); !strings.Contains(string(body), "\ndunlin_storage_healthy 0\n") {
		t.Errorf("%s: the metrics do not tell", name)
	}
}

func actorsOf(siblings []vclock.Sibling, node ring.NodeID) (out []vclock.Actor) {
	for _, s := range siblings {
		if s.Dot.Actor.Node == node {
			out = append(out, s.Dot.Actor)
		}
	}
	return out
}

func find(siblings []vclock.Sibling, value string) vclock.Sibling {
	for _, s := range siblings {
		if string(s.Value) == value {
			return s
		}
	}
	return vclock.Sibling{}
}

func wait(t *testing.T, what string, f func() error) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not %s: %v", what, err)
		}
		<-time.After(50 * time.Millisecond)
	}
}
