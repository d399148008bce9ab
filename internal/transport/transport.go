package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

const (
	defaultMaxFrame    = 32 << 20
	defaultMaxInFlight = 4096
	defaultMaxServing  = 4096
	defaultDialTimeout = time.Second
	// defaultDeadline is that of a call whose context has none.
	defaultDeadline = 30 * time.Second

	minMaxFrame    = 64 << 10
	maxMaxFrame    = 1 << 30
	maxHandshakes  = 256
	maxConnections = 1024 // inbound, after the handshake

	// Close lets handlers finish for drainTimeout, then cancels them and waits for stopTimeout.
	drainTimeout = 2 * time.Second
	stopTimeout  = 3 * time.Second
	flushTimeout = time.Second
)

// Handler serves one endpoint. ctx ends at the caller's deadline, when the caller gives up, when the connection
// is lost, or at the end of Close; from then on no answer is sent. from is the peer's id, which is proved if a
// secret is set. body belongs to the handler; no bytes arrive as nil. The answer is copied before the handler's
// place is given back, so a handler may return memory that others read. An error travels as its code (see
// CodeReserved) and at most 4 KiB of its text. Handlers run concurrently, also those of one caller, in no
// order.
type Handler func(ctx context.Context, from ring.NodeID, body []byte) ([]byte, error)

// Options configure a Transport. Self, Network, Listen and Lookup are required.
type Options struct {
	Self    ring.NodeID
	Cluster string // nodes of another cluster are refused; at most 256 bytes
	Secret  string // if set, nodes without it are refused
	Network Network
	Listen  string // address
	// Lookup returns the address of a node. It is asked on every call, so it must be fast.
	Lookup func(ring.NodeID) (addr string, ok bool)
	// Hello returns opaque bytes, at most 64 KiB, that the other side of each handshake gets.
	Hello func() []byte
	// Verify judges a peer by its hello, once it has proved the secret; an error refuses it and its text
	// travels to the peer. hello is valid during the call.
	Verify func(peer ring.NodeID, hello []byte) error
	// Refused is told that a peer's Verify refused this node. It must not block and must not call Close. It
	// is not told of a refusal that anybody at that address could have sent: another cluster or secret.
	Refused func(peer ring.NodeID, reason string)

	MaxFrame    int           // bytes of a request or an answer with its head; 32 MiB if 0; the same on all nodes
	MaxInFlight int           // calls at once to one peer; 4096 if 0
	MaxServing  int           // handlers at once, for all peers; 4096 if 0
	DialTimeout time.Duration // to connect, without the handshake; 1 s if 0
	Logger      *slog.Logger  // silent if nil
}

