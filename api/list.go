package api

import (
	"cmp"
	"context"
	"encoding/base64"
	"net/http"
	"net/url"
	"runtime/debug"
	"sync"
	"unicode/utf8"

	"github.com/dunlindb/dunlin/coordinator"
)

const (
	defaultLimit = 100
	// maxPageValues bounds the values of one page, in bytes: a page ends early, with a next, when it is reached.
	maxPageValues = 8 << 20
	listWorkers   = 16
)

// listing is a checked request for keys.
type listing struct {
	target
	reading
	query  query
	prefix string
	after  string
	limit  int
	values bool
}

// page is what is answered.
type page struct {
	keys    []string
	entries []resultJSON // with values: one for each key
	next    string
}

func (a *api) list(w http.ResponseWriter, r *http.Request) *problem {
	l, p := a.listingOf(r)
	if p != nil {
		return p
	}
	ctx, cancel := a.working(r.Context(), l.timeout)
	defer cancel()
	pg, p := a.collect(ctx, l)
	if p != nil {
		return p
	}
	h := w.Header()
	h.Set("Cache-Control", "no-cache")
	h.Set("Vary", "Accept")
	if pg.next != "" {
		q := url.Values{}
		for _, p := range l.query {
			q.Set(p.name, p.value)
		}
		q.Set("after", pg.next)
		h.Set("Link", "</kv/"+l.bucket+"?"+q.Encode()+`>; rel="next"`)
	}
	if accepts(r, ndjson) {
		h.Set("Content-Type", ndjson)
		send(w, http.StatusOK, pg.lines())
		return nil
	}
	return writeJSON(w, http.StatusOK, pg.document())
}

func (a *api) listingOf(r *http.Request) (l listing, p *problem) {
	bucket, p := bucketOf(r)
	if p != nil {
		return l, p
	}
	if l.target, p = a.target(bucket, ""); p != nil {
		return l, p
	}
	if l.query, p = parseQuery(r.URL.RawQuery, listParams); p != nil {
		return l, p
	}
	if p = l.query.untraced(); p != nil {
		return l, p
	}
	if l.reading, p = a.reading(l.query, l.props, l.replicas); p != nil {
		return l, p
	}
	if l.limit, p = l.query.number("limit", defaultLimit, 1, MaxLimit); p != nil {
		return l, p
	}
	if l.values, p = l.query.boolean("values", false); p != nil {
		return l, p
	}
	l.prefix, l.after = l.query.value("prefix"), l.query.value("after")
	for _, name := range []string{"prefix", "after"} {
		if len(l.query.value(name)) > MaxKey {
			return l, badParameter(name, name+" is longer than a key can be")
		}
	}
	return l, nil
}

// listed is how many replicas have to list each partition: only primaries list what they hold.
func (l *listing) listed() int {
	if l.pr > l.r.k {
		return l.pr
	}
	return l.r.word
}

// collect gathers one page. When time runs out on the way, what was found is the page: its next says that there is
// more.
func (a *api) collect(ctx context.Context, l listing) (page, *problem) {
	pg := page{next: l.after}
	room := maxPageValues
	for {
		part, err := a.deps.KV.List(ctx, coordinator.ListRequest{
			Bucket: l.bucket, Prefix: l.prefix, After: pg.next, Limit: l.limit - len(pg.keys),
			R:             l.listed(),
			LastWriteWins: l.props.LastWriteWins,
		})
		if err != nil {
			if pg.next != l.after && ctx.Err() != nil {
				return pg, nil
			}
			return page{}, a.failure(err, false)
		}
		if l.values && len(part.Keys) > 0 {
			full, p := a.addValues(ctx, l, &pg, part, &room)
			if p != nil && (pg.next == l.after || ctx.Err() == nil) {
				return page{}, p
			}
			if full || p != nil {
				return pg, nil
			}
		} else {
			pg.keys = append(pg.keys, part.Keys...)
			pg.next = part.Next
		}
		if pg.next == "" || len(pg.keys) >= l.limit {
			return pg, nil
		}
	}
}

