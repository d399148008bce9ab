package e2e

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// One node is killed: the others serve quorums at once, say clearly when they cannot, and the node comes back with
// all that it acknowledged and learns what it missed by read repair.
func TestKilledNodeComesBack(t *testing.T) {
	f := newFlock(t, 3)
	f.start(f.nodes...)
	f.ready(f.nodes...)
	a, b, c := f.nodes[0], f.nodes[1], f.nodes[2]
	for i := range 50 {
		expect(t, 204, "PUT", a.url(fmt.Sprintf("/kv/b/k%d?w=3", i)), fmt.Sprint("v", i))
	}
	f.signal(c, syscall.SIGKILL)
	for i := range 50 {
		expect(t, 204, "PUT", f.nodes[i%2].url(fmt.Sprintf("/kv/b/new%d?w=2", i)), fmt.Sprint("v", i))
		expect(t, 200, "GET", f.nodes[i%2].url(fmt.Sprintf("/kv/b/k%d?r=2", i)), "")
	}
	body := expect(t, 503, "PUT", a.url("/kv/b/k0?w=3"), "x")
	for _, word := range []string{`"parameter":"w"`, `"required":3`, `"outcome":`, `"n3"`} {
		if !strings.Contains(strings.ReplaceAll(body, " ", ""), word) {
			t.Errorf("the problem lacks %s: %s", word, body)
		}
	}
	expect(t, 503, "GET", b.url("/kv/b/k0?r=3"), "")

	f.start(c)
	f.ready(c)
	for i := range 50 {
		if got := expect(t, 200, "GET", c.url(fmt.Sprintf("/kv/b/k%d?r=1", i)), ""); i > 0 && got != fmt.Sprint("v", i) {
			t.Fatalf("k%d after kill -9: %q", i, got)
		}
		expect(t, 200, "GET", c.url(fmt.Sprintf("/kv/b/new%d?r=2", i)), "") // stale here: repaired by this read
	}
	until(t, 20*time.Second, "repaired", func() error {
		for i := range 50 {
			status, body, err := try(t.Context(), "GET", c.url(fmt.Sprintf("/kv/b/new%d?r=1", i)), "")
			if err != nil || status != 200 || body != fmt.Sprint("v", i) {
				return fmt.Errorf("new%d: %d %q %v", i, status, body, err)
			}
		}
		return nil
	})
}

// All nodes are killed at the same moment and come back: one cluster again, nothing lost.
func TestAllKilledAtOnceComeBack(t *testing.T) {
	f := newFlock(t, 5)
	f.start(f.nodes...)
	f.ready(f.nodes...)
	for i := range 100 {
		expect(t, 204, "PUT", f.nodes[i%5].url(fmt.Sprintf("/kv/b/k%d", i)), fmt.Sprint("v", i))
	}
	for _, p := range f.nodes {
		if err := p.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range f.nodes {
		f.signal(p, syscall.SIGKILL)
	}
	f.start(f.nodes...)
	f.ready(f.nodes...)
	until(t, 60*time.Second, "one cluster", func() error {
		for _, p := range f.nodes {
			_, body, err := try(t.Context(), "GET", p.url("/cluster/members"), "")
			if err != nil {
				return err
			}
			if n := strings.Count(strings.ReplaceAll(body, " ", ""), `"alive":true`); n != 5 {
				return fmt.Errorf("%s sees %d alive", p.name, n)
			}
		}
		return nil
	})
	for i := range 100 {
		if got := expect(t, 200, "GET", f.nodes[(i+2)%5].url(fmt.Sprintf("/kv/b/k%d?r=2", i)), ""); got != fmt.Sprint("v", i) {
			t.Fatalf("k%d: %q", i, got)
		}
	}
	for _, p := range f.nodes {
		f.signal(p, syscall.SIGTERM)
	}
}

// What a node cannot start with is one line on stderr that names the setting, and exit code 1.
func TestStartErrorsNameTheSetting(t *testing.T) {
	f := newFlock(t, 3)
	f.start(f.nodes...)
	f.ready(f.nodes...)
	a := f.nodes[0]
	for name, tc := range map[string]struct {
		env  string
		want string
	}{
		"busy http":     {"DUNLIN_HTTP=" + a.http, "DUNLIN_HTTP"},
		"busy rpc":      {"DUNLIN_RPC=" + a.http, "DUNLIN_RPC"},
		"busy gossip":   {"DUNLIN_GOSSIP=" + a.http, "DUNLIN_GOSSIP"},
		"data in use":   {"DUNLIN_DATA=" + a.dir, "DUNLIN_DATA"},
		"no directory":  {"DUNLIN_DATA=/proc/none", "DUNLIN_DATA"},
		"bad w":         {"DUNLIN_W=5", "DUNLIN_W"},
		"bad seeds":     {"DUNLIN_SEEDS=n1@@", "DUNLIN_SEEDS"},
		"no durability": {"DUNLIN_DURABILITY=maybe", "DUNLIN_DURABILITY"},
	} {
		ports := freePorts(t, 3)
		p := &process{name: name, env: append([]string{
			"PATH=/", "DUNLIN_NAME=x", "DUNLIN_DATA=" + t.TempDir(), fmt.Sprintf("DUNLIN_HTTP=127.0.0.1:%d", ports[0]),
			fmt.Sprintf("DUNLIN_RPC=127.0.0.1:%d", ports[1]), fmt.Sprintf("DUNLIN_GOSSIP=127.0.0.1:%d", ports[2]),
		}, tc.env)}
		code, _, stderr := run(t, p.env, "serve")
		lines := strings.Split(strings.TrimSpace(stderr), "\n")
		if last := lines[len(lines)-1]; code != 1 || !strings.Contains(last, tc.want) {
			t.Errorf("%s: exit code %d, %q; want 1 and a line that names %s", name, code, stderr, tc.want)
		}
	}
	f.ready(f.nodes...)
	if _, _, err := try(t.Context(), "GET", a.url("/livez"), ""); err != nil {
		t.Fatal(errors.Join(errors.New("the running nodes were harmed"), err))
	}
}

// A node runs with the setting of Go's runtime that saves it a tenth of its CPU, as the process that was started.
func TestNodesRunWithAWakefulMonitor(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs /proc, where Linux shows the environment of a process")
	}
	f := newFlock(t, 1)
	f.start(f.nodes...)
	f.ready(f.nodes...)
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", f.nodes[0].PID()))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(env), "schedtrace=") {
		t.Errorf("the environment of the node: %q", env)
	}
}
