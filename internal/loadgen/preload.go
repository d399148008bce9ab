package loadgen

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// preloadTries is how often one write of a preload is tried.
const preloadTries = 5

// Preload writes every key of spec once. done counts the keys written. It gives
// up with the first key that cannot be written.
func Preload(ctx context.Context, spec Spec, dial Dialer, done *atomic.Int64) error {
	return PreloadFrom(ctx, spec, 0, dial, done)
}

// PreloadFrom does so from the key of index first on: the key space grows to that of spec.
func PreloadFrom(ctx context.Context, spec Spec, first int, dial Dialer, done *atomic.Int64) error {
	var next atomic.Int64
	next.Store(int64(first))
	group, ctx := errgroup.WithContext(ctx)
	for i := range min(spec.Connections, max(spec.Keys-first, 0)) {
		group.Go(func() error {
			p := preloader{dial: dial, i: i, draw: newDrawer(&spec, zipf{}, nil, uint64(i))}
			defer p.close()
			for ctx.Err() == nil {
				key := int(next.Add(1)) - 1
				if key >= spec.Keys {
					return nil
				}
				if err := p.write(ctx, key); err != nil {
					return err
				}
				done.Add(1)
			}
			return context.Cause(ctx)
		})
	}
	return group.Wait()
}

// preloader writes over one connection, which it makes again when it breaks.
type preloader struct {
	dial Dialer
	i    int
	draw *drawer
	conn Conn
	op   Op
}

func (p *preloader) close() {
	if p.conn != nil {
		p.conn.Close()
		p.conn = nil
	}
}

func (p *preloader) write(ctx context.Context, key int) error {
	p.op.Kind, p.op.Index = Put, key
	p.draw.fill(&p.op)
	var last error
	for range preloadTries {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if last = p.try(ctx); last == nil {
			return nil
		}
		time.Sleep(redialPause)
	}
	return fmt.Errorf("preload: key %s: %w", p.op.Key, last)
}

func (p *preloader) try(ctx context.Context) (err error) {
	if p.conn == nil {
		if p.conn, err = p.dial(ctx, p.i); err != nil {
			return err
		}
	}
	a := p.conn.Do(&p.op)
	if a.Class == Broken || a.Close {
		p.close()
	}
	if a.Class == Failed || a.Class == Broken {
		return fmt.Errorf("%s %s", a.Reason, a.Detail)
	}
	return nil
}
