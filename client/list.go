package client

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// List are the parameters of a listing.
type List struct {
	Prefix  string        // only keys that start so
	After   string        // only keys behind this one; Page.Next of the page before
	Limit   int           // most keys of one page; 0: the node's choice
	Values  bool          // with values
	Timeout time.Duration // the node's time limit for one page; 0: its default
}

// Page is a part of a bucket's keys, in byte order.
type Page struct {
	Entries []Entry
	Next    string // After of the next page; empty: this was the last
}

// Entry is one listed key. All but Key are set only when values were asked for
// and the node sent them.
type Entry struct {
	Key         string
	Value       []byte
	ContentType string
	Context     string
	Siblings    []Sibling // where several values survive; then Value is empty
}

// UnmarshalJSON accepts a bare key and an object with a key.
func (e *Entry) UnmarshalJSON(text []byte) error {
	*e = Entry{}
	if len(text) > 0 && text[0] == '"' {
		return json.Unmarshal(text, &e.Key)
	}
	var doc struct {
		Key         string        `json:"key"`
		KeyEncoding string        `json:"key_encoding"`
		Value       *string       `json:"value"`
		Encoding    string        `json:"encoding"`
		ContentType string        `json:"content_type"`
		Context     string        `json:"context"`
		Siblings    []siblingJSON `json:"siblings"`
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		return err
	}
	key, err := decode(doc.Key, doc.KeyEncoding)
	if err != nil {
		return err
	}
	e.Key, e.ContentType, e.Context = string(key), doc.ContentType, doc.Context
	if e.Siblings, err = siblingsOf(doc.Siblings); err != nil {
		return err
	}
	if doc.Value != nil {
		e.Value, err = decode(*doc.Value, doc.Encoding)
	}
	return err
}

// List reads one page of the bucket's keys.
func (b *Bucket) List(ctx context.Context, opt List) (*Page, error) {
	q := url.Values{}
	set(q, "prefix", opt.Prefix)
	set(q, "after", opt.After)
	if opt.Limit > 0 {
		set(q, "limit", strconv.Itoa(opt.Limit))
	}
	if opt.Values {
		set(q, "values", "true")
	}
	common(q, false, opt.Timeout, false)
	a, err := b.c.do(ctx, &request{
		method: http.MethodGet, path: "/kv/" + url.PathEscape(b.name), query: q, repeat: true,
		header: http.Header{"Accept": {"application/json"}},
	})
	if err != nil {
		return nil, err
	}
	var doc struct {
		Keys         []Entry `json:"keys"`
		Next         string  `json:"next"`
		NextEncoding string  `json:"next_encoding"`
	}
	if err := json.Unmarshal(a.body, &doc); err != nil {
		return nil, fmt.Errorf("client: reading a page of keys: %w", err)
	}
	next, err := decode(doc.Next, doc.NextEncoding)
	if err != nil {
		return nil, err
	}
	return &Page{Entries: doc.Keys, Next: string(next)}, nil
}

// All reads page after page until the last, an error (which is the last thing
// yielded), or the end of the loop. The keys are no snapshot: what is written
// meanwhile may or may not be among them.
func (b *Bucket) All(ctx context.Context, opt List) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for {
			page, err := b.List(ctx, opt)
			if err != nil {
				yield(Entry{}, err)
				return
			}
			for _, e := range page.Entries {
				if !yield(e, nil) {
					return
				}
			}
			if page.Next == "" {
				return
			}
			if page.Next == opt.After {
				yield(Entry{}, fmt.Errorf("client: listing does not advance behind %q", opt.After))
				return
			}
			opt.After = page.Next
		}
	}
}
