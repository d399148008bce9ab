package loadgen

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// redialPause keeps a connection that cannot be made from being tried without
// end.
const redialPause = 50 * time.Millisecond

// Options are what Run does beside the load. The zero value is usable.
type Options struct {
	PIDs     []int       // processes whose CPU and memory are measured
	Progress func(Point) // called each second of the window, from one goroutine

	sleep  func(time.Duration) // nil: an alarm's
	sample sampler             // nil: sample
}

// runner is one run.
type runner struct {
	spec     Spec
	dial     Dialer
	opt      Options
	schedule *schedule
	gate     *gate
	recorder *recorder
	zipf     zipf
	head     atomic.Int64
	answered atomic.Int64 // all answers so far, measured or not
	good     atomic.Int64 // of those, successes
}

// Run puts the load on what dial connects to, and measures it. When ctx ends
// first, it returns what was measured until then, marked Cut. It fails when the
// spec is invalid, a first connection cannot be made, or a process of
// opt.PIDs is gone.
func Run(ctx context.Context, spec Spec, dial Dialer, opt Options) (*Result, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	if opt.sleep == nil {
		alarm, err := newAlarm()
		if err != nil {
			return nil, err
		}
		defer alarm.close()
		opt.sleep = alarm.sleep
	}
	if opt.sample == nil {
		opt.sample = sample
	}
	r := &runner{spec: spec, dial: dial, opt: opt, recorder: newRecorder()}
	if spec.Dist != Uniform {
		r.zipf = newZipf(spec.Keys, spec.Theta)
	}
	// Connections outlive ctx: what is under way is still waited for.
	conns, err := dialAll(ctx, context.WithoutCancel(ctx), spec.Connections, dial)
	if err != nil {
		return nil, err
	}
	return r.run(ctx, conns)
}

// dialAll makes n connections that live until life ends, or none.
func dialAll(ctx, life context.Context, n int, dial Dialer) ([]Conn, error) {
	conns := make([]Conn, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range conns {
		wg.Go(func() {
			if errs[i] = ctx.Err(); errs[i] == nil {
				conns[i], errs[i] = dial(life, i)
			}
		})
	}
	wg.Wait()
	for i, err := range errs {
		if err == nil {
			continue
		}
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
		return nil, fmt.Errorf("connection %d: %w", i+1, err)
	}
	return conns, nil
}

func (r *runner) run(ctx context.Context, conns []Conn) (*Result, error) {
	started := time.Now()
	r.schedule = newSchedule(&r.spec, started)
	r.gate = newGate(r.schedule, r.opt.sleep)
	work, stop := context.WithCancel(ctx)
	var gate sync.WaitGroup
	gate.Go(func() { r.gate.run(work) })
	defer func() {
		stop()
		gate.Wait()
	}()
	var wg sync.WaitGroup
	for i, c := range conns {
		wg.Go(func() { r.connection(work, i, c) })
	}
	idle := make(chan struct{})
	go func() {
		wg.Wait()
		close(idle)
	}()
	out := &Result{Spec: r.spec, Started: started}
	err := r.watch(ctx, idle, out)
	if err != nil || out.Cut {
		stop()
	}
	until := time.Now()
	<-idle
	if !out.Cut {
		until = time.Now()
	}
	r.schedule.unsent(until, func(due time.Time) { r.recorder.unsent(until.Sub(due)) })
	if err != nil {
		return nil, err
	}
	r.recorder.collect(out)
	return out, nil
}

// connection does operations over one connection until the schedule ends.
func (r *runner) connection(ctx context.Context, i int, c Conn) {
	defer func() {
		if c != nil {
			c.Close()
		}
	}()
	draw := newDrawer(&r.spec, r.zipf, &r.head, uint64(i))
	var op Op
	turn := newPlace()
	for ctx.Err() == nil && r.gate.claim(turn) {
		draw.next(&op)
		if !turn.wait(ctx) {
			return
		}
		a := Answer{Class: Broken, Reason: ReasonConnection}
		if c == nil {
			c, a = r.redial(i)
		}
		if c != nil {
			a = r.judge(c.Do(&op), &op)
		}
		r.done(i, op.Kind, a, time.Since(turn.due), turn.measured)
		if c != nil && (a.Class == Broken || a.Close) {
			c.Close()
			c = nil
		}
	}
}

// redial makes the connection again. One that cannot be made is a failed
// operation.
func (r *runner) redial(i int) (Conn, Answer) {
	c, err := r.dial(context.Background(), i)
	if err != nil {
		time.Sleep(redialPause)
		return nil, Lost(err)
	}
	return c, Answer{}
}

// judge makes an answer with a value that was never written a failure.
func (r *runner) judge(a Answer, op *Op) Answer {
	if r.spec.Verify && op.Kind == Get && a.Class == OK && !tagged(a.Value, op.Index) {
		a.Class, a.Reason = Failed, ReasonWrongValue
		a.Detail = fmt.Sprintf("%s: %d bytes that no load wrote to this key: %.40q", op.Key, len(a.Value), a.Value)
	}
	return a
}

func (r *runner) done(conn int, kind Kind, a Answer, latency time.Duration, measured bool) {
	r.answered.Add(1)
	if a.Class != Failed && a.Class != Broken {
		r.good.Add(1)
	}
	if measured {
		r.recorder.add(conn, kind, a, latency)
	}
}
