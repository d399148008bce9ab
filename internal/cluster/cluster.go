package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dunlindb/dunlin/internal/paxos"
	"github.com/dunlindb/dunlin/ring"
	"github.com/hashicorp/memberlist"
)

// Cluster is one node's part in the cluster. Its methods are safe for concurrent use.
type Cluster struct {
	cfg       Config
	log       *slog.Logger
	gossipLog gossipLog
	start     uint64   // this process's start id
	starts    []uint64 // all start ids of this directory, this one last; fixed after New
	ancestry  map[uint64]bool
	founding  digest
	listed    []string // names in the seeds list
	isListed  bool     // this node's own is one of them

	inbox    *inbox
	snapshot atomic.Pointer[snapshot] // nil until this node is a member
	removed  atomic.Pointer[map[ring.NodeID]bool]
	peersRPC Caller
	offers   chan struct{}
	asks     chan ring.NodeID
	hasHeard chan struct{} // this node has heard of a layout, and may ask to join
	admits   chan struct{} // a node has asked to join
	met      chan string   // gossip addresses of nodes that connect and yet seem dead
	changes  chan struct{} // holds one while this node proposes a change
	asking   chan struct{} // holds one while the proposer of a promise is asked
	lineages atomic.Pointer[[][16]byte]
	// clusterID mirrors the layout's for callbacks that run under memberlist's lock.
	clusterID atomic.Pointer[digest]
	hello     atomic.Pointer[[]byte]
	counts    counters
	fatal     chan error

	seenMu sync.Mutex
	seen   map[ring.NodeID]uint64 // latest start id accepted from each peer

	// epochMu serialises what moves the live epochs on: it is held over disk writes, and taken before mu.
	epochMu sync.Mutex
	older   []*snapshot // of former newest epochs, while operations go by them

	voteMu   sync.Mutex // held over the disk write of a vote, and taken before mu
	register paxos.State

	mu            sync.Mutex // guards the rest; never held over a call of State, memberlist or a subscriber
	peers         map[ring.NodeID]*peer
	bodies        map[ring.NodeID]*body
	want          map[string]bool // gossip addresses to exchange states with although they seem alive
	vote          *voteBody
	state         epochState
	layout        *ring.Layout // the newest of state; nil: none
	layoutHash    digest
	changed       chan struct{} // closed when state changes
	heard         *epochState   // the newest that was decided and is on the disk; nil: none that is newer than state
	offered       *epochState   // what others say of the live epochs, for the adopter
	heardProgress progressTable
	heardBase     uint64 // the oldest epoch of a node that knows none newer than this one
	joins         map[ring.NodeID]joinRequest
	joinsSince    time.Time // of the first of joins
	joinsLast     time.Time // and of the latest
	asked         joinState
	joining       string // what became of asking to join
	gone          string // why this node is no member any more
	stopped       bool   // no goroutine may be started
	heardEpoch    bool   // somebody has told of an epoch
	poison        string // why this process may not serve until it is restarted; empty if it may
	refusal       bool   // a peer has said so, no more than that
	behind        bool   // this node was left behind
	wait          string // what a node without a ring waits for
	fork          string // a peer holds another layout of the same epoch
	apart         string // a peer goes by another lineage
	apartAt       time.Time
	leftBehind    string // why this node was left behind, until it is stored
	promise       *promise
	published     meta
	heardLayout   *ring.Layout
	started       time.Time
	gossipAddr    string               // advertised
	ownElsewhere  string               // address at which gossip shows this node's id
	logged        map[string]time.Time // repeated warnings
	nameTaken     time.Time            // since when another live node holds this node's name
	subscribers   []func(Event)
	members       *memberlist.Memberlist
	stop          context.CancelFunc
	running       sync.WaitGroup
	dirty         bool // peers changed since they were stored
}

// peer is what this node knows about another one.
type peer struct {
	peerRecord
	heard bool // in this process's time; meta is set
	alive bool
	meta  meta
	since time.Time // of alive
	// seen is the layout that its state last showed, and ours whether that is of this node's lineage.
	seen digest
	ours bool
}

// EventKind says what happened.
type EventKind uint8

// The kinds of events.
const (
	EventAlive   EventKind = iota + 1 // a node answers again, or for the first time
	EventDead                         // a node stopped answering, or left
	EventAddress                      // a live node's addresses or metadata changed
	EventEpoch                        // Epochs returns another snapshot
)

func (k EventKind) String() string {
	switch k {
	case EventAlive:
		return "alive"
	case EventDead:
		return "dead"
	case EventAddress:
		return "address"
	case EventEpoch:
		return "epoch"
	}
	return "unknown"
}

// Event tells a subscriber of one change.
type Event struct {
	Kind  EventKind
	Node  ring.NodeID // zero for EventEpoch
	Epoch uint64      // EventEpoch only: the newest
}

