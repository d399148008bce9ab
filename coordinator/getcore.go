package coordinator

import (
	"math"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// answer is what one replica said of a key: its digest and, unless an object with the same digest is known here
// already or only the digest was asked for, the object.
type answer struct {
	digest     vclock.Digest
	object     vclock.Object
	hasObject  bool
	incomplete bool
	behind     bool   // missed writes whose hints were dropped: does not answer alone
	round      uint64 // the reap round in which it was read
}

// getCore decides when a read is done, and what must be repaired: a pure value that is told what each replica
// answered. An incomplete copy is merged but does not count.
type getCore struct {
	r, pr    int // replicas to hear, and how many of them must be primaries
	replicas []getReplica
	// objects holds, by digest, every different copy that was seen.
	objects map[vclock.Digest]vclock.Object
}

type getReplica struct {
	node     ring.NodeID
	fallback bool // holds hints, if anything
	asked    bool
	// fetching: its digest differs from every object known, and the object was asked for.
	fetching bool
	state    state
	answer   answer
	failure  failure
}

// newGetCore reads from candidates, which are in the order in which they should be asked.
func newGetCore(r int, candidates []ring.NodeID) *getCore {
	c := &getCore{r: r, replicas: make([]getReplica, len(candidates)), objects: make(map[vclock.Digest]vclock.Object, 1)}
	for i, id := range candidates {
		c.replicas[i].node = id
	}
	return c
}

func (c *getCore) addAnswer(i int, a answer) {
	if a.digest == (vclock.Digest{}) {
		a.hasObject = true // nothing held: there is no more to fetch
	}
	if a.hasObject {
		c.objects[a.digest] = a.object
	}
	c.replicas[i].state, c.replicas[i].answer = acked, a
}

func (c *getCore) addFailure(i int, f failure) {
	c.replicas[i].state, c.replicas[i].failure = failed, f
}

// whole reports whether replica i's answer counts: complete, and its object known.
func (c *getCore) whole(i int) bool {
	r := &c.replicas[i]
	if r.state != acked || r.answer.incomplete || r.answer.behind && c.r == 1 {
		return false
	}
	_, ok := c.objects[r.answer.digest]
	return ok
}

// heard counts the replicas whose answers are whole. Fallbacks that hold hints count for as many primaries as are
// down, and no more: each stands in for one.
func (c *getCore) heard() int {
	primaries, fallbacks, down := c.count()
	return primaries + min(fallbacks, down)
}

// count tells how many primaries and fallbacks were heard, and how many primaries are down.
func (c *getCore) count() (primaries, fallbacks, down int) {
	for i := range c.replicas {
		switch r := &c.replicas[i]; {
		case r.fallback && c.whole(i):
			fallbacks++
		case r.fallback:
		case c.whole(i):
			primaries++
		case r.state == failed && r.failure.word == wordDown:
			down++
		}
	}
	return primaries, fallbacks, down
}

// addFallbacks adds candidates that may hold hints.
func (c *getCore) addFallbacks(ids []ring.NodeID) {
	for _, id := range ids {
		c.replicas = append(c.replicas, getReplica{node: id, fallback: true})
	}
}

// onlyDown reports whether every primary that was not heard is down, so that nobody who could know more can be asked.
func (c *getCore) onlyDown() bool {
	heard := false
	for i := range c.replicas {
		r := &c.replicas[i]
		switch {
		case r.fallback:
		case c.whole(i):
			heard = true
		case r.state != failed || r.failure.word != wordDown:
			return false
		}
	}
	return heard
}

func (c *getCore) enough() bool {
	primaries, fallbacks, down := c.count()
	return primaries+min(fallbacks, down) >= c.r && primaries >= c.pr
}

// waiting counts replicas that were asked and may still add a whole answer, and the primaries among them; a digest
// without its object, which is being fetched, is one.
func (c *getCore) waiting() (all, primaries int) {
	for i := range c.replicas {
		r := &c.replicas[i]
		_, known := c.objects[r.answer.digest]
		if r.asked && (r.state == pending || r.state == acked && !r.answer.incomplete && !known) {
			all++
			if !r.fallback {
				primaries++
			}
		}
	}
	return all, primaries
}

// next is the candidate to ask now, if what was heard and asked could not be enough; -1: none is needed or left.
func (c *getCore) next() int {
	primaries, _, _ := c.count()
	waiting, waitingPrimaries := c.waiting()
	if c.heard()+waiting >= c.r && primaries+waitingPrimaries >= c.pr {
		return -1
	}
	return c.spare()
}

// spare is the first candidate not asked yet, -1 if all were.
func (c *getCore) spare() int {
	for i := range c.replicas {
		if !c.replicas[i].asked && c.replicas[i].state == pending {
			return i
		}
	}
	return -1
}

// impossible reports whether even all candidates that are left could not make it enough.
func (c *getCore) impossible() bool {
	primaries, _, _ := c.count()
	all, could := c.waiting()
	for i := range c.replicas {
		if r := &c.replicas[i]; !r.asked && r.state == pending {
			all++
			if !r.fallback {
				could++
			}
		}
	}
	return c.heard()+all < c.r || primaries+could < c.pr
}

// missing names the parameter that is not reached, what it asks for, and what was reached.
func (c *getCore) missing() (parameter string, required, got int) {
	if primaries, _, _ := c.count(); primaries < c.pr && c.heard() >= min(c.r, c.pr) {
		return "pr", c.pr, primaries
	}
	return "r", c.r, c.heard()
}

// unfetched lists the replicas whose digest differs from every object known, and whose objects nobody has asked for.
func (c *getCore) unfetched() []int {
	var out []int
	for i := range c.replicas {
		r := &c.replicas[i]
		if _, known := c.objects[r.answer.digest]; r.state == acked && !known && !r.fetching {
			out = append(out, i)
		}
	}
	return out
}

// quiet reports whether every replica that was asked has answered, so that no object is on its way that would make
// fetching needless.
func (c *getCore) quiet() bool {
	for i := range c.replicas {
		if r := &c.replicas[i]; r.asked && r.state == pending {
			return false
		}
	}
	return true
}

// merged is the union of all that was heard, and the earliest reap round in which a part of it was read.
func (c *getCore) merged() (m vclock.Object, round uint64) {
	for _, o := range c.objects {
		m = vclock.Merge(m, o)
	}
	round = math.MaxUint64
	for i := range c.replicas {
		if c.replicas[i].state == acked {
			round = min(round, c.replicas[i].answer.round)
		}
	}
	return m, round
}

// repair is what a read found to be mended.
type repair struct {
	stale   []ring.NodeID // hold less than merged
	damaged []ring.NodeID // lost their copy; need the merge of every other primary
}

// finalAction compares every answer with the merged object.
func (c *getCore) finalAction(merged vclock.Digest) repair {
	var out repair
	for i := range c.replicas {
		r := &c.replicas[i]
		switch {
		case r.fallback: // repair goes to primaries only
		case r.state == failed && r.failure.word == wordCorrupt, r.state == acked && r.answer.incomplete:
			out.damaged = append(out.damaged, r.node)
		case r.state == acked && r.answer.digest != merged:
			out.stale = append(out.stale, r.node)
		}
	}
	return out
}

func (c *getCore) outcomes(name func(ring.NodeID) string) []ReplicaOutcome {
	out := make([]ReplicaOutcome, 0, len(c.replicas))
	for i := range c.replicas {
		r := &c.replicas[i]
		o := ReplicaOutcome{Node: r.node, Name: name(r.node), Role: role(!r.fallback)}
		switch {
		case r.state == failed:
			o.Outcome, o.Detail = r.failure.word, r.failure.detail
		case r.state == acked && r.answer.incomplete:
			o.Outcome = wordCorrupt
		case r.state == acked && r.answer.behind && c.r == 1:
			o.Outcome = "behind"
		case c.whole(i):
			o.Outcome = "acked"
		case r.asked:
			o.Outcome = "pending"
		default:
			continue
		}
		out = append(out, o)
	}
	return out
}
