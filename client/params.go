package client

import (
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Read are the parameters of a read. The zero value leaves all to the bucket.
// Numbers of replicas are text: a number, one, quorum or all.
type Read struct {
	R       string        // replicas to hear from
	PR      string        // of those, how many must be primaries
	Strict  bool          // no fallback may stand in (sloppy=false)
	Timeout time.Duration // the node's time limit; 0: its default
	Trace   bool          // ask for the time line, Object.Trace

	IfMatch     string // an ETag
	IfNoneMatch string // an ETag
}

// Write are the parameters of a write. The zero value leaves all to the bucket.
type Write struct {
	Context     string        // of the Object that this write replaces; empty: of none
	ContentType string        // of the value; empty: application/octet-stream
	W           string        // acks to wait for
	DW          string        // of those, how many must be on disk
	PW          string        // of those, how many must be primaries
	Strict      bool          // no fallback may stand in (sloppy=false)
	Timeout     time.Duration // the node's time limit; 0: its default
	TTL         time.Duration // the value expires after this; 0: the bucket's rule
	Trace       bool          // ask for the time line, Written.Trace
	ReturnBody  bool          // ask for the object after the write, Written.Object

	IfMatch     string // an ETag; checked, not atomic
	IfNoneMatch string // an ETag or *; checked, not atomic

	// IdempotencyKey names this write, so that the same one sent again has no
	// second effect. Empty: the client makes one for each call.
	IdempotencyKey string
}

func (o Read) query() url.Values {
	q := url.Values{}
	set(q, "r", o.R)
	set(q, "pr", o.PR)
	common(q, o.Strict, o.Timeout, o.Trace)
	return q
}

func (o Read) header() http.Header {
	h := http.Header{}
	put(h, "If-Match", o.IfMatch)
	put(h, "If-None-Match", o.IfNoneMatch)
	return h
}

func (o Write) query() url.Values {
	q := url.Values{}
	set(q, "w", o.W)
	set(q, "dw", o.DW)
	set(q, "pw", o.PW)
	if o.TTL > 0 {
		set(q, "ttl", o.TTL.String())
	}
	if o.ReturnBody {
		set(q, "returnbody", "true")
	}
	common(q, o.Strict, o.Timeout, o.Trace)
	return q
}

func (o Write) header() http.Header {
	h := http.Header{}
	put(h, "Dunlin-Context", o.Context)
	put(h, "If-Match", o.IfMatch)
	put(h, "If-None-Match", o.IfNoneMatch)
	if o.IdempotencyKey == "" {
		o.IdempotencyKey = NewIdempotencyKey()
	}
	put(h, "Idempotency-Key", o.IdempotencyKey)
	return h
}

func common(q url.Values, strict bool, timeout time.Duration, trace bool) {
	if strict {
		set(q, "sloppy", "false")
	}
	if timeout > 0 {
		set(q, "timeout", timeout.String())
	}
	if trace {
		set(q, "trace", strconv.Itoa(1))
	}
}

func set(q url.Values, name, value string) {
	if value != "" {
		q.Set(name, value)
	}
}

func put(h http.Header, name, value string) {
	if value != "" {
		h.Set(name, value)
	}
}
