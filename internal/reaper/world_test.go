package reaper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

var (
	keys  = [nKeys]Key{{0, "b", "k0"}, {0, "b", "k1"}}
	quiet = slog.New(slog.DiscardHandler)
	// theRing's members in preference order: the last is no primary.
	theRing, ringIDs = func() (*ring.Ring, [nodes]ring.NodeID) {
		rg := makeRing(1)
		return rg, [nodes]ring.NodeID(rg.Walk(0))
	}()
)

func makeRing(epoch uint64) *ring.Ring {
	l := ring.Layout{Epoch: epoch, Cluster: "c", ClusterID: [16]byte{1}, Partitions: 1, N: 3}
	for i := range nodes {
		l.Members = append(l.Members, ring.Member{ID: ring.NodeID{byte(i + 1)}, Name: fmt.Sprint("n", i), Weight: 1})
	}
	rg, err := ring.New(l, 3)
	if err != nil {
		panic(err)
	}
	return rg
}

func keyIndex(k Key) int { return int(k.Key[1] - '0') }

func digest(k int, o vclock.Object) vclock.Digest { return o.Digest(keys[k].Bucket, keys[k].Key) }

// frame is an object under way, with the round in which it was read. Frames are delivered late, often and in any
// order.
type frame struct {
	kind     frameKind
	from, to int
	target   int // of the hint that it is stored as, or that it was read from; -1: none
	k        int
	obj      vclock.Object
	round    uint64
}

type frameKind int

const (
	replicate frameKind = iota // a coordinator's write, to a primary or as a hint
	repair                     // what a coordinator merged of several copies, perhaps long ago
	handoff                    // a hint to its target
	exchange                   // anti-entropy
	acked                      // the target holds the hint: it may be deleted
)

// reading is a coordinator that has read some copies and goes on later.
type reading struct {
	k       int
	obj     vclock.Object
	round   uint64
	members int
}

// letter is a reaper's message that may arrive again later.
type letter struct {
	from, to int
	endpoint string
	body     []byte
}

// write is what the world remembers of a write, whatever the nodes forget.
type write struct {
	k     int
	dot   vclock.Dot
	seen  vclock.VersionVector // what it superseded
	value bool                 // neither a delete nor to expire
	acked bool                 // it was on two disks at once
}

// node is one member: its storage, and its reaper as of its last start.
type node struct {
	store   *memStore
	reaper  *Reaper
	handler map[string]Handler
	entered int  // how often its reaper's code is on the stack
	fenced  bool // it was rolled back and takes no part any more
	backup  *disk
}

type crash struct{ node int }

// world is one run of the model.
type world struct {
	rng       *rand.Rand
	rules     rules
	now       int64
	counter   uint64
	skew      [nodes]int64
	ids       [nodes]ring.NodeID
	nodes     [nodes]*node
	views     [nodes]view
	joined    uint64 // the last change that brought a new node
	drivers   []int
	frames    []frame
	sent      []frame
	hintsSent []frame // of sent
	letters   []letter
	reads     []reading
	seen      [nKeys][]vclock.Context
	writes    []*write
	calm      bool // faults are over
	restored  bool
	changes   bool // of the layout happen
	killAt    int  // node victim dies at this step of its own; below 0: it does not
	victim    int
	// script, if there is one, sees each message before (answered false) and after it; an error loses it.
	script  func(l letter, answered bool) error
	depth   int
	loss    int // one message in so many is lost
	writing int // how often clients write
	tries   int // of a driver to enter
	reaped  int
	pruned  int // births
	faults  bool
	trouble error
	log     func(string, ...any)
}

func newWorld(seed uint64, ru rules) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 1)), rules: ru, now: 1_000_000, ids: ringIDs, drivers: []int{0}, faults: true, killAt: -1}
	w.log = func(string, ...any) {}
	w.loss = 8 << w.rng.IntN(4)
	w.writing = 1 + w.rng.IntN(5)
	w.changes = w.rules.roundZero || w.chance(3)
	w.tries = 1 + w.rng.IntN(3)
	if w.chance(3) {
		w.drivers = append(w.drivers, 1+w.rng.IntN(3))
	}
	lazy := w.chance(4)
	for i := range w.nodes {
		w.skew[i] = w.rng.Int64N(20)
		w.nodes[i] = &node{store: &memStore{w: w, node: i, incarnation: w.number(), lazy: lazy && w.chance(2)}}
		w.boot(i)
	}
	return w
}

