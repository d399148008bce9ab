package loadgen

import (
	"context"
	"net/url"
	"strconv"
	"sync"
	"time"
)

// HTTPTarget is a bucket of a Dunlin cluster.
type HTTPTarget struct {
	URLs    []*url.URL // connections take them in turn
	Bucket  string
	Write   url.Values // parameters of each write
	Read    url.Values // parameters of each read
	Timeout time.Duration
	// Contexts makes each write carry the newest context that was answered for
	// its key, so that it replaces what is there instead of standing beside it.
	Contexts bool
	// Header lines are sent with each request, each ended by CRLF.
	Header string
}

const contextHeader = "Dunlin-Context"

// Dialer returns connections to t.
func (t HTTPTarget) Dialer() Dialer {
	var seen *contexts
	keep := ""
	if t.Contexts {
		seen, keep = newContexts(), contextHeader
	}
	return func(ctx context.Context, i int) (Conn, error) {
		base := t.URLs[i%len(t.URLs)]
		h, err := DialHTTP(ctx, base, t.Timeout, keep)
		if err != nil {
			return nil, err
		}
		c := &kvConn{http: h, seen: seen, host: base.Host, path: base.Path + "/kv/" + t.Bucket + "/", header: t.Header}
		if len(t.Write) > 0 {
			c.write = "?" + t.Write.Encode()
		}
		if len(t.Read) > 0 {
			c.read = "?" + t.Read.Encode()
		}
		return c, nil
	}
}

// kvConn does operations over one connection.
type kvConn struct {
	http                            *HTTPConn
	seen                            *contexts // nil: writes carry no context
	host, path, write, read, header string
	request                         []byte
}

var methods = [kinds]string{Put: "PUT ", Get: "GET ", Delete: "DELETE "}

// Do does op.
func (c *kvConn) Do(op *Op) Answer {
	query := c.write
	if op.Kind == Get {
		query = c.read
	}
	b := append(c.request[:0], methods[op.Kind]...)
	b = append(b, c.path...)
	b = append(b, op.Key...)
	b = append(b, query...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, c.host...)
	b = append(b, "\r\n"...)
	b = append(b, c.header...)
	if c.seen != nil && op.Kind != Get {
		b = c.seen.appendHeader(b, op.Index)
	}
	if op.Kind == Put {
		b = append(b, "Content-Type: application/octet-stream\r\nContent-Length: "...)
		b = strconv.AppendInt(b, int64(len(op.Value)), 10)
		b = append(b, "\r\n"...)
	}
	b = append(b, "\r\n"...)
	b = append(b, op.Value...)
	c.request = b
	a, err := c.http.Do(b)
	if err != nil {
		return Lost(err)
	}
	if c.seen != nil && len(a.Kept) > 0 {
		c.seen.keep(op.Index, a.Kept)
	}
	return c.answer(op.Kind, a)
}

func (c *kvConn) answer(kind Kind, a HTTPAnswer) Answer {
	out := Answer{Class: OK, Reason: reason(a.Status), Value: a.Body, Close: a.Close}
	switch {
	case a.Status >= 200 && a.Status < 300:
	case kind == Get && a.Status == 300:
		out.Class = Siblings
	case kind == Get && a.Status == 404:
		out.Class = Missing
	default:
		out.Class, out.Detail = Failed, string(a.Body[:min(len(a.Body), 300)])
	}
	return out
}

// Close ends the connection.
func (c *kvConn) Close() { c.http.Close() }

// reasons are the texts of all statuses, so that none is made per operation.
var reasons = func() (out [1000]string) {
	for i := range out {
		out[i] = strconv.Itoa(i)
	}
	return out
}()

func reason(status int) string { return reasons[status] }

// contexts are the newest contexts by key. Safe for concurrent use.
type contexts struct{ part [64]contextPart }

type contextPart struct {
	mu sync.Mutex // guards by
	by map[int][]byte
}

func newContexts() *contexts {
	c := &contexts{}
	for i := range c.part {
		c.part[i].by = map[int][]byte{}
	}
	return c
}

func (c *contexts) keep(i int, value []byte) {
	p := &c.part[i%len(c.part)]
	p.mu.Lock()
	defer p.mu.Unlock()
	p.by[i] = append(p.by[i][:0], value...)
}

func (c *contexts) appendHeader(b []byte, i int) []byte {
	p := &c.part[i%len(c.part)]
	p.mu.Lock()
	defer p.mu.Unlock()
	v, ok := p.by[i]
	if !ok {
		return b
	}
	b = append(b, contextHeader+": "...)
	b = append(b, v...)
	return append(b, "\r\n"...)
}
