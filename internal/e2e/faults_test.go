package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// With one and then two of five nodes killed, every write with w=2 and every read with r=2 succeeds through every live
// node, from the moment of the kill. What that costs is logged, not judged: the machine may be busy.
func TestAlwaysWritable(t *testing.T) {
	heavy(t)
	f := running(t, 5)
	v := &visitors{f: f, contexts: map[string]string{}}
	v.visit(t, f.nodes, 5*time.Second, "healthy")
	live := f.nodes
	for len(live) > 3 {
		dead := live[len(live)-1]
		live = live[:len(live)-1]
		// The clients do not wait for the end of the process, only for the signal.
		if err := dead.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		v.visit(t, live, 10*time.Second, fmt.Sprintf("the first 10 s after the kill of %s", dead.name))
		f.signal(dead, syscall.SIGKILL)
		v.visit(t, live, 5*time.Second, fmt.Sprintf("without %d nodes", 5-len(live)))
	}
	f.start(f.nodes[3:]...)
	f.ready(f.nodes...)
	settled(t, f, time.Minute)
	for key, want := range v.contexts {
		for _, p := range f.nodes {
			a := send(t, "GET", p.url(key+"?r=all&timeout=30s"), "")
			if a.status != 200 || a.context() != want {
				t.Errorf("%s through %s: %d %s", key, p.name, a.status, a.body)
			}
		}
	}
}

// visitors are clients that use a cluster as a store, and keep the last context of each of their keys.
type visitors struct {
	f        *flock
	mu       sync.Mutex
	contexts map[string]string
}

const visitorKeys = 24 // for each of 4 visitors

// visit writes and reads through every one of nodes in turn for a while, and fails on whatever fails.
func (v *visitors) visit(t *testing.T, nodes []*process, length time.Duration, when string) {
	t.Helper()
	var mu sync.Mutex
	var writes, reads []time.Duration
	var wg sync.WaitGroup
	begin := time.Now()
	for w := range 4 {
		wg.Go(func() {
			for i := 0; i < 2*visitorKeys || time.Since(begin) < length; i++ {
				key := fmt.Sprintf("/kv/visit/w%d-%d", w, i%visitorKeys)
				p := nodes[(i+w)%len(nodes)]
				read, write, err := v.use(p, key)
				if err != nil {
					t.Errorf("%s: through %s, %s: %v", when, p.name, key, err)
					return
				}
				mu.Lock()
				reads, writes = append(reads, read), append(writes, write)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t.Logf("%s: %d writes, p50 %s p99 %s; reads p50 %s p99 %s", when, len(writes),
		part(writes, 50), part(writes, 99), part(reads, 50), part(reads, 99))
}

// use reads a key, unless it is new, and replaces its value.
func (v *visitors) use(p *process, key string) (read, write time.Duration, err error) {
	v.mu.Lock()
	token := v.contexts[key]
	v.mu.Unlock()
	if token != "" {
		start := time.Now()
		a, err := attempt("GET", p.url(key+"?r=2&timeout=30s"), "", "")
		if read = time.Since(start); err != nil || a.status != 200 {
			return 0, 0, fmt.Errorf("GET: %d %s %w", a.status, a.body, err)
		}
		token = a.context()
	}
	start := time.Now()
	a, err := attempt("PUT", p.url(key+"?w=2&timeout=30s"), strings.Repeat("v", 1000), token)
	if write = time.Since(start); err != nil || a.status != 204 {
		return 0, 0, fmt.Errorf("PUT: %d %s %w", a.status, a.body, err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.contexts[key] = a.context()
	return read, write, nil
}

// attempt makes a request with a context, once.
func attempt(method, url, body, token string) (a answer, err error) {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return a, err
	}
	req.GetBody = nil // else net/http repeats some requests by itself, and reports only how the repetition failed
	if token != "" {
		req.Header.Set("Dunlin-Context", token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(b)}, err
}

// part is a percentile.
func part(all []time.Duration, percent int) string {
	if len(all) == 0 {
		return "none"
	}
	slices.Sort(all)
	return fmt.Sprintf("%.1f ms", float64(all[(len(all)-1)*percent/100])/1e6)
}

// A write that only hints hold, since all primaries of its key are dead, outlives the death of who holds the hints,
// and reaches the primaries.
func TestHintsOutliveTheirHolders(t *testing.T) {
	heavy(t)
	f := running(t, 5)
	holders, targets := f.nodes[:2], f.nodes[2:]
	path := keyOwned(t, f, "hinted", targets, nil)
	bucket, key, _ := strings.Cut(strings.TrimPrefix(path, "/kv/"), "/")
	if key == "" {
		t.Fatal(path)
	}
	for _, p := range targets {
		f.signal(p, syscall.SIGKILL)
	}
	put := want(t, 204, "PUT", holders[0].url(path+"?w=2&timeout=30s"), "only in hints")
	if got := want(t, 200, "GET", holders[1].url(path+"?r=2&timeout=30s"), ""); got.body != "only in hints" || got.context() != put.context() {
		t.Errorf("read from hints: %v %q", got.header, got.body)
	}
	waiting := func() (n int) {
		for _, p := range holders {
			n += hintsHeld(t, p)
		}
		return n
	}
	before := waiting()
	if before < 2 {
		t.Fatalf("%d hints wait, of a write that two nodes took in for others", before)
	}
	for _, p := range holders {
		if err := p.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range holders {
		f.signal(p, syscall.SIGKILL)
	}
	f.start(holders...)
	f.ready(holders...)
	if after := waiting(); after != before {
		t.Errorf("%d hints wait after a restart, %d before", after, before)
	}
	f.start(targets...)
	f.ready(f.nodes...)
	settled(t, f, time.Minute)
	var doc explanation
	decode(t, want(t, 200, "GET", holders[0].url("/cluster/explain/"+bucket+"/"+url.PathEscape(key)), "").body, &doc)
	for i, r := range doc.Replicas {
		if i < 3 && (r.Role != "primary" || r.Copy == nil || len(r.Copy.Siblings) != 1) || r.Hint != nil {
			t.Errorf("after the handoff: %+v", doc)
			break
		}
	}
	for _, p := range f.nodes {
		if got := want(t, 200, "GET", p.url(path+"?r=all&timeout=30s"), ""); got.body != "only in hints" || got.context() != put.context() {
			t.Errorf("through %s: %v %q", p.name, got.header, got.body)
		}
	}
}

func hintsHeld(t *testing.T, p *process) int {
	t.Helper()
	var doc struct{ Hints int }
	if err := fetch(t, p.url("/cluster/handoff"), &doc); err != nil {
		t.Fatal(errors.Join(errors.New("/cluster/handoff of "+p.name), err))
	}
	return doc.Hints
}
