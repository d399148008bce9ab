package cluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dunlindb/dunlin/ring"
	"github.com/hashicorp/memberlist"
)

// gossipConfig translates the settings into memberlist's.
func (c *Cluster) gossipConfig(ctx context.Context) (*memberlist.Config, error) {
	t := c.cfg.Timing
	conf := memberlist.DefaultLANConfig()
	conf.Name = c.cfg.Self.String()
	conf.Label = c.cfg.Cluster // two clusters never mix, whatever their seeds say
	conf.SkipInboundLabelCheck = false
	conf.ProbeInterval, conf.ProbeTimeout, conf.SuspicionMult = t.ProbeInterval, t.ProbeTimeout, t.SuspicionMult
	conf.TCPTimeout = t.StreamTimeout
	conf.DeadNodeReclaimTime = time.Second // a node may come back with another address at any restart
	conf.EnableCompression = false         // a few hundred bytes: not worth a decompressor on the network
	conf.LogOutput = nil
	conf.Logger = log.New(&c.gossipLog, "", 0)
	conf.Delegate = (*delegate)(c)
	conf.Events = (*delegate)(c)
	conf.Alive = (*delegate)(c)
	conf.Conflict = (*delegate)(c)
	if c.cfg.Secret != "" {
		key := sha256.Sum256([]byte(c.cfg.Secret))
		conf.SecretKey = key[:]
		conf.GossipVerifyIncoming, conf.GossipVerifyOutgoing = true, true
	}
	if c.cfg.Transport != nil {
		conf.Transport = c.cfg.Transport
		if c.cfg.AdvertiseIP != nil {
			conf.AdvertiseAddr = c.cfg.AdvertiseIP.String()
		}
		conf.AdvertisePort = c.cfg.AdvertisePort
		return conf, nil
	}
	return conf, c.bind(ctx, conf)
}

// bind fills in addresses. memberlist takes only IPs and silently binds everything when given a host name.
func (c *Cluster) bind(ctx context.Context, conf *memberlist.Config) error {
	host, port, err := net.SplitHostPort(c.cfg.GossipBind)
	if err != nil {
		return fmt.Errorf("gossip address %q: want host:port or :port", c.cfg.GossipBind)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return fmt.Errorf("gossip address %q: port %q is not a number from 0 to 65535", c.cfg.GossipBind, port)
	}
	if host == "" {
		host = "0.0.0.0"
	}
	if net.ParseIP(host) == nil {
		ips, err := lookup(ctx, host)
		if err != nil {
			return fmt.Errorf("gossip address %q: %w", c.cfg.GossipBind, err)
		}
		host = ips[0].String()
	}
	conf.BindAddr, conf.BindPort = host, int(n)
	conf.AdvertisePort = conf.BindPort
	if c.cfg.AdvertisePort != 0 {
		conf.AdvertisePort = c.cfg.AdvertisePort
	}
	switch {
	case c.cfg.AdvertiseIP != nil:
		conf.AdvertiseAddr = c.cfg.AdvertiseIP.String()
	case net.ParseIP(host).IsUnspecified():
		conf.AdvertiseAddr = ownIP(ctx)
	default:
		conf.AdvertiseAddr = host
	}
	return nil
}

// ownIP prefers what this machine's host name means on the network: with several networks, the first private
// address of any interface is a guess.
func ownIP(ctx context.Context) string {
	if name, err := os.Hostname(); err == nil {
		if ips, err := lookup(ctx, name); err == nil {
			for _, ip := range ips {
				if !ip.IsLoopback() && !ip.IsLinkLocalUnicast() {
					return ip.String()
				}
			}
		}
	}
	best := "127.0.0.1"
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return best
	}
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if !ok || !n.IP.IsGlobalUnicast() || n.IP.To4() == nil {
			continue
		}
		if n.IP.IsPrivate() {
			return n.IP.String()
		}
		best = n.IP.String()
	}
	return best
}

// lookup resolves a host name within two seconds. It never returns an empty list without an error.
func lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err == nil && len(ips) == 0 {
		err = fmt.Errorf("host %q has no address", host)
	}
	for i := range ips {
		ips[i] = ips[i].Unmap()
	}
	return ips, err
}

// delegate is what memberlist calls. Most of it runs under memberlist's node lock: it copies, queues, returns.
type delegate Cluster

var (
	errNoNodeID = errors.New("its name is no node id")
	errForeign  = errors.New("it belongs to another cluster of the same name")
	errRemoved  = errors.New("it was removed from the cluster")
)

// NodeMeta gives the metadata for an alive message.
func (d *delegate) NodeMeta(int) []byte { return (*Cluster)(d).metaNow().encode() }

// NotifyMsg drops user messages: there are none.
func (d *delegate) NotifyMsg([]byte) {}

