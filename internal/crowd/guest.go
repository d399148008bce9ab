package crowd

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/dunlindb/dunlin/internal/referee"
)

// Guest is one more client, which does what it is told. What it did is judged like all else. Its methods are safe for
// concurrent use; nothing may be under way when Finish is called.
type Guest struct{ c *Crowd }

// Guest returns a guest of the crowd, whose client is the one of the number Options.Clients.
func (c *Crowd) Guest() Guest {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.guest == nil {
		c.guest = c.opt.Client(c.opt.Clients)
	}
	return Guest{c}
}

// Key names a key that nobody has written and that suits, such as by where it lies.
func (g Guest) Key(bucket string, suits func(key string) bool) string {
	c := g.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for ; ; c.tried++ {
		if key := fmt.Sprintf("guest%03d", c.tried); suits(key) {
			c.tried++
			c.guests = append(c.guests, place{bucket: bucket, key: key})
			return key
		}
	}
}

// Wish is a write that a guest is told to do.
type Wish struct {
	At          Node // it is asked, and no other
	Bucket, Key string
	W           int
	Strict      bool
	Timeout     time.Duration // of the request, as a parameter
}

// Put writes a value without a context, and reports whether that was acknowledged.
func (g Guest) Put(x Wish) bool {
	one, n := g.client(x.At)
	name := fmt.Sprintf("g-%d", n)
	p := place{x.Bucket, x.Key, x.Strict}
	query := fmt.Sprintf("?w=%d&timeout=%s", x.W, x.Timeout)
	if x.Strict {
		query += "&sloppy=false"
	}
	o := &referee.Operation{Kind: referee.Put, Value: name, W: x.W}
	one.write(p, o, request{method: "PUT", path: p.path() + query, body: referee.Value(name, g.c.opt.ValueSize)})
	return o.Outcome == referee.Acked
}

// Remove reads a key, and deletes what was read, with the quorums of other clients.
func (g Guest) Remove(x Wish) {
	one, _ := g.client(x.At)
	p := place{x.Bucket, x.Key, x.Strict}
	if s, ok := one.get(p); ok && s.token != "" {
		one.delete(p, s)
	}
}

// client is one for a single use, with a number of its own.
func (g Guest) client(at Node) (one *client, n int) {
	g.c.mu.Lock()
	defer g.c.mu.Unlock()
	g.c.guestUses++
	rnd := rand.New(rand.NewPCG(g.c.opt.Seed, uint64(1000+g.c.guestUses)))
	return &client{Crowd: g.c, id: g.c.opt.Clients, rnd: rnd, memory: map[string]seen{}, http: g.c.guest, only: &at}, g.c.guestUses
}

// pick is the node that is asked next.
func (c *client) pick(nodes []Node) Node {
	if c.only != nil {
		return *c.only
	}
	return nodes[c.rnd.IntN(len(nodes))]
}

// Rest has the clients, but for guests, begin nothing until resume is called.
func (c *Crowd) Rest() (resume func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.resting++; c.resting == 1 {
		c.resumed = make(chan struct{})
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.resting--; c.resting == 0 {
			close(c.resumed)
		}
	}
}

// wait waits while the clients are to rest.
func (c *Crowd) wait(ctx context.Context) {
	c.mu.Lock()
	resting, resumed := c.resting > 0, c.resumed
	c.mu.Unlock()
	if !resting {
		return
	}
	select {
	case <-resumed:
	case <-ctx.Done():
	}
}
