package api

import (
	"net/http"
	"strconv"
	"strings"
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
}

const (
	keyRoute    = "/kv/{bucket}/{key}"
	bucketRoute = "/kv/{bucket}"
)

func overloaded() *problem {
	return newProblem(http.StatusServiceUnavailable, "overloaded", "this node works on as many requests as it can")
}

func newShedder(a *api) *shedder {
	made := func(p *problem) refusal {
		body := append(encodeJSON(p), '\n')
		h := http.Header{"Content-Length": {strconv.Itoa(len(body))}}
		p.setHeader(h)
		return refusal{header: h, body: body}
	}
	return &shedder{
		api: a, key: a.metrics.route(keyRoute), bucket: a.metrics.route(bucketRoute),
		read: made(overloaded()), change: made(overloaded().nothingStored()),
	}
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
	answer := s.read
	if writes(r.Method) {
		answer = s.change
	}
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
