package cluster

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// MemNetwork is a network in memory for simulations and tests: memberlist transports by IP:port address, with
// latency, loss, duplication and cuts. It opens no socket and works in virtual time (testing/synctest).
type MemNetwork struct {
	mu     sync.Mutex
	rand   *rand.Rand
	faults MemFaults
	nodes  map[string]*MemTransport
	cuts   map[[2]string]bool // from, to
	conns  map[*memConn]bool
}

// MemFaults are the network's manners. Loss and duplication concern packets; streams are reliable or broken.
type MemFaults struct {
	MinLatency, MaxLatency time.Duration // one way, drawn evenly
	Loss                   float64       // chance that a packet is lost
	Duplicate              float64       // chance that a packet comes twice
}

const (
	memQueue      = 1024     // packets that wait for a slow receiver; more are lost
	memPacketMax  = 64 << 10 // longest datagram
	memStreamWait = 10 * time.Second
)

var errMemUnreachable = errors.New("memory network: no answer")

// NewMemNetwork returns an empty network without faults.
func NewMemNetwork(seed uint64) *MemNetwork {
	return &MemNetwork{
		rand: rand.New(rand.NewPCG(seed, seed)), nodes: map[string]*MemTransport{},
		cuts: map[[2]string]bool{}, conns: map[*memConn]bool{},
	}
}

// SetFaults changes the manners from now on.
func (n *MemNetwork) SetFaults(f MemFaults) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.faults = f
}

// Transport adds a node at an address of the form IP:port. The address is free again after Shutdown.
func (n *MemNetwork) Transport(addr string) (*MemTransport, error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, fmt.Errorf("memory network: %w", err)
	}
	t := &MemTransport{
		net: n, addr: ap.String(), ip: net.IP(ap.Addr().AsSlice()), port: int(ap.Port()),
		packets: make(chan *memberlist.Packet, memQueue), streams: make(chan net.Conn), done: make(chan struct{}),
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.nodes[t.addr] != nil {
		return nil, fmt.Errorf("memory network: address %s is in use", t.addr)
	}
	n.nodes[t.addr] = t
	return t, nil
}

// Remove takes the node at an address off the network, as if its machine had died.
func (n *MemNetwork) Remove(addr string) {
	n.mu.Lock()
	t := n.nodes[addr]
	n.mu.Unlock()
	if t != nil {
		_ = t.Shutdown() // never fails
	}
}

// Cut drops everything between two addresses until Heal. Streams between them break.
func (n *MemNetwork) Cut(a, b string) {
	n.CutOneWay(a, b)
	n.CutOneWay(b, a)
}

// CutOneWay drops what one address sends to another. Streams need both ways, so they break too.
func (n *MemNetwork) CutOneWay(from, to string) {
	n.mu.Lock()
	n.cuts[[2]string{from, to}] = true
	broken := n.connsLocked(func(c *memConn) bool { return c.joins(from, to) })
	n.mu.Unlock()
	closeAll(broken)
}

// Heal ends every cut between two addresses.
func (n *MemNetwork) Heal(a, b string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.cuts, [2]string{a, b})
	delete(n.cuts, [2]string{b, a})
}

// HealAll ends every cut.
func (n *MemNetwork) HealAll() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cuts)
}

func (n *MemNetwork) connsLocked(match func(*memConn) bool) (out []*memConn) {
	for c := range n.conns {
		if match(c) {
			out = append(out, c)
		}
	}
	return out
}

func closeAll(conns []*memConn) {
	for _, c := range conns {
		_ = c.Close() // a pipe's Close never fails
	}
}

func (n *MemNetwork) latencyLocked() time.Duration {
	d := n.faults.MinLatency
	if spread := n.faults.MaxLatency - d; spread > 0 {
		d += time.Duration(n.rand.Int64N(int64(spread)))
	}
	return d
}

// send schedules the delivery of a packet; b is copied.
func (n *MemNetwork) send(from *MemTransport, b []byte, to string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cuts[[2]string{from.addr, to}] || n.rand.Float64() < n.faults.Loss || len(b) > memPacketMax {
		return
	}
	copies := 1
	if n.rand.Float64() < n.faults.Duplicate {
		copies = 2
	}
	for range copies {
		p := append([]byte(nil), b...)
		if d := n.latencyLocked(); d > 0 {
			time.AfterFunc(d, func() { n.deliver(from, p, to) })
		} else if dst := n.nodes[to]; dst != nil {
			dst.receive(from, p)
		}
	}
}

// deliver hands over a packet that has travelled, unless the way was cut meanwhile.
func (n *MemNetwork) deliver(from *MemTransport, p []byte, to string) {
	n.mu.Lock()
	dst := n.nodes[to]
	if n.cuts[[2]string{from.addr, to}] {
		dst = nil
	}
	n.mu.Unlock()
	if dst != nil {
		dst.receive(from, p)
	}
}

