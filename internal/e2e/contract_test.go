package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// answer is all of an HTTP answer.
type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) context() string { return a.header.Get("Dunlin-Context") }

// send makes a request with headers, given as name, value, …
func send(t *testing.T, method, url, body string, headers ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
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
	return answer{resp.StatusCode, resp.Header, string(b)}
}

// want is send for a status, and checks what every answer must have.
func want(t *testing.T, status int, method, url, body string, headers ...string) answer {
	t.Helper()
	a := send(t, method, url, body, headers...)
	if a.status != status {
		t.Fatalf("%s %s %q: %d %v %.300s, want %d", method, url, headers, a.status, a.header, a.body, status)
	}
	if a.header.Get("Dunlin-Node") == "" {
		t.Errorf("%s %s: no Dunlin-Node in %v", method, url, a.header)
	}
	if status >= 400 && method != http.MethodHead {
		p := a.problem(t)
		isWrite := method == http.MethodPut || method == http.MethodPost || method == http.MethodDelete
		if p.Status != status || p.Type == "" || p.Title == "" || p.Detail == "" || (p.Outcome != "") != isWrite {
			t.Errorf("%s %s: problem %s", method, url, a.body)
		}
	}
	return a
}

type problem struct {
	Type, Title, Detail, Parameter, Outcome string
	Status, Required, Acked                 int
	Retryable                               bool
	Replicas                                []struct{ Node, Role, Outcome string }
}

func (a answer) problem(t *testing.T) (p problem) {
	t.Helper()
	if ct := a.header.Get("Content-Type"); ct != "application/problem+json" {
		t.Errorf("an error of type %q: %s", ct, a.body)
	}
	decode(t, a.body, &p)
	return p
}

func decode(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("%v: %.300s", err, text)
	}
}

// siblings reads a multipart answer: the live values, sorted, and how many siblings are deleted.
func (a answer) siblings(t *testing.T) (values []string, deleted int) {
	t.Helper()
	_, params, err := mime.ParseMediaType(a.header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	r := multipart.NewReader(strings.NewReader(a.body), params["boundary"])
	for {
		p, err := r.NextRawPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("%v: %s", err, a.body)
		}
		b, err := io.ReadAll(p)
		if err != nil || p.Header.Get("Dunlin-Dot") == "" || p.Header.Get("Last-Modified") == "" {
			t.Fatalf("part %v: %v", p.Header, err)
		}
		if p.Header.Get("Dunlin-Deleted") == "true" {
			deleted++
			continue
		}
		values = append(values, string(b))
	}
	slices.Sort(values)
	return values, deleted
}

// running starts a cluster and waits until it serves.
func running(t *testing.T, n int) *flock {
	t.Helper()
	f := newFlock(t, n)
	f.start(f.nodes...)
	f.ready(f.nodes...)
	return f
}

// TestContract checks what the HTTP interface promises through every node of a cluster of five, in which three nodes
// own a key and two only forward.
func TestContract(t *testing.T) {
	f := running(t, 5)
	for name, check := range map[string]func(*testing.T, *flock){
		"life of a key": lifeOfAKey, "siblings": siblingsEverywhere, "unseen": nothingUnseenIsReplaced,
		"contexts": contexts, "conditions": conditions, "idempotency": idempotency, "parameters": parameters,
		"keys": oddKeys, "listing": listing, "batch": batches, "buckets": bucketProperties, "expiry": expiry,
		"connections": connections, "methods": methods, "sizes": sizes, "races": races,
	} {
		t.Run(name, func(t *testing.T) { check(t, f) })
	}
}

