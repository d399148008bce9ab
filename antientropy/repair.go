package antientropy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

const (
	// repairRetry is the time between two rounds over what a repair could not do yet.
	repairRetry = 5 * time.Second
	// repairTries is how often a partition is compared with a peer while keys are left over. After that it is reported.
	repairTries = 3
)

// Filter says what to repair.
type Filter struct {
	Partitions []int // nil: all that this node is a primary of
}

// RepairState is where a repair is.
type RepairState string

// The states of a repair.
const (
	RepairNone    RepairState = "none"    // there was none
	RepairRunning RepairState = "running" // it runs, or waits for peers
	RepairStopped RepairState = "stopped" // StopRepair was called; Repair with the same filter goes on
	RepairDone    RepairState = "done"
)

// Progress is how far a repair has come.
type Progress struct {
	State      RepairState
	Filter     Filter
	Started    time.Time
	Finished   time.Time // zero while it runs
	Done       int       // partitions compared with all their other primaries
	Total      int       // partitions
	Moved      Moved
	Corrected  int64         // leaf sums that were wrong
	Unrepaired int           // pairs of partition and peer given up because keys could not be moved
	Waiting    []ring.NodeID // peers that the rest waits for, because they do not answer
	ETA        time.Duration // estimate of the time left; 0: unknown or done
	LastError  string
}

// repairs holds the one repair that runs, or ran last.
type repairs struct {
	wake chan struct{}

	mu       sync.Mutex
	progress Progress
	todo     []*repairPart
	began    time.Time // when it was started or resumed
	atBegin  int       // partitions done by then
	stop     func()    // ends the work under way; nil while there is none
}

// repairPart is what is left of one partition.
type repairPart struct {
	id        int
	inspected bool
	done      map[ring.NodeID]bool
	tries     map[ring.NodeID]int
}

func newRepairs() *repairs {
	return &repairs{wake: make(chan struct{}, 1), progress: Progress{State: RepairNone}}
}

// Repair begins a full repair in the background, whatever the sums say: each partition is recounted, its damaged records
// are healed, and all its keys are compared with every other primary, one after the other and within the budget.
// Partitions whose peers are down wait until they are back. Nothing is kept over a restart. While a repair with the
// same filter is unfinished, Repair resumes it if it was stopped, and otherwise changes nothing; with another filter it
// is ErrRepairRunning. ErrNoLayout: there is nothing to repair yet.
func (s *Syncer) Repair(f Filter) (Progress, error) {
	e := s.deps.View.Epochs()
	if e == nil {
		return Progress{State: RepairNone}, ErrNoLayout
	}
	r := e.Base()
	for _, p := range f.Partitions {
		if p < 0 || p >= r.Partitions() || !r.IsPrimary(p, s.deps.Self) {
			return s.RepairProgress(), fmt.Errorf("partition %d: this node is no primary of it", p)
		}
	}
	q := s.repairs
	q.mu.Lock()
	switch state := q.progress.State; {
	case state == RepairRunning || state == RepairStopped:
		if !slices.Equal(q.progress.Filter.Partitions, f.Partitions) {
			q.mu.Unlock()
			return s.RepairProgress(), ErrRepairRunning
		}
	default:
		ps := f.Partitions
		if ps == nil {
			ps = r.Owned(s.deps.Self)
		}
		q.todo = nil
		for _, p := range ps {
			q.todo = append(q.todo, &repairPart{id: p, done: make(map[ring.NodeID]bool), tries: make(map[ring.NodeID]int)})
		}
		q.progress = Progress{Filter: f, Started: time.Now(), Total: len(ps)}
	}
	if q.progress.State != RepairRunning {
		q.progress.State, q.began, q.atBegin = RepairRunning, time.Now(), q.progress.Done
	}
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return s.RepairProgress(), nil
}

// StopRepair stops the repair that runs. What it has done is remembered.
func (s *Syncer) StopRepair() {
	q := s.repairs
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.progress.State != RepairRunning {
		return
	}
	q.progress.State, q.progress.Waiting = RepairStopped, nil
	if q.stop != nil {
		q.stop()
	}
}