// GetBroadcasts has none of its own.
func (d *delegate) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState gives this node's readable state to a peer.
func (d *delegate) LocalState(bool) []byte { return (*Cluster)(d).bodyNow().encode() }

// MergeRemoteState takes a peer's.
func (d *delegate) MergeRemoteState(buf []byte, _ bool) {
	c := (*Cluster)(d)
	b, err := decodeBody(buf)
	if err != nil {
		c.counts.malformed.Add(1)
		c.log.Debug("a peer's state is unreadable", "op", "gossip", "error", err)
		return
	}
	c.inbox.body(b)
}

// NotifyAlive filters what memberlist may list, and is the one place where news about this node's own id pass.
func (d *delegate) NotifyAlive(n *memberlist.Node) error {
	c := (*Cluster)(d)
	id, m, err := identify(n)
	if err != nil {
		c.counts.malformed.Add(1)
		return err
	}
	if id == c.cfg.Self {
		if !c.ancestry[m.Start] {
			c.inbox.sighting(sighting{start: m.Start, addr: nodeAddr(n)})
		}
		return nil
	}
	if c.isRemoved(id) {
		return errRemoved
	}
	if own := c.clusterID.Load(); own != nil && m.Epoch > 0 && m.Vote != *own {
		c.counts.foreign.Add(1)
		c.inbox.foreign(id, nodeEvent{meta: m, addr: nodeAddr(n)})
		return errForeign
	}
	return nil
}

// NotifyConflict is called when a live node's id appears at a second address.
func (d *delegate) NotifyConflict(existing, other *memberlist.Node) {
	c := (*Cluster)(d)
	id, m, err := identify(other)
	if err != nil {
		return
	}
	c.counts.conflicts.Add(1)
	s := sighting{id: id, start: m.Start, addr: nodeAddr(other), conflict: true, held: nodeAddr(existing)}
	c.inbox.sighting(s)
}

// NotifyJoin is called when a node begins to answer.
func (d *delegate) NotifyJoin(n *memberlist.Node) { d.event(n, true) }

// NotifyUpdate is called when a live node's metadata changed.
func (d *delegate) NotifyUpdate(n *memberlist.Node) { d.event(n, true) }

// NotifyLeave is called when a node stopped answering or left; memberlist cannot tell which.
func (d *delegate) NotifyLeave(n *memberlist.Node) { d.event(n, false) }

func (d *delegate) event(n *memberlist.Node, alive bool) {
	c := (*Cluster)(d)
	id, m, err := identify(n)
	if err != nil || id == c.cfg.Self {
		return
	}
	if !c.inbox.node(id, nodeEvent{alive: alive, meta: m, addr: nodeAddr(n)}) {
		c.counts.dropped.Add(1)
	}
}

func identify(n *memberlist.Node) (ring.NodeID, meta, error) {
	id, err := ring.ParseNodeID(n.Name)
	if err != nil || n.Name != id.String() {
		return id, meta{}, errNoNodeID
	}
	m, err := decodeMeta(n.Meta)
	return id, m, err
}

func nodeAddr(n *memberlist.Node) string {
	return net.JoinHostPort(n.Addr.String(), strconv.Itoa(int(n.Port)))
}

func (c *Cluster) bodyNow() *body {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := &body{
		ID: c.cfg.Self, Start: c.start, Name: c.cfg.Name, Cluster: c.cfg.Cluster,
		Partitions: c.cfg.Partitions, N: c.cfg.N, Listed: c.listed,
	}
	if c.vote != nil {
		b.Vote = c.vote.encode()
	}
	if c.layout != nil {
		if b.Layout = c.layout.Encode(); len(b.Layout) > maxLayoutLen {
			b.Layout = nil
		}
		b.Progress = c.state.table.encode()
	}
	return b
}

// gossipLog turns memberlist's "[WARN] memberlist: …" lines into slog records, until it is closed: memberlist's Shutdown
// does not wait for a probe under way, which would log into a node that is over.
type gossipLog struct {
	log    *slog.Logger
	mu     sync.RWMutex // held while a line is written, so that close waits for it
	closed bool
}

func (g *gossipLog) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
}

func (g *gossipLog) Write(p []byte) (int, error) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.closed {
		return len(p), nil
	}
	line := string(bytes.TrimSpace(p))
	level := slog.LevelDebug
	if end := strings.Index(line, "] "); strings.HasPrefix(line, "[") && end > 0 {
		switch line[1:end] {
		case "ERR", "ERROR":
			level = slog.LevelWarn
		case "WARN":
			level = slog.LevelInfo
		}
		line = line[end+2:]
	}
	line = strings.TrimPrefix(line, "memberlist: ")
	// We report these ourselves, once and with advice.
	if strings.HasPrefix(line, "ignoring alive message") || strings.HasPrefix(line, "Conflicting address") {
		level = slog.LevelDebug
	}
	g.log.Log(context.Background(), level, line, "op", "gossip")
	return len(p), nil
}
