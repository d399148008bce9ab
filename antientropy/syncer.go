package antientropy

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

// Syncer keeps this node's partitions the same as its peers'. Its methods are safe for concurrent use.
type Syncer struct {
	deps     Deps
	opt      Options
	log      *slog.Logger
	metrics  *metrics
	pace     *pacer
	courtesy *courtesy
	marks    *tracker
	fills    *fillTracker
	heals    *healQueue
	repairs  *repairs
	slots    chan struct{} // one for each exchange that may run at once

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wake   chan struct{} // has the scheduler look again
	wg     sync.WaitGroup

	seenMarks map[int]uint64 // the scheduler's own

	// mu guards what follows. No lock is held across a call, a wait or a method of deps.
	mu        sync.Mutex
	peers     map[ring.NodeID]*peerState
	recounted map[int]time.Time // when exchanges last had a partition recounted
	marked    int
	notReady  int
	scrub     ScrubStatus
}

// New makes a Syncer. It serves its peers through Handlers at once, and begins nothing itself before Start.
func New(deps Deps, opt Options) (*Syncer, error) {
	if err := deps.fill(); err != nil {
		return nil, err
	}
	if err := opt.fill(); err != nil {
		return nil, err
	}
	s := &Syncer{
		deps: deps, opt: opt, log: deps.Log.With("node", deps.Self), metrics: newMetrics(deps.Registry),
		pace: &pacer{perSecond: opt.BytesPerSecond}, courtesy: newCourtesy(deps.Load), marks: newTracker(), fills: newFillTracker(), heals: newHealQueue(), repairs: newRepairs(),
		slots: make(chan struct{}, opt.AtOnce), wake: make(chan struct{}, 1),
		seenMarks: make(map[int]uint64), peers: make(map[ring.NodeID]*peerState), recounted: make(map[int]time.Time),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// Start begins the background work. Call it once.
func (s *Syncer) Start() {
	s.wg.Go(s.scheduleLoop)
	s.wg.Go(s.healLoop)
	s.wg.Go(s.repairLoop)
	if s.opt.ScrubEvery > 0 {
		s.wg.Go(s.scrubLoop)
	}
}

// Close ends the background work, exchanges under way included, and waits for it. The Handlers go on.
func (s *Syncer) Close() {
	s.cancel()
	s.wg.Wait()
}

// call sends one message within the budget.
func (s *Syncer) call(ctx context.Context, peer ring.NodeID, endpoint string, body []byte) ([]byte, error) {
	if err := s.pace.wait(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.opt.CallTimeout)
	defer cancel()
	reply, err := s.deps.Peers.Call(ctx, peer, endpoint, body)
	s.pace.spend(len(body) + len(reply))
	s.metrics.bytes.WithLabelValues("out").Add(float64(len(body)))
	s.metrics.bytes.WithLabelValues("in").Add(float64(len(reply)))
	return reply, err
}

// exchange runs one exchange with a peer, once it is this peer's turn and a place is free. only: nil for all shared
// partitions; full: see exchange.
func (s *Syncer) exchange(ctx context.Context, st *peerState, only []int, full bool) (*exchange, error) {
	release, err := s.turn(ctx, st)
	if err != nil {
		return nil, err
	}
	defer release()
	e := s.deps.View.Epochs()
	if e == nil {
		return nil, ErrNoLayout
	}
	x := &exchange{s: s, e: e, peer: st.id, only: only, full: full, ends: time.Now().Add(s.opt.Turn)}
	defer s.fills.release(x)
	began := time.Now()
	err = x.run(ctx)
	s.metrics.done(x, resultOf(x, err), time.Since(began))
	return x, err
}

// turn waits until no other exchange runs with the peer and one of the places is free.
func (s *Syncer) turn(ctx context.Context, st *peerState) (release func(), err error) {
	for i, c := range []chan struct{}{st.busy, s.slots} {
		select {
		case c <- struct{}{}:
		case <-ctx.Done():
			if i > 0 {
				<-st.busy
			}
			return nil, ctx.Err()
		}
	}
	return func() { <-s.slots; <-st.busy }, nil
}

// The results of an exchange, as metrics and Status name them.
const (
	resultSame    = "same"    // nothing differed
	resultSynced  = "synced"  // all differences were moved
	resultPartial = "partial" // some keys or partitions were left for later
	resultRefused = "refused" // the peer refused
	resultFailed  = "failed"
)

func resultOf(x *exchange, err error) string {
	switch {
	case err == errTurnOver, err == nil && x.moved.Left > 0:
		return resultPartial
	case refused(err):
		return resultRefused
	case err != nil:
		return resultFailed
	case x.moved.Sent+x.moved.Received > 0:
		return resultSynced
	}
	return resultSame
}

// shuffle puts partitions in random order.
func (s *Syncer) shuffle(p []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deps.Rand.Shuffle(len(p), func(i, j int) { p[i], p[j] = p[j], p[i] })
}

// mayRecount reports whether p was not recounted for an exchange a moment ago.
func (s *Syncer) mayRecount(p int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.recounted[p]
	return !ok || time.Since(at) >= recountGap
}

// countAgain has the store recount a partition.
func (s *Syncer) countAgain(ctx context.Context, p int, cause string) (int, error) {
	if cause == "exchange" {
		s.mu.Lock()
		s.recounted[p] = time.Now()
		s.mu.Unlock()
	}
	n, err := s.deps.Local.Recount(ctx, p)
	if err == nil {
		s.metrics.recounts.WithLabelValues(cause).Inc()
		s.metrics.differences.WithLabelValues(cause).Add(float64(n))
	}
	return n, err
}
