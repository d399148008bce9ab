package api

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/coordinator"
	"github.com/dunlindb/dunlin/internal/buckets"
)

func TestBadParameters(t *testing.T) {
	w := newWorld(t, Options{})
	w.put("/kv/b/k", "v")
	before := w.kv.written()
	put := []string{
		"w=0", "w=4", "w=-1", "w=+1", "w=1.5", "w=", "w=two", "w=99999999999999999999", "W=0", "w=0x1", "w=%201",
		"dw=-1", "dw=3", "dw=4", "dw=one", "w=1&dw=2", "pw=4", "pw=-1", "pw=one", "r=0", "r=4",
		"sloppy=yes", "sloppy=", "timeout=0", "timeout=0s", "timeout=-1s", "timeout=61s", "timeout=5", "timeout=1h", "timeout=1us",
		"ttl=0", "ttl=0s", "ttl=-1s", "ttl=1", "ttl=87601h", "ttl=x", "returnbody=2", "trace=2",
		"n=3", "N=3", "nope=1", "=1", "Sloppy=true", "pr=1", "limit=1",
		"w=1&w=1", "w=1&W=1", "sloppy=true&sloppy=true", "timeout=1s&timeout=2s", "w=1;r=1", "w=%zz",
	}
	get := []string{"r=0", "r=4", "R=0", "pr=4", "pr=-1", "r=1&R=1", "w=1", "dw=1", "ttl=1s", "returnbody=true", "x", "timeout=2m", "r=1&r=2"}
	for method, list := range map[string][]string{"PUT": put, "GET": get, "HEAD": get} {
		for _, q := range list {
			rec := w.want(400, method, "/kv/b/k?"+q, "")
			name, _, _ := strings.Cut(q, "=")
			if p := problemOf(t, rec); p.Parameter == "" && !strings.ContainsAny(q, ";%") && name != "" {
				t.Errorf("%s ?%s: the answer names no parameter: %+v", method, q, p)
			}
		}
	}
	for _, q := range []string{"w=0", "nope=1", "ttl=-1s"} {
		w.want(400, "POST", "/kv/b?"+q, "v")
		w.want(400, "POST", "/batch?"+q, `{"op":"put","bucket":"b","key":"k","value":"v"}`)
	}
	w.want(400, "DELETE", "/kv/b/k?ttl=1s", "")
	if w.kv.written() != before {
		t.Error("a request with a bad parameter changed something")
	}
}

func TestNamesTheParameter(t *testing.T) {
	w := newWorld(t, Options{})
	for q, want := range map[string]string{"w=9": "w", "W=9": "w", "w=1&W=1": "w", "dw=9": "dw", "frob=1": "frob", "timeout=x": "timeout"} {
		if p := problemOf(t, w.want(400, "PUT", "/kv/b/k?"+q, "v")); p.Parameter != want || p.Outcome != "none" || !strings.Contains(p.Detail, want) {
			t.Errorf("?%s: %+v, want parameter %s", q, p, want)
		}
	}
}

func TestTraceIsOfOneKey(t *testing.T) {
	w := newWorld(t, Options{})
	for _, path := range []string{"/kv/b?trace=1", "/kv/b?trace=true&limit=2"} {
		if p := problemOf(t, w.want(501, "GET", path, "")); p.Parameter != "trace" {
			t.Errorf("%s: %+v", path, p)
		}
	}
	w.want(204, "PUT", "/kv/b/k?trace=0", "v")
	if w.kv.written() != 1 {
		t.Errorf("%d writes, want 1", w.kv.written())
	}
}

func TestQuorums(t *testing.T) {
	const quorum, all, asW = coordinator.Quorum, coordinator.All, coordinator.AsW
	for _, c := range []struct {
		query, bucket string
		opt           Options
		w, dw, pw     int
		sloppy        bool
	}{
		{"", "", Options{}, quorum, asW, 0, true},
		{"w=1", "", Options{}, 1, asW, 0, true},
		{"W=all", "", Options{}, all, asW, 0, true},
		{"w=ONE", "", Options{}, 1, asW, 0, true},
		{"w=quorum&dw=1&pw=3&sloppy=false", "", Options{}, quorum, 1, 3, false},
		{"w=3&dw=0&sloppy=1", "", Options{}, 3, 0, 0, true},
		{"", "all", Options{}, all, asW, 0, true},
		{"w=1", "all", Options{}, 1, asW, 0, true},
		{"", "", Options{W: "1"}, 1, asW, 0, true},
		{"", "2", Options{W: "1"}, 2, asW, 0, true},
		{"", "", Options{Durability: OS}, quorum, 0, 0, true},
		{"dw=0", "", Options{Durability: OS}, quorum, 0, 0, true},
	} {
		w := newWorld(t, c.opt)
		if c.bucket != "" {
			w.want(200, "PUT", "/buckets/b", `{"w":"`+c.bucket+`"}`)
		}
		w.put("/kv/b/k?"+c.query, "v")
		if got := w.kv.lastPut(); got.W != c.w || got.DW != c.dw || got.PW != c.pw || got.Sloppy != c.sloppy || got.R != quorum {
			t.Errorf("?%s with bucket %q and %+v: w=%d dw=%d pw=%d sloppy=%v r=%d", c.query, c.bucket, c.opt, got.W, got.DW, got.PW, got.Sloppy, got.R)
		}
	}
	w := newWorld(t, Options{R: "one"})
	for q, want := range map[string][2]int{"": {1, 0}, "R=3&pr=2": {3, 2}, "r=all": {all, 0}} {
		w.want(404, "GET", "/kv/b/k?"+q, "")
		if got := w.kv.gets[len(w.kv.gets)-1]; got.R != want[0] || got.PR != want[1] {
			t.Errorf("?%s: r=%d pr=%d, want %v", q, got.R, got.PR, want)
		}
	}
}

