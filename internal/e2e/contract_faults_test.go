package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// keyOwned finds a key of the bucket of which every one of in, and none of out, is a primary.
func keyOwned(t *testing.T, f *flock, bucket string, in, out []*process) string {
	t.Helper()
	for i := range 2000 {
		key := fmt.Sprintf("%s-%d", bucket, i)
		var doc struct {
			Preference []struct{ Node, Role string }
		}
		decode(t, want(t, 200, "GET", f.nodes[0].url("/cluster/ring/"+bucket+"/"+key), "").body, &doc)
		owns := func(p *process) bool {
			return slices.ContainsFunc(doc.Preference, func(o struct{ Node, Role string }) bool { return o.Node == p.name && o.Role == "primary" })
		}
		if !slices.ContainsFunc(in, func(p *process) bool { return !owns(p) }) && !slices.ContainsFunc(out, owns) {
			return "/kv/" + bucket + "/" + key
		}
	}
	t.Fatal("no such key")
	return ""
}

// alive lists the members that p takes for alive.
func alive(t *testing.T, p *process) (names []string, err error) {
	_, body, err := try(t.Context(), "GET", p.url("/cluster/members"), "")
	if err != nil {
		return nil, err
	}
	var doc struct {
		Members []struct {
			Name  string
			Alive bool
		}
	}
	err = json.Unmarshal([]byte(body), &doc)
	for _, m := range doc.Members {
		if m.Alive {
			names = append(names, m.Name)
		}
	}
	slices.Sort(names)
	return names, err
}

// judged waits until each of nodes takes exactly those for alive.
func judged(t *testing.T, nodes []*process, names ...string) {
	t.Helper()
	for _, p := range nodes {
		until(t, 60*time.Second, fmt.Sprintf("%s sees %v alive", p.name, names), func() error {
			got, err := alive(t, p)
			if err == nil && !slices.Equal(got, names) {
				err = fmt.Errorf("%v", got)
			}
			return err
		})
	}
}

// freeze stops a process and waits until all its threads stand still.
func freeze(t *testing.T, p *process) {
	t.Helper()
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	until(t, 10*time.Second, p.name+" stands still", func() error {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.PID()))
		for _, file := range threads {
			b, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			if _, state, _ := strings.Cut(string(b), ") "); !strings.HasPrefix(state, "T") {
				return fmt.Errorf("%s: %.1s", file, state)
			}
		}
		return err
	})
}

// soon bounds what must not wait for the default timeout of five seconds.
func soon(t *testing.T, what string, f func()) {
	t.Helper()
	start := time.Now()
	f()
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("%s took %v", what, took)
	}
}

// TestContractWithNodesDown freezes one node of five and kills another.
func TestContractWithNodesDown(t *testing.T) {
	f := running(t, 5)
	up, frozen, dead := f.nodes[:3], f.nodes[3], f.nodes[4]
	primary, other := up[0], up[1]
	// One key for each way in which they are concerned.
	slow := keyOwned(t, f, "slow", []*process{primary, other, frozen}, nil)
	maybe := keyOwned(t, f, "maybe", []*process{primary, dead}, nil)
	one := keyOwned(t, f, "one", []*process{primary, dead}, []*process{frozen, other})
	both := keyOwned(t, f, "both", []*process{primary, frozen, dead}, nil)
	for _, path := range []string{slow, one, both} {
		want(t, 204, "PUT", other.url(path+"?w=3"), "old")
	}

	freeze(t, frozen)
	whileFrozen(t, primary, slow)
	if set := want(t, 202, "PUT", primary.url("/buckets/late?timeout=300ms"), `{"conflict":"lww"}`); !strings.Contains(set.body, `"missing":["`+frozen.name+`"]`) {
		t.Errorf("a property that a node has not: %s", set.body)
	}
	f.signal(dead, syscall.SIGKILL)
	// Not judged dead yet. What cannot be is said at once, and is not promised to have left nothing.
	soon(t, "w=3 with a node just killed", func() {
		if p := want(t, 503, "PUT", primary.url(maybe+"?w=3&sloppy=false"), "v").problem(t); !p.Retryable {
			t.Errorf("%+v", p)
		}
	})
	soon(t, "w=2 and r=2 with a node just killed", func() {
		seen := want(t, 200, "GET", other.url(one), "").context()
		want(t, 204, "PUT", other.url(one), "old", "Dunlin-Context", seen)
		want(t, 200, "GET", other.url(one), "")
	})

	judged(t, up, up[0].name, up[1].name, up[2].name)
	for _, p := range []*process{primary, other} {
		oneDown(t, p, one)
		twoDown(t, p, both)
	}
	statusOfACluster(t, primary, frozen, dead)
	want(t, 200, "PUT", primary.url("/buckets/later"), `{"conflict":"lww"}`)

	if err := frozen.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	f.start(dead)
	f.ready(dead, frozen)
	judged(t, f.nodes, "n1", "n2", "n3", "n4", "n5")
	for _, p := range f.nodes {
		for _, bucket := range []string{"late", "later"} {
			until(t, 30*time.Second, p.name+" has the properties", func() error {
				if got := want(t, 200, "GET", p.url("/buckets/"+bucket), "").body; !strings.Contains(got, `"conflict":"lww"`) {
					return fmt.Errorf("%s", got)
				}
				return nil
			})
		}
		// A node that wakes up may doubt others for a moment.
		until(t, 30*time.Second, p.name+" reads all replicas", func() error {
			if got := send(t, "GET", p.url(one+"?r=3"), ""); got.status != 200 || got.body != "new" {
				return fmt.Errorf("%d %s", got.status, got.body)
			}
			return nil
		})
	}
}

