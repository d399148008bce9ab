package hinted

import (
	"context"
	"sync"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

// Worker replays this node's hints and receives those of others. Its methods are safe for concurrent use; Start and
// Close may be called once.
type Worker struct {
	deps    Deps
	opt     Options
	met     *metrics
	serving chan struct{} // one entry a batch that is being received
	wake    chan struct{} // something changed before the timer

	stop context.CancelFunc
	done sync.WaitGroup // the schedule and the turns

	mu       sync.Mutex // never held across a call into Store, View, Receiver or Peers
	targets  map[ring.NodeID]*target
	noLayout bool
	epoch    uint64    // the newest, at the last look
	paid     time.Time // the shared budget is spent until then
	running  [turns]int
}

// New validates its arguments. It starts nothing.
func New(d Deps, o Options) (*Worker, error) {
	if err := d.fill(); err != nil {
		return nil, err
	}
	if err := o.fill(); err != nil {
		return nil, err
	}
	w := &Worker{
		deps: d, opt: o,
		serving: make(chan struct{}, o.Serving), wake: make(chan struct{}, 1),
		targets: map[ring.NodeID]*target{}, noLayout: true,
	}
	w.met = newMetrics(d.Registry, w)
	return w, nil
}

// Start begins to replay.
func (w *Worker) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	w.stop = cancel
	w.done.Go(func() { w.run(ctx) })
}

// Close stops replaying and waits for it. What was under way is sent again by the next Worker. It does nothing when
// Start was not called.
func (w *Worker) Close() {
	if w.stop != nil {
		w.stop()
	}
	w.done.Wait()
}

// Kick tells that the target came alive just now: its marks are due at once, its hints after Options.Settle, however
// long earlier failures would have made it wait. It does not block.
func (w *Worker) Kick(id ring.NodeID) {
	w.mu.Lock()
	if t := w.targets[id]; t != nil {
		t.cameAlive(time.Now())
	}
	for _, t := range w.targets { // moved hints may have waited for this node
		if t.last.moved {
			t.notBefore, t.idle = time.Time{}, 0
		}
	}
	w.mu.Unlock()
	w.nudge()
}

func (w *Worker) nudge() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// run is the schedule. A timer drives it, so that nothing has to happen for hints to go out.
func (w *Worker) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-w.wake:
		}
		if ctx.Err() != nil {
			return
		}
		timer.Reset(w.schedule(ctx))
	}
}

// schedule looks at the store and the view, starts the turns that are due and returns when to look again.
func (w *Worker) schedule(ctx context.Context) time.Duration {
	w.observe()
	now := time.Now()
	wait := w.opt.Interval
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range w.byWaiting() {
		kind, in := t.due(now, w.opt.Settle)
		switch {
		case kind == turnNone:
			// A pause that is over before the next look.
			if in > 0 {
				wait = min(wait, in)
			}
		case w.running[kind] < w.opt.Targets: // else the end of a turn wakes us
			w.running[kind]++
			t.running = kind
			w.done.Go(func() { w.turn(ctx, t, kind) })
		}
	}
	return wait
}

func (w *Worker) turn(ctx context.Context, t *target, kind turnKind) {
	var worked bool
	if kind == turnMarks {
		worked = w.deliverMarks(ctx, t)
	} else {
		worked = w.replay(ctx, t)
	}
	w.mu.Lock()
	if !worked {
		// The end of a turn wakes the schedule: whatever store and view say, that must not become a tight loop.
		t.notBefore = later(t.notBefore, time.Now().Add(w.opt.Interval))
	}
	w.running[kind]--
	t.running = turnNone
	t.lastTurn = time.Now()
	w.mu.Unlock()
	w.nudge()
}

// sighting is what the store and the view say of one target.
type sighting struct {
	held    Target
	dropped int
	member  bool // of some live epoch, and not removed
	gone    bool // it is none, by a layout that is known
	alive   bool
	moved   bool // hints are held that go to others in its place
	quiet   bool // no turn ran while the store was asked, so that its numbers can be compared
}

// observe takes in what the store and the view say now.
func (w *Worker) observe() {
	w.mu.Lock()
	running := map[ring.NodeID]bool{}
	for id, t := range w.targets {
		running[id] = t.running != turnNone
	}
	w.mu.Unlock()

	e := w.deps.View.Epochs()
	seen := map[ring.NodeID]*sighting{}
	for _, t := range w.deps.Store.HintTargets() {
		seen[t.ID] = &sighting{held: t}
	}
	if e != nil {
		for _, m := range e.Members() {
			if seen[m.ID] == nil {
				seen[m.ID] = &sighting{held: Target{ID: m.ID}}
			}
			seen[m.ID].member = !e.Removed(m.ID)
		}
	}
	for _, id := range w.deps.Store.DroppedTargets() {
		if seen[id] == nil { // left, and nothing but marks is held
			seen[id] = &sighting{held: Target{ID: id}}
		}
	}
	for id, s := range seen {
		s.gone, s.moved = e != nil && !s.member, e != nil && moved(e, &s.held)
		s.dropped = len(w.deps.Store.Dropped(id))
		s.alive = s.member && w.deps.View.Alive(id)
		s.quiet = !running[id]
	}

	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.noLayout = e == nil
	if e != nil && e.Newest().Epoch() != w.epoch {
		w.epoch = e.Newest().Epoch()
		for _, t := range w.targets {
			t.notBefore, t.idle = time.Time{}, 0
		}
	}
	for id, s := range seen {
		t := w.targets[id]
		if t == nil {
			if s.held.Hints == 0 && s.dropped == 0 {
				continue
			}
			t = newTarget(id, w.opt)
			w.targets[id] = t
		}
		t.see(s, now, w.opt.Settle)
	}
	for id, t := range w.targets {
		if seen[id] == nil && t.running == turnNone {
			delete(w.targets, id) // no member, and nothing is held for it
		}
	}
}
