package api

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// raw sends a request as it is written and returns the status.
func raw(t *testing.T, addr, request string) *http.Response {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte(request)); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("%q: %v", request, err)
	}
	res.Body.Close()
	return res
}

func TestKeysOverTheWire(t *testing.T) {
	w := newWorld(t, Options{})
	srv := httptest.NewServer(w.handler)
	defer srv.Close()
	addr := srv.Listener.Addr().String()
	long := strings.Repeat("x", MaxKey)
	for path, key := range map[string]string{
		"a/b": "a/b", "a%2Fb": "a/b", "a%2fb": "a/b", "a//b": "a//b", "a/../b": "a/../b", "..": "..", "a/./b": "a/./b", "/": "/",
		"%00": "\x00", "a%0Ab": "a\nb", "%0d%0a": "\r\n", "%ff%fe": "\xff\xfe", "a+b": "a+b", "a%2Bb": "a+b", "%25": "%", "%2525": "%25",
		"a%3Fb": "a?b", "a%23b": "a#b", "a%20b": "a b", "%E2%98%83": "☃", "a;b=c": "a;b=c", "k/": "k/", "a:b@c": "a:b@c", "'()*!,": "'()*!,",
		long: long, strings.Repeat("%41", MaxKey): strings.Repeat("A", MaxKey),
	} {
		res := raw(t, addr, "PUT /kv/b/"+path+" HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nv")
		if res.StatusCode != http.StatusNoContent {
			t.Errorf("PUT %.40s: %d", path, res.StatusCode)
			continue
		}
		if got := w.kv.lastPut(); got.Key != key || got.Bucket != "b" {
			t.Errorf("PUT %.40s: key %q, want %q", path, got.Key, key)
		}
	}
	before := w.kv.written()
	for _, path := range []string{
		"/kv/b/", "/kv/b/" + long + "x", "/kv/b/%", "/kv/b/%zz", "/kv/b/%4", "/kv//k", "/kv/b%20c/k", "/kv/b%2Fc/k", "/kv/%C3%A4/k",
		"/kv/" + strings.Repeat("b", 129) + "/k", "/kv/b:c/k",
	} {
		if res := raw(t, addr, "PUT "+path+" HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nv"); res.StatusCode != http.StatusBadRequest {
			t.Errorf("PUT %.40s: %d, want 400", path, res.StatusCode)
		}
	}
	for _, path := range []string{"/", "/kv", "//kv/b/k", "/kv/../kv/b/k", "/nope", "/KV/b/k", "/buckets/", "/cluster/nothing"} {
		res := raw(t, addr, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n")
		want := http.StatusNotFound
		if path == "/buckets/" {
			want = http.StatusBadRequest // a bucket without a name
		}
		if res.StatusCode != want || res.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("GET %s: %d as %s, want %d", path, res.StatusCode, res.Header.Get("Content-Type"), want)
		}
	}
	if w.kv.written() != before {
		t.Error("a bad path changed something")
	}
	w.put("/kv/"+strings.Repeat("b", 128)+"/k", "v")
	w.put("/kv/A-Z.a_z0/k", "v")
	w.want(204, "PUT", "/kv/%62/k", "v")
	if got := w.kv.lastPut().Bucket; got != "b" {
		t.Errorf("bucket %q", got)
	}
}

func TestMethods(t *testing.T) {
	w := newWorld(t, Options{})
	for target, allow := range map[string]string{
		"/kv/b/k": "DELETE, GET, HEAD, PUT", "/kv/b": "GET, HEAD, POST", "/batch": "POST", "/buckets": "GET, HEAD",
		"/buckets/b": "GET, HEAD, PUT", "/livez": "GET, HEAD", "/metrics": "GET, HEAD", "/cluster/ring/b/k": "GET, HEAD",
	} {
		for _, method := range []string{"PATCH", "OPTIONS", "TRACE", "FROB"} {
			res := w.want(405, method, target, "")
			if got := res.Header().Get("Allow"); got != allow {
				t.Errorf("%s %s: Allow %q, want %q", method, target, got, allow)
			}
			problemOf(t, res)
		}
	}
	w.want(404, "FROB", "/none", "")
}

func TestKeyLengths(t *testing.T) {
	w := newWorld(t, Options{})
	for n, want := range map[int]int{1: 204, 1024: 204, 1025: 400} {
		w.want(want, "PUT", "/kv/b/"+strings.Repeat("k", n), "v")
		w.want(map[int]int{204: 200, 400: 400}[want], "GET", fmt.Sprintf("/kv/b/%s", strings.Repeat("k", n)), "")
	}
}
