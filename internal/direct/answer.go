package direct

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// answer is the http.ResponseWriter of one request. It keeps what is written until finish, which sends it in one
// piece; but a large body whose length was said it sends at once. Like net/http's it belongs to the handler's goroutine,
// and only until the handler returns.
type answer struct {
	conn   *conn
	header http.Header
	status int    // 0: not said yet
	out    []byte // the status, the fields, and the body once these are complete
	body   []byte // as long as the length is not known
	length int    // of the body, as the handler says; -1: it does not
	wrote  int    // bytes of the body
	// Of the fields, the first two are complete with a first byte of the body.
	typed, dated, closing bool
	complete, sent        bool
}

var answers = sync.Pool{New: func() any { return &answer{header: make(http.Header, 16), length: -1} }}

const (
	// maxKept is the largest buffer that is kept for a later answer.
	maxKept = 64 << 10
	// large is from where on it is better not to copy a body.
	large = 16 << 10
)

func newAnswer(c *conn) *answer {
	a := answers.Get().(*answer)
	a.conn = c
	return a
}

func (a *answer) release() {
	if cap(a.body) > maxKept || cap(a.out) > maxKept {
		return
	}
	clear(a.header)
	*a = answer{header: a.header, out: a.out[:0], body: a.body[:0], length: -1}
	answers.Put(a)
}

// Header returns the fields of the answer, to be set before WriteHeader.
func (a *answer) Header() http.Header { return a.header }

// SetReadDeadline does nothing: the request is here.
func (a *answer) SetReadDeadline(time.Time) error { return nil }

// WriteHeader notes the status and the fields as they are now. Informational answers are not sent.
func (a *answer) WriteHeader(status int) {
	if a.status != 0 || status < http.StatusOK {
		return
	}
	a.status = status
	a.out = append(a.out, "HTTP/1.1 "...)
	a.out = strconv.AppendInt(a.out, int64(status), 10)
	a.out = append(a.out, ' ')
	a.out = append(a.out, http.StatusText(status)...)
	a.out = append(a.out, "\r\n"...)
	var room [24]string
	names := room[:0]
	for name := range a.header {
		names = append(names, name)
	}
	slices.Sort(names) // as net/http does, for those who read it
	for _, name := range names {
		values := a.header[name]
		switch name {
		case "Content-Type":
			a.typed = true
			if status == http.StatusNotModified {
				continue
			}
		case "Content-Length":
			n, err := strconv.Atoi(a.header.Get(name))
			if !bodyAllowed(status) || err != nil || n < 0 {
				continue
			}
			a.length = n
		case "Date":
			a.dated = true
		case "Connection":
			a.closing = a.closing || strings.EqualFold(a.header.Get(name), "close")
		}
		for _, value := range values {
			a.field(name, oneLine(value))
		}
	}
}

func (a *answer) field(name, value string) {
	a.out = append(a.out, name...)
	a.out = append(a.out, ": "...)
	a.out = append(a.out, value...)
	a.out = append(a.out, "\r\n"...)
}

// oneLine makes sure that a value cannot begin a field of its own.
func oneLine(s string) string {
	if strings.IndexByte(s, '\n') >= 0 || strings.IndexByte(s, '\r') >= 0 {
		s = strings.NewReplacer("\r", " ", "\n", " ").Replace(s)
	}
	return strings.Trim(s, " \t")
}

func bodyAllowed(status int) bool {
	return status != http.StatusNoContent && status != http.StatusNotModified
}

// Write adds to the body.
func (a *answer) Write(b []byte) (int, error) {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	if !bodyAllowed(a.status) {
		return 0, http.ErrBodyNotAllowed
	}
	a.wrote += len(b)
	if a.length >= 0 && a.wrote > a.length {
		return 0, http.ErrContentLength
	}
	switch {
	case a.length < 0:
		a.body = append(a.body, b...)
	case len(b) == a.length && len(b) >= large:
		now := time.Now()
		a.end(b, now)
		a.sent = true
		a.conn.send(now, a.out, b)
	default:
		a.end(b, time.Now())
		a.out = append(a.out, b...)
	}
	return len(b), nil
}

// end adds the fields that the handler did not set, once. The body begins with b.
func (a *answer) end(b []byte, now time.Time) {
	if a.complete {
		return
	}
	a.complete = true
	if !a.typed && len(b) > 0 {
		a.field("Content-Type", http.DetectContentType(b))
	}
	if !a.dated {
		a.field("Date", a.conn.server.Date(now))
	}
	if !a.closing && a.conn.server.closing.Load() {
		a.closing = true
		a.field("Connection", "close")
	}
	a.out = append(a.out, "\r\n"...)
}

// finish sends what has not been sent. When the handler wrote less or more than it said, that is nothing: what the client
// gets must not look like an answer. It reports whether the connection can be used on.
func (a *answer) finish() bool {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	if a.length >= 0 && a.wrote != a.length {
		return false
	}
	now := time.Now()
	if a.length < 0 && bodyAllowed(a.status) {
		a.field("Content-Length", strconv.Itoa(len(a.body)))
	}
	if !a.sent {
		a.end(a.body, now)
		a.out = append(a.out, a.body...)
		a.conn.send(now, a.out)
	}
	return !a.closing
}
