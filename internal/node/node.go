package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/dunlindb/dunlin/antientropy"
	"github.com/dunlindb/dunlin/api"
	"github.com/dunlindb/dunlin/coordinator"
	"github.com/dunlindb/dunlin/hinted"
	"github.com/dunlindb/dunlin/internal/admission"
	"github.com/dunlindb/dunlin/internal/buckets"
	"github.com/dunlindb/dunlin/internal/cluster"
	"github.com/dunlindb/dunlin/internal/config"
	"github.com/dunlindb/dunlin/internal/reaper"
	"github.com/dunlindb/dunlin/internal/storage"
	"github.com/dunlindb/dunlin/internal/transport"
	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

const (
	drainTimeout = 10 * time.Second // for clients' requests when stopping
	leaveTimeout = 3 * time.Second  // for the goodbye to the other nodes
)

// Deps is the world outside a node. The zero value is the operating system's.
type Deps struct {
	// Network carries the calls between nodes; nil: TCP.
	Network transport.Network
	// Listen opens the listener for clients; nil: TCP.
	Listen func(ctx context.Context, addr string) (net.Listener, error)
	// Dir is the data directory; nil: the one of the settings.
	Dir *storage.Dir
	// Tune changes what the parts are built with.
	Tune func(*storage.Options, *cluster.Config)
	// Now is the wall clock that is stored with data; nil: time.Now.
	Now func() time.Time
	// ReapAfter is how old a tombstone must be to be reaped; 0: the reaper's default.
	ReapAfter time.Duration
	// Waits tells how long what comes waits to be looked at, so that clients are refused what this node cannot do; nil:
	// only their number counts. A process that does other work, or is in virtual time, cannot say.
	Waits admission.Waits
}

// Node is one running node.
type Node struct {
	cfg  config.Config
	deps Deps
	log  *slog.Logger
	bare *slog.Logger // without the node's name

	dir         *storage.Dir
	store       *storage.Store
	listener    net.Listener
	cluster     *cluster.Cluster
	transport   *transport.Transport
	buckets     *buckets.Registry
	admission   *admission.Limit
	coordinator *coordinator.Coordinator
	handoff     *hinted.Worker
	syncer      *antientropy.Syncer
	reaper      *reaper.Reaper
	verified    verification
	dropping    chan struct{} // holds one while partitions are dropped
	swept       chan struct{} // has sweep look again
	http        *api.Server
	registry    *prometheus.Registry

	undo   []func() // what Stop does, last first
	failed chan error
}

// Run runs one node until ctx ends or the node cannot go on, and returns when everything of it has stopped. With
// Config.LeaveOnStop it leaves the cluster in between. An error is one line that says which setting to change, or why
// the node did not leave.
func Run(ctx context.Context, cfg config.Config, log *slog.Logger) error {
	backlog, err := admission.NewBacklog()
	if err != nil {
		return err
	}
	defer backlog.Close()
	n, err := Start(ctx, cfg, log, Deps{Waits: backlog.Waits})
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		err = n.leaveOnStop()
		log.Info("stopping", "node", cfg.Name)
	case err = <-n.Failed():
	}
	return errors.Join(err, n.Stop())
}

// Start builds a node and starts it. It returns when the node answers clients; whether it can serve them, /readyz
// tells.
func Start(ctx context.Context, cfg config.Config, log *slog.Logger, deps Deps) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, deps: deps, log: log.With("node", cfg.Name), bare: log, failed: make(chan error, 1), swept: make(chan struct{}, 1), dropping: make(chan struct{}, 1)}
	n.registry = prometheus.NewRegistry()
	n.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	// Each step needs the ones before it: the disk says who this node is; the listeners must be open before others
	// are told their addresses; clients are answered (with "not ready") while the cluster is being found.
	for _, step := range []func(context.Context) error{
		n.serveProfiles, n.openDir, n.listen, n.loadCluster, n.openStore, n.joinParts, n.startTransport, n.startCluster, n.serveClients,
	} {
		if err := step(ctx); err != nil {
			return nil, errors.Join(err, n.Stop())
		}
	}
	return n, nil
}

// Failed delivers an error after which the node must be stopped.
func (n *Node) Failed() <-chan error { return n.failed }

// Addr is where clients are answered.
func (n *Node) Addr() net.Addr { return n.listener.Addr() }

