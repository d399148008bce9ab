package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/dunlindb/dunlin/internal/loadgen"
)

// worn is what clients of a fresh cluster feel, and what they feel after all keys were overwritten many times and all nodes
// were started anew.
type worn struct {
	Settings settings  `json:"settings"`
	Machine  machine   `json:"machine"`
	Version  string    `json:"version"`
	Fresh    []felt    `json:"fresh"` // one for each round
	Worn     []felt    `json:"worn"`
	Wear     overwrite `json:"overwrites"`
	Start    float64   `json:"start_s"` // until all nodes serve again
}

// overwrite is the load between.
type overwrite struct {
	Ops     int64           `json:"ops"`
	Errors  int64           `json:"errors"`
	Seconds float64         `json:"seconds"`
	CPU     float64         `json:"server_cpu_us_per_op"`
	Lat     loadgen.Latency `json:"latency"`
}

func measureWorn(ctx context.Context, s settings, progress io.Writer) (_ *worn, err error) {
	w, err := newWard(ctx, s, "worn", progress)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	if err := w.start(ctx); err != nil {
		return nil, err
	}
	out := &worn{Settings: s, Machine: thisMachine(), Version: w.server.version}
	if out.Fresh, err = w.windows(ctx, "fresh"); err != nil {
		return nil, err
	}
	if out.Wear, err = w.overwrite(ctx); err != nil {
		return nil, err
	}
	fmt.Fprintf(progress, "overwrites: %d in %.0f s, p99 %.0f us, %.0f us of CPU each\n", out.Wear.Ops, out.Wear.Seconds, out.Wear.Lat.P99, out.Wear.CPU)
	ended := w.cluster
	w.cluster = nil
	if err := ended.stop(); err != nil {
		return nil, err
	}
	begin := time.Now()
	if err := w.launch(ctx); err != nil {
		return nil, err
	}
	out.Start = time.Since(begin).Seconds()
	out.Worn, err = w.windows(ctx, "worn")
	return out, err
}

// windows measures the open loop at its whole rate, on all nodes, once for each round.
func (w *ward) windows(ctx context.Context, what string) ([]felt, error) {
	spec := w.spec()
	spec.Rate = w.settings.Rate
	var all []felt
	for range w.settings.Rounds {
		f, err := w.feelOf(ctx, spec, w.server.loads[0].dial)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(w.progress, "%s: GET p99 %.0f us, PUT p99 %.0f us\n", what, f.Get.P99, f.Put.P99)
		all = append(all, f)
	}
	return all, nil
}

func (w *ward) overwrite(ctx context.Context) (overwrite, error) {
	spec := w.closedLoop()
	spec.Mix, spec.Duration, spec.Ops, spec.Seed = loadgen.Mix{loadgen.Put: 1}, 0, w.settings.Overwrites, 3
	r, err := loadgen.Run(ctx, spec, w.server.loads[0].dial, loadgen.Options{PIDs: w.cluster.pids()})
	if err != nil {
		return overwrite{}, err
	}
	out := overwrite{Ops: r.Ops, Errors: r.Errors, Seconds: r.Seconds, Lat: r.Kinds["put"].Latency}
	if r.Servers != nil {
		out.CPU = r.Servers.CPUPerOp
	}
	return out, nil
}

func (w *worn) markdown() string {
	var b strings.Builder
	s := w.Settings
	fmt.Fprintf(&b, "Measured on %v. %s. Three nodes, %d keys with values of %d bytes, open loop of %v/s in %d windows of %v. Median [least to most].\n\n",
		w.Machine, w.Version, s.Keys, s.Value, s.Rate, s.Rounds, s.Window)
	other := func(x felt) float64 { return x.Other }
	if share := max(median(over(w.Fresh, other)), median(over(w.Worn, other))); share > disturbed {
		fmt.Fprintf(&b, "**Preliminary:** other work used %.0f%% of the machine meanwhile (median).\n\n", 100*share)
	}
	fmt.Fprintf(&b, "| ms | fresh | after %d overwrites and a restart | ratio of medians |\n| --- | --- | --- | --- |\n", w.Wear.Ops)
	for _, k := range kindsFelt {
		for _, p := range percentiles {
			at := func(x felt) float64 { return p.of(k.of(x)) / 1e3 }
			fresh, after := over(w.Fresh, at), over(w.Worn, at)
			fmt.Fprintf(&b, "| %s, %s | %s | %s | %.2f |\n", k.name, p.name, spread(fresh), spread(after), median(after)/median(fresh))
		}
	}
	failed := w.Wear.Errors
	for _, x := range append(w.Fresh[:len(w.Fresh):len(w.Fresh)], w.Worn...) {
		failed += x.Errors
	}
	fmt.Fprintf(&b, "\nThe overwrites, as a closed loop: %.0f/s, p99 %.1f ms, %.0f us of CPU each. The restart: %.1f s. Operations that failed: %d.\n",
		float64(w.Wear.Ops)/w.Wear.Seconds, w.Wear.Lat.P99/1e3, w.Wear.CPU, w.Start, failed)
	return b.String()
}