func lifeOfAKey(t *testing.T, f *flock) {
	for i, a := range f.nodes {
		b := f.nodes[(i+1)%len(f.nodes)]
		path := fmt.Sprintf("/kv/life/%d", i)
		if none := want(t, 404, "GET", b.url(path), ""); none.context() != "" || none.header.Get("Dunlin-Acks") != "2/3" {
			t.Errorf("absent: %v", none.header)
		}
		if gone := want(t, 204, "DELETE", a.url(path), ""); gone.context() == "" || gone.header.Get("Dunlin-Repeated") != "" {
			t.Errorf("a delete of nothing: %v", gone.header)
		}
		put := want(t, 204, "PUT", a.url(path)+"?W=3", "v", "Content-Type", "a/b")
		got := want(t, 200, "GET", b.url(path)+"?R=3", "")
		head := want(t, 200, "HEAD", b.url(path), "")
		if got.body != "v" || got.context() != put.context() || put.header.Get("Dunlin-Acks") != "3/3" || got.header.Get("Dunlin-Acks") != "3/3" {
			t.Errorf("%v, then %v %q", put.header, got.header, got.body)
		}
		for _, name := range []string{"Content-Type", "Content-Length", "Etag", "Last-Modified", "Dunlin-Context"} {
			if v := got.header.Get(name); v == "" || v != head.header.Get(name) {
				t.Errorf("%s of GET %q, of HEAD %q", name, v, head.header.Get(name))
			}
		}
		if shown := want(t, 200, "PUT", b.url(path)+"?returnbody=true", "w", "Dunlin-Context", got.context()); shown.body != "w" || shown.header.Get("ETag") == "" {
			t.Errorf("returnbody: %v %q", shown.header, shown.body)
		}
		want(t, 204, "DELETE", a.url(path), "")
		want(t, 204, "DELETE", b.url(path), "")
		gone := want(t, 404, "GET", b.url(path), "")
		want(t, 204, "PUT", a.url(path), "x", "Dunlin-Context", gone.context())
		if back := want(t, 200, "GET", b.url(path), ""); back.body != "x" || back.header.Get("Dunlin-Siblings") != "" {
			t.Errorf("written after its delete: %v %q", back.header, back.body)
		}
		made := want(t, 201, "POST", a.url("/kv/life-made"), "posted")
		if got := want(t, 200, "GET", b.url(made.header.Get("Location")), ""); got.body != "posted" || got.context() != made.context() {
			t.Errorf("posted: %v %q", got.header, got.body)
		}
	}
}

func siblingsEverywhere(t *testing.T, f *flock) {
	for i, a := range f.nodes {
		b := f.nodes[(i+2)%len(f.nodes)]
		path := fmt.Sprintf("/kv/sib/%d", i)
		base := want(t, 204, "PUT", a.url(path), "base").context()
		want(t, 204, "DELETE", b.url(path), "", "Dunlin-Context", base)
		want(t, 204, "PUT", a.url(path), "--x\r\n\r\n", "Dunlin-Context", base)
		if put := want(t, 204, "PUT", b.url(path), "\xff", "Content-Type", "image/x", "Dunlin-Context", base); put.header.Get("Dunlin-Siblings") != "2" {
			t.Errorf("a write beside another: %v", put.header)
		}
		for _, p := range f.nodes {
			got := want(t, 300, "GET", p.url(path), "")
			if values, deleted := got.siblings(t); !slices.Equal(values, []string{"--x\r\n\r\n", "\xff"}) || deleted != 1 || got.header.Get("Dunlin-Siblings") != "2" {
				t.Errorf("siblings %q, %d deleted, %v", values, deleted, got.header)
			}
			head := want(t, 300, "HEAD", p.url(path), "")
			if head.header.Get("Content-Length") != fmt.Sprint(len(got.body)) || head.header.Get("Dunlin-Siblings") != "2" {
				t.Errorf("HEAD %v of %d bytes", head.header, len(got.body))
			}
			var doc struct {
				Context  string
				Siblings []struct {
					Value, Encoding string
					Deleted         bool
				}
			}
			asJSON := want(t, 300, "GET", p.url(path), "", "Accept", "application/json")
			decode(t, asJSON.body, &doc)
			if doc.Context != got.context() || len(doc.Siblings) != 3 || asJSON.header.Get("ETag") == got.header.Get("ETag") {
				t.Errorf("as JSON: %s", asJSON.body)
			}
			for _, tag := range []string{asJSON.header.Get("ETag"), got.header.Get("ETag")} {
				if same := want(t, 304, "GET", p.url(path), "", "If-None-Match", tag); same.header.Get("Dunlin-Siblings") != "2" {
					t.Errorf("304: %v", same.header)
				}
			}
			for _, method := range []string{"GET", "PUT", "DELETE"} {
				if no := want(t, 412, method, p.url(path), "", "If-Match", `"other"`); no.header.Get("Dunlin-Siblings") != "2" || no.context() != "" {
					t.Errorf("412 of %s: %v", method, no.header)
				}
			}
		}
		seen := want(t, 300, "GET", a.url(path), "").context()
		if one := want(t, 204, "PUT", b.url(path), "one", "Dunlin-Context", seen); one.header.Get("Dunlin-Siblings") != "" {
			t.Errorf("reconciled: %v", one.header)
		}
		if got := want(t, 200, "GET", a.url(path), ""); got.body != "one" {
			t.Errorf("reconciled to %q", got.body)
		}
	}
}

