package sim

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/dunlindb/dunlin/internal/cluster"
	"github.com/dunlindb/dunlin/internal/config"
	"github.com/dunlindb/dunlin/internal/node"
	"github.com/dunlindb/dunlin/internal/storage"
	"github.com/dunlindb/dunlin/ring"
)

// Ports of every node.
const (
	portHTTP   = 8000
	portRPC    = 8100
	portGossip = 8200
)

const (
	diskSize = 100 << 30
	diskFree = 50 << 30
)

// member is one machine, with its disk and its clock, and the node that runs on it, if one does.
type member struct {
	w    *world
	no   int
	name string
	disk *storage.MemoryDisk

	mu     sync.Mutex
	use    use
	weight int    // that it is started with
	zone   string // the same
	adopt  bool   // it is started with the setting to take the place of the member of its name
	waits  bool   // it was wiped, and waits to take that place
	wipes  int    // how often it got an empty disk
	attic  []*storage.MemoryDisk
	busy   bool // with a fault of its own
	rnd    *rand.Rand
	boots  int
	ip     netip.Addr
	host   *host
	node   *node.Node
	gone   chan struct{} // closed when the node is to stop: its disk delays nothing any more
	offset time.Duration // of its clock
	slow   time.Duration // most that a commit takes
	broken float64       // chance that a commit fails
	tail   float64       // chance that a commit takes stalls
	stalls time.Duration // see tail
	free   uint64        // bytes on its disk
	slips  bool          // the next commit fails, with nothing written
	held   chan struct{} // the next commit waits until it is closed; nil: it does not
}

// use is what a machine is for.
type use int

const (
	serving use = iota // it is a part of the cluster, or is to become one, or has still to leave
	spare              // it may become one: its disk is empty
	lost               // it is stopped for good, and has to be removed
)

func newMember(w *world, no int) *member {
	m := &member{
		w: w, no: no, name: fmt.Sprintf("n%d", no), rnd: rand.New(rand.NewPCG(w.plan.Seed, uint64(100+no))),
		slow: w.plan.Fsync, free: diskFree, weight: 1,
	}
	if w.plan.Zones > 1 {
		m.zone = fmt.Sprintf("z%d", m.no%w.plan.Zones)
	}
	if no > w.plan.Nodes {
		m.use = spare
	}
	m.disk = m.newDisk()
	m.ip = netip.AddrFrom4([4]byte{10, 0, 0, byte(no)})
	if s := w.plan.Skew; s > 0 {
		m.offset = time.Duration(m.rnd.Int64N(2*int64(s))) - s
	}
	return m
}

func (m *member) newDisk() *storage.MemoryDisk {
	seed := fmt.Appendf(nil, "%d %s", m.w.plan.Seed, m.name)
	if m.wipes > 0 {
		seed = fmt.Appendf(seed, " %d", m.wipes)
	}
	h := sha256.Sum256(seed)
	return storage.NewMemoryDisk(ring.NodeID(h[:16]), "sim")
}

// wipe gives the machine, which does not run, an empty disk: with another id.
func (m *member) wipe() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.attic = append(m.attic, m.disk)
	m.wipes++
	m.disk = m.newDisk()
}

// id is who the machine is, by its disk.
func (m *member) id() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.disk.Node().String()
}

// is reports whether the machine is used so.
func (m *member) is(u use) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.use == u
}

// url is where clients reach the member.
func (m *member) url() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return "http://" + netip.AddrPortFrom(m.ip, portHTTP).String()
}

func (m *member) gossipAddr() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return netip.AddrPortFrom(m.ip, portGossip).String()
}

// now is the member's clock.
func (m *member) now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Now().Add(m.offset)
}

func (m *member) settings() config.Config {
	c := config.Default()
	c.Name, c.Cluster, c.Data = m.name, "sim", "memory"
	c.HTTP, c.RPC, c.Gossip = ":"+strconv.Itoa(portHTTP), ":"+strconv.Itoa(portRPC), ":"+strconv.Itoa(portGossip)
	c.Partitions, c.Advertise = m.w.plan.Parts, m.ip.String()
	c.Weight, c.Zone, c.Replace = m.weight, m.zone, m.adopt
	if m.w.plan.OS {
		c.Durability = config.DurabilityOS
	}
	return c
}

