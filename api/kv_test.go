package api

import (
	"encoding/json"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/vclock"
)

func TestPutGetDelete(t *testing.T) {
	w := newWorld(t, Options{})
	res := w.want(204, "PUT", "/kv/b/k", "hello", "Content-Type", "text/x-greeting")
	first := res.Header().Get(headerContext)
	if first == "" || res.Body.Len() != 0 {
		t.Errorf("PUT: context %q, body %q", first, res.Body)
	}
	if got := res.Header().Get(headerNode); got != "n2" {
		t.Errorf("Dunlin-Node %q, want the coordinator n2", got)
	}
	if got := res.Header().Get(headerAcks); got != "2/3" {
		t.Errorf("Dunlin-Acks %q", got)
	}
	res = w.want(200, "GET", "/kv/b/k", "")
	h := res.Header()
	if res.Body.String() != "hello" || h.Get("Content-Type") != "text/x-greeting" {
		t.Errorf("GET: %q as %q", res.Body, h.Get("Content-Type"))
	}
	if h.Get(headerContext) != first || h.Get("ETag") == "" || h.Get("Last-Modified") != "Wed, 02 Jan 2030 03:04:05 GMT" ||
		h.Get(headerNode) != "n1" || h.Get(headerAcks) != "2/3" || h.Get("X-Content-Type-Options") != "nosniff" ||
		h.Get(headerDot) == "" || h.Get(headerSiblings) != "" || h.Get("Content-Length") != "5" {
		t.Errorf("GET: headers %v", h)
	}
	w.want(204, "DELETE", "/kv/b/k", "", headerContext, first)
	res = w.want(404, "GET", "/kv/b/k", "")
	if res.Header().Get(headerContext) == "" {
		t.Error("a deleted key is answered without a context")
	}
	res = w.want(404, "GET", "/kv/b/never", "")
	if res.Header().Get(headerContext) != "" {
		t.Error("a key that never was is answered with a context")
	}
	w.want(204, "DELETE", "/kv/b/never", "")
}