// RepairProgress returns how far the repair has come that runs, or ran last.
func (s *Syncer) RepairProgress() Progress {
	q := s.repairs
	q.mu.Lock()
	defer q.mu.Unlock()
	p := q.progress
	p.Waiting = slices.Clone(p.Waiting)
	if done := p.Done - q.atBegin; p.State == RepairRunning && done > 0 {
		p.ETA = time.Since(q.began) / time.Duration(done) * time.Duration(p.Total-p.Done)
	}
	return p
}

func (s *Syncer) repairLoop() {
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.repairs.wake:
		}
		for s.repairRound() {
			if sleep(s.ctx, repairRetry) != nil {
				return
			}
		}
	}
}

// repairRound goes once over what is left to do. It reports whether something still is.
func (s *Syncer) repairRound() (left bool) {
	q := s.repairs
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	q.mu.Lock()
	if q.progress.State != RepairRunning {
		q.mu.Unlock()
		return false
	}
	todo := q.todo
	q.stop = cancel
	q.mu.Unlock()

	var rest []*repairPart
	var waiting []ring.NodeID
	for i, part := range todo {
		absent, finished := s.repairPartition(ctx, part)
		if ctx.Err() != nil {
			rest = append(rest, todo[i:]...)
			break
		}
		for _, id := range absent {
			if !slices.Contains(waiting, id) {
				waiting = append(waiting, id)
			}
		}
		if !finished {
			rest = append(rest, part)
		}
		s.repairNote(func(p *Progress) {
			p.Waiting = waiting
			if finished {
				p.Done++
			}
		})
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stop, q.todo = nil, rest
	if len(rest) == 0 && q.progress.State == RepairRunning {
		q.progress.State, q.progress.Finished = RepairDone, time.Now()
	}
	return q.progress.State == RepairRunning
}

func (s *Syncer) repairNote(f func(*Progress)) {
	s.repairs.mu.Lock()
	defer s.repairs.mu.Unlock()
	f(&s.repairs.progress)
}

// repairPartition compares a partition with those of its peers that are left and alive. It returns those that do not
// answer and whether nothing is left.
func (s *Syncer) repairPartition(ctx context.Context, part *repairPart) (absent []ring.NodeID, finished bool) {
	e := s.deps.View.Epochs()
	if e == nil || !e.Base().IsPrimary(part.id, s.deps.Self) {
		return nil, e != nil
	}
	if !part.inspected {
		n, err := s.inspect(ctx, part.id, "repair")
		if err != nil {
			s.repairFailed(ctx, part.id, err)
			return nil, false
		}
		part.inspected = true
		s.repairNote(func(p *Progress) { p.Corrected += int64(n) })
	}
	finished = true
	for _, id := range s.others(e, part.id) {
		if part.done[id] {
			continue
		}
		if !s.deps.View.Alive(id) {
			absent, finished = append(absent, id), false
			continue
		}
		x, err := s.exchange(ctx, s.peer(id), []int{part.id}, true)
		if x != nil {
			s.repairNote(func(p *Progress) { p.Moved.add(x.moved) })
		}
		if err == nil && x.notReady > 0 {
			err = errors.New("the Merkle tree is not ready")
		}
		if err != nil {
			s.repairFailed(ctx, part.id, fmt.Errorf("with %s: %w", id, err))
			finished = false
			continue
		}
		part.tries[id]++
		switch {
		case x.moved.Left == 0:
			part.done[id] = true
		case part.tries[id] >= repairTries:
			part.done[id] = true
			s.repairNote(func(p *Progress) { p.Unrepaired++ })
		default:
			finished = false
		}
	}
	return absent, finished
}

func (s *Syncer) repairFailed(ctx context.Context, p int, err error) {
	if ctx.Err() != nil {
		return
	}
	s.log.Info("a partition could not be repaired yet", "op", "repair", "partition", p, "err", err)
	s.repairNote(func(q *Progress) { q.LastError = fmt.Sprintf("partition %d: %v", p, err) })
}
