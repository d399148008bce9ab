package storage

import "context"

// barrier stops the shards between two batches.
type barrier struct {
	arrived chan struct{} // one for each shard that stands
	release chan struct{} // closed: go on
}

func (b *barrier) wait() {
	b.arrived <- struct{}{}
	<-b.release
}

// exclusive runs fn while every shard stands between two batches: all earlier writes are committed or have failed,
// and no later one is looked at before fn has returned. fn may touch the shards' own fields. It must be quick.
//
// The barriers go through the queues, so a caller waits for what is queued before it. Lock order: exclusion, then mu.
func (s *Store) exclusive(ctx context.Context, fn func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case s.exclusion <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.exclusion }()
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return ErrClosed
	}
	b := &barrier{arrived: make(chan struct{}, len(s.shards)), release: make(chan struct{})}
	defer close(b.release) // also for a shard that comes after the caller has gone
	for _, sh := range s.shards {
		select {
		case sh.queue <- &op{barrier: b}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for range s.shards {
		select {
		case <-b.arrived:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return fn()
}
