package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/dunlindb/dunlin/ring"
	"github.com/hashicorp/memberlist"
)

// Limits of what a node may say about itself: all of it must fit into one gossip metadata message.
const (
	MaxName    = 64  // bytes of a node's or a cluster's name
	MaxZone    = 64  // bytes of a zone
	MaxAddress = 100 // bytes of an advertised address
	maxSeeds   = 256
	maxWeight  = ring.MaxWeight
)

// State keeps small named files. Storage supplies it.
type State interface {
	// Load returns what Save stored under the name, or nil and no error when there is nothing.
	Load(name string) ([]byte, error)
	// Save replaces the file atomically and has fsynced it when it returns nil.
	Save(name string, data []byte) error
}

// Seed is one entry of the seeds list. Name is empty when the list gives only an address.
type Seed struct {
	Name string
	Addr string // host:port of the gossip listener
}

// Timing holds the intervals. Zero fields take the defaults named beside them.
type Timing struct {
	ProbeInterval  time.Duration // how often one peer is probed: 1 s
	ProbeTimeout   time.Duration // how long a probe may take: 500 ms
	SuspicionMult  int           // memberlist's suspicion multiplier: 4
	RejoinInterval time.Duration // how often lost peers are sought, ± a fifth: 5 s
	StreamTimeout  time.Duration // one connection attempt or state exchange: 2 s
	LeaveTimeout   time.Duration // how long Stop tries to say goodbye: 2 s
	NameGrace      time.Duration // how long another live node may hold this node's name before that is fatal: 15 s
	PersistDelay   time.Duration // peers are written at most this often: 1 s
}

func (t Timing) withDefaults() Timing {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&t.ProbeInterval, time.Second)
	def(&t.ProbeTimeout, 500*time.Millisecond)
	def(&t.RejoinInterval, 5*time.Second)
	def(&t.StreamTimeout, 2*time.Second)
	def(&t.LeaveTimeout, 2*time.Second)
	def(&t.NameGrace, 15*time.Second)
	def(&t.PersistDelay, time.Second)
	if t.SuspicionMult <= 0 {
		t.SuspicionMult = 4
	}
	return t
}

// Config is what New needs. Fields without a comment are the settings of the same name.
type Config struct {
	Self    ring.NodeID
	Name    string
	Cluster string
	Secret  string // empty: gossip is neither encrypted nor authenticated
	Zone    string
	Weight  int

	N          int // replicas of a cluster that this node founds
	Partitions int // partitions of a cluster that this node founds

	HTTPAddr string // advertised host:port, at most MaxAddress bytes
	RPCAddr  string // advertised host:port, at most MaxAddress bytes

	GossipBind    string // host:port to listen on, TCP and UDP
	AdvertiseIP   net.IP // nil: found from the host name and the interfaces
	AdvertisePort int    // 0: the port of GossipBind
	Seeds         []Seed // empty: a cluster of one
	// Transport replaces memberlist's sockets on GossipBind.
	Transport memberlist.Transport

	// Replace: take the place of the member that has this node's name and does not answer.
	Replace bool
	// MayVote returns nil once the node is sure that its directory is the latest one; nil: it always is.
	MayVote func() error
	// Prepare makes this node ready for an epoch before any operation goes by it; nil: nothing is to be done. It may be
	// called again for the same epoch, and at the next start.
	Prepare func(context.Context, *ring.Epochs) error
	// Incomplete returns nil once the node holds everything that is its own in the newest epoch, or what it lacks; nil:
	// never anything.
	Incomplete func(*ring.Epochs) error

	Fresh  bool // the data directory was created by this start: only advice depends on it, decisions on what State holds
	State  State
	Logger *slog.Logger // nil: slog.Default
	Timing Timing
	Rand   *rand.Rand // seeds the rejoin loop's jitter, read by New only; nil: seeded by the system
}