// Stop undoes what Start did, in reverse, and waits: clients first, so that none sees half a node; the disk last.
func (n *Node) Stop() error {
	var err error
	for i := len(n.undo) - 1; i >= 0; i-- {
		n.undo[i]()
	}
	n.undo = nil
	if n.store != nil {
		err = n.store.Close()
	}
	if n.dir != nil && n.deps.Dir == nil {
		err = errors.Join(err, n.dir.Close())
	}
	n.store, n.dir = nil, nil
	return err
}

func (n *Node) onStop(f func()) { n.undo = append(n.undo, f) }

func (n *Node) openDir(context.Context) error {
	n.dir = n.deps.Dir
	if n.dir != nil {
		return nil
	}
	dir, err := storage.OpenDir(n.cfg.Data, n.cfg.Cluster)
	if err != nil {
		setting := "data"
		if errors.Is(err, storage.ErrOtherCluster) {
			setting = "cluster"
		}
		return config.Problem(setting, err)
	}
	n.dir = dir
	return nil
}

// openStore comes after the layout was loaded, which says how many partitions there are.
func (n *Node) openStore(context.Context) error {
	o := n.storeOptions()
	if n.deps.Tune != nil {
		n.deps.Tune(&o, &cluster.Config{})
	}
	store, err := storage.Open(n.dir, o)
	switch {
	case errors.Is(err, storage.ErrMinFree):
		return config.Problem("min-free", err)
	case err != nil:
		return config.Problem("data", err)
	}
	n.store = store
	return nil
}

func (n *Node) storeOptions() storage.Options {
	o := storage.Options{
		Limits: vclock.DefaultLimits(int(n.cfg.MaxValue)), Logger: n.log, Metrics: n.registry, Now: n.deps.Now,
		MinFree: n.minFree(), Partitions: n.cfg.Partitions, CacheBytes: int64(n.cfg.Cache.Of(0)),
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = -1
	}
	if r := n.cluster.Ring(); r != nil {
		o.Partitions = r.Q()
	}
	if n.cfg.Durability == config.DurabilityOS {
		o.Durability = storage.OS
	}
	return o
}

// minFree is 0, the store's own choice, where the settings leave it open.
func (n *Node) minFree() uint64 {
	if n.cfg.MinFree.Auto || n.dir.Path() == "" {
		return 0
	}
	total, err := diskSize(n.dir.Path())
	if err != nil {
		return 0
	}
	return uint64(max(n.cfg.MinFree.Of(total), 1))
}

func (n *Node) listen(ctx context.Context) error {
	listen := n.deps.Listen
	if listen == nil {
		listen = transport.TCP().Listen
	}
	l, err := listen(ctx, n.cfg.HTTP)
	if err != nil {
		return config.Problem("http", fmt.Errorf("cannot listen on %s: %w", n.cfg.HTTP, err))
	}
	n.listener = l
	n.onStop(func() { _ = l.Close() })
	return nil
}

// loadCluster reads what the node knows of its cluster, and prepares to find the others.
func (n *Node) loadCluster(ctx context.Context) error {
	host, ip, err := advertised(ctx, n.cfg)
	if err != nil {
		return err
	}
	cc := cluster.Config{
		Self: n.self(), Name: n.cfg.Name, Cluster: n.cfg.Cluster, Secret: n.cfg.Secret, Zone: n.cfg.Zone,
		Weight: n.cfg.Weight, N: n.cfg.N, Partitions: n.cfg.Partitions,
		HTTPAddr: withPort(host, n.listener.Addr()), RPCAddr: rpcAddr(host, n.cfg.RPC),
		GossipBind: n.cfg.Gossip, AdvertiseIP: ip, Replace: n.cfg.Replace, MayVote: n.verified.err, Prepare: n.prepare, Incomplete: n.incomplete, Fresh: n.dir.Identity().Fresh, State: n.dir, Logger: n.bare, // which adds the node's name itself
	}
	for _, s := range n.cfg.Seeds {
		cc.Seeds = append(cc.Seeds, cluster.Seed{Name: s.Name, Addr: s.Addr})
	}
	if n.deps.Tune != nil {
		n.deps.Tune(&storage.Options{}, &cc)
	}
	if n.cluster, err = cluster.New(cc); err != nil {
		return err
	}
	return nil
}

