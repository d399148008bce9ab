package loadgen

import (
	"context"
	"time"
)

// watch follows the run from the warm-up to the end of the window, and sets in
// out what is read from the clock and the machine. It returns when the window
// is over, idle is closed, or ctx ends.
func (r *runner) watch(ctx context.Context, idle <-chan struct{}, out *Result) error {
	begin := time.NewTimer(time.Until(r.schedule.begin))
	defer begin.Stop()
	select {
	case <-begin.C:
	case <-idle: // nothing to do, or ctx ended
	}
	before, err := r.opt.sample(r.opt.PIDs)
	if err != nil {
		return err
	}
	begun, answered, good := time.Now(), r.answered.Load(), r.good.Load()
	if err := r.seconds(ctx, idle, begun, before, out); err != nil {
		return err
	}
	ended := time.Now()
	answered, good = r.answered.Load()-answered, r.good.Load()-good
	after, err := r.opt.sample(r.opt.PIDs)
	if err != nil {
		return err
	}
	out.Cut = ctx.Err() != nil
	out.Seconds = ended.Sub(begun).Seconds()
	if out.Seconds > 0 {
		out.PerSecond = float64(good) / out.Seconds
	}
	out.Servers, out.Machine = after.since(before, r.opt.PIDs, answered)
	return nil
}

// seconds makes a point of each second until the window is over.
func (r *runner) seconds(ctx context.Context, idle <-chan struct{}, begun time.Time, before usage, out *Result) error {
	var end <-chan time.Time
	if r.spec.Duration > 0 {
		timer := time.NewTimer(time.Until(r.schedule.end))
		defer timer.Stop()
		end = timer.C
		if r.spec.Ops == 0 {
			idle = nil // nothing may be due for the rest of the window
		}
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last, answered := begun, r.answered.Load()
	point := func() error {
		now, n := time.Now(), r.answered.Load()
		usage, err := r.opt.sample(r.opt.PIDs)
		if err != nil {
			return err
		}
		p := r.point(now.Sub(begun), now.Sub(last))
		if servers, _ := usage.since(before, r.opt.PIDs, n-answered); servers != nil {
			p.CPU = servers.CPUPerOp
		}
		out.Series = append(out.Series, p)
		if r.opt.Progress != nil {
			r.opt.Progress(p)
		}
		last, answered, before = now, n, usage
		return nil
	}
	for {
		select {
		case <-tick.C:
			if err := point(); err != nil {
				return err
			}
			continue
		case <-end:
		case <-idle:
		case <-ctx.Done():
		}
		if time.Since(last) < time.Second/2 { // too short to tell a rate
			return nil
		}
		return point()
	}
}

// point is what was answered during the last span.
func (r *runner) point(at, span time.Duration) Point {
	t := r.recorder.roll()
	return Point{
		At: at.Seconds(), Rate: float64(t.ok.TotalCount()) / span.Seconds(), Errors: t.failed.TotalCount(),
		P50: float64(t.ok.ValueAtQuantile(50)) / 1e3, P99: float64(t.ok.ValueAtQuantile(99)) / 1e3, Max: float64(t.ok.Max()) / 1e3,
	}
}