// A client that goes on with the context of its own write has not read what others wrote meanwhile.
func nothingUnseenIsReplaced(t *testing.T, f *flock) {
	for i, a := range f.nodes {
		for j, b := range f.nodes {
			path := fmt.Sprintf("/kv/unseen/%d-%d", i, j)
			want(t, 204, "PUT", a.url(path), "alice")
			bob := want(t, 204, "PUT", b.url(path), "bob")
			want(t, 204, "PUT", a.url(path), "bob again", "Dunlin-Context", bob.context())
			got := want(t, 300, "GET", b.url(path)+"?r=3", "")
			if values, _ := got.siblings(t); !slices.Contains(values, "alice") || !slices.Contains(values, "bob again") {
				t.Errorf("through %s and %s: only %q is left", a.name, b.name, values)
			}
		}
	}
}

func contexts(t *testing.T, f *flock) {
	c := want(t, 204, "PUT", f.nodes[0].url("/kv/ctx/k"), "keep").context()
	foreign := want(t, 204, "PUT", f.nodes[0].url("/kv/ctx/other"), "").context()
	bucket := want(t, 204, "PUT", f.nodes[0].url("/kv/ctx2/k"), "").context()
	flipped := []byte(c)
	flipped[len(c)/2] ^= 1
	for _, p := range f.nodes {
		for _, token := range []string{"", "garbage", "!", foreign, bucket, c[:len(c)-2], c + "AA", string(flipped), strings.Repeat("A", 60_000)} {
			for _, method := range []string{"PUT", "DELETE"} {
				no := want(t, 400, method, p.url("/kv/ctx/k"), "no", "Dunlin-Context", token)
				if got := no.problem(t); got.Parameter != "Dunlin-Context" || got.Outcome != "none" {
					t.Errorf("%.40s: %s", token, no.body)
				}
			}
		}
		want(t, 400, "PUT", p.url("/kv/ctx/k"), "no", "Dunlin-Context", c, "Dunlin-Context", c)
		want(t, 400, "POST", p.url("/kv/ctx"), "no", "Dunlin-Context", c)
		if got := want(t, 200, "GET", p.url("/kv/ctx/k"), ""); got.body != "keep" || got.context() != c {
			t.Errorf("changed by a refused write: %q", got.body)
		}
	}
}

