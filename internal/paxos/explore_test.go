package paxos

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"math/bits"
	"slices"
	"strings"
)

// The explorer visits every state that a small case can reach, with the real State and Proposer inside. What was sent
// is never taken back, and any of it may be delivered next, or never: that is loss, doubling, lateness and every order
// at once. Three things keep the number of states down, and none hides an outcome:
//   - What a proposer hears shows only in what it does next, and can be heard as late as just before that. So a step of
//     a proposer is any sequence of replies, of those that were sent, up to the next request or report.
//   - States that differ only in the names of acceptors are one.
//   - Without refusals in a scenario, a proposer may begin a round of any higher number at any time, which is all that
//     refusals could make it do.
//
// Code under test runs once for each distinct state and message; the search moves only numbers.

const (
	maxAcceptors = 5
	maxSlots     = 3
)

// A scenario bounds what is explored.
type scenario struct {
	name      string
	acceptors int
	slots     []slot
	refusals  bool // refusals are delivered, to the first proposer; the others may begin any round
	announce  bool // a proposer that knows the decision tells the acceptors
	split     bool // storing is a step of its own: an acceptor may crash before it, and forgets the request
}

// A slot is a place where proposers run, one after another: each restart is a crash of the one before.
type slot struct {
	learns   bool
	runs     int
	counters uint64 // no ballot above it
}

// A variant is the protocol, or one with a bug in it. Hooks that are nil are the real code.
type variant struct {
	handle  func(State, Request) (State, Reply)
	on      func(p *Proposer, from [16]byte, r Reply) Result
	begun   func(p *Proposer)
	early   bool // an acceptor answers before it stored
	wiped   bool // an acceptor may lose its whole state
	sameRun bool // a restarted proposer uses its run id again
}

// set is a set of small numbers.
type set [2]uint64

func (s *set) add(id int)      { s[id/64] |= 1 << (id % 64) }
func (s *set) has(id int) bool { return s[id/64]&(1<<(id%64)) != 0 }

func (s set) each(yield func(int) bool) {
	for word, b := range s {
		for ; b != 0; b &= b - 1 {
			if !yield(64*word + bits.TrailingZeros64(b)) {
				return
			}
		}
	}
}

// world is one state of everything, by numbers into the explorer's tables.
type world struct {
	acceptor [maxAcceptors]struct {
		sent set    // its replies
		disk uint16 // its State
		work uint16 // a step that is handled but not stored yet; 0 if none
	}
	requests set
	slot     [maxSlots]uint16 // a proposer; 0 before the first
	runs     [maxSlots]uint8
	late     [maxSlots]bool // this learner began after a value had been chosen
	won      uint8          // the number of the value that a majority voted for under one ballot, from 1
}

// A vote is a reply, and what it stands for when it is an acceptance.
type vote struct {
	kind                       Kind
	ballot, promised, accepted Ballot
	value                      string
}

type acceptorStep struct {
	next  uint16
	reply int // from 1; 0 when the step is not known yet
}

type proposerStep struct {
	known   bool
	visible bool
	next    uint16
	result  Result
}

type action struct {
	what    string
	who     int
	request int
	reply   int
}

type explorer struct {
	scenario
	variant
	stateIDs    map[string]uint16
	states      []State
	proposerIDs map[string]uint16
	proposers   []*Proposer
	requestIDs  map[string]int
	requests    []Request
	replyIDs    map[vote]int
	replies     []vote
	values      []string
	accepts     [][]acceptorStep // by state and request
	hears       [][]proposerStep // by proposer, reply and acceptor
	steps       []acceptorStep   // those that wait to be stored

	seed      maphash.Seed
	seen      map[uint64]struct{} // hashes: of a million states, two are taken for one with a chance of 1 in 10 million
	outcomes  map[string]int      // how many distinct steps led there: shows that a scenario reaches what it is for
	path      []action
	violation string
}

