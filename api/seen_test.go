package api

import (
	"slices"
	"testing"
	"time"
)

// holds checks the live values of a key.
func (w *world) holds(key string, want ...string) {
	w.t.Helper()
	w.kv.mu.Lock()
	defer w.kv.mu.Unlock()
	var got []string
	for _, v := range w.kv.records[[2]string{"b", key}].Answer(time.Now().UnixMilli(), false).Live {
		got = append(got, string(v.Value))
	}
	slices.Sort(got)
	if slices.Sort(want); !slices.Equal(got, want) {
		w.t.Errorf("%s holds %q, want %q", key, got, want)
	}
}

// The answer to a write shows no value, so its context must not cover what another client wrote meanwhile: a client
// that goes on with it would replace a value that nobody has read.
func TestContextOfAWriteCoversNothingUnseen(t *testing.T) {
	w := newWorld(t, Options{})
	w.put("/kv/b/k", "alice")
	bob := w.want(204, "PUT", "/kv/b/k", "bob")
	if bob.Header().Get(headerSiblings) != "2" || bob.Header().Get("ETag") != "" {
		t.Errorf("headers %v", bob.Header())
	}
	token := bob.Header().Get(headerContext)
	w.want(204, "PUT", "/kv/b/k", "bob again", headerContext, token)
	w.holds("k", "alice", "bob", "bob again") // one actor: what covers bob's write covers alice's

	read := w.want(300, "GET", "/kv/b/k", "").Header().Get(headerContext)
	res := w.want(204, "PUT", "/kv/b/k", "one", headerContext, read)
	w.want(204, "PUT", "/kv/b/k", "two", headerContext, res.Header().Get(headerContext))
	w.holds("k", "two")

	// A stale context covers what it covered, and an unseen value stays.
	stale := w.want(204, "PUT", "/kv/b/k", "three", headerContext, read).Header()
	w.want(204, "DELETE", "/kv/b/k", "", headerContext, stale.Get(headerContext))
	w.holds("k", "two", "three")

	shown := w.want(300, "PUT", "/kv/b/k?returnbody=true", "four").Header().Get(headerContext)
	w.want(204, "PUT", "/kv/b/k", "five", headerContext, shown)
	w.holds("k", "five")
}

// A retry tells its client that the write was applied, not what came after it.
func TestContextOfARepeatedWrite(t *testing.T) {
	w := newWorld(t, Options{})
	first := w.want(204, "PUT", "/kv/b/k", "v", headerIdempotency, "one").Header().Get(headerContext)
	w.want(204, "PUT", "/kv/b/k", "newer", headerContext, first)
	again := w.want(204, "PUT", "/kv/b/k", "v", headerIdempotency, "one").Header()
	if again.Get(headerRepeated) != "true" {
		t.Error("not told that it was repeated")
	}
	w.want(204, "PUT", "/kv/b/k", "w", headerContext, again.Get(headerContext))
	w.holds("k", "newer", "w")
}

func TestDeleteOfNothing(t *testing.T) {
	w := newWorld(t, Options{})
	for range 2 {
		res := w.want(204, "DELETE", "/kv/b/k", "").Header()
		if res.Get(headerContext) == "" || res.Get(headerRepeated) != "" {
			t.Errorf("headers %v", res)
		}
		w.want(204, "PUT", "/kv/b/k", "v", headerContext, res.Get(headerContext))
		w.want(204, "DELETE", "/kv/b/k", "")
	}
}

// Whatever is answered about a key with siblings says how many there are.
func TestRefusalsTellSiblings(t *testing.T) {
	w := newWorld(t, Options{})
	w.put("/kv/b/k", "one", headerIdempotency, "used")
	w.put("/kv/b/k", "two")
	for _, c := range []struct {
		status int
		method string
		header []string
	}{
		{412, "GET", []string{"If-Match", `"x"`}},
		{412, "PUT", []string{"If-Match", `"x"`}},
		{412, "DELETE", []string{"If-Match", `"x"`}},
		{422, "PUT", []string{headerIdempotency, "used"}},
	} {
		res := w.want(c.status, c.method, "/kv/b/k", "x", c.header...).Header()
		if res.Get(headerSiblings) != "2" || res.Get(headerContext) != "" {
			t.Errorf("%d %s: headers %v", c.status, c.method, res)
		}
	}
	for range 8 {
		w.put("/kv/b/k", "more")
	}
	if got := w.want(409, "PUT", "/kv/b/k", "x").Header().Get(headerSiblings); got != "10" {
		t.Errorf("at the cap: %q siblings", got)
	}
}