func (w *world) chance(n int) bool { return w.rng.IntN(n) == 0 }
func (w *world) number() uint64    { w.counter++; return w.counter }

func (w *world) clock(i int) int64 { return w.now + w.skew[i] }

// peers is what a node's reaper sees of the others.
type peers struct {
	w    *world
	self int
}

func (p peers) Ring() *ring.Ring { return p.w.views[p.self].ring() }
func (p peers) Newest() uint64   { return p.w.views[p.self].newest() }

func (p peers) Learn(_ context.Context, _ ring.NodeID, epoch uint64) error {
	return p.w.views[p.self].learn(epoch)
}

func (p peers) Alive(id ring.NodeID) bool { return p.w.calm || !p.w.faults || !p.w.chance(40) }

func (p peers) Call(ctx context.Context, to ring.NodeID, endpoint string, body []byte) ([]byte, error) {
	w := p.w
	w.between(p.self, false)
	if endpoint == EndpointEnter && w.faults && !w.calm && len(w.hintsSent) > 0 && w.chance(2) {
		w.deliver(w.hintsSent[w.rng.IntN(len(w.hintsSent))]) // the moment that hurts
	}
	l := letter{p.self, w.index(to), endpoint, body}
	w.letters = append(w.letters, l)
	if !w.calm && w.faults && w.chance(w.loss) {
		return nil, errLost
	}
	if w.script != nil {
		if err := w.script(l, false); err != nil {
			return nil, err
		}
	}
	b, err := w.deliverLetter(ctx, l)
	w.between(p.self, false)
	if w.script != nil && err == nil {
		err = w.script(l, true)
	}
	if !w.calm && w.faults && w.chance(w.loss) {
		return nil, errLost
	}
	return b, err
}

var errLost = errors.New("lost")

func (w *world) index(id ring.NodeID) int {
	for i, x := range w.ids {
		if x == id {
			return i
		}
	}
	panic("no such node")
}

// boot starts node i's reaper anew, from what is on its disk.
func (w *world) boot(i int) {
	n, p := w.nodes[i], peers{w, i}
	r, err := New(Deps{
		Self: w.ids[i], Store: steps{n.store}, State: steps{n.store}, Peers: p, View: p, Log: quiet, Rand: w.rng,
		Now: func() time.Time { return time.UnixMilli(w.clock(i)) },
	}, Options{MinAge: time.Millisecond, PutOff: time.Millisecond, EnterTries: w.tries})
	if err != nil {
		panic(err)
	}
	r.each = func(ids []ring.NodeID, f func(ring.NodeID)) {
		for _, j := range w.rng.Perm(len(ids)) {
			f(ids[j])
		}
	}
	for _, d := range w.drivers {
		if d == i {
			r.leads = func(*ring.Ring, int) bool { return true }
		}
	}
	n.reaper, n.handler = r, r.Handlers()
	if w.rules.repeatRound {
		n.handler[EndpointEnter] = n.naiveEnter
		r.handlers = n.handler
	}
}

// naiveEnter trusts a statement that is made when the round had been entered before.
func (n *node) naiveEnter(ctx context.Context, from ring.NodeID, body []byte) ([]byte, error) {
	m, primary, err := n.reaper.accept(from, body)
	if err != nil {
		return nil, err
	}
	bits, err := steps{n.store}.EnterRound(ctx, m.partition, m.round, primary, m.keys)
	if err != nil {
		return (&answer{round: n.store.Round(0), confirmed: make([]bool, len(m.keys))}).encode(), nil
	}
	return (&answer{round: m.round, entered: true, confirmed: bits}).encode(), nil
}

// guard runs node i's code; its crash is an error.
func (w *world) guard(i int, f func() ([]byte, error)) (b []byte, err error) {
	n := w.nodes[i]
	n.entered++
	defer func() {
		n.entered--
		if x := recover(); x != nil {
			c, ok := x.(crash)
			if !ok || c.node != i {
				panic(x)
			}
			w.crash(i)
			b, err = nil, errors.New("crashed")
		}
	}()
	return f()
}

