package paxos

import (
	"container/heap"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/dunlindb/dunlin/internal/wire"
)

// The chain is the register as the cluster uses it: each epoch's value names the acceptors of the next epoch. Several
// admins change it at once, learners read it, over a network that loses, doubles and delays, while acceptors and admins
// crash. Everything passes through the codecs. One seed is one schedule.

const (
	chainNodes  = 7
	chainEpochs = 8
	chainEnd    = 6000 // ticks
	forever     = int64(1) << 60
)

// layout is "0,2,5#tag": the members' numbers, and what makes the proposal the only one of its kind.
func members(layout string) [][16]byte {
	var ids [][16]byte
	for _, s := range strings.Split(strings.SplitN(layout, "#", 2)[0], ",") {
		ids = append(ids, [16]byte{s[0] - '0' + 1})
	}
	return ids
}

type event struct {
	at, order int64
	do        func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].order < e[j].order
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(v any)   { *e = append(*e, v.(event)) }
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

// memberNode is an acceptor in all epochs that have it as a member.
type memberNode struct {
	disk   map[uint64][]byte
	mem    map[uint64]State // differs from the disk only when early
	starts int              // what was under way at a crash is of an earlier start
	down   bool
	busy   bool
}

type operation struct {
	client       int
	epoch        int
	value        string // "" for a read
	call, finish int64
	got          string
	mine         bool
	empty        bool
	unknown      bool
}

type chain struct {
	rng     *rand.Rand
	now     int64
	order   int64
	queue   events
	nodes   [chainNodes]*memberNode
	early   bool // the bug: acceptors answer before they stored
	clients int
	history []operation
}

func newChain(seed uint64, early bool) *chain {
	c := &chain{rng: rand.New(rand.NewPCG(seed, 1)), early: early}
	for i := range c.nodes {
		c.nodes[i] = &memberNode{disk: map[uint64][]byte{}, mem: map[uint64]State{}}
		c.after(c.rng.Int64N(200), func() { c.crash(i) })
	}
	return c
}

func (c *chain) after(ticks int64, do func()) {
	c.order++
	heap.Push(&c.queue, event{c.now + ticks, c.order, do})
}

func (c *chain) chance(percent int) bool { return c.rng.IntN(100) < percent }

// run plays the schedule and returns what the clients were told.
func (c *chain) run(admins, learners int) []operation {
	for range admins {
		c.client([]string{"0,1,2#first"}, false)
	}
	for range learners {
		c.client([]string{"0,1,2#first"}, true)
	}
	for len(c.queue) > 0 && c.queue[0].at < chainEnd {
		e := heap.Pop(&c.queue).(event)
		c.now = e.at
		e.do()
	}
	return c.history
}

// transmit delivers never, once or twice, sooner or later.
func (c *chain) transmit(do func()) {
	if c.chance(10) {
		return
	}
	for range 1 + c.rng.IntN(8)/7 {
		delay := 1 + c.rng.Int64N(6)
		if c.chance(5) {
			delay += c.rng.Int64N(300)
		}
		c.after(delay, do)
	}
}

func (c *chain) crash(i int) {
	n := c.nodes[i]
	n.starts++
	n.down, n.busy, n.mem = true, false, map[uint64]State{}
	c.after(1+c.rng.Int64N(60), func() { n.down = false })
	c.after(60+c.rng.Int64N(400), func() { c.crash(i) })
}

// receive is what a member does with a request; answer takes the bytes of the reply.
func (c *chain) receive(i int, request []byte, answer func([]byte)) {
	n := c.nodes[i]
	if n.down || n.busy {
		return
	}
	d := wire.NewDecoder(request)
	r := DecodeRequest(d)
	if err := d.Done(); err != nil {
		panic(err)
	}
	state, ok := n.mem[r.Epoch]
	if b := n.disk[r.Epoch]; !ok && b != nil {
		var err error
		if state, err = DecodeState(b); err != nil {
			panic(err)
		}
	} else if !ok {
		state = State{Epoch: r.Epoch}
	}
	next, reply, err := state.Handle(r)
	if err != nil {
		if c.early { // what the bug leads to
			return
		}
		panic(err)
	}
	out := encodeReply(reply)
	start, wait := n.starts, 1+c.rng.Int64N(4)
	if c.early {
		n.mem[r.Epoch] = next
		c.transmit(func() { answer(out) })
		wait *= 20
	} else {
		n.busy = true
	}
	c.after(wait, func() {
		if n.starts != start {
			return
		}
		n.busy = false
		n.disk[r.Epoch] = next.Encode()
		if !c.early {
			c.transmit(func() { answer(out) })
		}
	})
}

func encodeReply(r Reply) []byte {
	e := wire.NewEncoder()
	defer e.Free()
	r.Encode(e)
	return e.Copy()
}

