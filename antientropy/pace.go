package antientropy

import (
	"context"
	"sync"
	"time"
)

// pacer keeps a number of bytes a second on average. What was spent is paid afterwards, by waiting before the next
// message: so a message of any size passes, and a node that was idle has saved nothing up.
type pacer struct {
	perSecond int

	mu   sync.Mutex
	paid time.Time // when all that was spent is paid
}

// spend notes bytes that were moved.
func (p *pacer) spend(bytes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := time.Now(); p.paid.Before(now) {
		p.paid = now
	}
	p.paid = p.paid.Add(time.Duration(float64(bytes) / float64(p.perSecond) * float64(time.Second)))
}

// debt is how long it takes until all is paid.
func (p *pacer) debt() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Until(p.paid)
}

// wait returns when all is paid that was spent before the call, or when ctx ends.
func (p *pacer) wait(ctx context.Context) error {
	if d := p.debt(); d > 0 {
		return sleep(ctx, d)
	}
	return ctx.Err()
}

// sleep waits for d, or until ctx ends, and then returns its error.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
