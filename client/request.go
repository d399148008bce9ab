package client

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Waits between tries.
const (
	firstWait  = 50 * time.Millisecond
	longestGap = 2 * time.Second
	downFor    = time.Second // an endpoint that refused a connection is passed over this long
)

// request is one call before it is sent: what stays the same over its tries.
type request struct {
	method string
	path   string // escaped
	query  url.Values
	header http.Header
	body   []byte
	repeat bool // may be sent again after it may have had an effect
	accept []int
}

// answer is what came back, read completely.
type answer struct {
	status   int
	header   http.Header
	body     []byte
	endpoint string
}

// do sends r until it is answered for good, the tries are used up, or ctx
// ends. A status in r.accept (or any 2xx) is an answer, any other a *Problem.
func (c *Client) do(ctx context.Context, r *request) (*answer, error) {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = firstWait, longestGap
	start, attempt := c.start(), 0
	var last error
	operation := func() (*answer, error) {
		e, busy := c.next(start, attempt)
		if busy > 0 && attempt > 0 {
			// Not all that were refused at once come back at once.
			if err := sleep(ctx, busy+rand.N(busy/4+1)); err != nil {
				return nil, backoff.Permanent(errors.Join(last, err))
			}
		}
		attempt++
		a, err := c.send(ctx, e, r)
		if err == nil {
			return a, nil
		}
		if last == nil || ctx.Err() == nil { // that the time was over while a try was under way says less than the one before
			last = err
		}
		if !c.again(ctx, e, r, err) {
			return nil, backoff.Permanent(err)
		}
		return nil, err
	}
	a, err := backoff.Retry(ctx, operation,
		backoff.WithBackOff(wait),
		backoff.WithMaxTries(uint(c.opt.Tries)),
		backoff.WithMaxElapsedTime(0),
		backoff.WithNotify(func(err error, _ time.Duration) {
			if c.opt.OnRetry != nil {
				c.opt.OnRetry(err)
			}
		}))
	if err != nil && last != nil && ctx.Err() != nil && !errors.Is(err, last) {
		err = fmt.Errorf("%w (last failure: %w)", err, last)
	}
	return a, err
}

// finalError is a failure that no other try can mend.
type finalError struct{ err error }

func (e *finalError) Error() string { return e.err.Error() }
func (e *finalError) Unwrap() error { return e.err }

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// again judges a failure: whether r may be sent once more, and for how long e
// is passed over.
func (c *Client) again(ctx context.Context, e *endpoint, r *request, err error) bool {
	var final *finalError
	if errors.As(err, &final) {
		return false
	}
	var p *Problem
	if errors.As(err, &p) {
		if !p.passing() {
			return false
		}
		if p.RetryAfter > 0 {
			c.leaveAlone(e, p.RetryAfter)
		}
		return r.repeat || p.Outcome == OutcomeNone
	}
	if ctx.Err() != nil {
		return false
	}
	c.leaveAlone(e, downFor)
	return r.repeat || neverSent(err)
}

// neverSent tells that no connection existed that could have carried the
// request, so that it certainly had no effect.
func neverSent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// send does one try at one endpoint.
func (c *Client) send(ctx context.Context, e *endpoint, r *request) (*answer, error) {
	target := e.base + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, bytes.NewReader(r.body))
	if err != nil {
		return nil, &finalError{fmt.Errorf("client: %w", err)}
	}
	if r.header != nil {
		req.Header = r.header.Clone()
	}
	req.Header.Set("User-Agent", c.opt.UserAgent)
	if c.opt.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.opt.Token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", e.base, unwrapURL(err))
	}
	defer resp.Body.Close()
	if !r.accepts(resp.StatusCode) {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxProblem))
		return nil, newProblem(&answer{status: resp.StatusCode, header: resp.Header, body: text, endpoint: e.base})
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err != nil {
		return nil, fmt.Errorf("%s: reading the answer: %w", e.base, err)
	}
	if len(body) > maxBody {
		return nil, &finalError{fmt.Errorf("client: %s: the answer is larger than %d bytes", e.base, maxBody)}
	}
	return &answer{status: resp.StatusCode, header: resp.Header, body: body, endpoint: e.base}, nil
}

// unwrapURL drops the method and URL that net/http puts before a failure: the
// endpoint is named already.
func unwrapURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

func (r *request) accepts(status int) bool {
	if status >= 200 && status < 300 {
		return true
	}
	for _, s := range r.accept {
		if s == status {
			return true
		}
	}
	return false
}

// NewIdempotencyKey returns a fresh random key for Write.IdempotencyKey.
func NewIdempotencyKey() string { return crand.Text() }