func newExplorer(s scenario, v variant) *explorer {
	x := &explorer{
		scenario: s, variant: v,
		stateIDs: map[string]uint16{}, proposerIDs: map[string]uint16{}, requestIDs: map[string]int{}, replyIDs: map[vote]int{},
		proposers: make([]*Proposer, 1), hears: make([][]proposerStep, 1), steps: make([]acceptorStep, 1),
		seed: maphash.MakeSeed(), seen: map[uint64]struct{}{},
		outcomes: map[string]int{},
	}
	if x.handle == nil {
		x.handle = func(s State, r Request) (State, Reply) {
			next, reply, err := s.Handle(r)
			if err != nil {
				x.fail("acceptor: %v", err)
			}
			return next, reply
		}
	}
	if x.on == nil {
		x.on = (*Proposer).On
	}
	return x
}

func (x *explorer) fail(format string, args ...any) {
	if x.violation == "" {
		x.violation = fmt.Sprintf(format, args...)
	}
}

// run explores everything from the beginning, up to the first violation.
func (x *explorer) run() {
	var w world
	for a := range x.acceptors {
		w.acceptor[a].disk = x.state(State{Epoch: 1})
	}
	x.walk(w)
}

func intern[K comparable, V any](ids map[K]int, list *[]V, key K, v V) int {
	id, ok := ids[key]
	if !ok {
		id = len(*list)
		if id >= 128 {
			panic("too many messages for a set")
		}
		ids[key] = id
		*list = append(*list, v)
	}
	return id
}

func (x *explorer) state(s State) uint16 {
	key := string(s.Encode())
	id, ok := x.stateIDs[key]
	if !ok {
		id = uint16(len(x.states))
		x.stateIDs[key] = id
		x.states = append(x.states, s)
		x.accepts = append(x.accepts, make([]acceptorStep, 128))
	}
	return id
}

func (x *explorer) proposer(p *Proposer) uint16 {
	key := fmt.Sprint(p.run, p.counter, p.phase, p.ballot, p.answers, p.higher, p.best, string(p.value), string(p.own))
	id, ok := x.proposerIDs[key]
	if !ok {
		if len(x.proposers) >= 1<<16 {
			panic("too many proposers for their numbers")
		}
		id = uint16(len(x.proposers))
		x.proposerIDs[key] = id
		x.proposers = append(x.proposers, p)
		x.hears = append(x.hears, make([]proposerStep, 128*x.acceptors))
	}
	return id
}

func (x *explorer) send(w *world, p *Proposer) {
	r := p.Request()
	w.requests.add(intern(x.requestIDs, &x.requests, fmt.Sprint(r.Kind, r.Ballot, string(r.Value), r.Ballot.Proposer), r))
}

func clone(p *Proposer) *Proposer {
	c := *p
	c.answers = slices.Clone(p.answers)
	return &c
}

// key is the same for worlds that differ in the acceptors' names.
func (x *explorer) key(w world) uint64 {
	all := w.acceptor[:x.acceptors]
	for i := 1; i < len(all); i++ { // few: by insertion
		for j := i; j > 0; j-- {
			a, b := &all[j-1], &all[j]
			if a.disk < b.disk || a.disk == b.disk && (a.work < b.work || a.work == b.work &&
				(a.sent[0] < b.sent[0] || a.sent[0] == b.sent[0] && a.sent[1] <= b.sent[1])) {
				break
			}
			*a, *b = *b, *a
		}
	}
	return maphash.Comparable(x.seed, w)
}

// walk visits a state, and from it all others.
func (x *explorer) walk(w world) {
	key := x.key(w)
	if _, ok := x.seen[key]; ok {
		return
	}
	x.seen[key] = struct{}{}
	for i := range x.slots {
		x.walkStart(&w, i)
		x.walkSlot(&w, i)
	}
	for a := range x.acceptors {
		for id := range w.requests.each {
			x.deliver(w, a, id)
		}
		if id := w.acceptor[a].work; id != 0 {
			x.store(w, a, x.steps[id])
		}
		if x.wiped {
			next := w
			next.acceptor[a].disk = x.state(State{Epoch: 1})
			x.step(next, action{what: "wipe acceptor", who: a})
		}
	}
}

// step goes on to w, unless something is already wrong: then the path stays as it is, for the trace.
func (x *explorer) step(w world, a action) {
	if x.violation != "" {
		if n := len(x.path); n == 0 || x.path[n-1].what != "" {
			x.path = append(x.path, a, action{})
		}
		return
	}
	x.path = append(x.path, a)
	x.walk(w)
	if x.violation == "" {
		x.path = x.path[:len(x.path)-1]
	}
}

