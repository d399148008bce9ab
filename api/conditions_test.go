package api

import (
	"net/http"
	"testing"
)

func TestConditionalReads(t *testing.T) {
	w := newWorld(t, Options{})
	w.put("/kv/b/k", "v")
	tag := w.want(200, "GET", "/kv/b/k", "").Header().Get("ETag")
	for _, c := range []struct {
		name, value string
		want        int
	}{
		{"If-None-Match", tag, 304}, {"If-None-Match", "W/" + tag, 304}, {"If-None-Match", `"x", ` + tag, 304}, {"If-None-Match", "*", 304},
		{"If-None-Match", `"x"`, 200}, {"If-None-Match", `"a,b"`, 200},
		{"If-Match", tag, 200}, {"If-Match", "*", 200}, {"If-Match", `"x",,` + tag, 200},
		{"If-Match", `"x"`, 412}, {"If-Match", "W/" + tag, 412},
		{"If-Match", "x", 400}, {"If-Match", "", 400}, {"If-None-Match", `"x`, 400}, {"If-None-Match", `"x" "y"`, 400}, {"If-Match", `"x",*`, 400},
	} {
		for _, method := range []string{"GET", "HEAD"} {
			res := w.want(c.want, method, "/kv/b/k", "", c.name, c.value)
			if c.want == 304 && (res.Header().Get("ETag") != tag || res.Header().Get(headerContext) == "" || res.Body.Len() != 0) {
				t.Errorf("%s %s: 304 with headers %v, body %q", c.name, c.value, res.Header(), res.Body)
			}
			if c.want == 412 && res.Header().Get(headerContext) != "" {
				t.Error("412 gives the context of what was not shown")
			}
		}
	}
	w.want(404, "GET", "/kv/b/none", "", "If-None-Match", "*")
	w.want(412, "GET", "/kv/b/none", "", "If-Match", "*")
	w.put("/kv/b/k", "sibling")
	multi, asJSON := w.want(300, "GET", "/kv/b/k", "").Header().Get("ETag"), w.want(300, "GET", "/kv/b/k", "", "Accept", "application/json").Header().Get("ETag")
	if multi == tag {
		t.Error("the ETag did not change with the siblings")
	}
	if got := w.want(304, "GET", "/kv/b/k", "", "If-None-Match", asJSON, "Accept", "application/json").Header().Get("ETag"); got != asJSON {
		t.Errorf("304 of the JSON form has ETag %s, want %s", got, asJSON)
	}
}

func TestConditionalWrites(t *testing.T) {
	w := newWorld(t, Options{})
	checked := func(status int, method, target, body string, headers ...string) {
		t.Helper()
		if got := w.want(status, method, target, body, headers...).Header().Get(headerPrecondition); got != "checked, not atomic" {
			t.Errorf("%s %s: %s %q", method, target, headerPrecondition, got)
		}
	}
	before := w.kv.written()
	checked(412, "PUT", "/kv/b/k", "v", "If-Match", "*")
	checked(412, "DELETE", "/kv/b/k", "", "If-Match", `"x"`)
	if w.kv.written() != before {
		t.Fatal("a write whose condition failed was done")
	}
	checked(204, "PUT", "/kv/b/k", "v", "If-None-Match", "*")
	checked(412, "PUT", "/kv/b/k", "v", "If-None-Match", "*")
	tag := w.want(200, "GET", "/kv/b/k", "").Header().Get("ETag")
	checked(204, "PUT", "/kv/b/k?r=3", "w", "If-Match", tag)
	if got := w.kv.gets[len(w.kv.gets)-1].R; got != 3 {
		t.Errorf("the condition was checked on a read of %d replicas", got)
	}
	// The tag named what was seen: the write replaces it.
	if got := w.want(200, "GET", "/kv/b/k", ""); got.Body.String() != "w" {
		t.Errorf("after a write with If-Match: %q", got.Body)
	}
	checked(412, "PUT", "/kv/b/k", "x", "If-Match", tag)
	tag = w.want(204, "PUT", "/kv/b/other", "v").Header().Get("ETag")
	checked(204, "DELETE", "/kv/b/other", "", "If-Match", tag)
	checked(204, "PUT", "/kv/b/other", "v", "If-None-Match", "*") // deleted is absent
	if got := w.want(204, "PUT", "/kv/b/plain", "v").Header().Get(headerPrecondition); got != "" {
		t.Errorf("an unconditional write says %q", got)
	}
}

// A repeated request must not fail on the condition that its own first attempt made false.
func TestConditionOfARepeatedWrite(t *testing.T) {
	w := newWorld(t, Options{})
	for range 2 {
		w.want(204, "PUT", "/kv/b/k", "v", "If-None-Match", "*", headerIdempotency, "one")
	}
	w.want(412, "PUT", "/kv/b/k", "v", "If-None-Match", "*", headerIdempotency, "two")
	w.want(http.StatusUnprocessableEntity, "PUT", "/kv/b/k", "other", "If-None-Match", "*", headerIdempotency, "one")
}

func TestAccepts(t *testing.T) {
	for accept, want := range map[string]bool{
		"": false, "*/*": false, "application/*": false, "application/json": true, "Application/JSON ; q=0.3": true,
		"text/html, application/json": true, "application/json;q=0": false, "application/json;q=0.0": false, "application/jsonx": false,
	} {
		r := &http.Request{Header: http.Header{"Accept": {accept}}}
		if got := accepts(r, "application/json"); got != want {
			t.Errorf("Accept: %s: %v", accept, got)
		}
	}
}
