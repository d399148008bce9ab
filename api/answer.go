package api

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dunlindb/dunlin/coordinator"
	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// shown is a key as its client sees it, with what the headers of an answer say of it.
type shown struct {
	vclock.Answer
	token string // "": there is nothing to have seen
	etag  string // without quotes
	acks  string
	node  string
	// degraded: fewer replicas were heard than were asked for, since the others are down.
	degraded bool
}

// headerDegraded is set on an answer that fewer than r replicas stand behind.
const headerDegraded = "Dunlin-Degraded"

func acks(acked, n int) string {
	if acked <= ring.MaxN && n <= ring.MaxN {
		return acksTexts[acked][n]
	}
	return strconv.Itoa(acked) + "/" + strconv.Itoa(n)
}

var acksTexts = func() (texts [ring.MaxN + 1][ring.MaxN + 1]string) {
	for acked := range texts {
		for n := range texts[acked] {
			texts[acked][n] = strconv.Itoa(acked) + "/" + strconv.Itoa(n)
		}
	}
	return texts
}()

func (a *api) show(t target, o vclock.Object, acked, n int) shown {
	s := a.showWithoutToken(t, o, acked, n)
	if !s.Context.IsZero() {
		s.token = t.tokenOf(s.Context)
	}
	return s
}

// showWithoutToken is show for who gives out the context of another.
func (a *api) showWithoutToken(t target, o vclock.Object, acked, n int) shown {
	s := shown{
		Answer: o.Answer(a.deps.Now().UnixMilli(), t.props.LastWriteWins),
		acks:   acks(acked, n),
		node:   a.deps.Name,
	}
	s.etag = etagOf(s.Answer)
	a.metrics.siblings.Observe(float64(len(s.Live)))
	return s
}

// tokenOf renders a context of this key.
func (t target) tokenOf(c vclock.Context) string {
	return c.Token(vclock.Scope{Cluster: t.ring.Layout().ClusterID, Bucket: t.bucket, Key: t.key})
}

// etagOf names what an answer shows: a dot stands for one value, for ever.
func etagOf(ans vclock.Answer) string {
	b := make([]byte, 0, 128) // enough for two siblings
	for _, group := range [][]vclock.Sibling{ans.Live, ans.Deleted} {
		for _, s := range group {
			b = append(b, s.Dot.Actor.Node[:]...)
			b = binary.BigEndian.AppendUint64(b, s.Dot.Actor.Birth.Millis)
			b = binary.BigEndian.AppendUint64(b, s.Dot.Actor.Birth.Rand)
			b = binary.BigEndian.AppendUint64(b, s.Dot.Counter)
		}
		b = append(b, 0)
	}
	sum := sha256.Sum256(b)
	return string(hex.AppendEncode(make([]byte, 0, 24), sum[:12]))
}

// read does a checked read, until ctx ends.
func (a *api) read(ctx context.Context, t target, c reading) (shown, *problem) {
	res, err := a.deps.KV.Get(ctx, coordinator.GetRequest{
		Bucket: t.bucket, Key: t.key, R: c.r.word, PR: c.pr, Sloppy: c.sloppy, Trace: traceOf(ctx),
	})
	if err != nil {
		return shown{}, a.failure(err, false)
	}
	s := a.show(t, res.Object, res.Acks, res.N)
	s.degraded = res.Degraded
	return s, nil
}

var (
	noCache   = []string{"no-cache"}
	sandboxed = []string{"default-src 'none'; sandbox"}
)

// headers sets what every answer about a key says.
func (s shown) headers(h http.Header) {
	h.Set(headerAcks, s.acks)
	if h.Get(headerNode) != s.node {
		h.Set(headerNode, s.node)
	}
	h["Cache-Control"] = noCache
	if s.degraded {
		h.Set(headerDegraded, "fewer replicas were heard than asked for, the others are down; the value may be stale")
	}
	if s.token != "" {
		h.Set(headerContext, s.token)
	}
	if n := len(s.Live); n > 1 {
		h.Set(headerSiblings, strconv.Itoa(n))
	}
}

// validators sets what a client can make a request conditional on.
func (s shown) validators(h http.Header, suffix string) {
	h.Set("ETag", `"`+s.etag+suffix+`"`)
	h.Set("Last-Modified", s.LastModified().Time().Format(http.TimeFormat))
}

// all are the siblings to show, in the order of their dots.
func (s shown) all() []vclock.Sibling {
	out := slices.Concat(s.Live, s.Deleted)
	slices.SortFunc(out, func(x, y vclock.Sibling) int { return x.Dot.Compare(y.Dot) })
	return out
}

// jsonSuffix tells the JSON form of several siblings from the other one: ETags are strong.
const jsonSuffix = "-json"

