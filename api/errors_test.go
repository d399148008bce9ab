package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/dunlindb/dunlin/coordinator"
	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

func TestQuorumErrors(t *testing.T) {
	w := newWorld(t, Options{})
	for kind, want := range map[coordinator.Kind]int{
		coordinator.Unavailable: 503, coordinator.Timeout: 504, coordinator.Overloaded: 503, coordinator.Full: 507,
		coordinator.NotReady: 503, coordinator.Cancelled: 503, coordinator.Kind(99): 503,
	} {
		w.kv.err = fmt.Errorf("wrapped: %w", &coordinator.QuorumError{
			Kind: kind, Parameter: "w", Required: 2, Acked: 1, N: 3, Outcome: coordinator.Indeterminate, Reason: "two are down",
			Replicas: []coordinator.ReplicaOutcome{
				{Node: selfID, Role: "primary", Outcome: "fsynced"},
				{Node: otherID, Role: "primary", Outcome: "down", Detail: "refused"},
				{Node: ring.NodeID{7}, Role: "fallback", Outcome: "timeout"},
			},
		})
		res := w.want(want, "PUT", "/kv/b/k", "v")
		p := problemOf(t, res)
		if p.Parameter != "w" || *p.Required != 2 || *p.Acked != 1 || p.Outcome != "indeterminate" || len(p.Replicas) != 3 || !strings.Contains(p.Detail, "two are down") {
			t.Errorf("kind %d: %s", kind, res.Body)
		}
		if p.Replicas[0].Node != "n1" || p.Replicas[1].Node != "n2" || p.Replicas[2].Node != (ring.NodeID{7}).String() {
			t.Errorf("kind %d: replicas %+v", kind, p.Replicas)
		}
		if got := res.Header().Get("Retry-After") != ""; got != (want == 503) {
			t.Errorf("kind %d: Retry-After %q", kind, res.Header().Get("Retry-After"))
		}
		if p.Retryable != (want != 507) || res.Header().Get(headerAcks) != "1/3" {
			t.Errorf("kind %d: retryable %v, acks %q", kind, p.Retryable, res.Header().Get(headerAcks))
		}
		if p := problemOf(t, w.want(want, "GET", "/kv/b/k", "")); p.Outcome != "" {
			t.Errorf("kind %d: a read has the outcome %q", kind, p.Outcome)
		}
	}
}

func TestRefusedWrites(t *testing.T) {
	w := newWorld(t, Options{})
	for err, want := range map[error]int{
		vclock.ErrSiblings: 409, vclock.ErrBytes: 409, vclock.ErrClock: 409, vclock.ErrStampAhead: 503, vclock.ErrIDReused: 422,
	} {
		w.kv.err = fmt.Errorf("minting: %w", err)
		p := problemOf(t, w.want(want, "PUT", "/kv/b/k", "v"))
		if p.Outcome != "none" || p.Retryable || !strings.Contains(p.Detail, ";") {
			t.Errorf("%v: %+v", err, p)
		}
	}
	// What is said of an attempt must not be read as said of all.
	w.kv.err = vclock.ErrSiblings
	if p := problemOf(t, w.want(409, "PUT", "/kv/b/k", "v", headerIdempotency, "x")); !strings.Contains(p.Detail, "earlier one") {
		t.Errorf("detail %q", p.Detail)
	}
}

func TestOtherErrors(t *testing.T) {
	w := newWorld(t, Options{})
	for err, want := range map[error]int{coordinator.ErrCorrupt: 503, context.DeadlineExceeded: 504, errBroken: 500} {
		w.kv.err = err
		if p := problemOf(t, w.want(want, "PUT", "/kv/b/k", "v")); p.Outcome != "indeterminate" {
			t.Errorf("%v: %+v", err, p)
		}
		problemOf(t, w.want(want, "GET", "/kv/b/k", ""))
		problemOf(t, w.want(want, "GET", "/kv/b", ""))
		// Nothing was written when the read before a write failed.
		if p := problemOf(t, w.want(want, "PUT", "/kv/b/k", "v", "If-Match", "*")); p.Outcome != "none" {
			t.Errorf("%v before the write: %+v", err, p)
		}
	}
}

func TestSiblingCap(t *testing.T) {
	w := newWorld(t, Options{})
	for range 10 {
		w.put("/kv/b/k", "v")
	}
	problemOf(t, w.want(409, "PUT", "/kv/b/k", "v"))
	token := w.want(300, "GET", "/kv/b/k", "").Header().Get(headerContext)
	w.put("/kv/b/k", "v", headerContext, token)
}