func (w *world) crash(i int) {
	w.log("crash %d", i)
	w.nodes[i].store.crash()
	w.boot(i)
}

func (w *world) deliverLetter(ctx context.Context, l letter) ([]byte, error) {
	if w.nodes[l.to].fenced || w.nodes[l.from].fenced {
		return nil, errLost
	}
	b, err := w.guard(l.to, func() ([]byte, error) {
		return w.nodes[l.to].handler[l.endpoint](ctx, w.ids[l.from], l.body)
	})
	w.log("%s %d->%d err=%v", l.endpoint, l.from, l.to, err)
	return b, err
}

// between is called between any two steps of node i. With storage set, node i may hold a lock, so that no message can
// be brought to it.
func (w *world) between(i int, storage bool) {
	if w.killAt >= 0 && i == w.victim && w.nodes[i].entered == 1 {
		if w.killAt--; w.killAt < 0 {
			panic(crash{i})
		}
	}
	if w.calm || !w.faults {
		return
	}
	w.now++
	if w.nodes[i].entered == 1 && w.chance(60) {
		panic(crash{i})
	}
	if w.depth >= 2 || !w.chance(3) {
		return
	}
	w.depth++
	defer func() { w.depth-- }()
	for range 1 + w.rng.IntN(3) {
		if storage || !w.chance(4) {
			w.dataEvent()
		} else {
			w.controlEvent(i)
		}
	}
}

// controlEvent is something that reapers do, or that happens to a node. Node busy is at work.
func (w *world) controlEvent(busy int) {
	if w.changes && w.chance(3) {
		w.change()
		w.join()
	}
	switch x := w.rng.IntN(21); {
	case x < 12:
		w.visit(w.drivers[w.rng.IntN(len(w.drivers))])
	case x < 15:
		if len(w.letters) > 0 {
			w.deliverLetter(context.Background(), w.letters[w.rng.IntN(len(w.letters))])
		}
	case x < 17:
		if i := w.rng.IntN(nodes); w.nodes[i].entered == 0 {
			w.crash(i)
		}
	case x < 18:
		w.takeBackup(w.rng.IntN(nodes))
	case x < 19:
		if i := w.rng.IntN(nodes); w.nodes[i].entered == 0 && i != busy {
			w.restore(i)
		}
	case x < 20:
		w.heal(w.rng.IntN(3))
	default:
		w.nodes[w.rng.IntN(nodes)].store.sync()
	}
}

// visit runs node i's driver, unless it runs already further up.
func (w *world) visit(i int) {
	if n := w.nodes[i]; n.entered == 0 && !n.fenced {
		w.guard(i, func() ([]byte, error) {
			v := n.reaper.visit(context.Background(), 0)
			w.log("visit %d: %d %+v", i, v, n.reaper.Status().Open)
			return nil, nil
		})
	}
}

// provoke does more often what the missing rule is about.
func (w *world) provoke() {
	for i, n := range w.nodes {
		switch {
		case n.entered > 0 || !w.chance(4):
		case w.rules.noFence && n.backup == nil:
			w.takeBackup(i)
		case w.rules.noFence:
			w.restore(i)
		}
	}
}

func (w *world) takeBackup(i int) {
	if w.nodes[i].backup == nil && !w.nodes[i].store.lazy {
		b := w.nodes[i].store.safe
		w.nodes[i].backup = &b
	}
}

// restore puts a backup in the place of a node's disk. The node notices, since its peers know a later start of it,
// and takes no part any more.
func (w *world) restore(i int) {
	n := w.nodes[i]
	for _, x := range w.nodes {
		if x.store.lazy || x.fenced {
			return // one fault too many for two copies
		}
	}
	if n.backup == nil || w.restored || !w.rules.noFence && !w.chance(6) {
		return
	}
	w.log("restore %d", i)
	n.store.mem, n.store.safe = *n.backup, *n.backup
	n.fenced, w.restored = !w.rules.noFence, true
	w.crash(i)
}