func TestSiblings(t *testing.T) {
	w := newWorld(t, Options{})
	w.put("/kv/b/k", "one", "Content-Type", "text/a")
	res := w.want(204, "PUT", "/kv/b/k", "\xfftwo", "Content-Type", "text/b")
	if got := res.Header().Get(headerSiblings); got != "2" {
		t.Errorf("PUT beside another: Dunlin-Siblings %q", got)
	}
	res = w.want(300, "GET", "/kv/b/k", "")
	if got := res.Header().Get(headerSiblings); got != "2" {
		t.Errorf("GET: Dunlin-Siblings %q", got)
	}
	if got := readParts(t, res); got["text/a"] != "one" || got["text/b"] != "\xfftwo" || len(got) != 2 {
		t.Errorf("parts %q", got)
	}
	var doc struct {
		Context  string
		Siblings []struct {
			Dot, Value, Encoding, Modified string
			ContentType                    string `json:"content_type"`
			Deleted                        *bool
		}
	}
	asJSON := w.want(300, "GET", "/kv/b/k", "", "Accept", "text/html, application/json;q=0.5")
	if err := json.Unmarshal(asJSON.Body.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	if len(doc.Siblings) != 2 || doc.Context != res.Header().Get(headerContext) {
		t.Fatalf("JSON %s", asJSON.Body)
	}
	a, b := doc.Siblings[0], doc.Siblings[1]
	if a.Value != "one" || a.Encoding != "utf-8" || a.ContentType != "text/a" || a.Deleted == nil || *a.Deleted || a.Dot == "" {
		t.Errorf("sibling %+v", a)
	}
	if b.Value != "/3R3bw==" || b.Encoding != "base64" || b.Modified != "2030-01-02T03:04:05Z" {
		t.Errorf("sibling %+v", b)
	}
	if asJSON.Header().Get("ETag") == res.Header().Get("ETag") {
		t.Error("two representations with one strong ETag")
	}
	if got := w.want(300, "GET", "/kv/b/k", "", "Accept", "application/json;q=0"); !strings.HasPrefix(got.Header().Get("Content-Type"), "multipart/") {
		t.Errorf("JSON was refused, and came as %s", got.Header().Get("Content-Type"))
	}
	w.put("/kv/b/k", "both", headerContext, doc.Context)
	if got := w.want(200, "GET", "/kv/b/k", ""); got.Body.String() != "both" || got.Header().Get(headerSiblings) != "" {
		t.Errorf("after reconciling: %q, siblings %q", got.Body, got.Header().Get(headerSiblings))
	}
}

// readParts returns the parts' values by content type.
func readParts(t *testing.T, res *httptest.ResponseRecorder) map[string]string {
	t.Helper()
	_, params, err := mime.ParseMediaType(res.Header().Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for parts := multipart.NewReader(res.Body, params["boundary"]); ; {
		part, err := parts.NextRawPart()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		value, err := io.ReadAll(part)
		if err != nil {
			t.Fatal(err)
		}
		if part.Header.Get(headerDot) == "" || part.Header.Get("Last-Modified") == "" {
			t.Errorf("part without dot or date: %v", part.Header)
		}
		out[part.Header.Get("Content-Type")+part.Header.Get(headerDeleted)] = string(value)
	}
}

func TestTombstoneBesideValues(t *testing.T) {
	w := newWorld(t, Options{})
	old := w.put("/kv/b/k", "old")
	w.put("/kv/b/k", "survivor", "Content-Type", "text/s")
	w.want(204, "DELETE", "/kv/b/k", "", headerContext, old)
	if got := w.want(200, "GET", "/kv/b/k", ""); got.Body.String() != "survivor" {
		t.Errorf("one value beside a tombstone: %q", got.Body)
	}
	w.put("/kv/b/k", "third", "Content-Type", "text/t")
	res := w.want(300, "GET", "/kv/b/k", "")
	if res.Header().Get(headerSiblings) != "2" {
		t.Errorf("Dunlin-Siblings %q counts more than live ones", res.Header().Get(headerSiblings))
	}
	if got := readParts(t, res); len(got) != 3 || got["true"] != "" || got["text/s"] != "survivor" {
		t.Errorf("parts %q", got)
	}
}

// A value that contains what would be the boundary must not end its part.
func TestBoundaryInAValue(t *testing.T) {
	s := shown{etag: "abc"}
	for _, v := range []string{"x\r\n--dunlin-abc--", "dunlin-abc-0"} {
		s.Live = append(s.Live, vclock.Sibling{Value: []byte(v)})
	}
	if got := s.boundary(); got != "dunlin-abc-1" {
		t.Errorf("boundary %q", got)
	}
}

func TestHead(t *testing.T) {
	w := newWorld(t, Options{})
	w.put("/kv/b/k", "hello")
	srv := httptest.NewServer(w.handler)
	defer srv.Close()
	for path, want := range map[string]int{"/kv/b/k": 200, "/kv/b/none": 404, "/kv/b": 200, "/livez": 200} {
		res, err := http.Head(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != want || len(body) != 0 || res.ContentLength <= 0 {
			t.Errorf("HEAD %s: %d with %d bytes, length %d; want %d", path, res.StatusCode, len(body), res.ContentLength, want)
		}
	}
}

func TestPost(t *testing.T) {
	w := newWorld(t, Options{})
	first := w.want(201, "POST", "/kv/b", "v").Header().Get("Location")
	second := w.want(201, "POST", "/kv/b", "v").Header().Get("Location")
	if !strings.HasPrefix(first, "/kv/b/") || first >= second {
		t.Errorf("locations %q, %q are not in the order of time", first, second)
	}
	if got := w.want(200, "GET", first, ""); got.Body.String() != "v" {
		t.Errorf("GET %s: %q", first, got.Body)
	}
	if got := w.want(201, "POST", "/kv/b?returnbody=true", "v"); got.Body.String() != "v" {
		t.Errorf("returnbody: %q", got.Body)
	}
	w.want(400, "POST", "/kv/b", "v", headerContext, "x")
	w.want(405, "POST", "/kv/b/k", "v")
}

func TestReturnBody(t *testing.T) {
	w := newWorld(t, Options{})
	if got := w.want(200, "PUT", "/kv/b/k?returnbody=true", "v", "Content-Type", "a/b"); got.Body.String() != "v" || got.Header().Get("Content-Type") != "a/b" {
		t.Errorf("%q as %q", got.Body, got.Header().Get("Content-Type"))
	}
	w.want(300, "PUT", "/kv/b/k?returnbody=true", "w")
	w.want(400, "DELETE", "/kv/b/k?returnbody=true", "")
}

func TestContentTypes(t *testing.T) {
	w := newWorld(t, Options{})
	for _, c := range []struct{ given, body, want string }{
		{"application/x-www-form-urlencoded", "a=1&b=%20", plainText},
		{"application/x-www-form-urlencoded; charset=x", "\xff\xfe", anyBytes},
		{"", "text", plainText},
		{"", "\xff", anyBytes},
		{"", "", plainText},
		{"application/json", "no json", "application/json"},
		{"image/png", "\x89PNG", "image/png"},
	} {
		ctx := w.do("GET", "/kv/b/k", "").Header().Get(headerContext)
		headers := []string{"Content-Type", c.given}
		if ctx != "" {
			headers = append(headers, headerContext, ctx)
		}
		if c.given == "" {
			headers = headers[2:]
		}
		w.put("/kv/b/k", c.body, headers...)
		if got := w.want(200, "GET", "/kv/b/k", ""); got.Header().Get("Content-Type") != c.want || got.Body.String() != c.body {
			t.Errorf("%q given as %q: came back %q as %q", c.body, c.given, got.Body, got.Header().Get("Content-Type"))
		}
	}
	w.want(400, "PUT", "/kv/b/k", "v", "Content-Type", strings.Repeat("x", 1025))
	w.want(400, "PUT", "/kv/b/k", "v", "Content-Type", "text/\xc3\xa4")
	w.want(400, "PUT", "/kv/b/k", "v", "Content-Type", "text/a", "Content-Type", "text/b")
}

func TestContexts(t *testing.T) {
	w := newWorld(t, Options{})
	mine := w.put("/kv/b/k", "v")
	foreign := w.put("/kv/b/other", "v")
	elsewhere := vclock.Context{}.Token(vclock.Scope{Cluster: [16]byte{8}, Bucket: "b", Key: "k"})
	before := w.kv.written()
	for name, bad := range map[string]string{
		"garbage": "garbage!", "empty": "", "cut": mine[:len(mine)-3], "flipped": "B" + mine[1:],
		"other key": foreign, "other cluster": elsewhere, "long": strings.Repeat("A", vclock.MaxToken+1),
	} {
		for _, method := range []string{"PUT", "DELETE"} {
			p := problemOf(t, w.want(400, method, "/kv/b/k", "", headerContext, bad))
			if p.Parameter != headerContext || p.Outcome != "none" {
				t.Errorf("%s: problem %+v", name, p)
			}
			if other := strings.Contains(name, "other"); other != strings.Contains(p.Detail, "another key or cluster") {
				t.Errorf("%s: detail %q", name, p.Detail)
			}
		}
	}
	w.want(400, "PUT", "/kv/b/k", "", headerContext, mine, headerContext, mine)
	if w.kv.written() != before {
		t.Error("a write with a bad context was done")
	}
}

func problemOf(t testing.TB, res *httptest.ResponseRecorder) problem {
	t.Helper()
	if got := res.Header().Get("Content-Type"); got != "application/problem+json" {
		t.Fatalf("%d came as %q: %s", res.Code, got, res.Body)
	}
	var p problem
	if err := json.Unmarshal(res.Body.Bytes(), &p); err != nil {
		t.Fatal(err)
	}
	if p.Status != res.Code || p.Type == "" || p.Title == "" {
		t.Fatalf("problem of %d: %s", res.Code, res.Body)
	}
	return p
}

func TestExpiry(t *testing.T) {
	w := newWorld(t, Options{})
	w.put("/kv/b/k?ttl=30s", "v")
	if got, want := w.kv.lastPut().Write.Expiry, w.clock.Add(30*time.Second).UnixMilli(); got != want {
		t.Errorf("expiry %d, want the absolute %d", got, want)
	}
	w.want(200, "GET", "/kv/b/k", "")
	w.clock = w.clock.Add(31 * time.Second)
	if w.want(404, "GET", "/kv/b/k", "").Header().Get(headerContext) == "" {
		t.Error("an expired key is answered without a context")
	}
	w.want(200, "PUT", "/buckets/b", `{"ttl":"1h"}`)
	w.put("/kv/b/from-bucket", "v")
	if got, want := w.kv.lastPut().Write.Expiry, w.clock.Add(time.Hour).UnixMilli(); got != want {
		t.Errorf("expiry %d, want the bucket's %d", got, want)
	}
	w.put("/kv/b/for-ever?ttl=none", "v")
	if got := w.kv.lastPut().Write.Expiry; got != 0 {
		t.Errorf("expiry %d, want none", got)
	}
	w.want(204, "DELETE", "/kv/b/k", "")
	if got := w.kv.lastPut().Write.Expiry; got != 0 {
		t.Errorf("a tombstone that expires at %d would bring back what it deleted", got)
	}
}

func TestLastWriteWins(t *testing.T) {
	w := newWorld(t, Options{})
	w.put("/kv/b/k", "one")
	w.put("/kv/b/k", "two")
	w.want(300, "GET", "/kv/b/k", "")
	w.want(200, "PUT", "/buckets/b", `{"conflict":"lww"}`)
	if got := w.want(200, "GET", "/kv/b/k", ""); got.Body.String() != "two" {
		t.Errorf("lww shows %q", got.Body)
	}
	w.put("/kv/b/k", "three")
	if !w.kv.lastPut().Write.LastWriteWins {
		t.Error("the policy did not reach the write")
	}
}

func TestIdempotency(t *testing.T) {
	w := newWorld(t, Options{})
	const key = headerIdempotency
	w.put("/kv/b/k", "v", key, "one")
	res := w.want(204, "PUT", "/kv/b/k", "v", key, "one")
	if res.Header().Get(headerRepeated) != "true" || res.Header().Get(headerSiblings) != "" {
		t.Errorf("repeated: headers %v", res.Header())
	}
	p := problemOf(t, w.want(422, "PUT", "/kv/b/k", "another", key, "one"))
	if p.Outcome != "none" || p.Retryable {
		t.Errorf("problem %+v", p)
	}
	w.want(422, "DELETE", "/kv/b/k", "", key, "one")
	first := w.want(201, "POST", "/kv/b", "v", key, "two").Header().Get("Location")
	again := w.want(201, "POST", "/kv/b", "v", key, "two").Header().Get("Location")
	if first != again {
		t.Errorf("a repeated POST made %s and %s", first, again)
	}
	w.want(422, "POST", "/kv/b", "w", key, "two")
	if other := w.want(201, "POST", "/kv/c", "v", key, "two").Header().Get("Location"); other == first {
		t.Error("two buckets share a derived key")
	}
	before := w.kv.written()
	for _, bad := range []string{"", strings.Repeat("x", 256), "a\x7f", "ä", "\x01"} {
		w.want(400, "PUT", "/kv/b/k", "v", key, bad)
	}
	w.want(400, "PUT", "/kv/b/k", "v", key, "a", key, "b")
	if w.kv.written() != before {
		t.Error("a write with a bad Idempotency-Key was done")
	}
	w.put("/kv/b/free", "v")
	one := w.kv.lastPut().Write.ID
	w.put("/kv/b/free", "v")
	if two := w.kv.lastPut().Write.ID; one.Client || two.Client || one == two {
		t.Errorf("ids made here: %v, %v", one, two)
	}
}
