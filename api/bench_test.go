package api

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// discard is an answer that nobody reads.
type discard struct {
	h    http.Header
	code int
}

func (d *discard) Header() http.Header         { return d.h }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(code int)        { d.code = code }

// operations are the requests whose cost is watched, without net/http's part.
func operations(t testing.TB) map[string]func() {
	w := newWorld(t, Options{})
	value := bytes.Repeat([]byte("v"), 1024)
	w.want(http.StatusOK, "PUT", "/buckets/b", `{"conflict":"lww"}`, "Content-Type", "application/json")
	w.put("/kv/b/k?w=2", string(value), "Content-Type", "application/octet-stream")
	get := httptest.NewRequest("GET", "/kv/b/k?r=1", nil)
	put := httptest.NewRequest("PUT", "/kv/b/k?w=2", strings.NewReader("x"))
	put.ContentLength = int64(len(value))
	put.Header.Set("Content-Type", "application/octet-stream")
	body := bytes.NewReader(value)
	do := func(r *http.Request, want int) {
		d := &discard{h: make(http.Header, 16)}
		w.handler.ServeHTTP(d, r)
		if d.code != want {
			t.Fatalf("%s: %d", r.Method, d.code)
		}
	}
	return map[string]func(){
		"get": func() {
			w.kv.gets = w.kv.gets[:0]
			do(get, http.StatusOK)
		},
		"put": func() {
			w.kv.puts = w.kv.puts[:0]
			body.Reset(value)
			put.Body = io.NopCloser(body)
			do(put, http.StatusNoContent)
		},
	}
}

// BenchmarkHandler is routing, parameters and headers, over a cluster in memory.
func BenchmarkHandler(b *testing.B) {
	for name, do := range operations(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				do()
			}
		})
	}
}

// What a request may allocate in the handler, the fakes' part included. It does not depend on the machine. A new
// figure that is lower belongs here; a higher one needs a reason.
func TestAllocationsOfARequest(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector, which runs with -short, allocates")
	}
	do := operations(t)
	for name, most := range map[string]float64{"get": 44, "put": 48} {
		if got := testing.AllocsPerRun(500, do[name]); got > most {
			t.Errorf("%s: %.0f allocations, at most %.0f", name, got, most)
		}
	}
}