// New validates the configuration, loads what earlier starts stored and durably appends this start's id. It
// starts nothing. Its errors name the setting or the file and are final: the process should exit.
func New(cfg Config) (*Cluster, error) {
	cfg.Timing = cfg.Timing.withDefaults()
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	} else { // its own, since the caller's may serve others, too
		cfg.Rand = rand.New(rand.NewPCG(cfg.Rand.Uint64(), cfg.Rand.Uint64()))
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	c := &Cluster{
		cfg:      cfg,
		log:      cfg.Logger.With("node", cfg.Name),
		founding: founding(&cfg),
		fatal:    make(chan error, 1),
		seen:     map[ring.NodeID]uint64{},
		peers:    map[ring.NodeID]*peer{},
		bodies:   map[ring.NodeID]*body{},
		want:     map[string]bool{},
		logged:   map[string]time.Time{},
		ancestry: map[uint64]bool{},
		inbox:    newInbox(),
		offers:   make(chan struct{}, 1),
		asks:     make(chan ring.NodeID, 64),
		hasHeard: make(chan struct{}, 1), admits: make(chan struct{}, 1), met: make(chan string, 16),
		changes: make(chan struct{}, 1), asking: make(chan struct{}, 1),
		changed: make(chan struct{}),
		joins:   map[ring.NodeID]joinRequest{},
	}
	c.gossipLog.log = c.log
	c.listed, c.isListed = cfg.listed()
	if err := c.load(); err != nil {
		return nil, err
	}
	for _, id := range c.starts {
		c.ancestry[id] = true
	}
	c.warnDifferences()
	c.setHello()
	if n := len(c.metaNow().encode()); n > metaMax {
		return nil, fmt.Errorf("name, zone and advertised addresses make %d bytes of gossip metadata, at most %d: shorten them", n, metaMax)
	}
	return c, nil
}

// warnDifferences tells of settings that a stored layout overrules.
func (c *Cluster) warnDifferences() {
	if c.layout == nil {
		return
	}
	m, _ := c.layout.Member(c.cfg.Self)
	for _, d := range []struct {
		setting   string
		set, have any
	}{
		{"partitions", c.cfg.Partitions, c.layout.Partitions},
		{"n", c.cfg.N, c.layout.N},
		{"name", c.cfg.Name, m.Name},
		{"zone", c.cfg.Zone, m.Zone},
		{"weight", c.cfg.Weight, m.Weight},
	} {
		if d.set != d.have {
			c.log.Warn("a setting differs from the cluster's layout, which wins", "op", "load", "setting", d.setting, "set", d.set, "layout", d.have)
		}
	}
}

// Start opens gossip and begins to look for the others; it does not wait for them. Its context bounds the
// start alone. Without seeds a node that belongs to no cluster founds one of its own.
func (c *Cluster) Start(ctx context.Context) error {
	conf, err := c.gossipConfig(ctx)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.published = c.metaLocked()
	c.mu.Unlock()
	members, err := memberlist.Create(conf)
	if err != nil {
		return fmt.Errorf("gossip address %s: %w", c.cfg.GossipBind, err)
	}
	// Founding comes after the address is known to be free: a start that fails must leave nothing decided.
	if err := c.foundNow(); err != nil {
		err = errors.Join(err, members.Shutdown())
		c.gossipLog.close()
		return err
	}
	life, stop := context.WithCancel(context.Background())
	c.mu.Lock()
	c.members, c.stop, c.started = members, stop, time.Now()
	c.gossipAddr = nodeAddr(members.LocalNode()) // safe: nobody else has this memberlist yet, and addresses stay
	c.mu.Unlock()
	for _, loop := range []func(context.Context){c.run, c.rejoin, c.adopter, c.asker, c.joiner, c.admitter} {
		c.running.Add(1)
		go loop(life)
	}
	return nil
}

// foundNow founds what can be founded without hearing from anyone: a cluster of one without seeds, or one whose vote
// is complete.
func (c *Cluster) foundNow() error {
	if len(c.cfg.Seeds) == 0 && c.layout == nil {
		return c.foundAlone()
	}
	return c.evaluate()
}

// Stop says goodbye to the others, closes gossip and waits for every goroutine. It may be called once after a
// successful Start.
func (c *Cluster) Stop(ctx context.Context) {
	members, stop := c.handles()
	if members == nil {
		return
	}
	timeout := c.cfg.Timing.LeaveTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = min(timeout, max(time.Until(deadline), time.Millisecond)) // 0 would wait for ever
	}
	stop()
	if err := members.Leave(timeout); err != nil {
		c.log.Warn("the others may take this node for crashed", "op", "leave", "error", err)
	}
	c.shutdown(members)
	c.savePeers()
}

// Kill closes gossip without a word, as a crash would. For tests.
func (c *Cluster) Kill() {
	if members, stop := c.handles(); members != nil {
		stop()
		c.shutdown(members)
	}
}

