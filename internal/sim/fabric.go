package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/dunlindb/dunlin/internal/cluster"
)

// fabric is the network of a simulated world: streams between hosts, with a delay of their own in each direction, cuts
// in one direction or both, and resets; and the gossip's packets, which can also be lost, doubled and overtaken.
//
// A host is a name, with one address at a time. A cut is a black hole: bytes wait, dials hang, packets are lost. Bytes
// that waited arrive when the cut is healed.
type fabric struct {
	gossip *cluster.MemNetwork

	mu        sync.Mutex
	changed   sync.Cond // something that a dial waits for
	rnd       *rand.Rand
	weather   weather
	listeners map[string]*listener // by address
	cuts      map[link]bool
	talks     map[link]bool // of the cuts, where gossip passes
	conns     map[*conn]struct{}
	gossips   map[string]string   // host to its gossip address
	dark      map[netip.Addr]bool // addresses of machines that went without a word
	ports     int
}

// link is a direction between two hosts.
type link struct{ from, to string }

// weather is how a network treats what it carries.
type weather struct {
	least, most time.Duration // delay one way, drawn evenly for each write or packet
	spike       float64       // chance that a write takes spikeDelay longer, as after a lost segment
	loss        float64       // of gossip packets
	duplicate   float64       // of gossip packets
}

const spikeDelay = 250 * time.Millisecond

var errCutOff = errors.New("the host is down")

func newFabric(seed uint64) *fabric {
	f := &fabric{
		gossip: cluster.NewMemNetwork(seed), rnd: rand.New(rand.NewPCG(seed, 1)), listeners: map[string]*listener{},
		cuts: map[link]bool{}, conns: map[*conn]struct{}{}, gossips: map[string]string{}, dark: map[netip.Addr]bool{},
	}
	f.changed.L = &f.mu
	return f
}

// setWeather changes the weather from now on.
func (f *fabric) setWeather(w weather) {
	f.gossip.SetFaults(cluster.MemFaults{MinLatency: w.least, MaxLatency: w.most, Loss: w.loss, Duplicate: w.duplicate})
	f.mu.Lock()
	defer f.mu.Unlock()
	f.weather = w
}

// setCuts makes these the directions in which nothing passes, or, where gossips has them, nothing but gossip.
func (f *fabric) setCuts(cuts, gossips map[link]bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cuts, f.talks = cuts, gossips
	f.cutGossip()
	f.wake()
}

// cutGossip tells the gossip network of the cuts; hosts change their addresses. The lock is held.
func (f *fabric) cutGossip() {
	f.gossip.HealAll()
	for l := range f.cuts {
		if f.talks[l] {
			continue
		}
		if from, to := f.gossips[l.from], f.gossips[l.to]; from != "" && to != "" {
			f.gossip.CutOneWay(from, to)
		}
	}
}

// reset breaks the streams between two hosts, as a router that restarts does.
func (f *fabric) reset(a, b string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.conns {
		if c.link == (link{a, b}) || c.link == (link{b, a}) {
			c.reset()
		}
	}
}

// wake makes all that wait look again. The lock is held.
func (f *fabric) wake() {
	f.changed.Broadcast()
	for c := range f.conns {
		c.wake()
	}
}

// delay draws how long a write takes. The lock is held.
func (f *fabric) delay() time.Duration {
	d := f.weather.least
	if spread := f.weather.most - d; spread > 0 {
		d += time.Duration(f.rnd.Int64N(int64(spread)))
	}
	if f.weather.spike > 0 && f.rnd.Float64() < f.weather.spike {
		d += spikeDelay
	}
	return d
}

// host is one run of a machine on a fabric. When it is down, it is so for ever; the machine comes back as another host.
type host struct {
	f      *fabric
	name   string
	ip     netip.Addr
	down   bool // guarded by f.mu
	gossip *cluster.MemTransport
}

// join puts a host on the network. Its connections from an earlier run are reset, as by a kernel that does not know them.
func (f *fabric) join(name string, ip netip.Addr) *host {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.conns {
		if c.link.to == name && c.orphan {
			c.reset()
		}
	}
	delete(f.dark, ip)
	f.changed.Broadcast()
	return &host{f: f, name: name, ip: ip}
}

// openGossip joins the gossip at a port.
func (h *host) openGossip(port uint16) (*cluster.MemTransport, error) {
	addr := netip.AddrPortFrom(h.ip, port).String()
	t, err := h.f.gossip.Transport(addr)
	if err != nil {
		return nil, err
	}
	h.f.mu.Lock()
	defer h.f.mu.Unlock()
	h.gossip = t
	h.f.gossips[h.name] = addr
	h.f.cutGossip()
	return t, nil
}