// MemTransport is one node's place on a MemNetwork. It is a memberlist.NodeAwareTransport.
type MemTransport struct {
	net     *MemNetwork
	addr    string
	ip      net.IP
	port    int
	packets chan *memberlist.Packet
	streams chan net.Conn
	once    sync.Once
	done    chan struct{}
}

var _ memberlist.NodeAwareTransport = (*MemTransport)(nil)

type memAddr string

func (memAddr) Network() string  { return "memory" }
func (a memAddr) String() string { return string(a) }

// Addr returns the address that the node was added with.
func (t *MemTransport) Addr() string { return t.addr }

// FinalAdvertiseAddr returns the transport's own address.
func (t *MemTransport) FinalAdvertiseAddr(string, int) (net.IP, int, error) { return t.ip, t.port, nil }

// WriteTo sends a packet. Like UDP it does not tell whether it arrives.
func (t *MemTransport) WriteTo(b []byte, addr string) (time.Time, error) {
	select {
	case <-t.done:
		return time.Time{}, net.ErrClosed
	default:
	}
	t.net.send(t, b, addr)
	return time.Now(), nil
}

// WriteToAddress sends a packet; the name is not needed.
func (t *MemTransport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, a.Addr)
}

// PacketCh gives the packets that arrive.
func (t *MemTransport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh gives the streams that others open.
func (t *MemTransport) StreamCh() <-chan net.Conn { return t.streams }

func (t *MemTransport) receive(from *MemTransport, p []byte) {
	select {
	case <-t.done:
	case t.packets <- &memberlist.Packet{Buf: p, From: memAddr(from.addr), Timestamp: time.Now()}:
	default: // a full buffer loses packets, as a socket's does
	}
}

// DialTimeout opens a stream. Nobody there is refused at once; across a cut the timeout passes first.
func (t *MemTransport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	if timeout <= 0 {
		timeout = memStreamWait
	}
	n := t.net
	n.mu.Lock()
	dst := n.nodes[addr]
	cut := n.cuts[[2]string{t.addr, addr}] || n.cuts[[2]string{addr, t.addr}]
	wait := 2 * n.latencyLocked()
	n.mu.Unlock()
	if cut {
		wait = timeout
	}
	if err := t.pause(min(wait, timeout)); err != nil {
		return nil, err
	}
	if cut || wait > timeout {
		return nil, fmt.Errorf("dial %s: %w", addr, errMemUnreachable)
	}
	if dst == nil {
		return nil, fmt.Errorf("dial %s: connection refused", addr)
	}
	near, far := n.pipe(t.addr, addr)
	expired := time.NewTimer(timeout)
	defer expired.Stop()
	select {
	case dst.streams <- far:
		return near, nil
	case <-dst.done:
	case <-t.done:
	case <-expired.C:
	}
	closeAll([]*memConn{near, far})
	return nil, fmt.Errorf("dial %s: %w", addr, errMemUnreachable)
}

// DialAddressTimeout opens a stream; the name is not needed.
func (t *MemTransport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.DialTimeout(a.Addr, timeout)
}

func (t *MemTransport) pause(d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-t.done:
		return net.ErrClosed
	}
}

// Shutdown takes the node off the network and breaks its streams.
func (t *MemTransport) Shutdown() error {
	t.once.Do(func() { close(t.done) })
	n := t.net
	n.mu.Lock()
	if n.nodes[t.addr] == t {
		delete(n.nodes, t.addr)
	}
	broken := n.connsLocked(func(c *memConn) bool { return c.local == t.addr || c.remote == t.addr })
	n.mu.Unlock()
	closeAll(broken)
	return nil
}

// memConn is one end of a stream.
type memConn struct {
	net.Conn
	net           *MemNetwork
	local, remote string
}

func (n *MemNetwork) pipe(from, to string) (near, far *memConn) {
	a, b := net.Pipe()
	near = &memConn{Conn: a, net: n, local: from, remote: to}
	far = &memConn{Conn: b, net: n, local: to, remote: from}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conns[near], n.conns[far] = true, true
	return near, far
}

func (c *memConn) joins(a, b string) bool {
	return c.local == a && c.remote == b || c.local == b && c.remote == a
}

func (c *memConn) LocalAddr() net.Addr  { return memAddr(c.local) }
func (c *memConn) RemoteAddr() net.Addr { return memAddr(c.remote) }

func (c *memConn) Close() error {
	c.net.mu.Lock()
	delete(c.net.conns, c)
	c.net.mu.Unlock()
	return c.Conn.Close()
}