// write answers with the value, or with all siblings. There is at least one live one. status is for a single value.
func (s shown) write(w http.ResponseWriter, r *http.Request, status int) {
	h := w.Header()
	s.headers(h)
	// A value is anybody's: a browser must not run it as a page of this server.
	h["Content-Security-Policy"] = sandboxed
	if len(s.Live) == 1 {
		v := s.Live[0]
		s.validators(h, "")
		h.Set(headerDot, v.Dot.String())
		h.Set("Content-Type", cmp.Or(v.ContentType, anyBytes))
		send(w, status, v.Value)
		return
	}
	h.Set("Vary", "Accept")
	if wantsJSON(r) {
		s.validators(h, jsonSuffix)
		h.Set("Content-Type", "application/json")
		send(w, http.StatusMultipleChoices, append(encodeJSON(struct {
			Context  string        `json:"context"`
			Siblings []siblingJSON `json:"siblings"`
		}{s.token, s.siblingsJSON()}), '\n'))
		return
	}
	s.validators(h, "")
	boundary := s.boundary()
	h.Set("Content-Type", "multipart/mixed; boundary="+boundary)
	send(w, http.StatusMultipleChoices, s.multipart(boundary))
}

func send(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that has gone away needs no answer
}

// wantsJSON reports whether the client prefers JSON to the multipart form.
func wantsJSON(r *http.Request) bool { return accepts(r, "application/json") }

// accepts reports whether the Accept header names the media type, not only a range that takes it in.
func accepts(r *http.Request, media string) bool {
	for _, line := range r.Header.Values("Accept") {
		for part := range strings.SplitSeq(line, ",") {
			name, weight, _ := strings.Cut(part, ";")
			if strings.EqualFold(strings.TrimSpace(name), media) && !refuses(weight) {
				return true
			}
		}
	}
	return false
}

// refuses reports whether the parameters of a media range give it the weight 0.
func refuses(params string) bool {
	for p := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		if strings.EqualFold(name, "q") {
			q, err := strconv.ParseFloat(value, 64)
			return err == nil && q == 0
		}
	}
	return false
}

// boundary is a line that no value contains, and the same on every node, so that the ETag holds.
func (s shown) boundary() string {
	boundary := "dunlin-" + s.etag
	for i := 0; slices.ContainsFunc(s.Live, func(v vclock.Sibling) bool { return bytes.Contains(v.Value, []byte(boundary)) }); i++ {
		boundary = fmt.Sprintf("dunlin-%s-%d", s.etag, i)
	}
	return boundary
}

func (s shown) multipart(boundary string) []byte {
	var buf bytes.Buffer
	m := multipart.NewWriter(&buf)
	must(m.SetBoundary(boundary))
	for _, v := range s.all() {
		h := textproto.MIMEHeader{
			headerDot:       {v.Dot.String()},
			"Last-Modified": {v.Stamp.Time().Format(http.TimeFormat)},
		}
		value := v.Value
		if v.Deleted {
			h.Set(headerDeleted, "true")
			value = nil
		} else {
			h.Set("Content-Type", cmp.Or(v.ContentType, anyBytes))
		}
		part, err := m.CreatePart(h)
		must(err)
		_, err = part.Write(value)
		must(err)
	}
	must(m.Close())
	return buf.Bytes()
}

// must holds for what is written into memory.
func must(err error) {
	if err != nil {
		panic("api: " + err.Error())
	}
}

type siblingJSON struct {
	Dot         string  `json:"dot"`
	ContentType string  `json:"content_type,omitempty"`
	Value       *string `json:"value,omitempty"`
	Encoding    string  `json:"encoding,omitempty"`
	Modified    string  `json:"modified"`
	Deleted     bool    `json:"deleted"`
}

func (s shown) siblingsJSON() []siblingJSON {
	out := make([]siblingJSON, 0, len(s.Live)+len(s.Deleted))
	for _, v := range s.all() {
		j := siblingJSON{Dot: v.Dot.String(), Modified: modified(v.Stamp), Deleted: v.Deleted}
		if !v.Deleted {
			value, encoding := text(v.Value)
			j.Value, j.Encoding, j.ContentType = &value, encoding, cmp.Or(v.ContentType, anyBytes)
		}
		out = append(out, j)
	}
	return out
}

func modified(s vclock.Stamp) string { return s.Time().Format(time.RFC3339Nano) }

// text renders bytes for JSON: as they are where they are UTF-8, else in base64.
func text(b []byte) (value, encoding string) {
	if utf8.Valid(b) {
		return string(b), "utf-8"
	}
	return base64.StdEncoding.EncodeToString(b), "base64"
}
