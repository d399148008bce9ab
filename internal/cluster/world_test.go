package cluster

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

// memState is a State in memory. A copy of it is a copied data directory.
type memState struct {
	mu     sync.Mutex
	files  map[string][]byte
	saves  map[string]int
	broken string // Save of this name fails
}

func newState() *memState { return &memState{files: map[string][]byte{}, saves: map[string]int{}} }

func (s *memState) Load(name string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.files[name]), nil
}

func (s *memState) Save(name string, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken == name {
		return errors.New("disk is full")
	}
	s.files[name] = slices.Clone(data)
	s.saves[name]++
	return nil
}

func (s *memState) copy() *memState {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := newState()
	maps.Copy(out.files, s.files)
	return out
}

func (s *memState) saved(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.saves[name]
}

func nodeID(s string) (id ring.NodeID) {
	h := sha256.Sum256([]byte(s))
	copy(id[:], h[:])
	return id
}

// world is a network of nodes under test, in virtual time.
type world struct {
	t       *testing.T
	net     *MemNetwork
	mu      sync.Mutex // guards what follows against calls under way
	running []*Cluster
	dead    map[*Cluster]bool
	cut     map[[2]*Cluster]bool // calls from the one to the other are lost
}

func inWorld(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, net: NewMemNetwork(1), dead: map[*Cluster]bool{}, cut: map[[2]*Cluster]bool{}}
		w.net.SetFaults(MemFaults{MinLatency: time.Millisecond, MaxLatency: 5 * time.Millisecond})
		defer func() {
			for _, c := range w.running {
				c.Kill()
			}
			time.Sleep(time.Minute) // memberlist's last probes end by their own timeouts
		}()
		f(t, w)
	})
}

const abc = "a@10.0.0.1:7000,b@10.0.0.2:7000,c@10.0.0.3:7000"

func addrOf(n int) string { return fmt.Sprintf("10.0.0.%d:7000", n) }

// config is a node's: name "a" lives at 10.0.0.1:7000, and so on.
func (w *world) config(name, seeds string) Config {
	w.t.Helper()
	parsed, err := ParseSeeds(seeds)
	if err != nil {
		w.t.Fatal(err)
	}
	var out io.Writer = io.Discard
	if os.Getenv("CLUSTER_TEST_LOG") != "" {
		out = os.Stderr
	}
	return Config{
		Self: nodeID(name), Name: name, Cluster: "dunlin", Weight: 1, N: 3, Partitions: 64,
		HTTPAddr: name + ":8000", RPCAddr: name + ":8100", Seeds: parsed, State: newState(), Fresh: true,
		Logger: slog.New(slog.NewTextHandler(out, nil)), Rand: rand.New(rand.NewPCG(1, uint64(name[0]))),
	}
}

// start runs a node at an address.
func (w *world) start(cfg Config, addr string) *Cluster {
	w.t.Helper()
	tr, err := w.net.Transport(addr)
	if err != nil {
		w.t.Fatal(err)
	}
	cfg.Transport = tr
	c, err := New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	c.Connect(&caller{w, c})
	if err := c.Start(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	w.running = append(w.running, c)
	w.mu.Unlock()
	return c
}

// abc starts three founders and waits until they are ready.
func (w *world) abc() (cfgs []Config, nodes []*Cluster) {
	w.t.Helper()
	for i, name := range []string{"a", "b", "c"} {
		cfgs = append(cfgs, w.config(name, abc))
		nodes = append(nodes, w.start(cfgs[i], addrOf(i+1)))
	}
	w.awaitReady(time.Minute, nodes...)
	return cfgs, nodes
}

// await polls a condition in virtual time.
func (w *world) await(d time.Duration, what string, cond func() bool) {
	w.t.Helper()
	for end := time.Now().Add(d); !cond(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("not within %v: %s%s", d, what, w.dump())
		}
	}
}

func (w *world) dump() string {
	var b strings.Builder
	for _, c := range w.running {
		fmt.Fprintf(&b, "\n%s: ready: %v; alive:", c.cfg.Name, c.Ready())
		for _, m := range c.Members() {
			fmt.Fprintf(&b, " %s=%v(%s)", m.Name, m.Alive, m.State)
		}
	}
	return b.String()
}

func (w *world) awaitReady(d time.Duration, nodes ...*Cluster) {
	w.t.Helper()
	w.await(d, "all ready", func() bool {
		return !slices.ContainsFunc(nodes, func(c *Cluster) bool { return c.Ready() != nil })
	})
}

// awaitWhole waits until every node sees every other one alive.
func (w *world) awaitWhole(d time.Duration, nodes ...*Cluster) {
	w.t.Helper()
	w.await(d, "all see all alive", func() bool {
		for _, a := range nodes {
			for _, b := range nodes {
				if !a.Alive(b.cfg.Self) {
					return false
				}
			}
		}
		return true
	})
}

// awaitText waits until Ready says why not, in words that hold all of the given ones.
func (w *world) awaitText(d time.Duration, c *Cluster, words ...string) {
	w.t.Helper()
	w.await(d, fmt.Sprintf("%s not ready with %q", c.cfg.Name, words), func() bool {
		err := c.Ready()
		return err != nil && !slices.ContainsFunc(words, func(s string) bool { return !strings.Contains(err.Error(), s) })
	})
}

// neverReady lets time pass and fails when one of the nodes serves.
func (w *world) neverReady(d time.Duration, nodes ...*Cluster) {
	w.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Second) {
		for _, c := range nodes {
			if c.Ready() == nil || c.Ring() != nil {
				w.t.Fatalf("%s serves%s", c.cfg.Name, w.dump())
			}
		}
	}
}

func (w *world) oneLayout(nodes ...*Cluster) {
	w.t.Helper()
	for _, c := range nodes {
		if c.Ring() == nil || c.Ring().Layout().Hash() != nodes[0].Ring().Layout().Hash() {
			w.t.Fatalf("%s has another layout than %s%s", c.cfg.Name, nodes[0].cfg.Name, w.dump())
		}
	}
}

func (w *world) stop(c *Cluster) {
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	c.Stop(ctx)
}
