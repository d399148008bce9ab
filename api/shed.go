package api

import (
	"bytes"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// shedder answers requests for keys while this node has too much to do, before anything else is looked at. Of what is
// refused there may be many times more than of what is done, so it must cost little: its answers are made once.
type shedder struct {
	api          *api
	key, bucket  routeMetrics
	read, change refusal // by whether the method writes
}

// refusal is an answer that is always the same.
type refusal struct {
	header map[string][]string // shared: nobody changes a value's slice
	body   []byte
	plain  atomic.Pointer[plainRefusal] // the last that was made
}

// plainRefusal is the answer as it is sent, of one second.
type plainRefusal struct {
	date  string
	bytes []byte
}

const (
	keyRoute    = "/kv/{bucket}/{key}"
	bucketRoute = "/kv/{bucket}"
)

func overloaded() *problem {
	return newProblem(http.StatusServiceUnavailable, "overloaded", "this node works on as many requests as it can")
}

func newShedder(a *api) *shedder {
	s := &shedder{api: a, key: a.metrics.route(keyRoute), bucket: a.metrics.route(bucketRoute)}
	s.read.make(overloaded())
	s.change.make(overloaded().nothingStored())
	return s
}

func (r *refusal) make(p *problem) {
	r.body = append(encodeJSON(p), '\n')
	r.header = http.Header{"Content-Length": {strconv.Itoa(len(r.body))}}
	p.setHeader(r.header)
}

// at is the whole answer, dated.
func (r *refusal) at(a *api, date string) []byte {
	if p := r.plain.Load(); p != nil && p.date == date {
		return p.bytes
	}
	h := http.Header(maps.Clone(r.header))
	h[headerServer], h[headerSniff], h[headerNode] = a.always()
	h.Set("Date", date)
	var b bytes.Buffer
	b.WriteString("HTTP/1.1 503 Service Unavailable\r\n")
	must(h.Write(&b))
	b.WriteString("\r\n")
	b.Write(r.body)
	r.plain.Store(&plainRefusal{date, b.Bytes()})
	return b.Bytes()
}

func (s *shedder) of(method string) *refusal {
	if writes(method) {
		return &s.change
	}
	return &s.read
}

// refuse returns what is sent to refuse a request of the key route, or nothing when it need not be refused.
func (s *shedder) refuse(method string, now time.Time, date func(time.Time) string) []byte {
	if !s.api.deps.Admission.Full() {
		return nil
	}
	s.api.metrics.refused.Inc()
	s.key.of(method).observe(http.StatusServiceUnavailable, 0)
	return s.of(method).at(s.api, date(now))
}

// answered refuses a request, if it is one for a key or a bucket's keys and there is too much to do. What is wrong with
// the request it does not look at.
func (s *shedder) answered(w http.ResponseWriter, r *http.Request) bool {
	rest, ok := strings.CutPrefix(r.URL.EscapedPath(), "/kv/")
	if !ok || !s.api.deps.Admission.Full() {
		return false
	}
	start := time.Now()
	observed := s.bucket
	if strings.Contains(rest, "/") {
		observed = s.key
	}
	answer := s.of(r.Method)
	h := w.Header()
	for name, value := range answer.header {
		h[name] = value
	}
	s.api.metrics.refused.Inc()
	w.WriteHeader(http.StatusServiceUnavailable)
	_, _ = w.Write(answer.body) // a client that has gone away needs no answer
	observed.of(r.Method).observe(http.StatusServiceUnavailable, time.Since(start))
	return true
}