// joinParts builds what does not need to be started, and connects it.
func (n *Node) joinParts(context.Context) (err error) {
	network := n.deps.Network
	if network == nil {
		network = transport.TCP()
	}
	n.transport, err = transport.New(transport.Options{
		Self: n.self(), Cluster: n.cfg.Cluster, Secret: n.cfg.Secret, Network: network, Listen: n.cfg.RPC,
		Lookup: n.cluster.Address, Hello: n.cluster.Hello, Verify: n.cluster.Verify, Refused: n.cluster.Refused, Logger: n.log,
	})
	if err != nil {
		return config.Problem("rpc", err)
	}
	n.cluster.Connect(n.transport)
	if err := n.joinProtocols(); err != nil {
		return err
	}
	registerCluster(n.registry, n.cluster)
	return nil
}

func rpcAddr(host, listen string) string {
	_, port, _ := net.SplitHostPort(listen)
	return net.JoinHostPort(host, port)
}

func (n *Node) self() ring.NodeID { return n.dir.Identity().Node }

func (n *Node) joinProtocols() (err error) {
	var hlc vclock.HLC
	now := n.deps.Now
	if now == nil {
		now = time.Now
	}
	n.buckets, err = buckets.New(buckets.Deps{
		Self: n.self(), Store: meta{n.store}, Peers: n.transport, Alive: n.livePeers, Log: n.log,
		Stamp: func() vclock.Stamp { return hlc.Next(now().UnixMilli()) },
	})
	if err != nil {
		return err
	}
	n.admission = admission.New(n.cfg.MaxInFlight, n.deps.Waits)
	n.coordinator, err = coordinator.New(coordinator.Deps{
		Self: n.self(), Local: local{n.store}, Hints: hints{n.store}, Peers: n.transport, View: n.cluster, Log: n.log, Registry: n.registry, Now: n.deps.Now,
		Admission: n.admission,
		CatchUp:   func(ctx context.Context, p int, round uint64) error { return n.reaper.CatchUp(ctx, p, round) },
	}, coordinator.Options{})
	if err != nil {
		return err
	}
	n.onStop(n.coordinator.Close)
	n.handoff, err = hinted.New(hinted.Deps{
		Self: n.self(), Store: hintQueue{n.store}, Receiver: receiver{n.store, n.cluster.Epochs, n.self()}, Peers: n.transport, View: n.cluster,
		Log: n.log, Registry: n.registry,
		CatchUp: func(ctx context.Context, p int, round uint64) error { return n.reaper.CatchUp(ctx, p, round) },
	}, hinted.Options{})
	if err != nil {
		return err
	}
	n.syncer, err = antientropy.New(antientropy.Deps{
		Self: n.self(), Local: replica{n.store}, Peers: n.transport, View: n.cluster, Log: n.log, Registry: n.registry,
		CatchUp:  func(ctx context.Context, p int, round uint64) error { return n.reaper.CatchUp(ctx, p, round) },
		Progress: n.cluster.Look,
		Load: func() antientropy.Load {
			under, begun := n.coordinator.Load()
			return antientropy.Load{Under: under, Begun: begun}
		},
	}, antientropy.Options{BytesPerSecond: transferRate})
	if err != nil {
		return err
	}
	n.reaper, err = reaper.New(reaper.Deps{
		Self: n.self(), Store: grave{n.store}, State: n.dir, Peers: n.transport, View: reaperView{n.cluster}, Log: n.log,
		Registry: n.registry, Now: n.deps.Now,
	}, n.reaping())
	if err != nil {
		return err
	}
	n.route()
	return nil
}

// reaping scans often where tombstones come of age early.
func (n *Node) reaping() reaper.Options {
	return reaper.Options{MinAge: n.deps.ReapAfter, ScanEvery: 5 * n.deps.ReapAfter, PutOff: n.deps.ReapAfter}
}

