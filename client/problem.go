package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"
)

var (
	// ErrNotFound is matched by the error of a read of a key that is absent
	// or deleted.
	ErrNotFound = errors.New("not found")
	// ErrSiblings is returned by Object.Value where several concurrent values
	// survive.
	ErrSiblings = errors.New("several concurrent values; read them all, merge, and write with the context")
	// ErrPrecondition is matched by the error of a request whose If-Match or
	// If-None-Match failed.
	ErrPrecondition = errors.New("precondition failed")
)

// Outcomes of a failed write.
const (
	OutcomeNone          = "none"          // certainly nothing was stored
	OutcomeIndeterminate = "indeterminate" // some replicas may hold it; it may appear later
)

// Problem is a refusal or failure that a node reported (RFC 9457).
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`

	Parameter string    `json:"parameter,omitempty"` // the parameter at fault
	Required  *int      `json:"required,omitempty"`  // replicas that had to answer
	Acked     *int      `json:"acked,omitempty"`     // replicas that did
	Replicas  []Replica `json:"replicas,omitempty"`  // what each was asked and did
	Retryable bool      `json:"retryable,omitempty"` // the same request may succeed later
	Outcome   string    `json:"outcome,omitempty"`   // of a write: OutcomeNone or OutcomeIndeterminate

	Node       string        `json:"-"` // the coordinator that answered, from Dunlin-Node
	Endpoint   string        `json:"-"` // the base URL that was asked
	RetryAfter time.Duration `json:"-"` // what the node asked to wait; 0: nothing asked
}

// Replica is the part of one node in a failed request.
type Replica struct {
	Node    string `json:"node"`
	Role    string `json:"role"`
	Outcome string `json:"outcome"`
}

// Error is one line: status, title, detail, and who did not answer.
func (p *Problem) Error() string {
	var b strings.Builder
	title := p.Title
	if title == "" {
		title = http.StatusText(p.Status)
	}
	fmt.Fprintf(&b, "%d %s", p.Status, title)
	if p.Parameter != "" && !strings.Contains(p.Detail, p.Parameter) {
		fmt.Fprintf(&b, " (%s)", p.Parameter)
	}
	if p.Detail != "" && p.Detail != title {
		fmt.Fprintf(&b, ": %s", p.Detail)
	}
	if p.Required != nil && p.Acked != nil && !strings.Contains(p.Detail, "acked") {
		fmt.Fprintf(&b, " [%d of %d acks]", *p.Acked, *p.Required)
	}
	for i, r := range p.Replicas {
		sep := ", "
		if i == 0 {
			sep = "; replicas: "
		}
		fmt.Fprintf(&b, "%s%s %s", sep, r.Node, r.Outcome)
	}
	if p.Outcome == OutcomeIndeterminate {
		b.WriteString("; it may or may not have been stored")
	}
	return b.String()
}

// Is makes errors.Is match ErrNotFound and ErrPrecondition by status.
func (p *Problem) Is(target error) bool {
	switch target {
	case ErrNotFound:
		return p.Status == http.StatusNotFound
	case ErrPrecondition:
		return p.Status == http.StatusPreconditionFailed
	}
	return false
}

// passing tells whether the same request may succeed at another node or later.
func (p *Problem) passing() bool {
	switch p.Status {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return p.Retryable
}

// newProblem makes a Problem of an error answer. An answer that is no problem
// document (a proxy's page, say) keeps its first line as the detail.
func newProblem(a *answer) *Problem {
	p := parseProblem(a.header.Get("Content-Type"), a.body)
	p.Status = a.status
	p.Endpoint = a.endpoint
	p.Node = a.header.Get("Dunlin-Node")
	p.RetryAfter = retryAfter(a.header.Get("Retry-After"))
	return p
}

func parseProblem(contentType string, body []byte) *Problem {
	media, _, _ := mime.ParseMediaType(contentType)
	p := &Problem{}
	if media == "application/problem+json" || media == "application/json" {
		if json.Unmarshal(body, p) == nil {
			return p
		}
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
	const most = 200
	if len(line) > most {
		line = line[:most] + "…"
	}
	return &Problem{Detail: strings.ToValidUTF8(line, "?")}
}

// retryAfter reads both forms of the Retry-After header.
func retryAfter(s string) time.Duration {
	if s == "" {
		return 0
	}
	if n, err := strconv.Atoi(s); err == nil {
		return time.Duration(min(max(n, 0), 3600)) * time.Second
	}
	if at, err := http.ParseTime(s); err == nil {
		return min(max(time.Until(at), 0), time.Hour)
	}
	return 0
}
