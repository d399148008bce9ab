package crowd

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dunlindb/dunlin/internal/referee"
)

// MaxIdempotent is how many writes with an Idempotency-Key a crowd does to one key: a key remembers the last 64
// replaced ones, and past that a late retry is a new write.
const MaxIdempotent = 40

// Node is one node as clients reach it.
type Node struct {
	Name string
	URL  func() string // such as http://10.0.0.1:8000, which may change from one call to the next
	// Out: the node is no part of the cluster now, and clients know it; nil: it always is one.
	Out func() bool
}

// Options of a Crowd.
type Options struct {
	Nodes   []Node
	Client  func(id int) *http.Client // for the client of a number, which closes its idle connections in the end
	Clients int
	Keys    int // of each bucket
	Bucket  string
	LWW     string        // another bucket, in which the last writer wins; empty: none
	Pause   time.Duration // between two operations of a client, on average
	Timeout time.Duration // of a request, as a parameter
	N       int           // replicas of a key
	// StrictR and StrictW are the quorums of strict requests, together more than N.
	StrictR, StrictW int
	// Words: strict requests name their quorums in words, which mean another number when a bucket gets another number of
	// replicas, of which it has at least two.
	Words bool
	// Least: requests that are not strict ask for one replica half of the time.
	Least bool
	// LeastW is the fewest replicas that a write asks for.
	LeastW int
	// NoRetries leaves out writes with an Idempotency-Key.
	NoRetries bool
	// Once is how often, in percent, an operation concerns a key that is written once, and perhaps read or deleted
	// later: nothing else covers what is lost of it.
	Once int
	// MaxOnce bounds those keys; 0: 400.
	MaxOnce int
	// Wear is after how many operations a key is left alone and a new one takes its place, so that long runs do not meet
	// the limits of a key (see MaxIdempotent; a clock has 256 entries). 0: keys stay.
	Wear int
	// Churn is how often, in percent, such a key is deleted as soon as it was written.
	Churn int
	// ValueSize is about the size of the largest values.
	ValueSize int
	Seed      uint64
}

// Crowd is the clients at work.
type Crowd struct {
	opt     Options
	history *referee.History
	begin   time.Time
	stop    context.CancelFunc
	wg      sync.WaitGroup

	mu         sync.Mutex
	idempotent map[string]int // writes with an Idempotency-Key by key
	counts     map[string]int // operations by what came of them
	once       []place        // the keys that were written once
	slots      []slot         // the other keys
	guests     []place        // the keys of guests
	tried      int            // names for them
	guestUses  int
	guest      *http.Client  // of all guests; nil: there was none
	resting    int           // how many want the clients to rest
	resumed    chan struct{} // closed when nobody does any more
	waited     time.Duration // for nodes that could not be asked
}

// slot is a key after the other.
type slot struct{ generation, uses int }

// Start starts the clients.
func Start(opt Options, history *referee.History) *Crowd {
	ctx, stop := context.WithCancel(context.Background())
	c := &Crowd{opt: opt, history: history, begin: time.Now(), stop: stop, idempotent: map[string]int{}, counts: map[string]int{}, slots: make([]slot, opt.Keys)}
	for id := range opt.Clients {
		one := &client{Crowd: c, id: id, rnd: rand.New(rand.NewPCG(opt.Seed, uint64(id))), memory: map[string]seen{}, http: opt.Client(id)}
		c.wg.Go(func() {
			defer one.http.CloseIdleConnections()
			for ctx.Err() == nil {
				one.step()
				one.rest(ctx)
				c.wait(ctx)
			}
		})
	}
	return c
}

// Finish stops the clients when each has done its present operation.
func (c *Crowd) Finish() {
	c.stop()
	c.wg.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.guest != nil {
		c.guest.CloseIdleConnections()
	}
}

// Since is the time of the crowd, as its history has it.
func (c *Crowd) Since() time.Duration { return time.Since(c.begin) }

func (c *Crowd) count(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[what]++
}

// Counts tells how many operations there were, by what came of them.
func (c *Crowd) Counts() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.counts)
}

// Summary is Counts in words.
func (c *Crowd) Summary() string {
	var words []string
	counts := c.Counts()
	for _, k := range slices.Sorted(maps.Keys(counts)) {
		words = append(words, fmt.Sprintf("%s %d", k, counts[k]))
	}
	return strings.Join(words, ", ")
}

// mayRetry reports whether another write with an Idempotency-Key keeps within what a key remembers of them.
func (c *Crowd) mayRetry(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.opt.NoRetries {
		return false
	}
	c.idempotent[key]++
	return c.idempotent[key] <= MaxIdempotent
}

// maxOnce is the default of Options.MaxOnce.
const maxOnce = 400

// use names the key of a number, which is used once more by that.
func (c *Crowd) use(i int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &c.slots[i]
	if s.uses++; c.opt.Wear > 0 && s.uses > c.opt.Wear {
		s.generation, s.uses = s.generation+1, 1
	}
	return keyName(i, s.generation)
}

// Key names the key of a number, from 0 to Options.Keys - 1, as it is now.
func (c *Crowd) Key(i int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return keyName(i, c.slots[i].generation)
}

// newOnce makes a key that nobody has written; ok is false when there are enough.
func (c *Crowd) newOnce(strict bool) (p place, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p = place{c.opt.Bucket, fmt.Sprintf("once%03d", len(c.once)), strict}
	if len(c.once) == cmp.Or(c.opt.MaxOnce, maxOnce) {
		return p, false
	}
	c.once = append(c.once, p)
	return p, true
}

// Places names every bucket and key that the crowd has used.
func (c *Crowd) Places() (out [][2]string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, bucket := range c.opt.buckets() {
		for i, s := range c.slots {
			for generation := range s.generation + 1 {
				out = append(out, [2]string{bucket, keyName(i, generation)})
			}
		}
	}
	for _, p := range slices.Concat(c.once, c.guests) {
		out = append(out, [2]string{p.bucket, p.key})
	}
	return out
}

func keyName(i, generation int) string {
	if generation == 0 {
		return fmt.Sprintf("k%03d", i)
	}
	return fmt.Sprintf("k%03d.%d", i, generation)
}

// nodes are those that are a part of the cluster now.
func (o Options) nodes() []Node {
	return slices.DeleteFunc(slices.Clone(o.Nodes), func(n Node) bool { return n.Out != nil && n.Out() })
}

// buckets lists all buckets that the crowd uses.
func (o Options) buckets() []string {
	if o.LWW == "" {
		return []string{o.Bucket}
	}
	return []string{o.Bucket, o.LWW}
}
