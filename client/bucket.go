package client

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// Bucket is the keys of one bucket, as one Client sees them. Safe for
// concurrent use.
type Bucket struct {
	c    *Client
	name string
}

// Written is the answer to a write that was acknowledged.
type Written struct {
	// Context covers what was written and what the context sent with it covered. Where the key has siblings that
	// this client has not read, it covers none of those, and may not cover the write: read the key to replace all.
	Context  string
	Siblings int    // live siblings of the key after the write, when more than one
	Node     string // the coordinator
	Acks     string // e.g. "2/3"
	Trace    []byte // with Write.Trace
	Object   *Object
	Key      string // of Create
}

// path is the escaped URL path of a key. A key of dots alone is escaped too,
// because proxies resolve such path segments.
func (b *Bucket) path(key string) string {
	p := "/kv/" + url.PathEscape(b.name) + "/"
	if key == "." || key == ".." {
		return p + strings.ReplaceAll(key, ".", "%2E")
	}
	return p + url.PathEscape(key)
}

func checkKey(bucket, key string) error {
	if bucket == "" || key == "" {
		return errors.New("client: bucket and key must not be empty")
	}
	return nil
}

// Get reads key. An absent or deleted key is an error that matches ErrNotFound;
// the Object is then still there when the key was deleted, without siblings
// but with the context of the deletion. Safe to repeat.
func (b *Bucket) Get(ctx context.Context, key string, opt Read) (*Object, error) {
	if err := checkKey(b.name, key); err != nil {
		return nil, err
	}
	a, err := b.c.do(ctx, &request{
		method: http.MethodGet, path: b.path(key), query: opt.query(), header: opt.header(), repeat: true,
		accept: []int{http.StatusMultipleChoices, http.StatusNotFound},
	})
	if err != nil {
		return nil, err
	}
	if a.status == http.StatusNotFound {
		return a.bare(), newProblem(a)
	}
	return a.object()
}

// Put stores value under key. A *Problem tells in Outcome whether the write
// may have been stored nevertheless.
func (b *Bucket) Put(ctx context.Context, key string, value []byte, opt Write) (*Written, error) {
	if err := checkKey(b.name, key); err != nil {
		return nil, err
	}
	return b.write(ctx, &request{method: http.MethodPut, path: b.path(key), body: value}, opt)
}

// Create stores value under a fresh time-ordered key, Written.Key.
func (b *Bucket) Create(ctx context.Context, value []byte, opt Write) (*Written, error) {
	return b.write(ctx, &request{method: http.MethodPost, path: "/kv/" + url.PathEscape(b.name), body: value}, opt)
}

// Delete removes key: exactly what opt.Context covers or, without one, what
// the coordinator sees. Deleting an absent key succeeds.
func (b *Bucket) Delete(ctx context.Context, key string, opt Write) (*Written, error) {
	if err := checkKey(b.name, key); err != nil {
		return nil, err
	}
	return b.write(ctx, &request{method: http.MethodDelete, path: b.path(key)}, opt)
}

func (b *Bucket) write(ctx context.Context, r *request, opt Write) (*Written, error) {
	r.query, r.header, r.repeat = opt.query(), opt.header(), true
	if r.method != http.MethodDelete {
		put(r.header, "Content-Type", opt.ContentType)
		if opt.ContentType == "" {
			r.header.Set("Content-Type", "application/octet-stream")
		}
	}
	if opt.ReturnBody {
		r.accept = []int{http.StatusMultipleChoices}
	}
	a, err := b.c.do(ctx, r)
	if err != nil {
		return nil, err
	}
	bare := a.bare()
	w := &Written{Context: bare.Context, Node: bare.Node, Acks: bare.Acks, Trace: bare.Trace}
	w.Siblings, _ = strconv.Atoi(a.header.Get("Dunlin-Siblings"))
	if opt.ReturnBody && a.status != http.StatusNoContent {
		if w.Object, err = a.object(); err != nil {
			return nil, err
		}
	}
	if r.method == http.MethodPost {
		w.Key, err = b.created(a)
	}
	return w, err
}

// created reads the fresh key from the Location of the answer.
func (b *Bucket) created(a *answer) (string, error) {
	u, err := url.Parse(a.header.Get("Location"))
	if err != nil {
		return "", errors.New("client: the answer to a POST names no usable Location")
	}
	escaped, ok := strings.CutPrefix(u.EscapedPath(), "/kv/"+url.PathEscape(b.name)+"/")
	key, err := url.PathUnescape(escaped)
	if !ok || err != nil || key == "" {
		return "", errors.New("client: the answer to a POST names no key in its Location")
	}
	return key, nil
}