func TestNotReady(t *testing.T) {
	w := newWorld(t, Options{})
	w.cluster.ready = errors.New("waiting for founders n2, n3")
	for _, c := range [][2]string{
		{"GET", "/kv/b/k"}, {"PUT", "/kv/b/k"}, {"DELETE", "/kv/b/k"}, {"GET", "/kv/b"}, {"POST", "/kv/b"}, {"POST", "/batch"},
		{"GET", "/buckets"}, {"PUT", "/buckets/b"}, {"GET", "/cluster/ring"}, {"GET", "/readyz"},
	} {
		res := w.want(503, c[0], c[1], "")
		p := problemOf(t, res)
		if !strings.Contains(p.Detail, "waiting for founders n2, n3") || res.Header().Get("Retry-After") == "" {
			t.Errorf("%s %s: %s", c[0], c[1], res.Body)
		}
		if write := c[0] != "GET"; write != (p.Outcome == "none") {
			t.Errorf("%s %s: outcome %q", c[0], c[1], p.Outcome)
		}
	}
	w.cluster.ring = nil
	for _, path := range []string{"/livez", "/version", "/metrics", "/cluster/members"} {
		w.want(200, "GET", path, "")
	}
	w.cluster.ready = nil
	w.want(503, "GET", "/kv/b/k", "") // no layout all the same
}

func TestPanics(t *testing.T) {
	w := newWorld(t, Options{})
	w.kv.block = func(context.Context) { panic("bug") }
	if p := problemOf(t, w.want(500, "PUT", "/kv/b/k", "v")); p.Outcome != "indeterminate" || strings.Contains(p.Detail, "bug") {
		t.Errorf("problem %+v", p)
	}
	if p := problemOf(t, w.want(500, "GET", "/kv/b/k", "")); p.Outcome != "" {
		t.Errorf("problem %+v", p)
	}
	if got := w.want(200, "POST", "/batch", `{"op":"get","bucket":"b","key":"k"}`); !strings.Contains(got.Body.String(), `"status":500`) {
		t.Errorf("batch: %s", got.Body)
	}
	w.kv.block = nil
	w.put("/kv/b/k", "v")
	if n := w.flight(); n != 0 {
		t.Errorf("%d requests in flight for ever", n)
	}
}

// flight reads the gauge of requests in flight.
func (w *world) flight() int {
	w.t.Helper()
	for line := range strings.Lines(w.want(200, "GET", "/metrics", "").Body.String()) {
		var n int
		if _, err := fmt.Sscanf(line, "dunlin_http_in_flight %d", &n); err == nil {
			return n
		}
	}
	w.t.Fatal("no gauge of requests in flight")
	return 0
}

func TestOverload(t *testing.T) {
	w := newWorld(t, Options{MaxInFlight: 2})
	entered, release := make(chan struct{}), make(chan struct{})
	w.kv.block = func(context.Context) { entered <- struct{}{}; <-release }
	done := make(chan int, 2)
	for range 2 {
		go func() {
			rec := httptest.NewRecorder()
			w.handler.ServeHTTP(rec, httptest.NewRequest("PUT", "/kv/b/k", strings.NewReader("v")))
			done <- rec.Code
		}()
		<-entered
	}
	res := w.want(503, "PUT", "/kv/b/k", "v")
	if p := problemOf(t, res); res.Header().Get("Retry-After") == "" || p.Outcome != "none" || !p.Retryable {
		t.Errorf("overload: %s", res.Body)
	}
	for _, c := range []struct{ method, path, outcome string }{
		{"GET", "/kv/b/k", ""}, {"GET", "/kv/b%2Fc", ""}, {"POST", "/kv/b", "none"}, {"DELETE", "/kv/b/k/l", "none"}, // before the path is looked at
		{"POST", "/batch", "none"}, {"GET", "/buckets", ""}, // after it
	} {
		res := w.want(503, c.method, c.path, "")
		h := res.Header()
		if p := problemOf(t, res); string(p.Outcome) != c.outcome || !strings.HasSuffix(p.Type, ":overloaded") {
			t.Errorf("%s %s: %s", c.method, c.path, res.Body)
		}
		if h.Get("Retry-After") == "" || h.Get(headerNode) == "" || h.Get("Cache-Control") != "no-store" || h.Get("Content-Length") != strconv.Itoa(res.Body.Len()) {
			t.Errorf("%s %s: %v", c.method, c.path, h)
		}
	}
	metrics := w.want(200, "GET", "/metrics", "").Body.String()
	for _, line := range []string{
		`dunlin_http_refused_total 7`,
		`dunlin_http_requests_total{code="503",method="GET",route="/kv/{bucket}"} 1`,
		`dunlin_http_requests_total{code="503",method="DELETE",route="/kv/{bucket}/{key}"} 1`,
	} {
		if !strings.Contains(metrics, line+"\n") {
			t.Errorf("no %s", line)
		}
	}
	body := &countedBody{}
	rec := httptest.NewRecorder()
	w.handler.ServeHTTP(rec, httptest.NewRequest("PUT", "/kv/b/k", body))
	if rec.Code != 503 || body.read {
		t.Errorf("%d; the body was read: %v", rec.Code, body.read)
	}
	for _, path := range []string{"/livez", "/readyz", "/metrics", "/cluster/members"} {
		w.want(200, "GET", path, "")
	}
	close(release)
	for range 2 {
		if code := <-done; code != http.StatusNoContent {
			t.Errorf("a request that was let in: %d", code)
		}
	}
	w.kv.block = nil
	w.put("/kv/b/k2", "v")
}

// countedBody notes whether anybody reads it.
type countedBody struct{ read bool }

func (b *countedBody) Read([]byte) (int, error) { b.read = true; return 0, io.EOF }
