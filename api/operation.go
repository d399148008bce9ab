package api

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// operation is a line of a batch.
type operation struct {
	op          string
	bucket      string
	key         string // decoded
	value       *string
	encoding    string
	contentType string
	context     *string
	idempotency *string
}

// parseOperation reads a line and checks what is the same for all operations.
func parseOperation(line []byte) (o operation, p *problem) {
	// The JSON decoder replaces what is no text; a store must not.
	if !utf8.Valid(line) {
		return o, badRequest("the line is not UTF-8; use the encoding base64 for other bytes")
	}
	if loneSurrogate(line) {
		return o, badRequest(`the line escapes half a character (a lone surrogate); use the encoding base64 for other than text`)
	}
	var op, bucket, key, keyEncoding, encoding, contentType *string
	fields := map[string]**string{
		"op": &op, "bucket": &bucket, "key": &key, "key_encoding": &keyEncoding, "value": &o.value, "encoding": &encoding,
		"content_type": &contentType, "context": &o.context, "idempotency_key": &o.idempotency,
	}
	seen := map[string]bool{}
	p = parseObject(line, func(name string, value json.RawMessage) *problem {
		field, known := fields[name]
		switch {
		case !known:
			return badParameter(shorten(name), fmt.Sprintf("unknown field %q of an operation", shorten(name)))
		case seen[name]:
			return badParameter(name, "field "+name+" is given twice")
		}
		seen[name] = true
		if json.Unmarshal(value, field) != nil {
			return badParameter(name, name+" is not a string")
		}
		return nil
	})
	if p != nil {
		return o, p
	}
	o.op, o.bucket, o.encoding, o.contentType = str(op), str(bucket), str(encoding), str(contentType)
	return o, o.check(str(key), str(keyEncoding))
}

func str(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func (o *operation) check(key, keyEncoding string) *problem {
	switch o.op {
	case "put", "get", "delete":
	default:
		return badParameter("op", fmt.Sprintf("op=%q; use put, get or delete", shorten(o.op)))
	}
	if p := checkBucket(o.bucket); p != nil {
		return p
	}
	b, p := decodeText("key", key, keyEncoding)
	if p != nil {
		return p
	}
	o.key = string(b)
	return checkKey(o.key)
}

// loneSurrogate reports whether a JSON text has an escape \uXXXX of half a character without the other half.
func loneSurrogate(line []byte) bool {
	for i := 0; i+1 < len(line); i++ {
		if line[i] != '\\' {
			continue
		}
		i++ // of an escaped backslash, what follows is no escape
		if line[i] != 'u' {
			continue
		}
		r := escaped(line[i-1:])
		if !utf16.IsSurrogate(r) {
			continue
		}
		if utf16.DecodeRune(r, escaped(line[min(i+5, len(line)):])) == utf8.RuneError {
			return true
		}
		i += 10
	}
	return false
}

// escaped reads the escape that b begins with; 0 when it does not.
func escaped(b []byte) rune {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0
	}
	n, err := strconv.ParseUint(string(b[2:6]), 16, 16)
	if err != nil {
		return 0
	}
	return rune(n)
}

// decodeText reads bytes as JSON holds them.
func decodeText(name, s, encoding string) ([]byte, *problem) {
	switch encoding {
	case "", "utf-8":
		return []byte(s), nil
	case "base64":
		b, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			return nil, badParameter(name, name+" is no base64: "+err.Error())
		}
		return b, nil
	}
	return nil, badParameter("encoding", fmt.Sprintf("encoding=%q; use utf-8 or base64", shorten(encoding)))
}

// lineTooLong says that a line was skipped.
type lineTooLong struct{ limit int }

// Error gives the limit.
func (e *lineTooLong) Error() string {
	return fmt.Sprintf("a line may have up to %d bytes here", e.limit)
}

// timedBody is a body of which each line must come within a time. No deadline stands while nobody reads: it would end
// the watch for a client that goes away, and with it the work.
type timedBody struct {
	body  io.Reader
	rc    *http.ResponseController
	most  time.Duration
	by    time.Time
	ended bool
}

func (b *timedBody) next() { b.by = time.Now().Add(b.most) }

// Read reads until the present line's deadline.
func (b *timedBody) Read(p []byte) (int, error) {
	_ = b.rc.SetReadDeadline(b.by) // not every connection can
	n, err := b.body.Read(p)
	if err == nil || errors.Is(err, io.EOF) {
		_ = b.rc.SetReadDeadline(time.Time{})
	}
	b.ended = b.ended || err != nil
	return n, err
}

// leave bounds how long net/http waits for what was not read.
func (b *timedBody) leave() {
	if !b.ended {
		_ = b.rc.SetReadDeadline(time.Now().Add(b.most))
	}
}

// lines reads the lines of a body, each of at most limit bytes.
type lines struct {
	body  *bufio.Reader
	limit int
	next  func() // called before each
	ended bool
	// stopped ends the lines early. The end of the request's context does not: a client that has sent everything and
	// closes its sending side ends it too.
	stopped atomic.Bool
}

// read returns the next line, in memory of its own; *lineTooLong for one that was skipped; io.EOF at the end.
func (l *lines) read() ([]byte, error) {
	if l.ended || l.stopped.Load() {
		return nil, io.EOF
	}
	l.next()
	var line []byte
	long := false
	for {
		part, err := l.body.ReadSlice('\n')
		if len(line)+len(part) > l.limit {
			long, line = true, nil
		}
		if !long {
			line = append(line, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF):
			l.ended = true
			if len(line) == 0 && !long {
				return nil, io.EOF
			}
		case err != nil:
			l.ended = true
			return nil, err
		}
		if long {
			return nil, &lineTooLong{l.limit}
		}
		return line, nil
	}
}
