package reaper

import (
	"container/heap"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

const (
	maxAsked  = 16   // members asked at once
	maxPutOff = 1024 // keys of a partition
	maxRetry  = 30 * time.Second
	wakeEvery = 5 * time.Second // to see a new layout
	lockCount = 64
)

// Reaper reaps the partitions that this node is the first primary of, and answers the drivers of the others.
type Reaper struct {
	deps     Deps
	opt      Options
	watch    *watch
	handlers map[string]Handler
	locks    [lockCount]chan struct{}

	mu         sync.Mutex
	statements map[int]statement // by partition

	// Of the driver's loop alone.
	open  map[int]*openRound
	used  [slots]bool
	off   map[int]map[Key]time.Time // keys put off, and until when
	leads func(*ring.Ring, int) bool
	each  func([]ring.NodeID, func(ring.NodeID))

	start, stop sync.Once
	cancel      context.CancelFunc
	ctx         context.Context
	done        chan struct{}
}

// New reads the journal and prepares a reaper; it starts nothing. It fails if the journal cannot be read.
func New(d Deps, opt Options) (*Reaper, error) {
	if err := d.validate(); err != nil {
		return nil, err
	}
	r := &Reaper{
		deps:       d,
		opt:        opt.withDefaults(),
		watch:      newWatch(d.Registry),
		statements: map[int]statement{},
		open:       map[int]*openRound{},
		off:        map[int]map[Key]time.Time{},
		leads:      func(rg *ring.Ring, p int) bool { return rg.Primaries(p)[0] == d.Self },
		each:       inParallel,
		done:       make(chan struct{}),
	}
	for i := range r.locks {
		r.locks[i] = make(chan struct{}, 1)
	}
	r.handlers = r.Handlers()
	r.ctx, r.cancel = context.WithCancel(context.Background())
	if err := r.load(); err != nil {
		r.cancel()
		return nil, err
	}
	return r, nil
}

// Start starts the driver. It may be called once.
func (r *Reaper) Start() {
	r.start.Do(func() { go r.run() })
}

// Close stops the driver and waits until it has stopped. Open rounds are carried on after the next start.
func (r *Reaper) Close() {
	r.stop.Do(func() {
		r.cancel()
		r.start.Do(func() { close(r.done) })
	})
	<-r.done
}

func (r *Reaper) run() {
	defer close(r.done)
	s := schedule{pause: map[int]time.Duration{}}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-timer.C:
		}
		if rg := r.deps.View.Ring(); rg != nil && s.epoch != rg.Epoch() {
			r.plan(&s, rg)
		}
		if len(s.queue) > 0 && !time.Now().Before(s.queue[0].due) {
			d := &s.queue[0]
			v := r.visit(r.ctx, d.partition)
			d.due = time.Now().Add(r.pause(&s, d.partition, v))
			heap.Fix(&s.queue, 0)
		}
		wait := wakeEvery
		if len(s.queue) > 0 {
			wait = min(wait, max(0, time.Until(s.queue[0].due)))
		}
		timer.Reset(wait)
	}
}

// schedule is when each partition is visited next.
type schedule struct {
	epoch uint64
	queue dueQueue
	pause map[int]time.Duration // how long the last wait was
}

type due struct {
	partition int
	due       time.Time
}

type dueQueue []due

func (q dueQueue) Len() int           { return len(q) }
func (q dueQueue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q dueQueue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *dueQueue) Push(x any)        { *q = append(*q, x.(due)) }
func (q *dueQueue) Pop() any          { panic("reaper: partitions are never taken off the schedule") }

// plan makes the schedule for a layout: the partitions that this node drives, spread over ScanEvery, and at once
// those with an open round.
func (r *Reaper) plan(s *schedule, rg *ring.Ring) {
	s.epoch, s.queue = rg.Epoch(), s.queue[:0]
	now := time.Now()
	clear(s.pause)
	clear(r.off)
	r.unmarkAll(r.ctx, rg)
	for p := range rg.Partitions() {
		switch {
		case r.open[p] != nil:
			s.queue = append(s.queue, due{p, now})
		case r.leads(rg, p):
			s.queue = append(s.queue, due{p, now.Add(time.Duration(r.deps.Rand.Int64N(int64(r.opt.ScanEvery))))})
		}
	}
	heap.Init(&s.queue)
	r.watch.planned(func(p int) bool { return r.open[p] != nil || r.leads(rg, p) })
}

// unmarkAll takes off the marks that rounds of an earlier layout, or of before a restart, left here: their driver may be
// gone for good. It is safe at any time, since marks only keep exchanges from spreading tombstones that are going, and
// needed, since keys with a mark are neither exchanged nor reaped.
func (r *Reaper) unmarkAll(ctx context.Context, rg *ring.Ring) {
	for p := range rg.Partitions() {
		for ks := range slices.Chunk(r.deps.Store.Removing(p), maxBatch) {
			if err := r.deps.Store.Unmark(ctx, p, r.deps.Store.Round(p), ks); err != nil {
				r.deps.Log.Warn("reaper: marks of earlier rounds stay", "node", r.deps.Self, "partition", p, "op", "unmark", "err", err)
				return
			}
		}
	}
}

// pause says when to come back to p: after a while, or, while something holds it up, at doubling intervals. An open
// round is retried sooner, since between its members some objects are refused.
func (r *Reaper) pause(s *schedule, p int, v verdict) time.Duration {
	switch v {
	case idle:
		delete(s.pause, p)
		return r.opt.ScanEvery - time.Duration(r.deps.Rand.Int64N(int64(r.opt.ScanEvery/8+1)))
	case worked:
		delete(s.pause, p)
		return r.opt.PassEvery
	}
	limit := r.opt.ScanEvery
	if r.open[p] != nil {
		limit = min(limit, maxRetry)
	}
	s.pause[p] = min(limit, max(r.opt.RetryEvery, 2*s.pause[p]))
	return s.pause[p]
}