// walkStart starts the slot's next proposer; if there was one, it has crashed.
func (x *explorer) walkStart(w *world, i int) {
	if int(w.runs[i]) >= x.slots[i].runs {
		return
	}
	next := *w
	next.runs[i]++
	id := [16]byte{byte(i + 1), next.runs[i]}
	if x.sameRun {
		id[1] = 1
	}
	var members [][16]byte
	for a := range x.acceptors {
		members = append(members, [16]byte{byte(a + 1)})
	}
	p, err := Learn(1, id, members, 0)
	if !x.slots[i].learns {
		p, err = New(1, id, members, fmt.Appendf(nil, "%d.%d", i+1, next.runs[i]), 0)
	}
	if err != nil {
		panic(err)
	}
	if x.begun != nil {
		x.begun(p)
	}
	next.slot[i] = x.proposer(p)
	next.late[i] = x.slots[i].learns && w.won != 0
	x.send(&next, p)
	x.step(next, action{what: "start proposer", who: i})
}

// walkSlot lets the slot's proposer hear any sequence of replies, up to the next thing that others can see of it.
func (x *explorer) walkSlot(w *world, i int) {
	if w.slot[i] == 0 {
		return
	}
	heard := []uint16{w.slot[i]}
	for at := 0; at < len(heard) && x.violation == ""; at++ {
		x.walkRound(w, i, heard[at])
		for a := range x.acceptors {
			for id := range w.acceptor[a].sent.each {
				s := x.hear(heard[at], a, id)
				switch {
				case s.visible:
					x.show(*w, i, s, action{what: "proposer hears", who: i, reply: id + 1})
				case !slices.Contains(heard, s.next):
					heard = append(heard, s.next)
				}
			}
		}
	}
}

// walkRound begins the proposer's next round, which a caller may do at any time.
func (x *explorer) walkRound(w *world, i int, id uint16) {
	for counter := x.proposers[id].counter; counter < x.slots[i].counters; counter++ {
		p := clone(x.proposers[id])
		if p.phase == decided || p.phase == empty {
			return
		}
		p.counter = counter
		if err := p.Restart(); err != nil {
			x.fail("restart: %v", err)
		}
		next := *w
		next.slot[i] = x.proposer(p)
		x.send(&next, p)
		x.step(next, action{what: "next round of proposer", who: i})
		if x.refusals && i == 0 {
			return // it goes by what it heard
		}
	}
}

func (x *explorer) hear(was uint16, a, id int) proposerStep {
	at := id*x.acceptors + a
	if s := x.hears[was][at]; s.known {
		return s
	}
	v := x.replies[id]
	r := Reply{Kind: v.kind, Epoch: 1, Ballot: v.ballot, Promised: v.promised, Accepted: v.accepted}
	if v.kind != KindAccepted && v.value != "" {
		r.Value = []byte(v.value)
	}
	p := clone(x.proposers[was])
	before := p.phase
	s := proposerStep{known: true, result: x.on(p, [16]byte{byte(a + 1)}, r)}
	s.visible = p.phase != before
	if p.phase == decided || p.phase == empty {
		clear(p.answers) // nothing depends on them any more
	}
	if s.visible && slices.ContainsFunc(p.answers, func(a answer) bool { return a != silent }) {
		x.fail("answers survive their phase")
	}
	s.next = x.proposer(p)
	if s.visible || s.result.Outcome == Refused {
		x.outcomes[fmt.Sprintf("%v mine=%v", s.result.Outcome, s.result.Mine)]++
	}
	x.hears[was][at] = s
	return s
}