func conditions(t *testing.T, f *flock) {
	for i, a := range f.nodes {
		b := f.nodes[(i+1)%len(f.nodes)]
		path := fmt.Sprintf("/kv/cond/%d", i)
		want(t, 412, "PUT", a.url(path), "no", "If-Match", "*")
		first := want(t, 204, "PUT", a.url(path), "one", "If-None-Match", "*")
		if first.header.Get("Dunlin-Precondition") != "checked, not atomic" {
			t.Errorf("a checked write: %v", first.header)
		}
		want(t, 412, "PUT", b.url(path), "no", "If-None-Match", "*")
		tag := want(t, 200, "GET", b.url(path), "").header.Get("ETag")
		want(t, 304, "GET", a.url(path), "", "If-None-Match", `"x", `+tag)
		want(t, 200, "GET", a.url(path), "", "If-None-Match", `"x"`)
		want(t, 412, "GET", a.url(path), "", "If-Match", `"x"`)
		want(t, 400, "GET", a.url(path), "", "If-Match", "unquoted")
		want(t, 204, "PUT", b.url(path), "two", "If-Match", tag)
		if no := want(t, 412, "DELETE", a.url(path), "", "If-Match", tag).problem(t); no.Outcome != "none" {
			t.Errorf("412: %+v", no)
		}
		if got := want(t, 200, "GET", a.url(path), ""); got.body != "two" {
			t.Errorf("after conditions %q", got.body)
		}
	}
}

func idempotency(t *testing.T, f *flock) {
	for i, a := range f.nodes {
		b := f.nodes[(i+1)%len(f.nodes)]
		path, key := fmt.Sprintf("/kv/idem/%d", i), fmt.Sprintf("write %d", i)
		put := func(status int, p *process, body string) answer {
			return want(t, status, "PUT", p.url(path), body, "Idempotency-Key", key)
		}
		put(204, a, "v")
		if again := put(204, b, "v"); again.header.Get("Dunlin-Siblings") != "" || again.header.Get("Dunlin-Repeated") != "true" {
			t.Errorf("sent again: %v", again.header)
		}
		put(422, b, "another")
		want(t, 422, "DELETE", b.url(path), "", "Idempotency-Key", key)
		seen := want(t, 200, "GET", b.url(path), "").context()
		want(t, 204, "PUT", b.url(path), "newer", "Dunlin-Context", seen)
		put(204, a, "v")
		if got := want(t, 200, "GET", a.url(path), ""); got.body != "newer" {
			t.Errorf("a retry brought back %q", got.body)
		}
		want(t, 204, "DELETE", a.url(path), "", "Idempotency-Key", key+" delete")
		put(204, b, "v")
		gone := want(t, 404, "GET", a.url(path), "")
		want(t, 204, "PUT", b.url(path), "newest", "Dunlin-Context", gone.context())
		want(t, 204, "DELETE", b.url(path), "", "Idempotency-Key", key+" delete")
		if got := want(t, 200, "GET", a.url(path), ""); got.body != "newest" {
			t.Errorf("a retried delete left %q", got.body)
		}
		first := want(t, 201, "POST", a.url("/kv/idem-post"), "v", "Idempotency-Key", key).header.Get("Location")
		if again := want(t, 201, "POST", b.url("/kv/idem-post"), "v", "Idempotency-Key", key).header.Get("Location"); again != first {
			t.Errorf("a repeated POST made %s and %s", first, again)
		}
		want(t, 422, "POST", b.url("/kv/idem-post"), "w", "Idempotency-Key", key)
	}
}

