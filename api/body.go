package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dunlindb/dunlin/internal/direct"
)

const (
	// eagerBody is how much room a declared length is given before its bytes have come.
	eagerBody = 64 << 10
	// A body that is too large is read on, up to these, and dropped: many clients look for an answer only after they
	// have sent everything, and a connection that is closed on them shows them no 413.
	maxDropped = 16 << 20
	dropTime   = 2 * time.Second
)

// readBody reads a body of at most limit bytes. No body is an empty one.
func (a *api) readBody(w http.ResponseWriter, r *http.Request, limit int) ([]byte, *problem) {
	if r.ContentLength > int64(limit) {
		a.drop(w, r)
		return nil, tooLarge(limit)
	}
	if r.Body == nil || r.ContentLength == 0 {
		return nil, nil
	}
	var b []byte
	var err error
	if n := r.ContentLength; n > 0 && n <= eagerBody {
		b = make([]byte, n)
		_, err = io.ReadFull(r.Body, b)
	} else {
		b, err = io.ReadAll(io.LimitReader(r.Body, int64(limit)+1))
	}
	if err != nil {
		return nil, a.bodyFailure(w, err)
	}
	if len(b) > limit {
		a.drop(w, r)
		return nil, tooLarge(limit)
	}
	// The body came in time. A deadline left standing would end the watch for a client that goes away.
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	return b, nil
}

// drop reads what is left of a body, within bounds. A client that asked whether to send gets its answer instead.
func (a *api) drop(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Expect") != "" {
		return
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(min(dropTime, a.opt.BodyTimeout)))
	_, _ = io.CopyN(io.Discard, r.Body, maxDropped) // the answer is the same whatever comes
}

func (a *api) bodyFailure(w http.ResponseWriter, err error) *problem {
	w.Header().Set("Connection", "close")
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return newProblem(http.StatusRequestTimeout, "slow-body", fmt.Sprintf("the body did not come within %s", a.opt.BodyTimeout))
	}
	return badRequest("the body cannot be read: " + err.Error())
}

func tooLarge(limit int) *problem {
	return newProblem(http.StatusRequestEntityTooLarge, "too-large", fmt.Sprintf("a body may have up to %d bytes here", limit))
}

const (
	plainText = "text/plain; charset=utf-8"
	anyBytes  = "application/octet-stream"
	// maxContentType is what a stored content type may have; a record has room for it.
	maxContentType = 1024
)

// contentType decides what is stored as a value's content type: what was given; but curl -d says that anything is a
// form, which counts as nothing given.
func contentType(given string, value []byte) (string, *problem) {
	if len(given) > maxContentType {
		return "", badRequest(fmt.Sprintf("a Content-Type of %d bytes; at most %d", len(given), maxContentType))
	}
	for i := range len(given) {
		if c := given[i]; c != '\t' && (c < ' ' || c > '~') {
			return "", badRequest("the Content-Type has other than printable ASCII characters")
		}
	}
	media, _, _ := strings.Cut(given, ";")
	media = strings.TrimSpace(media)
	if media != "" && !strings.EqualFold(media, "application/x-www-form-urlencoded") {
		return given, nil
	}
	if utf8.Valid(value) {
		return plainText, nil
	}
	return anyBytes, nil
}

// oneHeader returns a header that may be given once.
func oneHeader(h http.Header, name string) (value string, given bool, p *problem) {
	values := h.Values(name)
	switch len(values) {
	case 0:
		return "", false, nil
	case 1:
		return values[0], true, nil
	}
	p = badRequest("header " + name + " is given twice")
	p.Parameter = name
	return "", false, p
}

// working is the context of a request's work: it ends after the timeout, or some time after the client is gone. Not
// at once, since a client that closes only its sending side looks the same and still waits for the answer.
func (a *api) working(parent context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(parent), timeout)
	if direct.OnGone(parent, cancel) { // it waits for GoneGrace
		return ctx, cancel
	}
	stop := context.AfterFunc(parent, func() {
		grace := time.AfterFunc(a.opt.GoneGrace, cancel)
		context.AfterFunc(ctx, func() { grace.Stop() })
	})
	return ctx, func() { stop(); cancel() }
}
