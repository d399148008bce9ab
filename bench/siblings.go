package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/dunlindb/dunlin/client"
	"github.com/dunlindb/dunlin/internal/loadgen"
)

const (
	siblingKeys   = 2_000
	siblingSample = 100 // keys that are read to count their siblings
)

// siblings measures keys of which each holds so many siblings, and keeps them as many under writes: each write replaces
// the one that its connection wrote there before.
//
// A context covers the own write only where no sibling that its client has not read is of the same coordinator. So the
// node that takes the measured writes of a key takes no others of that key, and no two connections write the same key.
func (g *grower) siblings(ctx context.Context, steps []int) (out []point, err error) {
	p, err := g.start(ctx, overSiblings, nodes)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	admin, err := client.New(p.server.urls[:1], client.Options{})
	if err != nil {
		return nil, err
	}
	defer admin.Close()
	bucket := admin.Bucket(overSiblings)
	if _, err := bucket.SetProperties(ctx, client.Properties{"conflict": "siblings"}); err != nil {
		return nil, err
	}
	spec := g.spec(min(siblingKeys, g.settings.Keys))
	spec.Connections = min(spec.Connections, spec.Keys)
	spec.Verify = false // connections write other keys than were drawn for them
	target := p.server.target
	target.Bucket = overSiblings
	p.get = target.Dialer()
	others := byKey{dial: target.Dialer(), shift: 1}
	target.Contexts = true
	own := byKey{dial: target.Dialer()}
	p.put = own.dialer
	have := 0
	for _, n := range steps {
		for ; have < n; have++ {
			p.put = others.dialer
			if have == 0 {
				p.put = own.dialer
			}
			if err := p.grow(ctx, spec, 0); err != nil {
				return nil, err
			}
		}
		p.put = byKey{dial: own.dial, workers: spec.Connections, keys: spec.Keys}.dialer
		if err := p.rest(ctx); err != nil {
			return nil, err
		}
		at, err := g.rounds(ctx, p, spec, n)
		if err != nil {
			return nil, err
		}
		if at.Found, err = countSiblings(ctx, bucket, spec.Keys); err != nil {
			return nil, err
		}
		out = append(out, at)
	}
	return out, nil
}

// countSiblings is the mean number of siblings of some keys.
func countSiblings(ctx context.Context, bucket *client.Bucket, keys int) (float64, error) {
	n, found := min(keys, siblingSample), 0
	for i := range n {
		key := string(loadgen.AppendKey(nil, i*keys/n))
		o, err := bucket.Get(ctx, key, client.Read{})
		if err != nil {
			return 0, fmt.Errorf("%s: %w", key, err)
		}
		found += len(o.Siblings)
	}
	return float64(found) / float64(n), nil
}

// byKey makes connections that reach all nodes and send each operation to the one that belongs to its key, or a number
// of nodes after that. With workers, a connection writes only keys of its own: those that leave its number as a rest.
type byKey struct {
	dial          loadgen.Dialer
	shift         int
	workers, keys int
}

func (b byKey) dialer(ctx context.Context, i int) (loadgen.Conn, error) {
	c := &byKeyConn{byKey: b, worker: i}
	for node := range nodes {
		conn, err := b.dial(ctx, node)
		if err != nil {
			c.Close()
			return nil, err
		}
		c.conns = append(c.conns, conn)
	}
	return c, nil
}

type byKeyConn struct {
	byKey
	worker int
	conns  []loadgen.Conn
	op     loadgen.Op
}

func (c *byKeyConn) Do(op *loadgen.Op) loadgen.Answer {
	i := op.Index
	if c.workers > 0 {
		if i += c.worker - i%c.workers; i >= c.keys {
			i = c.worker
		}
	}
	key := loadgen.AppendKey(c.op.Key[:0], i)
	c.op = *op
	c.op.Index, c.op.Key = i, key
	return c.conns[(i+c.shift)%len(c.conns)].Do(&c.op)
}

func (c *byKeyConn) Close() {
	for _, conn := range c.conns {
		conn.Close()
	}
}
