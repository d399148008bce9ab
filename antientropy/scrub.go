package antientropy

import (
	"context"
	"fmt"
	"time"
)

// scrubLoop recounts this node's partitions from disk, one after the other, so that each comes round in ScrubEvery. It
// finds what no comparison of sums can: a record that was lost without a change of the sums, and damage that nobody
// has read yet.
func (s *Syncer) scrubLoop() {
	next := 0 // the partition to look at, or the first after it that is owned
	for {
		pause := s.opt.ScrubEvery
		e := s.deps.View.Epochs()
		var owned []int
		if e != nil {
			owned = e.Held(s.deps.Self)
		}
		if len(owned) > 0 {
			pause = max(s.opt.ScrubEvery/time.Duration(len(owned)), time.Millisecond)
		} else {
			pause = min(pause, time.Minute)
		}
		if err := sleep(s.ctx, pause); err != nil {
			return
		}
		if len(owned) == 0 {
			continue
		}
		at := owned[0]
		for _, p := range owned {
			if p >= next {
				at = p
				break
			}
		}
		next = at + 1
		if at == owned[len(owned)-1] {
			next = 0
		}
		n, err := s.inspect(s.ctx, at, "scrub")
		if s.ctx.Err() != nil {
			return
		}
		if err != nil {
			s.log.Error("a partition could not be scrubbed", "op", "scrub", "partition", at, "err", err)
		}
		if n > 0 {
			s.log.Warn("sums were not those of the records", "op", "scrub", "partition", at, "corrected", n)
			for _, id := range s.others(e, at) {
				s.Kick(id)
			}
		}
		s.mu.Lock()
		s.scrub = ScrubStatus{Partition: at, Partitions: s.scrub.Partitions + 1, Differences: s.scrub.Differences + int64(n)}
		s.mu.Unlock()
	}
}

// inspect recounts a partition, if its tree is ready, and queues its damaged records for healing. It returns how many
// leaves were wrong.
func (s *Syncer) inspect(ctx context.Context, p int, cause string) (differences int, err error) {
	if _, ready := s.deps.Local.Root(p); ready {
		if differences, err = s.countAgain(ctx, p, cause); err != nil {
			return 0, fmt.Errorf("recounting: %w", err)
		}
	}
	own := newLocalList(s.deps.Local, span{partition: p, leaf: AllLeaves}, func(k *KeyEntry) { s.noteDamage(p, k) })
	for {
		k, err := own.peek(ctx)
		if err != nil {
			return differences, fmt.Errorf("listing: %w", err)
		}
		if k == nil {
			return differences, nil
		}
		own.page = nil
	}
}
