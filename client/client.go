package client

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Options are settings of a Client. The zero value is usable.
type Options struct {
	// HTTPClient does the requests. Nil: one with keep-alive connections and
	// no time limit of its own; the context given to each call is the limit.
	HTTPClient *http.Client
	// Tries bounds how often one request is sent, first time included.
	// 0: 5. 1: never again.
	Tries int
	// Token is sent as bearer token when not empty.
	Token string
	// UserAgent names the program. Empty: "dunlin-go".
	UserAgent string
	// FirstFirst prefers the endpoints in the order given instead of spreading
	// requests over all of them.
	FirstFirst bool
	// OnRetry is called before a request is sent again, with what went wrong.
	// It must be safe for concurrent use.
	OnRetry func(error)
}

// Bounds of the client.
const (
	defaultTries = 5
	maxBody      = 64 << 20 // bytes of an answer that are read
	maxProblem   = 64 << 10 // bytes of an error answer that are read
)

// Client talks to a cluster through one or more of its nodes.
type Client struct {
	http      *http.Client
	opt       Options
	turn      atomic.Uint64
	mu        sync.Mutex // guards notBefore of the endpoints
	endpoints []*endpoint
}

// endpoint is one node's base URL, and until when it asked to be left alone.
type endpoint struct {
	base      string
	notBefore time.Time
}

// New returns a client of the nodes at the given base URLs, e.g.
// http://127.0.0.1:8001. A missing scheme means http. It connects to nothing.
func New(endpoints []string, opt Options) (*Client, error) {
	if len(endpoints) == 0 {
		return nil, errors.New("client: no endpoint given")
	}
	if opt.Tries == 0 {
		opt.Tries = defaultTries
	}
	if opt.UserAgent == "" {
		opt.UserAgent = "dunlin-go"
	}
	c := &Client{opt: opt, http: opt.HTTPClient}
	if c.http == nil {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.MaxIdleConnsPerHost = 128
		c.http = &http.Client{Transport: transport}
	}
	for _, e := range endpoints {
		base, err := baseURL(e)
		if err != nil {
			return nil, err
		}
		c.endpoints = append(c.endpoints, &endpoint{base: base})
	}
	return c, nil
}

// baseURL checks and completes the URL of a node.
func baseURL(s string) (string, error) {
	full := s
	if !strings.Contains(full, "://") {
		full = "http://" + full
	}
	u, err := url.Parse(full)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return "", fmt.Errorf("client: %q is no URL of a node; use e.g. http://127.0.0.1:8001", s)
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("client: %q: a node's URL has no query or fragment", s)
	}
	return strings.TrimRight(u.String(), "/"), nil
}

// Endpoints returns the base URLs in the order given.
func (c *Client) Endpoints() []string {
	out := make([]string, len(c.endpoints))
	for i, e := range c.endpoints {
		out[i] = e.base
	}
	return out
}

// Close drops idle connections. Requests under way go on.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Bucket returns the keys of one bucket. The bucket need not exist.
func (c *Client) Bucket(name string) *Bucket { return &Bucket{c: c, name: name} }

// next picks the endpoint for the attempt-th try of a request that started at
// position start, and how long to wait before asking it: the first in turn
// that did not ask to be left alone, else the one that is free soonest.
func (c *Client) next(start, attempt int) (*endpoint, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	var best *endpoint
	for i := range c.endpoints {
		e := c.endpoints[(start+attempt+i)%len(c.endpoints)]
		if !e.notBefore.After(now) {
			return e, 0
		}
		if best == nil || e.notBefore.Before(best.notBefore) {
			best = e
		}
	}
	return best, best.notBefore.Sub(now)
}

// leaveAlone keeps requests from e for d while others can answer.
func (c *Client) leaveAlone(e *endpoint, d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if until := time.Now().Add(d); until.After(e.notBefore) {
		e.notBefore = until
	}
}

// start is the position of the first endpoint that a new request asks.
func (c *Client) start() int {
	if c.opt.FirstFirst {
		return 0
	}
	return int((c.turn.Add(1) - 1) % uint64(len(c.endpoints)))
}