// whileFrozen checks requests to a key of which one replica is alive and does not answer.
func whileFrozen(t *testing.T, p *process, path string) {
	soon(t, "w=3 with timeout=300ms", func() {
		got := want(t, 504, "PUT", p.url(path+"?w=3&sloppy=false&timeout=300ms"), "maybe").problem(t)
		if got.Outcome != "indeterminate" || got.Parameter != "w" || got.Required != 3 || got.Acked != 2 || len(got.Replicas) != 3 || !got.Retryable {
			t.Errorf("504: %+v", got)
		}
	})
	soon(t, "r=3 with timeout=300ms", func() {
		// 503 where the node has come to be taken for down meanwhile.
		got := send(t, "GET", p.url(path+"?r=3&sloppy=false&timeout=300ms"), "")
		if p := got.problem(t); got.status != 504 && got.status != 503 || p.Parameter != "r" || p.Required != 3 {
			t.Errorf("%d: %+v", got.status, p)
		}
	})
	soon(t, "quorums without the frozen node", func() {
		seen := want(t, 300, "GET", p.url(path), "").context() // the write without a context stands beside the old one
		for range 5 {
			seen = want(t, 204, "PUT", p.url(path), "new", "Dunlin-Context", seen).context()
			if got := want(t, 200, "GET", p.url(path), ""); got.body != "new" || got.header.Get("Dunlin-Acks") != "2/3" {
				t.Errorf("read %v %q", got.header, got.body)
			}
		}
		want(t, 200, "GET", p.url("/kv/slow"), "")
	})
}

// oneDown checks requests to a key of which one replica is judged dead.
func oneDown(t *testing.T, p *process, path string) {
	soon(t, "one replica down", func() {
		for _, query := range []string{"?w=3&sloppy=false", "?w=all&sloppy=false", "?pw=3"} {
			got := want(t, 503, "PUT", p.url(path+query), "never").problem(t)
			if got.Required != 3 || !got.Retryable {
				t.Errorf("PUT%s: %+v", query, got)
			}
		}
		for _, query := range []string{"?r=3&sloppy=false", "?pr=3", "?r=all&sloppy=false"} {
			if no := want(t, 503, "GET", p.url(path+query), ""); no.header.Get("Retry-After") == "" {
				t.Errorf("GET%s: %v", query, no.header)
			}
		}
		want(t, 503, "GET", p.url("/kv/one?r=3"), "")
		// Without pw, w=1 may be acknowledged by who stands in for the dead before any primary has the write.
		for _, query := range []string{"", "?w=2&dw=2&pw=2", "?w=1&pw=1", "?sloppy=false"} {
			// From both primaries: after w=1, one of them and a stand-in for the dead may not know the newest write.
			seen := want(t, 200, "GET", p.url(path+"?r=2&pr=2"), "").context()
			want(t, 204, "PUT", p.url(path+query), "new", "Dunlin-Context", seen)
			if got := want(t, 200, "GET", p.url(path+"?r=2&pr=2"), ""); got.body != "new" {
				t.Errorf("wrote with %q, then read %q", query, got.body)
			}
		}
	})
}

// twoDown checks strict requests to a key of which two replicas are judged dead.
func twoDown(t *testing.T, p *process, path string) {
	soon(t, "two replicas down", func() {
		for _, query := range []string{"", "&w=2&dw=1", "&w=3"} {
			got := want(t, 503, "PUT", p.url(path+"?sloppy=false"+query), "never").problem(t)
			if got.Outcome != "none" || got.Acked != 0 || len(got.Replicas) != 3 {
				t.Errorf("PUT%s: %+v", query, got)
			}
		}
		for _, method := range []string{"DELETE", "GET", "HEAD"} {
			want(t, 503, method, p.url(path+"?sloppy=false"), "")
		}
		want(t, 503, "GET", p.url("/kv/both"), "")
		if got := want(t, 200, "GET", p.url(path+"?r=1"), ""); got.body != "old" {
			t.Errorf("after writes of which nothing was stored: %q", got.body)
		}
		bucket, key, _ := strings.Cut(strings.TrimPrefix(path, "/kv/"), "/")
		line := fmt.Sprintf(`{"op":"put","bucket":%q,"key":%q,"value":"never"}`, bucket, key)
		if got := runBatch(t, p, "?sloppy=false", line)[0]; got.Status != 503 || got.Problem.Outcome != "none" {
			t.Errorf("in a batch: %+v", got)
		}
	})
}

func statusOfACluster(t *testing.T, p *process, down ...*process) {
	t.Helper()
	env := []string{"DUNLIN_URL=http://" + p.http}
	code, stdout, stderr := run(t, env, "status")
	if code != 0 || !strings.Contains(stdout, "3 of 5 members alive") {
		t.Errorf("status: %d\n%s%s", code, stdout, stderr)
	}
	for _, d := range down {
		if !strings.Contains(stdout, d.name) {
			t.Errorf("status does not name %s:\n%s", d.name, stdout)
		}
	}
	want(t, 200, "GET", p.url("/readyz"), "")
	want(t, 200, "GET", p.url("/metrics"), "")
	if got := want(t, 200, "GET", p.url("/cluster/ring/both/k"), "").body; strings.Count(got, `"alive":false`) != 2 {
		t.Errorf("the ring of a key: %s", got)
	}
}