// show makes seen what a proposer does: it goes to its second phase, or tells its caller the outcome.
func (x *explorer) show(w world, i int, s proposerStep, act action) {
	p, r := x.proposers[s.next], s.result
	w.slot[i] = s.next
	switch r.Outcome {
	case Send:
		x.send(&w, p)
	case Empty:
		if w.late[i] {
			x.fail("a learner that began after a value was chosen found nothing")
		}
	case Decided:
		if w.won == 0 || x.values[w.won-1] != string(r.Value) {
			x.fail("proposer %d reports %q as decided, and the votes do not say so", i+1, r.Value)
		}
		if r.Mine != (p.own != nil && bytes.Equal(p.own, r.Value)) {
			x.fail("proposer %d reports mine=%v of %q, its own is %q", i+1, r.Mine, r.Value, p.own)
		}
		if x.announce {
			x.send(&w, p)
		}
	default:
		x.fail("proposer %d changed its phase and says %v", i+1, r.Outcome)
	}
	x.step(w, act)
}

func (x *explorer) deliver(w world, a, id int) {
	at := &w.acceptor[a]
	from := at.disk
	if at.work != 0 {
		if !x.early {
			return // one at a time
		}
		from = x.steps[at.work].next
	}
	s := x.accepts[from][id]
	if s.reply == 0 {
		next, r := x.handle(x.states[from], x.requests[id])
		v := vote{r.Kind, r.Ballot, r.Promised, r.Accepted, string(r.Value)}
		if r.Kind == KindAccepted {
			v.value = string(x.requests[id].Value)
		}
		s = acceptorStep{x.state(next), 1 + intern(x.replyIDs, &x.replies, v, v)}
		x.accepts[from][id] = s
		x.outcomes[r.Kind.String()]++
	}
	act := action{what: "deliver to acceptor", who: a, request: id + 1, reply: s.reply}
	if x.split || x.early {
		work := slices.Index(x.steps, s)
		if work < 0 {
			work = len(x.steps)
			x.steps = append(x.steps, s)
		}
		at.work = uint16(work)
		if x.early {
			x.answer(w, a, s, act)
		} else {
			x.step(w, act)
		}
		return
	}
	at.disk = s.next
	x.answer(w, a, s, act)
}

// store ends what deliver began: the acceptor stores, and answers; or it crashes before.
func (x *explorer) store(w world, a int, s acceptorStep) {
	w.acceptor[a].work = 0
	x.step(w, action{what: "crash acceptor", who: a})
	w.acceptor[a].disk = s.next
	x.answer(w, a, s, action{what: "store at acceptor", who: a, reply: s.reply})
}

func (x *explorer) answer(w world, a int, s acceptorStep, act action) {
	if v := x.replies[s.reply-1]; v.kind != KindRefused || x.refusals && v.ballot.Proposer[0] == 1 {
		w.acceptor[a].sent.add(s.reply - 1)
		if v.kind == KindAccepted {
			x.countVotes(&w, s.reply-1)
		}
	}
	x.step(w, act)
}

func (x *explorer) countVotes(w *world, reply int) {
	votes := 0
	for a := range x.acceptors {
		if w.acceptor[a].sent.has(reply) {
			votes++
		}
	}
	if votes <= x.acceptors/2 {
		return
	}
	value := x.replies[reply].value
	number := slices.Index(x.values, value)
	if number < 0 {
		number = len(x.values)
		x.values = append(x.values, value)
	}
	if w.won != 0 && int(w.won) != number+1 {
		x.fail("two values are chosen: %q and %q", x.values[w.won-1], value)
	}
	var i, run int
	if _, err := fmt.Sscanf(value, "%d.%d", &i, &run); err != nil || i > len(x.slots) || x.slots[i-1].learns || run > int(w.runs[i-1]) {
		x.fail("%q is chosen, and nobody proposed it", value)
	}
	w.won = uint8(number + 1)
}

// trace tells how the violation came about.
func (x *explorer) trace() string {
	var b strings.Builder
	for _, a := range x.path {
		if a.what == "" {
			break
		}
		fmt.Fprintf(&b, "  %s %d", a.what, a.who+1)
		if a.request > 0 {
			r := x.requests[a.request-1]
			fmt.Fprintf(&b, ": %v %v %q", r.Kind, r.Ballot, r.Value)
		}
		if a.reply > 0 {
			v := x.replies[a.reply-1]
			fmt.Fprintf(&b, " -> %v of %v, promised %v, accepted %v, %q", v.kind, v.ballot, v.promised, v.accepted, v.value)
		}
		b.WriteString("\n")
	}
	return b.String() + "  => " + x.violation
}