func (o *Options) fill() error {
	switch {
	case o.Self.IsZero():
		return errors.New("transport: Self is required")
	case o.Network == nil:
		return errors.New("transport: Network is required")
	case o.Listen == "":
		return errors.New("transport: Listen is required")
	case o.Lookup == nil:
		return errors.New("transport: Lookup is required")
	case len(o.Cluster) > maxCluster:
		return fmt.Errorf("transport: Cluster has %d bytes, at most %d", len(o.Cluster), maxCluster)
	}
	if o.Hello == nil {
		o.Hello = func() []byte { return nil }
	}
	if o.Verify == nil {
		o.Verify = func(ring.NodeID, []byte) error { return nil }
	}
	if o.Refused == nil {
		o.Refused = func(ring.NodeID, string) {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.MaxFrame = orDefault(o.MaxFrame, defaultMaxFrame)
	o.MaxInFlight = orDefault(o.MaxInFlight, defaultMaxInFlight)
	o.MaxServing = orDefault(o.MaxServing, defaultMaxServing)
	o.DialTimeout = orDefault(o.DialTimeout, defaultDialTimeout)
	if o.MaxFrame < minMaxFrame || o.MaxFrame > maxMaxFrame {
		return fmt.Errorf("transport: MaxFrame %d, want %d to %d", o.MaxFrame, minMaxFrame, maxMaxFrame)
	}
	if o.MaxInFlight < 1 || o.MaxServing < 1 || o.DialTimeout < 0 {
		return errors.New("transport: MaxInFlight, MaxServing and DialTimeout must be positive")
	}
	return nil
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// Transport calls and serves peers. All methods but Handle are safe for concurrent use.
type Transport struct {
	opt      Options
	shaker   shaker
	handlers map[string]Handler
	early    map[string]Early
	gate     *gate
	workers  *workers

	ctx     context.Context // ends when Close begins: listening, dials, handshakes, the watcher
	stop    context.CancelFunc
	serving context.Context // ends when Close is tired of waiting for handlers
	abort   context.CancelFunc

	mu       sync.Mutex
	started  bool
	closed   bool
	listener net.Listener
	peers    map[ring.NodeID]*peer
	sessions map[*session]struct{}
	inbounds map[ring.NodeID]*inbound // one per peer: a newer connection replaces the older
	shaking  int
	warned   map[string]time.Time // per message

	wg sync.WaitGroup // every goroutine but workers: the gate counts those that serve, and the others end with serving
}

// New validates the options. It starts nothing.
func New(o Options) (*Transport, error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	t := &Transport{
		opt:      o,
		shaker:   shaker{o.Self, o.Cluster, []byte(o.Secret), o.Hello, o.Verify},
		handlers: make(map[string]Handler),
		early:    make(map[string]Early),
		gate:     newGate(o.MaxServing, maxServingFrames*int64(o.MaxFrame)),
		peers:    make(map[ring.NodeID]*peer),
		sessions: make(map[*session]struct{}),
		inbounds: make(map[ring.NodeID]*inbound),
		warned:   make(map[string]time.Time),
	}
	t.ctx, t.stop = context.WithCancel(context.Background())
	t.serving, t.abort = context.WithCancel(context.Background())
	t.workers = newWorkers(t.serving.Done())
	return t, nil
}

// Handle registers the handler of an endpoint, a name of 1 to 64 bytes. It panics if the name is bad or taken,
// and after Start.
func (t *Transport) Handle(endpoint string, h Handler) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.started:
		panic("transport: Handle after Start")
	case endpoint == "" || len(endpoint) > maxEndpoint || h == nil:
		panic(fmt.Sprintf("transport: bad endpoint %q", endpoint))
	case t.handlers[endpoint] != nil:
		panic(fmt.Sprintf("transport: endpoint %q is registered twice", endpoint))
	}
	t.handlers[endpoint] = h
}

// Start listens and serves until Close; ctx bounds the start only. The error names the address.
func (t *Transport) Start(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.started || t.closed {
		return errors.New("transport: started twice, or closed")
	}
	l, err := t.opt.Network.Listen(ctx, t.opt.Listen)
	if err != nil {
		return fmt.Errorf("listen for nodes on %s: %w", t.opt.Listen, err)
	}
	t.listener, t.started = l, true
	t.wg.Go(func() { t.accept(l) })
	t.wg.Go(t.watch)
	return nil
}

// Addr returns the address that Start listens on, nil before.
func (t *Transport) Addr() net.Addr {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.listener == nil {
		return nil
	}
	return t.listener.Addr()
}

// Call sends body to an endpoint of a peer and returns the answer, which belongs to the caller; no bytes are
// nil. It returns when ctx ends, at the latest after 30 s. The caller may reuse body once Call has returned.
// Every error is an *Error. A node does not call itself: that is KindInvalid.
func (t *Transport) Call(ctx context.Context, to ring.NodeID, endpoint string, body []byte) ([]byte, error) {
	r := request{to, endpoint, body}
	if err := t.check(r); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, r.fail(KindExpired, true, err)
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultDeadline)
		defer cancel()
	}
	p := t.peer(to)
	if p == nil {
		return nil, r.fail(KindClosed, true, ErrClosed)
	}
	return p.call(ctx, r)
}

// peer returns nil if the transport does not run.
func (t *Transport) peer(id ring.NodeID) *peer {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.started || t.closed {
		return nil
	}
	p := t.peers[id]
	if p == nil {
		p = &peer{t: t, id: id}
		t.peers[id] = p
	}
	return p
}

// Disconnect drops the connections with a peer in both directions; calls under way fail with KindLost and
// handlers that serve it are cancelled. A later call dials anew.
func (t *Transport) Disconnect(id ring.NodeID) {
	t.mu.Lock()
	p, in := t.peers[id], t.inbounds[id]
	t.mu.Unlock()
	if p != nil {
		p.drop(errors.New("disconnected by this node"))
	}
	if in != nil {
		in.close()
	}
}

// Close stops accepting, fails the calls under way, lets handlers finish for 2 s, cancels them and waits 3 s
// more. It returns an error if a handler still runs then. A second Close does nothing.
func (t *Transport) Close() error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	l, peers := t.listener, t.peers
	t.mu.Unlock()
	t.stop()
	if l != nil {
		_ = l.Close()
	}
	for _, p := range peers {
		p.drop(ErrClosed)
	}
	t.gate.close()
	err := t.awaitHandlers()
	t.abort()
	t.mu.Lock()
	for _, in := range t.inbounds {
		t.wg.Go(func() { in.flush(flushTimeout) })
	}
	t.mu.Unlock()
	t.wg.Wait()
	return err
}

func (t *Transport) awaitHandlers() error {
	for _, limit := range []time.Duration{drainTimeout, stopTimeout} {
		timer := time.NewTimer(limit)
		select {
		case <-t.gate.idle:
			timer.Stop()
			return nil
		case <-timer.C:
			t.abort()
		}
	}
	return errors.New("transport: a handler does not end")
}

// spawn runs f in a goroutine that Close waits for, unless Close has begun.
func (t *Transport) spawn(f func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.wg.Go(f)
	return true
}
