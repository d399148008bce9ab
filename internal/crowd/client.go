package crowd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dunlindb/dunlin/internal/referee"
)

// client is one of the crowd.
type client struct {
	*Crowd
	id     int
	rnd    *rand.Rand
	http   *http.Client
	memory map[string]seen // what it keeps from earlier answers, by bucket and key
	late   []late          // acknowledged writes that it may send again, the latest at the end
	once   []place         // keys that it wrote once, and may delete
	n      int
	only   *Node // that it asks; nil: any
}

// late is a write that was acknowledged some time ago.
type late struct {
	request
	at time.Duration
}

const (
	maxLate = 200              // of a client
	lateFor = 30 * time.Minute // a key remembers a replaced write for an hour
)

// seen is a context, and what it covers (see referee.Operation).
type seen struct {
	token       string
	sure, maybe []string
}

// place is a key and how it is used.
type place struct {
	bucket, key string
	strict      bool
}

func (p place) name() string { return referee.KeyName(p.bucket, p.key) }
func (p place) path() string { return "/kv/" + p.bucket + "/" + p.key }

func (c *client) rest(ctx context.Context) {
	if c.opt.Pause == 0 {
		return
	}
	t := time.NewTimer(time.Duration((0.1 + 1.8*c.rnd.Float64()) * float64(c.opt.Pause)))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// single writes a key that nobody else writes, or reads or deletes one that it has written.
func (c *client) single() {
	i := c.rnd.IntN(len(c.once) + 1)
	if what := c.rnd.IntN(4); what > 1 && i < len(c.once) {
		p := c.once[i]
		s, ok := c.get(p)
		if ok && s.token != "" && what == 3 {
			c.once = slices.Delete(c.once, i, i+1)
			c.delete(p, s)
		}
		return
	}
	if p, ok := c.newOnce(c.rnd.IntN(2) == 0); ok {
		c.once = append(c.once, p)
		c.put(p, seen{}, false)
		if c.opt.Churn == 0 || c.rnd.IntN(100) >= c.opt.Churn {
			return
		}
		if s, ok := c.get(p); ok && s.token != "" {
			c.once = c.once[:len(c.once)-1]
			c.delete(p, s)
		}
	}
}

func (c *client) step() {
	if c.rnd.IntN(100) < c.opt.Once {
		c.single()
		return
	}
	i := c.rnd.IntN(c.opt.Keys)
	p := place{c.opt.Bucket, c.use(i), c.rnd.IntN(3) == 0}
	if c.opt.LWW != "" && c.rnd.IntN(4) == 0 {
		p.bucket = c.opt.LWW
	}
	switch x := c.rnd.IntN(100); {
	case x < 30:
		c.get(p)
	case x < 60:
		if s, ok := c.get(p); ok {
			c.put(p, s, false)
		}
	case x < 67:
		c.put(p, c.memory[p.name()], false) // a context of some earlier answer, or none
	case x < 75:
		c.put(p, seen{}, false)
	case x < 84:
		if s, ok := c.get(p); ok && s.token != "" {
			c.delete(p, s)
		}
	case x < 87 && i%8 == 0: // few keys, since such a delete excuses much
		c.delete(p, seen{})
	case x < 97:
		if s, ok := c.get(p); ok && c.mayRetry(p.name()) {
			c.put(p, s, true)
		}
	case len(c.late) > 0:
		if l := c.late[c.rnd.IntN(len(c.late))]; c.Since()-l.at < lateFor {
			c.again(l.request)
		}
	}
}

// query draws the parameters of a request. least is how many replicas they ask for, at least.
func (c *client) query(p place, letter string) (q string, least int) {
	n := c.opt.N/2 + 1
	switch {
	case p.strict && letter == "r":
		n = c.opt.StrictR
	case p.strict:
		n = c.opt.StrictW
	case c.opt.Least && c.rnd.IntN(2) == 0:
		n = 1
	}
	if letter == "w" {
		n = max(n, c.opt.LeastW)
	}
	q = fmt.Sprintf("?%s=%s&timeout=%s", letter, c.quorum(p, n), c.opt.Timeout)
	if p.strict {
		q += "&sloppy=false"
	}
	if p.strict && letter == "w" { // a delete without a context, and a retry, read first
		q += "&r=" + c.quorum(p, c.opt.StrictR)
	}
	if p.strict && c.opt.Words {
		n = min(n, max(2, c.opt.LeastW))
	}
	return q, n
}

func (c *client) quorum(p place, n int) string {
	switch {
	case !p.strict || !c.opt.Words:
		return strconv.Itoa(n)
	case n == 1:
		return "one"
	case n == c.opt.N:
		return "all"
	}
	return "quorum"
}

func (c *client) get(p place) (seen, bool) {
	o := &referee.Operation{
		Kind: referee.Get, Client: c.id, Bucket: p.bucket, Key: p.key, Strict: p.strict, Start: c.Since(), Outcome: referee.Unknown,
	}
	query, _ := c.query(p, "r")
	a, err := c.send(request{method: "GET", path: p.path() + query}, o)
	o.End = c.Since()
	if err == nil && (a.status == 200 || a.status == 300 || a.status == 404) {
		o.Outcome, o.Answer = referee.Acked, a.header.Get("Dunlin-Context")
		if o.Got, o.Dots, err = a.live(); err != nil {
			c.history.Breach(p.name(), fmt.Sprintf("an unreadable answer to %v: %v", o, err))
		}
	}
	c.history.Record(o)
	c.count("get " + string(o.Outcome))
	s := seen{token: o.Answer, sure: o.Got}
	if o.Outcome == referee.Acked {
		c.memory[p.name()] = s
	}
	return s, o.Outcome == referee.Acked
}

func (c *client) put(p place, s seen, idempotent bool) {
	c.n++
	name := fmt.Sprintf("c%d-%d", c.id, c.n)
	if idempotent {
		name += "i"
	}
	query, w := c.query(p, "w")
	o := &referee.Operation{Kind: referee.Put, Value: name, W: w, Sure: s.sure, Maybe: s.maybe}
	q := request{method: "PUT", path: p.path() + query, body: referee.Value(name, c.opt.ValueSize), token: s.token}
	if idempotent {
		q.idempotency = name
	}
	if token := c.write(p, o, q); token != "" {
		c.memory[p.name()] = seen{token: token, sure: s.sure, maybe: append(slices.Clone(s.maybe), name)}
	}
	if idempotent && o.Outcome == referee.Acked {
		c.late = append(c.late, late{q, c.Since()})
		if len(c.late) > maxLate {
			c.late = slices.Delete(c.late, 0, maxLate/4)
		}
		if c.rnd.IntN(3) == 0 {
			c.again(q)
		}
	}
}

func (c *client) delete(p place, s seen) {
	query, w := c.query(p, "w")
	o := &referee.Operation{Kind: referee.Delete, W: w, Sure: s.sure, Maybe: s.maybe, Blind: s.token == ""}
	c.write(p, o, request{method: "DELETE", path: p.path() + query, token: s.token})
}

// write does a write, with retries where they are safe, and returns the context that the answer gave.
func (c *client) write(p place, o *referee.Operation, q request) string {
	o.Client, o.Bucket, o.Key, o.Strict, o.Context, o.Idempotent = c.id, p.bucket, p.key, p.strict, q.token, q.idempotency
	o.Start = c.Since()
	o.Outcome = referee.None
	for o.Attempts == 0 || o.Attempts < 4 && q.idempotency != "" && o.Outcome != referee.Acked {
		o.Attempts++
		a, err := c.send(q, o)
		switch is := a.outcome(err); is {
		case referee.Acked:
			o.Outcome, o.Answer = is, a.header.Get("Dunlin-Context")
		case referee.Unknown:
			o.Outcome = is
		}
		if err == nil && a.status >= 400 {
			c.count(fmt.Sprintf("status %d", a.status))
		}
	}
	o.End = c.Since()
	c.history.Record(o)
	what := string(o.Kind)
	if q.idempotency != "" {
		what += " idempotent"
	}
	c.count(what + " " + string(o.Outcome))
	return o.Answer
}

// again repeats a write that was acknowledged earlier. Whatever happened to the key since: it must do nothing.
func (c *client) again(q request) {
	a, err := c.send(q, &referee.Operation{})
	tooFew := strings.Contains(a.body, `"parameter":"w"`) || strings.Contains(a.body, `"parameter":"r"`) // members are left
	if err == nil && a.status >= 400 && a.status < 500 && a.status != http.StatusConflict && !tooFew {
		c.history.Breach("", fmt.Sprintf("a repeated %s %s (%s) was refused: %d %s", q.method, q.path, q.idempotency, a.status, a.body))
	}
	c.count("repeats")
}

// send asks some node, and another where there is nobody to connect to.
func (c *client) send(q request, o *referee.Operation) (a answer, err error) {
	nodes := c.opt.nodes()
	for range 2 * len(nodes) {
		p := c.pick(nodes)
		o.Node = p.Name
		to := q
		to.path = p.URL() + q.path
		a, err = exchange(c.http, to)
		if dial := (*net.OpError)(nil); !errors.As(err, &dial) || dial.Op != "dial" {
			return a, err
		}
		<-time.After(20 * time.Millisecond)
	}
	return a, err
}