func (c *Cluster) handles() (*memberlist.Memberlist, context.CancelFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	members, stop := c.members, c.stop
	c.members, c.stopped = nil, true
	return members, stop
}

func (c *Cluster) shutdown(members *memberlist.Memberlist) {
	c.inbox.close() // memberlist's suspicion timers fire even after Shutdown
	if err := members.Shutdown(); err != nil {
		c.log.Warn("closing gossip", "op", "stop", "error", err)
	}
	c.gossipLog.close()
	c.running.Wait()
}

// Alive tells whether a node answers now, as far as gossip knows. This node always does.
func (c *Cluster) Alive(id ring.NodeID) bool {
	if id == c.cfg.Self {
		return true
	}
	if c.isRemoved(id) {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.peers[id]
	return p != nil && p.alive
}

// Address returns the newest RPC address known of a node, from gossip or from an earlier start.
func (c *Cluster) Address(id ring.NodeID) (string, bool) {
	if id == c.cfg.Self {
		return c.cfg.RPCAddr, c.cfg.RPCAddr != ""
	}
	if c.isRemoved(id) {
		return "", false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.peers[id]
	if p == nil || p.RPCAddr == "" {
		return "", false
	}
	return p.RPCAddr, true
}

// Fatal delivers at most one error after which the process should exit with that line.
func (c *Cluster) Fatal() <-chan error { return c.fatal }

// Subscribe calls f for every event from now on, from the event loop: f must not block, and may call any method
// but Stop and Kill.
func (c *Cluster) Subscribe(f func(Event)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.subscribers = append(c.subscribers, f)
}

// run is the event loop: the only goroutine that changes votes, layouts and the view of peers.
func (c *Cluster) run(ctx context.Context) {
	defer c.running.Done()
	tick := time.NewTicker(c.cfg.Timing.PersistDelay)
	defer tick.Stop()
	seen := c.Epochs()
	for {
		ticked := false
		select {
		case <-ctx.Done():
			return
		case <-c.inbox.wake:
		case <-tick.C:
			ticked = true
		}
		events := c.apply(c.inbox.take())
		if ticked {
			c.keepPromise(ctx)
			c.keepBehind()
		}
		_ = c.evaluate() // logged and shown by Ready; the next tick tries again
		for c.advance() {
		}
		if now := c.Epochs(); now != seen {
			seen = now
			events = append(events, Event{Kind: EventEpoch, Epoch: c.live().newest().Epoch})
		}
		c.publish()
		c.notify(events)
		if ticked {
			c.flush()
			c.lookForTheEnd()
		}
	}
}

func (c *Cluster) notify(events []Event) {
	c.mu.Lock()
	subscribers := c.subscribers[:len(c.subscribers):len(c.subscribers)]
	c.mu.Unlock()
	for _, e := range events {
		for _, f := range subscribers {
			f(e)
		}
	}
}

// publish gossips this node's metadata when it has changed.
func (c *Cluster) publish() {
	c.mu.Lock()
	m, members := c.metaLocked(), c.members
	changed := m != c.published
	c.published = m
	c.mu.Unlock()
	if !changed || members == nil {
		return
	}
	// The message is queued for broadcast before the wait begins; there is nothing to wait for.
	if err := members.UpdateNode(time.Millisecond); err != nil {
		c.log.Debug("metadata update still in the queue", "op", "publish", "error", err)
	}
}

func (c *Cluster) flush() {
	c.mu.Lock()
	dirty := c.dirty
	c.dirty = false
	c.mu.Unlock()
	if dirty {
		c.savePeers()
	}
}

func (c *Cluster) metaNow() *meta {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.metaLocked()
	return &m
}

func (c *Cluster) metaLocked() meta {
	m := meta{
		Start: c.start, Name: c.cfg.Name, HTTPAddr: c.cfg.HTTPAddr, RPCAddr: c.cfg.RPCAddr,
		Zone: c.cfg.Zone, Weight: c.cfg.Weight, Founding: c.founding,
	}
	if c.vote != nil {
		m.Vote = c.vote.hash()
	}
	if c.layout != nil {
		m.Epoch, m.Layout, m.Vote = c.layout.Epoch, c.layoutHash, c.layout.ClusterID
		m.Progress = c.state.table[c.cfg.Self]
	}
	return m
}

// spawn runs f in the background, if the cluster has not stopped: Stop waits for it.
func (c *Cluster) spawn(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return
	}
	c.running.Go(f)
}

// die reports the first fatal error.
func (c *Cluster) die(err error) {
	select {
	case c.fatal <- err:
		c.log.Error("this node cannot go on", "op", "cluster", "error", err)
	default:
	}
}

// errNotStarted is what Ready says before Start.
var errNotStarted = errors.New("not ready: gossip has not started")