// addValues reads the keys of part, a few at once, and adds them to the page until its room is used up.
func (a *api) addValues(ctx context.Context, l listing, pg *page, part coordinator.ListPage, room *int) (full bool, p *problem) {
	for at := 0; at < len(part.Keys); at += listWorkers {
		keys := part.Keys[at:min(at+listWorkers, len(part.Keys))]
		results := make([]shown, len(keys))
		problems := make([]*problem, len(keys))
		var wg sync.WaitGroup
		for i, key := range keys {
			wg.Go(func() {
				// Not of the handler's goroutine: nobody else would catch it.
				defer func() {
					if v := recover(); v != nil {
						a.log.Error("a read of a listing panicked", "key", key, "err", v, "stack", string(debug.Stack()))
						problems[i] = newProblem(http.StatusInternalServerError, "internal", "this node failed; its log says how")
					}
				}()
				t := l.target
				t.key = key
				results[i], problems[i] = a.read(ctx, t, l.reading)
			})
		}
		wg.Wait()
		for i, key := range keys {
			if problems[i] != nil {
				return false, problems[i]
			}
			if results[i].Found() { // else it went since it was listed
				e := results[i].json()
				e.setKey(key)
				pg.keys = append(pg.keys, key)
				pg.entries = append(pg.entries, e)
			}
			pg.next = key
			for _, s := range results[i].Live {
				*room -= len(s.Value)
			}
			if *room <= 0 && (at+i+1 < len(part.Keys) || part.Next != "") {
				return true, nil
			}
		}
	}
	pg.next = part.Next
	return false, nil
}

// keyText is a key as JSON can hold it: the text, or, where it is not UTF-8, its base64 under another name.
type keyText struct {
	Key         string `json:"key"`
	KeyEncoding string `json:"key_encoding,omitempty"`
}

func textOfKey(key string) keyText {
	if utf8.ValidString(key) {
		return keyText{Key: key}
	}
	return keyText{base64.StdEncoding.EncodeToString([]byte(key)), "base64"}
}

// document is the page as one JSON object. A key is a string; or an object, where it is not UTF-8 or has a value.
func (pg page) document() any {
	doc := struct {
		Keys         []any  `json:"keys"`
		Next         string `json:"next,omitempty"`
		NextEncoding string `json:"next_encoding,omitempty"`
	}{Keys: make([]any, 0, len(pg.keys))}
	for i, key := range pg.keys {
		switch k := textOfKey(key); {
		case pg.entries != nil:
			doc.Keys = append(doc.Keys, pg.entries[i])
		case k.KeyEncoding != "":
			doc.Keys = append(doc.Keys, k)
		default:
			doc.Keys = append(doc.Keys, key)
		}
	}
	next := textOfKey(pg.next)
	doc.Next, doc.NextEncoding = next.Key, next.KeyEncoding
	return doc
}

// lines is the page as one JSON object a line: a key each, and at the end, where there is more, the next.
func (pg page) lines() []byte {
	var out []byte
	for i, key := range pg.keys {
		var line any = textOfKey(key)
		if pg.entries != nil {
			line = pg.entries[i]
		}
		out = append(append(out, encodeJSON(line)...), '\n')
	}
	if pg.next != "" {
		next := textOfKey(pg.next)
		out = append(append(out, encodeJSON(struct {
			Next         string `json:"next"`
			NextEncoding string `json:"next_encoding,omitempty"`
		}{next.Key, next.KeyEncoding})...), '\n')
	}
	return out
}

// resultJSON is a key, or what an operation of a batch came to.
type resultJSON struct {
	Status int `json:"status,omitempty"`
	*keyText
	Context      string        `json:"context,omitempty"`
	ETag         string        `json:"etag,omitempty"`
	Dot          string        `json:"dot,omitempty"`
	ContentType  string        `json:"content_type,omitempty"`
	Value        *string       `json:"value,omitempty"`
	Encoding     string        `json:"encoding,omitempty"`
	Modified     string        `json:"modified,omitempty"`
	Siblings     []siblingJSON `json:"siblings,omitempty"`
	SiblingCount int           `json:"sibling_count,omitempty"` // live ones, where more than one
	Node         string        `json:"node,omitempty"`
	Acks         string        `json:"acks,omitempty"`
	Repeated     bool          `json:"repeated,omitempty"`
	Problem      *problem      `json:"problem,omitempty"`
}

func (r *resultJSON) setKey(key string) {
	k := textOfKey(key)
	r.keyText = &k
}

// json renders the value, or all siblings.
func (s shown) json() resultJSON {
	r := s.bare()
	switch len(s.Live) {
	case 0:
	case 1:
		v := s.Live[0]
		value, encoding := text(v.Value)
		r.Dot, r.ContentType, r.Value, r.Encoding = v.Dot.String(), cmp.Or(v.ContentType, anyBytes), &value, encoding
		r.ETag, r.Modified = `"`+s.etag+`"`, modified(v.Stamp)
	default:
		r.ETag, r.Modified = `"`+s.etag+`"`, modified(s.LastModified())
		r.Siblings = s.siblingsJSON()
	}
	return r
}

// bare renders what the headers of an answer say.
func (s shown) bare() resultJSON {
	r := resultJSON{Context: s.token, Node: s.node, Acks: s.acks}
	if n := len(s.Live); n > 1 {
		r.SiblingCount = n
	}
	return r
}