// route registers what this node answers other nodes.
func (n *Node) route() {
	for endpoint, h := range n.coordinator.Handlers() {
		n.transport.Handle(endpoint, transport.Handler(h))
	}
	for endpoint, e := range n.coordinator.EarlyHandlers() {
		n.transport.HandleEarly(endpoint, transport.Early(e))
	}
	for endpoint, h := range n.syncer.Handlers() {
		n.transport.Handle(endpoint, transport.Handler(h))
	}
	for endpoint, h := range n.reaper.Handlers() {
		n.transport.Handle(endpoint, h)
	}
	for endpoint, h := range n.handoff.Handlers() {
		n.transport.Handle(endpoint, h)
	}
	for endpoint, h := range n.cluster.Handlers() {
		n.transport.Handle(endpoint, h)
	}
	for endpoint, h := range n.buckets.Handlers() {
		n.transport.Handle(endpoint, h)
	}
}

// livePeers lists the members of all live epochs that answer now, without this node.
func (n *Node) livePeers() []ring.NodeID {
	e := n.cluster.Epochs()
	if e == nil {
		return nil
	}
	var out []ring.NodeID
	for _, m := range e.Members() {
		if m.ID != n.self() && n.cluster.Alive(m.ID) {
			out = append(out, m.ID)
		}
	}
	return out
}

func (n *Node) startTransport(ctx context.Context) error {
	if err := n.transport.Start(ctx); err != nil {
		return config.Problem("rpc", err)
	}
	n.onStop(func() {
		if err := n.transport.Close(); err != nil {
			n.log.Warn("stopping", "err", err)
		}
	})
	return nil
}

func (n *Node) startCluster(ctx context.Context) error {
	if err := n.cluster.Start(ctx); err != nil {
		return config.Problem("gossip", err)
	}
	n.onStop(func() {
		ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
		defer cancel()
		n.cluster.Stop(ctx)
	})
	n.buckets.Start()
	n.onStop(n.buckets.Close)
	n.handoff.Start()
	n.onStop(n.handoff.Close)
	n.syncer.Start()
	n.onStop(n.syncer.Close)
	n.reaper.Start()
	n.onStop(n.reaper.Close)
	n.cluster.Subscribe(n.heard)
	life, end := context.WithCancel(context.Background())
	var background sync.WaitGroup
	background.Go(func() { n.verify(life) })
	background.Go(func() { n.sweep(life) })
	n.onStop(func() {
		end()
		background.Wait()
	})
	done := make(chan struct{})
	n.onStop(func() { close(done) })
	go func() {
		select {
		case err := <-n.cluster.Fatal():
			n.failed <- err
		case <-done:
		}
	}()
	return nil
}

// heard passes on what the cluster tells of a node that came back. It does not block.
func (n *Node) heard(e cluster.Event) {
	switch e.Kind {
	case cluster.EventAlive:
		n.handoff.Kick(e.Node)
		n.syncer.Kick(e.Node)
	case cluster.EventEpoch:
		n.syncer.Look()
		for _, id := range n.cluster.Removed() {
			n.transport.Disconnect(id)
		}
		select {
		case n.swept <- struct{}{}:
		default:
		}
	}
}

func (n *Node) serveClients(context.Context) error {
	opt := api.Options{
		MaxValue: int(n.cfg.MaxValue), DefaultTimeout: n.cfg.DefaultTimeout,
		Durability: n.cfg.Durability, R: string(n.cfg.R), W: string(n.cfg.W),
	}
	handler, err := api.New(api.Deps{
		KV: n.coordinator, Buckets: n.buckets, Cluster: view{n.cluster, n.store, n.dir.Path(), &n.verified}, Holding: n.store.Buckets, Explain: n.coordinator, Healing: healing{n}, Membership: membership{n},
		Self: n.self(), Name: n.cfg.Name, Version: Version(), Registry: n.registry, Log: n.log, Now: n.deps.Now, Admission: n.admission,
	}, opt)
	if err != nil {
		return err
	}
	n.http = api.NewServer(opt, handler)
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := n.http.Serve(n.listener); !errors.Is(err, http.ErrServerClosed) {
			select {
			case n.failed <- fmt.Errorf("clients can no longer be answered: %w", err):
			default:
			}
		}
	}()
	n.onStop(func() {
		ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
		defer cancel()
		if err := n.http.Shutdown(ctx); err != nil {
			_ = n.http.Close()
		}
		<-served
	})
	n.log.Info("serving clients", "http", n.listener.Addr().String(), "rpc", n.cfg.RPC, "gossip", n.cfg.Gossip, "id", n.self())
	return nil
}

// Version is the program's version, as it was built: a release's number, else the commit.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value[:min(len(s.Value), 12)]
		}
	}
	return "devel"
}
