package api

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/dunlindb/dunlin/coordinator"
)

// problem is an error answer (RFC 9457).
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`

	Parameter string           `json:"parameter,omitempty"` // the parameter at fault
	Required  *int             `json:"required,omitempty"`  // replicas that had to answer
	Acked     *int             `json:"acked,omitempty"`     // replicas that did
	Replicas  []replicaProblem `json:"replicas,omitempty"`
	Retryable bool             `json:"retryable"` // the same request may succeed later
	// Outcome, of a write: whether this attempt may have stored something.
	Outcome coordinator.Outcome `json:"outcome,omitempty"`
	Trace   []traceJSON         `json:"trace,omitempty"` // where it was asked for in the body

	n        int    // replicas of the key, where Acked is known
	acks     string // of the read that the answer comes from, where there was one
	siblings int    // live ones of the key, where known
	gone     bool   // the client went away
}

type replicaProblem struct {
	Node    string `json:"node"`
	Role    string `json:"role"`
	Outcome string `json:"outcome"`
	Detail  string `json:"detail,omitempty"`
}

// kind names a sort of problem for programs; it is stable, unlike titles.
func newProblem(status int, kind, detail string) *problem {
	return &problem{
		Type: "urn:dunlin:problem:" + kind, Title: http.StatusText(status), Status: status, Detail: detail,
		Retryable: status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout,
	}
}

func badParameter(name, detail string) *problem {
	p := newProblem(http.StatusBadRequest, "parameter", detail)
	p.Parameter = name
	return p
}

func badRequest(detail string) *problem { return newProblem(http.StatusBadRequest, "request", detail) }

// nothingStored marks p as the refusal of a write before anything was done.
func (p *problem) nothingStored() *problem {
	if p != nil && p.Outcome == "" {
		p.Outcome = coordinator.None
	}
	return p
}

// of notes what a read showed of the key that p is about: not its context, since who has that without the values
// might overwrite what nobody has seen.
func (p *problem) of(s shown) *problem {
	p.acks, p.siblings = s.acks, len(s.Live)
	return p
}

// retryAfter is what a client that was refused for now should wait, in seconds.
const retryAfter = "1"

func (p *problem) write(w http.ResponseWriter) {
	h := w.Header()
	for _, name := range []string{"ETag", "Last-Modified", "Content-Length", "Content-Security-Policy"} {
		h.Del(name)
	}
	p.setHeader(h)
	body := append(encodeJSON(p), '\n')
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(p.Status)
	_, _ = w.Write(body) // a client that has gone away needs no answer
}

func (p *problem) setHeader(h http.Header) {
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	if p.Status == http.StatusServiceUnavailable {
		h.Set("Retry-After", retryAfter)
	}
	switch {
	case p.Acked != nil && p.n > 0:
		h.Set(headerAcks, acks(*p.Acked, p.n))
	case p.acks != "":
		h.Set(headerAcks, p.acks)
	}
	if p.siblings > 1 {
		h.Set(headerSiblings, strconv.Itoa(p.siblings))
	}
}

// encodeJSON renders what always can be rendered: our own structs.
func encodeJSON(v any) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false) // it is read by programs and people, not put into pages
	must(enc.Encode(v))
	return bytes.TrimSuffix(buf.Bytes(), []byte{'\n'})
}

func writeJSON(w http.ResponseWriter, status int, v any) *problem {
	body := append(encodeJSON(v), '\n')
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that has gone away needs no answer
	return nil
}