func parameters(t *testing.T, f *flock) {
	bad := map[string][]string{
		"w": {"0", "-1", "4", "+1", "1.0", "two", ""}, "W": {"0", "4", ""}, "dw": {"-1", "3", "x", ""},
		"pw": {"-1", "4", "x", ""}, "sloppy": {"maybe", "2", ""}, "timeout": {"0s", "-1s", "61s", "5", ""},
		"ttl": {"0s", "-1s", "5", ""}, "returnbody": {"maybe"}, "n": {"3"}, "unknown": {"1"}, "prefix": {"a"},
	}
	badRead := map[string][]string{
		"r": {"0", "-1", "4", "x", ""}, "R": {"0", "4"}, "pr": {"-1", "4", "x"}, "sloppy": {"x"}, "timeout": {"61s"},
		"w": {"1"}, "ttl": {"1s"}, "n": {"3"},
	}
	want(t, 204, "PUT", f.nodes[0].url("/kv/par/k?w=all"), "keep") // on all, since it is read with R=one, too
	for _, p := range f.nodes {
		refused := func(method, path, name, value string) {
			t.Helper()
			no := want(t, 400, method, p.url(path+"?"+name+"="+url.QueryEscape(value)), "no")
			if got := no.problem(t); !strings.EqualFold(got.Parameter, name) || got.Outcome == "indeterminate" {
				t.Errorf("%s=%q: %s", name, value, no.body)
			}
		}
		for name, values := range bad {
			for _, v := range values {
				refused("PUT", "/kv/par/k", name, v)
				refused("POST", "/kv/par", name, v)
			}
		}
		for name, values := range badRead {
			for _, v := range values {
				refused("GET", "/kv/par/k", name, v)
				refused("GET", "/kv/par", name, v)
			}
		}
		for _, twice := range []string{"w=1&w=1", "w=1&W=1", "timeout=1s&timeout=2s"} {
			want(t, 400, "PUT", p.url("/kv/par/k?"+twice), "no")
		}
		want(t, 400, "GET", p.url("/kv/par/k?r=1&R=1"), "")
		for _, good := range []string{"r=all&pr=3", "R=one", "sloppy=false&pr=2", "timeout=60s"} {
			want(t, 200, "GET", p.url("/kv/par/k?"+good), "")
			want(t, 200, "GET", p.url("/kv/par?"+good), "")
		}
		for _, good := range []string{"w=all&dw=3&pw=3", "W=one&dw=0", "sloppy=false", "ttl=24h&timeout=2s"} {
			want(t, 204, "PUT", p.url("/kv/par-good/"+p.name+"?"+good), "v")
			want(t, 204, "DELETE", p.url("/kv/par-good/"+p.name), "")
		}
		if got := want(t, 200, "GET", p.url("/kv/par"), ""); got.body != `{"keys":["k"]}`+"\n" {
			t.Errorf("refused writes left %s", got.body)
		}
	}
}

func expiry(t *testing.T, f *flock) {
	want(t, 200, "PUT", f.nodes[0].url("/buckets/ttl"), `{"ttl":"1s","conflict":"lww"}`)
	for i, p := range f.nodes {
		want(t, 204, "PUT", p.url(fmt.Sprintf("/kv/ttl/%d", i)), "of the bucket")
		want(t, 204, "PUT", p.url(fmt.Sprintf("/kv/ttl/keep%d?ttl=none", i)), "v")
		want(t, 204, "PUT", p.url(fmt.Sprintf("/kv/ttl-one/%d?ttl=1s", i)), "v")
		want(t, 204, "PUT", p.url(fmt.Sprintf("/kv/ttl-one/%d", i)), "beside it")
	}
	for i, p := range f.nodes {
		var gone answer
		until(t, 20*time.Second, "expired", func() error {
			if gone = send(t, "GET", p.url(fmt.Sprintf("/kv/ttl/%d", i)), ""); gone.status != 404 {
				return fmt.Errorf("%d", gone.status)
			}
			return nil
		})
		if gone.context() == "" {
			t.Errorf("expired: %v", gone.header)
		}
		until(t, 20*time.Second, "left out of the listing", func() error {
			if got := want(t, 200, "GET", p.url("/kv/ttl"), "").body; got != `{"keys":["keep0","keep1","keep2","keep3","keep4"]}`+"\n" {
				return fmt.Errorf("%s", got)
			}
			return nil
		})
		until(t, 20*time.Second, "alone", func() error {
			got := send(t, "GET", p.url(fmt.Sprintf("/kv/ttl-one/%d", i)), "")
			if got.status != 200 || got.body != "beside it" || got.header.Get("Dunlin-Siblings") != "" {
				return fmt.Errorf("%d %v %s", got.status, got.header, got.body)
			}
			return nil
		})
	}
}
