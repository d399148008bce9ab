package antientropy

import (
	"context"
	"time"
)

const (
	// A piece of work that gives way to clients rests for restFor times as long as the last one took, and waits for a moment
	// without requests until it has waited for patience times as long, in all.
	restFor  = 5
	patience = 8
	// longestPiece bounds what a piece counts for: one that took longer was itself held up.
	longestPiece = time.Second
	// gapPoll is how often such a moment is looked for.
	gapPoll = 500 * time.Microsecond
)

// courtesy lets what clients ask of this node go before what exchanges do here: reading objects and listing keys for a
// peer, and merging what peers hold. That comes in small pieces, one at a time. While no client asks for anything they
// follow each other at once. If one has since the last piece, the next one rests, and then waits for a moment in which no
// request is under way, but no longer than patience has it: a node that is never idle is repaired, too.
type courtesy struct {
	load func() Load
	busy chan struct{} // held by the piece that is being done; what follows is its

	begun uint64 // requests before the last piece
	ended time.Time
	took  time.Duration
}

func newCourtesy(load func() Load) *courtesy {
	return &courtesy{load: load, busy: make(chan struct{}, 1)}
}

// turn returns when a piece of work may be done here. The caller calls done, once, at its end.
func (c *courtesy) turn(ctx context.Context) (done func(), err error) {
	select {
	case c.busy <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	for {
		now := c.load()
		pause := c.pause(now, time.Now())
		if pause <= 0 {
			c.begun = now.Begun
			break
		}
		if err := sleep(ctx, pause); err != nil {
			<-c.busy
			return nil, err
		}
	}
	began := time.Now()
	return func() {
		c.ended = time.Now()
		c.took = min(c.ended.Sub(began), longestPiece)
		<-c.busy
	}, nil
}

// pause is how long to wait until looking again; 0: it is the turn of the work.
func (c *courtesy) pause(l Load, now time.Time) time.Duration {
	if l.Begun == c.begun && l.Under == 0 {
		return 0
	}
	if rest := c.ended.Add(restFor * c.took).Sub(now); rest > 0 {
		return rest
	}
	if l.Under == 0 {
		return 0
	}
	return min(gapPoll, c.ended.Add(patience*c.took).Sub(now))
}