// leave takes the host off the network for good. A silent one sends no reset: its peers find out by their own timers.
func (h *host) leave(silent bool) {
	h.f.mu.Lock()
	h.down = true
	for addr, l := range h.f.listeners {
		if l.host == h {
			delete(h.f.listeners, addr)
			l.drop(silent)
		}
	}
	for c := range h.f.conns {
		switch {
		case c.host == h:
			c.cutOff()
		case c.link.to == h.name && !silent:
			c.reset()
		case c.link.to == h.name:
			c.orphan = true
		}
	}
	h.f.dark[h.ip] = silent
	h.f.changed.Broadcast()
	t := h.gossip
	h.f.mu.Unlock()
	if t != nil {
		_ = t.Shutdown() // never fails
	}
}

// Listen implements transport.Network. addr is a port with or without a host: the host's own address is taken.
func (h *host) Listen(_ context.Context, addr string) (net.Listener, error) {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	ap, err := netip.ParseAddrPort(net.JoinHostPort(h.ip.String(), port))
	if err != nil {
		return nil, err
	}
	h.f.mu.Lock()
	defer h.f.mu.Unlock()
	at := net.TCPAddrFromAddrPort(ap)
	if h.down || h.f.listeners[ap.String()] != nil {
		return nil, &net.OpError{Op: "listen", Net: "sim", Addr: at, Err: errors.New("address in use")}
	}
	l := &listener{f: h.f, host: h, addr: at}
	l.changed.L = &h.f.mu
	h.f.listeners[ap.String()] = l
	return l, nil
}

// Dial implements transport.Network. Where nobody is, it is refused if the machine is up, else it hangs.
func (h *host) Dial(ctx context.Context, addr string) (net.Conn, error) {
	f := h.f
	fail := func(err error) (net.Conn, error) {
		to, _ := net.ResolveTCPAddr("tcp", addr)
		return nil, &net.OpError{Op: "dial", Net: "sim", Addr: to, Err: err}
	}
	f.mu.Lock()
	wait := f.delay() + f.delay()
	f.mu.Unlock()
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return fail(ctx.Err())
		}
	}
	stop := context.AfterFunc(ctx, func() {
		f.mu.Lock()
		f.changed.Broadcast()
		f.mu.Unlock()
	})
	defer stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		l := f.listeners[addr]
		switch {
		case ctx.Err() != nil:
			return fail(ctx.Err())
		case h.down:
			return fail(errCutOff)
		case l == nil && !f.dark[h.addrOf(addr)]:
			return fail(errors.New("connection refused"))
		case l != nil && !f.cuts[link{h.name, l.host.name}] && !f.cuts[link{l.host.name, h.name}]:
			return f.connect(h, l), nil
		}
		f.changed.Wait()
	}
}

func (h *host) addrOf(hostPort string) netip.Addr {
	ap, err := netip.ParseAddrPort(hostPort)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr()
}

// connect makes both ends of a stream. The lock is held.
func (f *fabric) connect(from *host, l *listener) *conn {
	f.ports++
	local := &net.TCPAddr{IP: net.IP(from.ip.AsSlice()), Port: 10000 + f.ports%50000}
	there, back := &half{}, &half{}
	there.changed.L, back.changed.L = &f.mu, &f.mu
	a := &conn{f: f, host: from, link: link{from.name, l.host.name}, in: back, out: there, local: local, remote: l.addr}
	b := &conn{f: f, host: l.host, link: link{l.host.name, from.name}, in: there, out: back, local: l.addr, remote: local}
	f.conns[a], f.conns[b] = struct{}{}, struct{}{}
	l.backlog = append(l.backlog, b)
	l.changed.Signal()
	return a
}

type listener struct {
	f       *fabric
	host    *host
	addr    *net.TCPAddr
	changed sync.Cond
	backlog []*conn
	closed  bool
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return l.addr }

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	l.f.mu.Lock()
	defer l.f.mu.Unlock()
	for len(l.backlog) == 0 && !l.closed {
		l.changed.Wait()
	}
	if l.closed {
		return nil, &net.OpError{Op: "accept", Net: "sim", Addr: l.addr, Err: net.ErrClosed}
	}
	c := l.backlog[0]
	l.backlog = l.backlog[1:]
	return c, nil
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.f.mu.Lock()
	defer l.f.mu.Unlock()
	if l.closed {
		return net.ErrClosed
	}
	delete(l.f.listeners, l.addr.String())
	l.drop(false)
	l.f.changed.Broadcast()
	return nil
}

// drop ends the listener. The lock is held.
func (l *listener) drop(silent bool) {
	l.closed = true
	for _, c := range l.backlog {
		if !silent {
			c.reset()
		}
		delete(l.f.conns, c)
	}
	l.backlog = slices.Clip(l.backlog[:0])
	l.changed.Broadcast()
}

// String names a direction.
func (l link) String() string { return fmt.Sprintf("%s>%s", l.from, l.to) }
