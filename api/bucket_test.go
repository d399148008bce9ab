package api

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/dunlindb/dunlin/coordinator"
	"github.com/dunlindb/dunlin/internal/buckets"
	"github.com/dunlindb/dunlin/ring"
)

func bucketDoc(t *testing.T, res *httptest.ResponseRecorder) (p propertiesJSON) {
	t.Helper()
	if err := json.Unmarshal(res.Body.Bytes(), &p); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestBucketProperties(t *testing.T) {
	w := newWorld(t, Options{W: "all"})
	p := bucketDoc(t, w.want(200, "GET", "/buckets/b", ""))
	if p.Bucket != "b" || p.N != 3 || p.R != "quorum" || p.W != "all" || p.Conflict != "siblings" || p.TTL != nil {
		t.Errorf("nothing set: %+v", p)
	}
	res := w.want(200, "PUT", "/buckets/b", `{"r":1,"w":"one","conflict":"lww","ttl":"24h","n":3}`)
	for _, res := range []*httptest.ResponseRecorder{res, w.want(200, "GET", "/buckets/b", "")} {
		if p := bucketDoc(t, res); p.R != "1" || p.W != "one" || p.Conflict != "lww" || p.TTL == nil || *p.TTL != "24h0m0s" {
			t.Errorf("set: %s", res.Body)
		}
	}
	// What GET shows can be sent back; what is not named stays; null is the default again.
	w.want(200, "PUT", "/buckets/b", w.do("GET", "/buckets/b", "").Body.String())
	if p := bucketDoc(t, w.want(200, "PUT", "/buckets/b", `{"w":null,"ttl":null}`)); p.R != "1" || p.W != "all" || p.Conflict != "lww" || p.TTL != nil {
		t.Errorf("partly reset: %+v", p)
	}
	if got := w.buckets.Get("b"); got.W != "" {
		t.Errorf("a property set to null is %q", got.W)
	}
	var list struct{ Buckets []propertiesJSON }
	if err := json.Unmarshal(w.want(200, "GET", "/buckets", "").Body.Bytes(), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Buckets) != 2 || list.Buckets[0].Bucket != "b" || list.Buckets[1].Bucket != "held" {
		t.Errorf("buckets %+v", list)
	}
}

func TestBucketPropertiesRefused(t *testing.T) {
	w := newWorld(t, Options{})
	for body, parameter := range map[string]string{
		`{"r":0}`: "r", `{"r":4}`: "r", `{"w":"many"}`: "w", `{"w":1.5}`: "w", `{"w":true}`: "w", `{"r":"-1"}`: "r",
		`{"conflict":"newest"}`: "conflict", `{"conflict":1}`: "conflict", `{"ttl":"soon"}`: "ttl", `{"ttl":5}`: "ttl", `{"ttl":"-1s"}`: "ttl", `{"ttl":"99999999h"}`: "ttl",
		`{"N":3}`: "N", `{"x":1}`: "x", `{"r":1,"r":2}`: "r", `{"bucket":"c"}`: "bucket", `{"n":"3"}`: "n",
		``: "", `[]`: "", `{"r":1}x`: "", `{"r":`: "", `null`: "", `5`: "", `{"r":1`: "",
	} {
		if p := problemOf(t, w.want(400, "PUT", "/buckets/b", body)); p.Parameter != parameter || p.Outcome != "none" {
			t.Errorf("%s: %+v", body, p)
		}
	}
	w.want(413, "PUT", "/buckets/b", `{"r":"`+strings.Repeat("x", maxProperties)+`"}`)
	w.want(415, "PUT", "/buckets/b", `{}`, "Content-Type", "text/xml")
	w.want(400, "PUT", "/buckets/b?w=1", `{}`)
	w.want(400, "GET", "/buckets/b?x=1", "")
	w.want(400, "GET", "/buckets/a%20b", "")
	w.want(400, "PUT", "/buckets/"+strings.Repeat("b", 129), `{}`)
	if len(w.buckets.Names()) != 0 {
		t.Errorf("refused, and yet set: %v", w.buckets.Names())
	}
	w.store.err = errBroken
	if p := problemOf(t, w.want(500, "PUT", "/buckets/b", `{"r":1}`)); p.Outcome != "indeterminate" {
		t.Errorf("%+v", p)
	}
	w.store.err = fmt.Errorf("store it: %w", coordinator.ErrFull)
	if p := problemOf(t, w.want(507, "PUT", "/buckets/b", `{"r":1}`)); p.Outcome != "indeterminate" || !strings.HasSuffix(p.Type, ":disk-full") {
		t.Errorf("full: %+v", p)
	}
	a := &api{}
	if p := a.bucketFailure(buckets.ErrTooMany); p.Status != 409 {
		t.Errorf("too many: %+v", p)
	}
}

func TestBucketMissesAMember(t *testing.T) {
	w := newWorld(t, Options{})
	w.peers.deaf[thirdID] = true
	res := w.want(202, "PUT", "/buckets/b", `{"r":1}`)
	if p := bucketDoc(t, res); len(p.Missing) != 1 || p.Missing[0] != "n3" || res.Header().Get(headerMissing) != "n3" {
		t.Errorf("202: %s", res.Body)
	}
}

// Another n is decided before anything else of the request, and only if r and w fit it.
func TestBucketN(t *testing.T) {
	w := newWorld(t, Options{})
	for body, parameter := range map[string]string{
		`{"n":0}`: "n", `{"n":16}`: "n", `{"n":-1}`: "n", `{"n":1.5}`: "n", `{"n":"2"}`: "n", `{"n":2,"w":3}`: "w", `{"n":5,"r":6}`: "r",
	} {
		if p := problemOf(t, w.want(400, "PUT", "/buckets/b", body)); p.Parameter != parameter || p.Outcome != "none" {
			t.Errorf("%s: %+v", body, p)
		}
	}
	w.want(200, "PUT", "/buckets/b", `{"w":3}`)
	if p := problemOf(t, w.want(400, "PUT", "/buckets/b", `{"n":2}`)); p.Parameter != "n" || !strings.Contains(p.Detail, "w=3") {
		t.Errorf("n below the bucket's w: %+v", p)
	}
	w.want(200, "PUT", "/buckets/b", `{"n":3}`)
	w.want(200, "PUT", "/buckets/b", `{"n":null}`)
	if len(w.membership.applied) > 0 {
		t.Fatalf("refused, or as it is, and yet decided: %+v", w.membership.applied)
	}
	for _, x := range []struct {
		body string
		n    int
	}{{`{"n":2,"w":2}`, 2}, {`{"n":5}`, 5}} {
		res := w.want(202, "PUT", "/buckets/b", x.body)
		var j propertiesJSON
		if err := json.Unmarshal(res.Body.Bytes(), &j); err != nil || j.Epoch != 2 || res.Header().Get("Location") != "/cluster/transfers" {
			t.Errorf("%s: %s", x.body, res.Body)
		}
		got := w.membership.applied[len(w.membership.applied)-1]
		if want := (MemberChange{Action: "bucket", Bucket: "b", N: x.n}); got != want {
			t.Errorf("%s: %+v, want %+v", x.body, got, want)
		}
	}
	if w.buckets.Get("b").W != "2" {
		t.Errorf("w is %q", w.buckets.Get("b").W)
	}
	if p := problemOf(t, w.want(409, "PUT", "/buckets/toomany", `{"n":4,"w":4}`)); p.Parameter != "n" || w.buckets.Get("toomany").W != "" {
		t.Errorf("not possible: %+v", p)
	}
}

// While n is being changed a request is checked against what reads go by, and a bucket's r and w may be for either.
func TestBucketWhileItsNChanges(t *testing.T) {
	w := newWorld(t, Options{})
	l, err := w.cluster.ring.Layout().Next(ring.Change{
		BucketN: map[string]int{"b": 5}, Join: []ring.Member{{ID: ring.NodeID{8}, Name: "n8", Weight: 1}, {ID: ring.NodeID{9}, Name: "n9", Weight: 1}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if w.cluster.next, err = ring.New(l, 3); err != nil {
		t.Fatal(err)
	}
	w.cluster.made = nil
	var j propertiesJSON
	if err := json.Unmarshal(w.want(200, "GET", "/buckets/b", "").Body.Bytes(), &j); err != nil || j.N != 5 || j.ReadN != 3 {
		t.Errorf("%+v, %v", j, err)
	}
	w.want(200, "PUT", "/buckets/b", `{"w":4}`)
	w.put("/kv/b/k", "v")
	if got := w.kv.lastPut(); got.W != 4 {
		t.Errorf("w=%d, want the bucket's", got.W)
	}
	w.want(400, "PUT", "/kv/b/k?w=4", "v")
	w.want(400, "PUT", "/kv/other/k?w=4", "v")
	w.put("/kv/b/k?w=all", "v")
	if got := w.kv.lastPut(); got.W != coordinator.All {
		t.Errorf("w=%d, want all", got.W)
	}
	w.cluster.ring, w.cluster.next = w.cluster.next, nil
	w.cluster.made = nil
	w.put("/kv/b/k?w=5", "v")
	w.want(400, "PUT", "/kv/other/k?w=4", "v")
	res := w.want(200, "POST", "/batch?w=5", `{"op":"put","bucket":"b","key":"k","value":"v"}`+"\n"+`{"op":"put","bucket":"other","key":"k","value":"v"}`+"\n")
	if lines := strings.Split(strings.TrimSpace(res.Body.String()), "\n"); len(lines) != 2 || !strings.Contains(lines[0], `"status":204`) || !strings.Contains(lines[1], `"status":400`) {
		t.Errorf("a batch: %s", res.Body)
	}
}