// ParseSeeds reads a comma list of name@host:port or host:port. An empty list is no error. Errors name the piece.
func ParseSeeds(list string) ([]Seed, error) {
	var seeds []Seed
	seen := map[string]bool{}
	for piece := range strings.SplitSeq(list, ",") {
		piece = strings.TrimSpace(piece)
		if piece == "" {
			continue
		}
		s := Seed{Addr: piece}
		if name, addr, named := strings.Cut(piece, "@"); named {
			s = Seed{Name: name, Addr: addr}
			if err := checkName(name); err != nil {
				return nil, fmt.Errorf("seed %q: name: %w", piece, err)
			}
			if seen[name] {
				return nil, fmt.Errorf("seed %q: the name %q is listed twice", piece, name)
			}
			seen[name] = true
		}
		if err := checkAddr(s.Addr); err != nil {
			return nil, fmt.Errorf("seed %q: %w", piece, err)
		}
		seeds = append(seeds, s)
	}
	if len(seeds) > maxSeeds {
		return nil, fmt.Errorf("%d seeds, at most %d", len(seeds), maxSeeds)
	}
	return seeds, nil
}

func checkAddr(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" || strings.ContainsAny(host, "@/ \t") {
		return errors.New("want host:port")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("port %q is not a number from 1 to 65535", port)
	}
	if len(addr) > 255 {
		return errors.New("longer than 255 bytes")
	}
	return nil
}

func checkName(name string) error {
	if name == "" {
		return errors.New("empty")
	}
	if len(name) > MaxName {
		return fmt.Errorf("longer than %d bytes", MaxName)
	}
	for _, r := range name {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '.', r == '_', r == '-':
		default:
			return fmt.Errorf("%q: want letters, digits, '.', '_' or '-'", name)
		}
	}
	return nil
}

// validate names the setting in every error. Partitions and N are judged by the layout that they would make.
func (c *Config) validate() error {
	if c.Self == (ring.NodeID{}) {
		return errors.New("cluster: no node id")
	}
	if c.State == nil {
		return errors.New("cluster: no State")
	}
	if err := checkName(c.Name); err != nil {
		return fmt.Errorf("node name: %w", err)
	}
	if err := checkName(c.Cluster); err != nil {
		return fmt.Errorf("cluster name: %w", err)
	}
	if c.Zone != "" {
		if err := checkName(c.Zone); err != nil {
			return fmt.Errorf("zone: %w", err)
		}
	}
	if c.Weight < 1 || c.Weight > maxWeight {
		return fmt.Errorf("weight %d, want 1 to %d", c.Weight, maxWeight)
	}
	for _, a := range []struct{ setting, addr string }{{"HTTP", c.HTTPAddr}, {"RPC", c.RPCAddr}} {
		if len(a.addr) > MaxAddress {
			return fmt.Errorf("advertised %s address %q is longer than %d bytes", a.setting, a.addr, MaxAddress)
		}
	}
	if len(c.Seeds) > maxSeeds {
		return fmt.Errorf("%d seeds, at most %d", len(c.Seeds), maxSeeds)
	}
	for _, s := range c.Seeds {
		if s.Name != "" && checkName(s.Name) != nil {
			return fmt.Errorf("seed %q: bad name", s.Name)
		}
	}
	l := (&voteBody{Cluster: c.Cluster, Partitions: c.Partitions, N: c.N, Founders: []ring.Member{c.self()}}).layout()
	if err := l.Validate(); err != nil {
		return fmt.Errorf("settings make no valid layout: %w", err)
	}
	return nil
}

func (c *Config) self() ring.Member {
	return ring.Member{ID: c.Self, Name: c.Name, Zone: c.Zone, Weight: c.Weight}
}

// listed returns the names in the seeds list, sorted, and whether this node's own is one of them.
func (c *Config) listed() (names []string, self bool) {
	for _, s := range c.Seeds {
		if s.Name != "" {
			names = append(names, s.Name)
			self = self || s.Name == c.Name
		}
	}
	return sortedUnique(names), self
}