// start boots the machine. With move, it has another address than before.
func (m *member) start(move bool) error {
	m.mu.Lock()
	m.boots++
	if move && m.boots > 1 {
		m.ip = netip.AddrFrom4([4]byte{10, 0, byte(m.boots), byte(m.no)})
	}
	m.mu.Unlock()
	c := m.settings()
	// The founders are named in the seeds of all, and of nobody else's.
	for i, o := range m.w.members {
		switch {
		case i < m.w.plan.Nodes:
			c.Seeds = append(c.Seeds, config.Seed{Name: o.name, Addr: o.gossipAddr()})
		case o != m && o.is(serving):
			c.Seeds = append(c.Seeds, config.Seed{Addr: o.gossipAddr()})
		}
	}
	h := m.w.fabric.join(m.name, m.ip)
	gossip, err := h.openGossip(portGossip)
	if err != nil {
		return err
	}
	gone := make(chan struct{})
	n, err := node.Start(context.Background(), c, m.w.log, node.Deps{
		Network: h, Listen: h.Listen, Dir: m.disk.Open(), Now: m.now, ReapAfter: m.w.plan.Reap,
		Tune: func(s *storage.Options, cc *cluster.Config) {
			s.Commit = func(commit func() error) error { return m.commit(gone, commit) }
			s.Statfs, s.HintBytes = m.statfs, m.w.plan.HintBytes
			cc.Transport, cc.Rand = gossip, rand.New(rand.NewPCG(m.w.plan.Seed, uint64(m.no*1000+m.boots)))
		},
	})
	if err != nil {
		close(gone)
		h.leave(false)
		return fmt.Errorf("%s does not start: %w", m.name, err)
	}
	m.mu.Lock()
	m.host, m.node, m.gone = h, n, gone
	m.mu.Unlock()
	return nil
}

// sync makes all that was written to the disk durable.
func (m *member) sync() {
	m.mu.Lock()
	d := m.disk
	m.mu.Unlock()
	d.Sync()
}

// take returns what runs, and forgets it.
func (m *member) take() (*node.Node, *host, chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, h, gone := m.node, m.host, m.gone
	m.node, m.host, m.gone = nil, nil, nil
	return n, h, gone
}

// crash cuts the power, or kills the process: then its machine resets its connections.
func (m *member) crash(silent bool) error {
	n, h, gone := m.take()
	if n == nil {
		return nil
	}
	err := m.disk.PowerCut()
	h.leave(silent)
	close(gone)
	// What still runs can reach neither the network nor the disk any more.
	m.w.ghosts.Go(func() { _ = n.Stop() })
	return err
}

// stop ends the node as an operator does.
func (m *member) stop() error {
	n, h, gone := m.take()
	if n == nil {
		return nil
	}
	// The store may wait in a mutex for a commit when it closes, and virtual time stands still for who does.
	close(gone)
	err := n.Stop()
	h.leave(false)
	return err
}

// died tells of a node that ended by itself.
func (m *member) died() error {
	m.mu.Lock()
	n, waits := m.node, m.waits
	m.mu.Unlock()
	if n == nil || waits { // it gives up, and is started again, while the others take the old one of its name for alive
		return nil
	}
	select {
	case err := <-n.Failed():
		return fmt.Errorf("%s ended by itself: %w", m.name, err)
	default:
		return nil
	}
}

var errDisk = errors.New("input/output error")

// commit stands around every commit of the store: it takes its time, and may fail with the write done or not. What is
// committed late and what is acknowledged late are both met by a crash meanwhile.
func (m *member) commit(gone <-chan struct{}, commit func() error) error {
	m.mu.Lock()
	first, fail := m.rnd.IntN(2) == 0, m.rnd.Float64() < m.broken
	var wait time.Duration
	if m.slow > 0 {
		wait = time.Duration(m.rnd.Int64N(int64(m.slow)))
	}
	if m.tail > 0 && m.rnd.Float64() < m.tail {
		wait = m.stalls
	}
	held, slips := m.held, m.slips
	m.held, m.slips = nil, false
	m.mu.Unlock()
	if slips {
		return errDisk
	}
	if held != nil {
		select {
		case <-held:
		case <-gone:
		}
	}
	if !first {
		sleep(wait, gone)
	}
	if fail && !first {
		return errDisk
	}
	if err := commit(); err != nil {
		return err
	}
	if first {
		sleep(wait, gone)
	}
	if fail {
		return errDisk
	}
	return nil
}

// holdCommit has the next commit wait until it is released.
func (m *member) holdCommit() (release func()) {
	held := make(chan struct{})
	m.set(func() { m.held = held })
	return func() {
		m.set(func() { m.held = nil })
		close(held)
	}
}

// sleep waits, but not for who is gone.
func sleep(d time.Duration, gone <-chan struct{}) {
	if d == 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-gone:
	}
}

func (m *member) statfs(string) (free, total uint64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.free, diskSize, nil
}