// client begins an admin or a learner that knows the chain so far.
func (c *chain) client(known []string, learner bool) {
	c.clients++
	cl := &chainClient{chain: c, id: c.clients, known: slices.Clone(known), learner: learner}
	c.after(c.rng.Int64N(30), cl.begin)
}

type chainClient struct {
	*chain
	id      int
	known   []string // by epoch, from 1
	learner bool
	p       *Proposer
	op      int // in history; what is under way has a finish at the end of time
	tries   int
	round   int // timers of earlier rounds do nothing
	dead    bool
}

func (cl *chainClient) begin() {
	if cl.dead || len(cl.known) >= chainEpochs {
		return
	}
	epoch, last := len(cl.known)+1, cl.known[len(cl.known)-1]
	op := operation{client: cl.id, epoch: epoch, call: cl.now, finish: forever, unknown: true}
	var run [16]byte
	binary.BigEndian.PutUint64(run[:], cl.rng.Uint64())
	var err error
	if cl.learner {
		cl.p, err = Learn(uint64(epoch), run, members(last), 0)
	} else {
		op.value = cl.change(last, epoch)
		cl.p, err = New(uint64(epoch), run, members(last), []byte(op.value), 0)
	}
	if err != nil {
		panic(err)
	}
	cl.history = append(cl.history, op)
	cl.op, cl.tries = len(cl.history)-1, 0
	if cl.chance(10) { // it will crash somewhere in this operation
		cl.after(cl.rng.Int64N(40), cl.crash)
	}
	cl.ask()
}

// change proposes other members: one less, one more, or one exchanged.
func (cl *chainClient) change(last string, epoch int) string {
	now := strings.Split(strings.SplitN(last, "#", 2)[0], ",")
	if at := cl.rng.IntN(len(now)); len(now) > 1 && cl.chance(50) {
		now = slices.Delete(now, at, at+1)
	}
	if more := fmt.Sprint(cl.rng.IntN(chainNodes)); len(now) < 5 && !slices.Contains(now, more) {
		now = append(now, more)
	}
	return fmt.Sprintf("%s#%d.%d", strings.Join(now, ","), epoch, cl.id)
}

func (cl *chainClient) crash() {
	cl.dead = true
	cl.client(cl.known[:1], cl.learner)
}

// ask sends what the proposer wants to be sent, and sets its patience.
func (cl *chainClient) ask() {
	e := wire.NewEncoder()
	defer e.Free()
	cl.p.Request().Encode(e)
	request, p := e.Copy(), cl.p
	for _, id := range p.Acceptors() {
		cl.transmit(func() {
			cl.receive(int(id[0])-1, request, func(reply []byte) { cl.hear(p, id, reply) })
		})
	}
	cl.round++
	round := cl.round
	cl.after(25+cl.rng.Int64N(50), func() {
		if cl.round == round {
			cl.again()
		}
	})
}

func (cl *chainClient) again() {
	if cl.dead {
		return
	}
	if cl.tries++; cl.tries > 30 { // gives up, and does not know
		cl.crash()
		return
	}
	if err := cl.p.Restart(); err != nil {
		panic(err)
	}
	cl.ask()
}

func (cl *chainClient) hear(p *Proposer, from [16]byte, b []byte) {
	if cl.dead || p != cl.p {
		return
	}
	d := wire.NewDecoder(b)
	reply := DecodeReply(d)
	if err := d.Done(); err != nil {
		panic(err)
	}
	before := p.phase
	r := p.On(from, reply)
	switch {
	case before == decided || before == empty:
	case r.Outcome == Send:
		cl.ask()
	case r.Outcome == Refused || r.Outcome == Unreachable:
		cl.round++
		round := cl.round
		cl.after(cl.rng.Int64N(60), func() {
			if cl.round == round {
				cl.again()
			}
		})
	case r.Outcome == Decided || r.Outcome == Empty:
		cl.finish(r)
	}
}

func (cl *chainClient) finish(r Result) {
	op := &cl.history[cl.op]
	op.finish, op.unknown = cl.now, false
	op.got, op.mine, op.empty = string(r.Value), r.Mine, r.Outcome == Empty
	if r.Outcome == Decided {
		cl.known = append(cl.known, op.got)
		if cl.chance(50) {
			cl.ask()
		}
	}
	cl.round++
	cl.after(cl.rng.Int64N(40), cl.begin)
}

func (op operation) String() string {
	what, result := "reads", fmt.Sprintf("%q mine=%v", op.got, op.mine)
	if op.value != "" {
		what = fmt.Sprintf("proposes %q for", op.value)
	}
	switch {
	case op.unknown:
		result = "unknown"
	case op.empty:
		result = "nothing"
	}
	return fmt.Sprintf("%5d client %d %s epoch %d: %s at %d", op.call, op.client, what, op.epoch, result, op.finish)
}
