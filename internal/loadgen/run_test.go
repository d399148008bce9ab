package loadgen

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"image/png"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

var rewrite = flag.Bool("rewrite", false, "rewrite golden files")

// fakeServer answers each operation after latency, and nothing while stalled.
type fakeServer struct {
	latency    time.Duration
	begin, end time.Time // of the stall

	mu     sync.Mutex
	asked  int
	dialed int
	answer func(n int, op *Op) Answer // nil: OK
	values map[int][]byte
}

func (f *fakeServer) dial(context.Context, int) (Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dialed++
	return &fakeConn{f}, nil
}

type fakeConn struct{ *fakeServer }

func (c *fakeConn) Close() {}

func (c *fakeConn) Do(op *Op) Answer {
	now := time.Now()
	if !now.Before(c.begin) && now.Before(c.end) {
		time.Sleep(c.end.Sub(now))
	}
	time.Sleep(c.latency)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked++
	if c.answer != nil {
		return c.answer(c.asked, op)
	}
	switch op.Kind {
	case Put:
		if c.values == nil {
			c.values = map[int][]byte{}
		}
		c.values[op.Index] = bytes.Clone(op.Value)
		return Answer{Reason: "204"}
	case Get:
		v, ok := c.values[op.Index]
		if !ok {
			return Answer{Class: Missing, Reason: "404"}
		}
		return Answer{Reason: "200", Value: v}
	}
	return Answer{Reason: "204"}
}

// virtual are options for a bubble: its own sleep, and no machine.
func virtual() Options {
	return Options{sleep: time.Sleep, sample: func([]int) (usage, error) { return usage{}, nil }}
}

// A server that stalls for a second of ten hides it from a closed loop, which
// asks less; an open loop counts what should have been asked meanwhile.
func TestStallIsVisibleInTheOpenLoopOnly(t *testing.T) {
	measure := func(t *testing.T, rate float64) (out *Result) {
		synctest.Test(t, func(t *testing.T) {
			f := &fakeServer{latency: time.Millisecond, begin: time.Now().Add(4 * time.Second)}
			f.end = f.begin.Add(time.Second)
			spec := testSpec()
			spec.Ops, spec.Duration, spec.Connections, spec.Rate, spec.Arrivals = 0, 10*time.Second, 4, rate, Even
			var err error
			if out, err = Run(t.Context(), spec, f.dial, virtual()); err != nil {
				t.Fatal(err)
			}
		})
		return out
	}
	closed, open := measure(t, 0), measure(t, 1000)
	if closed.Latency.P99 > 1100 || closed.Latency.Max < 1e6 {
		t.Errorf("closed loop: p99 %.0f us, max %.0f us", closed.Latency.P99, closed.Latency.Max)
	}
	// Due were 1000 operations during the stall, and the backlog of them is worked off at 4000/s: at 5 s it has 1000,
	// and shrinks by 3000/s. So a bit over 1300 of 10000 operations waited, up to a second.
	if open.Ops != 10000 || open.Unsent != 0 {
		t.Errorf("open loop: %d operations, %d unsent, want 10000 and 0", open.Ops, open.Unsent)
	}
	if open.Latency.P90 < 100_000 || open.Latency.P99 < 900_000 || open.Latency.P50 > 1100 {
		t.Errorf("open loop: p50 %.0f, p90 %.0f, p99 %.0f us", open.Latency.P50, open.Latency.P90, open.Latency.P99)
	}
}

// A rate that is out of reach shows: what could not be sent has a latency, too.
func TestOverloadIsCounted(t *testing.T) {
	for _, arrivals := range []string{Even, Poisson} {
		synctest.Test(t, func(t *testing.T) {
			f := &fakeServer{latency: 10 * time.Millisecond} // 2 connections: 200/s
			spec := testSpec()
			spec.Ops, spec.Duration, spec.Connections, spec.Rate, spec.Arrivals = 0, 10*time.Second, 2, 400, arrivals
			r, err := Run(t.Context(), spec, f.dial, virtual())
			if err != nil {
				t.Fatal(err)
			}
			all := r.Ops + r.Unsent
			if arrivals == Even && all != 4000 || all < 3700 || all > 4300 {
				t.Errorf("%s: %d operations and %d unsent, want 4000 together", arrivals, r.Ops, r.Unsent)
			}
			if r.Ops < 2150 || r.Ops > 2250 { // the window's 2000, and a second's grace
				t.Errorf("%s: %d operations", arrivals, r.Ops)
			}
			if r.PerSecond < 199 || r.PerSecond > 201 || r.Latency.Count != all {
				t.Errorf("%s: %.1f/s, %d latencies", arrivals, r.PerSecond, r.Latency.Count)
			}
			if r.Latency.P50 < 2e6 || r.Latency.Max < 4.5e6 { // the last one sent was due 5 s before
				t.Errorf("%s: p50 %.0f max %.0f us", arrivals, r.Latency.P50, r.Latency.Max)
			}
		})
	}
}

func TestWarmupIsNotMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeServer{latency: time.Millisecond, begin: time.Now(), end: time.Now().Add(time.Second)}
		spec := testSpec()
		spec.Warmup, spec.Ops = 2*time.Second, 500
		r, err := Run(t.Context(), spec, f.dial, virtual())
		if err != nil {
			t.Fatal(err)
		}
		if r.Ops != 500 || r.Latency.Max > 1100 || f.asked < 1400 {
			t.Errorf("%d operations, max %.0f us, %d asked", r.Ops, r.Latency.Max, f.asked)
		}
	})
}

func TestFailuresAreCountedAndConnectionsMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeServer{latency: time.Millisecond}
		f.answer = func(n int, op *Op) Answer {
			switch n % 10 {
			case 0:
				return Answer{Class: Broken, Reason: ReasonTimeout, Detail: "i/o timeout"}
			case 1, 2:
				return Answer{Class: Failed, Reason: "503", Detail: "no quorum"}
			case 3:
				return Answer{Class: OK, Reason: "200", Value: []byte("not what was written"), Close: true}
			}
			return Answer{Class: Missing, Reason: "404"}
		}
		spec := testSpec()
		spec.Mix, spec.Ops, spec.Verify = Mix{Get: 1}, 1000, true
		r, err := Run(t.Context(), spec, f.dial, virtual())
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]int64{ReasonTimeout: 100, "503": 200, ReasonWrongValue: 100, "404": 600}
		if d := cmp.Diff(want, r.Kinds["get"].Answers); d != "" || r.Errors != 400 || r.Kinds["get"].Missing != 600 {
			t.Errorf("%d errors, %d missing: %s", r.Errors, r.Kinds["get"].Missing, d)
		}
		if f.dialed != 201 && f.dialed != 200 { // the first, and after each that broke or closed
			t.Errorf("%d connections", f.dialed)
		}
		if r.Failures["503"] != "no quorum" {
			t.Errorf("said: %v", r.Failures)
		}
	})
}

func TestInterruptKeepsWhatWasMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second+time.Millisecond/2)
		defer cancel()
		spec := testSpec()
		spec.Ops, spec.Duration, spec.Rate, spec.Arrivals = 0, time.Hour, 100, Even
		r, err := Run(ctx, spec, (&fakeServer{latency: time.Millisecond}).dial, virtual())
		if err != nil {
			t.Fatal(err)
		}
		if !r.Cut || r.Ops != 301 || r.Unsent != 0 || r.Errors != 0 || len(r.Series) != 3 {
			t.Errorf("cut %v, %d operations, %d unsent, %d errors, %d points", r.Cut, r.Ops, r.Unsent, r.Errors, len(r.Series))
		}
	})
}

func TestRunNeedsItsConnectionsAndProcesses(t *testing.T) {
	refused := errors.New("refused")
	spec := testSpec()
	spec.Connections = 3
	_, err := Run(t.Context(), spec, func(_ context.Context, i int) (Conn, error) {
		if i == 1 {
			return nil, refused
		}
		return &fakeConn{&fakeServer{}}, nil
	}, virtual())
	if !errors.Is(err, refused) {
		t.Errorf("without a connection: %v", err)
	}
	gone := errors.New("gone")
	opt := virtual()
	opt.sample = func([]int) (usage, error) { return usage{}, gone }
	if _, err = Run(t.Context(), testSpec(), (&fakeServer{}).dial, opt); !errors.Is(err, gone) {
		t.Errorf("without the process: %v", err)
	}
}

// The form of the JSON is relied upon by scripts.
func TestResultJSON(t *testing.T) {
	var r *Result
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		opt := virtual()
		opt.PIDs = []int{10, 11}
		opt.sample = func(pids []int) (usage, error) { // as if half of one processor of two were used by the servers
			d := time.Since(begun)
			return usage{cpu: []time.Duration{d / 4, d / 4}, peak: []int64{1 << 20, 2 << 20}, self: d / 8, busy: d, total: 2 * d, flushes: d.Milliseconds() / 10, written: d.Milliseconds()}, nil
		}
		spec := testSpec()
		spec.Ops, spec.Duration, spec.Rate, spec.Arrivals, spec.Verify = 0, 3*time.Second, 200, Even, true
		var err error
		if r, err = Run(t.Context(), spec, (&fakeServer{latency: time.Millisecond}).dial, opt); err != nil {
			t.Fatal(err)
		}
	})
	got, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/result.json"
	if *rewrite {
		if err := os.WriteFile(golden, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(bytes.TrimSpace(want)), string(got)); d != "" {
		t.Errorf("testdata/result.json (-rewrite writes it): %s", d)
	}

	var b bytes.Buffer
	if err := Plot(&b, r); err != nil {
		t.Fatal(err)
	}
	if img, err := png.Decode(&b); err != nil || img.Bounds().Dx() != plotWidth || img.Bounds().Dy() != 2*panelHeight {
		t.Errorf("the plot: %v", err)
	}
	r.Series = r.Series[:1]
	if err := Plot(&b, r); !errors.Is(err, ErrTooShort) {
		t.Errorf("a plot of one second: %v", err)
	}
}