// A quorum that nobody asked for but a bucket or the node, and that cannot be met, is not the client's fault.
func TestConfiguredQuorumOutOfReach(t *testing.T) {
	w := newWorld(t, Options{W: "5"})
	if p := problemOf(t, w.want(503, "PUT", "/kv/b/k", "v")); p.Parameter != "w" || p.Outcome != "none" {
		t.Errorf("problem %+v", p)
	}
	w.put("/kv/b/k?w=2", "v")
}

func TestDurabilityOS(t *testing.T) {
	w := newWorld(t, Options{Durability: OS})
	if p := problemOf(t, w.want(400, "PUT", "/kv/b/k?dw=1", "v")); p.Parameter != "dw" || !strings.Contains(p.Detail, "durability") {
		t.Errorf("problem %+v", p)
	}
	w.want(400, "POST", "/batch?dw=1", "")
}

func TestOptions(t *testing.T) {
	for name, opt := range map[string]Options{
		"R": {R: "many"}, "W": {W: "0"}, "Durability": {Durability: "paper"},
		"DefaultTimeout": {DefaultTimeout: MaxTimeout + 1}, "negative": {MaxValue: -1},
	} {
		if _, err := New(Deps{}, opt); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := New(Deps{}, Options{}); err == nil {
		t.Error("New without dependencies")
	}
}

// FuzzQuery: whatever is accepted is within the bounds that everything behind relies on.
func FuzzQuery(f *testing.F) {
	for _, s := range []string{"w=2&dw=1&pw=0", "R=all&pr=3", "ttl=1h&timeout=5s", "w=1&W=1", "a=%zz", "ttl=none&sloppy=0", ";", "w=18446744073709551617"} {
		f.Add(s)
	}
	a := &api{opt: Options{}.withDefaults()}
	f.Fuzz(func(t *testing.T, raw string) {
		q, p := parseQuery(raw, batchParams)
		if p != nil {
			if p.Status < 400 || p.Detail == "" {
				t.Fatalf("problem %+v", p)
			}
			return
		}
		if given, _ := url.ParseQuery(raw); len(given) != len(q) {
			t.Fatalf("%q: %d parameters, of which %d were read", raw, len(given), len(q))
		}
		if c, p := a.writing(q, buckets.Properties{}, replicas{3, 3}); p == nil {
			if c.w.k < 1 || c.w.k > 3 || c.dw < 0 && c.dw != coordinator.AsW || c.dw > c.w.k || c.pw < 0 || c.pw > 3 || c.timeout <= 0 || c.timeout > MaxTimeout || c.ttl < 0 || c.ttl > buckets.MaxTTL {
				t.Fatalf("%q gave %+v", raw, c)
			}
		}
		if c, p := a.reading(q, buckets.Properties{}, replicas{3, 3}); p == nil {
			if c.r.k < 1 || c.r.k > 3 || c.pr < 0 || c.pr > 3 || c.timeout < time.Millisecond || c.timeout > MaxTimeout {
				t.Fatalf("%q gave %+v", raw, c)
			}
		}
	})
}

// FuzzPath: a path is refused, or names exactly the bucket and key that it says.
func FuzzPath(f *testing.F) {
	for _, s := range []string{"/kv/b/k", "/kv/b/a%2Fb", "/kv/b/a/../b", "/kv/b/%00", "/kv/b/%0A", "/kv/b//", "/kv/%62/k", "//kv/b/k", "/kv/b/%ff", "/kv/b/%zz", "/kv/b/a+b?r=1"} {
		f.Add(s)
	}
	w := newWorld(f, Options{})
	f.Fuzz(func(t *testing.T, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil || u.Host != "" || u.Opaque != "" || u.RawQuery != "" || u.ForceQuery {
			return
		}
		before := len(w.kv.gets)
		r := &http.Request{Method: http.MethodGet, URL: u, RequestURI: target, Header: http.Header{}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Body: http.NoBody}
		rec := httptest.NewRecorder()
		w.handler.ServeHTTP(rec, r)
		rest, kv := strings.CutPrefix(u.Path, "/kv/")
		bucket, key, slash := strings.Cut(rest, "/")
		good := kv && slash && buckets.CheckName(bucket) == nil && len(key) >= 1 && len(key) <= MaxKey
		// An escaped slash does not end the bucket.
		if bucketRaw, _, _ := strings.Cut(strings.TrimPrefix(u.EscapedPath(), "/kv/"), "/"); strings.Contains(strings.ToLower(bucketRaw), "%2f") {
			good = false
		}
		asked := len(w.kv.gets) > before
		if asked != good {
			t.Fatalf("%q: asked the store %v, want %v; %d", target, asked, good, rec.Code)
		}
		if got := w.kv.gets[len(w.kv.gets)-1:]; asked && (got[0].Bucket != bucket || got[0].Key != key) {
			t.Fatalf("%q: bucket %q, key %q", target, got[0].Bucket, got[0].Key)
		}
		if rec.Code >= 500 {
			t.Fatalf("%q: %d", target, rec.Code)
		}
	})
}
