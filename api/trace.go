package api

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/dunlindb/dunlin/coordinator"
)

// headerTrace carries a request's time line, as one line of JSON.
const headerTrace = "Dunlin-Trace"

type traceKey struct{}

// traceOf returns the trace that the request asked for, nil if it asked for none.
func traceOf(ctx context.Context) *coordinator.Trace {
	t, _ := ctx.Value(traceKey{}).(*coordinator.Trace)
	return t
}

type traceJSON struct {
	Micros int64  `json:"us"` // since the request began
	Node   string `json:"node"`
	Kind   string `json:"kind"`
	Detail string `json:"detail,omitempty"`
}

func (a *api) traceJSON(t *coordinator.Trace) []traceJSON {
	out := []traceJSON{}
	for _, e := range t.Events() {
		out = append(out, traceJSON{e.At.Microseconds(), a.nameOf(e.Node), e.Kind, e.Detail})
	}
	return out
}

// asksForTrace reports whether a query has trace=1. A bad value is found with the other parameters.
func asksForTrace(raw string) bool {
	if !strings.Contains(raw, "trace") && !strings.Contains(raw, "%") { // as nearly always
		return false
	}
	values, err := url.ParseQuery(raw)
	if err != nil || values.Get("trace") == "" {
		return false
	}
	on, p := query{{"trace", values.Get("trace")}}.boolean("trace", false)
	return on && p == nil
}

// traced does a request that may ask for its time line: with trace=1 the answer's header holds it or, where the client
// accepts JSON, the answer is JSON with a member "trace".
func (a *api) traced(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) *problem {
		if !asksForTrace(r.URL.RawQuery) {
			return h(w, r)
		}
		t := coordinator.NewTrace()
		r = r.WithContext(context.WithValue(r.Context(), traceKey{}, t))
		tw := &traceWriter{ResponseWriter: w, api: a, trace: t, json: wantsJSON(r)}
		p := h(tw, r)
		if p != nil {
			return a.tracedProblem(w, t, p, tw.json)
		}
		tw.finish()
		return nil
	}
}

// tracedProblem adds the time line to an error answer.
func (a *api) tracedProblem(w http.ResponseWriter, t *coordinator.Trace, p *problem, body bool) *problem {
	if body {
		p.Trace = a.traceJSON(t)
		return p
	}
	w.Header().Set(headerTrace, string(encodeJSON(a.traceJSON(t))))
	return p
}

// traceWriter adds the time line to an answer when it is known: when the answer is about to be written.
type traceWriter struct {
	http.ResponseWriter
	api    *api
	trace  *coordinator.Trace
	json   bool
	status int
	body   bytes.Buffer
}

// WriteHeader sets the trace's header, unless the trace goes into the body.
func (t *traceWriter) WriteHeader(status int) {
	if t.status != 0 {
		return
	}
	t.status = status
	if !t.json {
		t.Header().Set(headerTrace, string(encodeJSON(t.api.traceJSON(t.trace))))
		t.ResponseWriter.WriteHeader(status)
	}
}

// Write passes the body on, or keeps it for finish.
func (t *traceWriter) Write(b []byte) (int, error) {
	if t.status == 0 {
		t.WriteHeader(http.StatusOK)
	}
	if t.json {
		return t.body.Write(b)
	}
	return t.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (t *traceWriter) Unwrap() http.ResponseWriter { return t.ResponseWriter }

// finish writes an answer that waits for its trace: a JSON object gets one more member, anything else becomes one.
func (t *traceWriter) finish() {
	if !t.json || t.status == 0 {
		return
	}
	doc := map[string]any{}
	isObject := t.Header().Get("Content-Type") == "application/json" && json.Unmarshal(t.body.Bytes(), &doc) == nil
	if !isObject && t.body.Len() > 0 {
		doc = map[string]any{"content_type": t.Header().Get("Content-Type"), "encoding": "utf-8", "value": t.body.String()}
		if !utf8.Valid(t.body.Bytes()) {
			doc["encoding"], doc["value"] = "base64", t.body.Bytes()
		}
	}
	doc["trace"] = t.api.traceJSON(t.trace)
	if t.status == http.StatusNoContent {
		t.status = http.StatusOK
	}
	t.Header().Del("ETag") // of another representation
	_ = writeJSON(t.ResponseWriter, t.status, doc)
}
