package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"time"

	"github.com/dunlindb/dunlin/internal/loadgen"
)

// frozen is what clients of two nodes feel when the third stands still.
type frozen struct {
	Settings settings `json:"settings"`
	Machine  machine  `json:"machine"`
	Version  string   `json:"version"`
	Freezes  []freeze `json:"freezes"`
	Upkeep   []upkeep `json:"upkeep"`
}

// freeze is one round.
type freeze struct {
	Before felt    `json:"before"`
	First  felt    `json:"first_second"` // of the freeze
	During felt    `json:"during"`       // after it
	After  felt    `json:"after"`        // from when the node went on
	Hedges float64 `json:"hedges"`       // in the whole time of the freeze
	Other  float64 `json:"other_cpu"`
}

// felt is what clients felt in one window.
type felt struct {
	Get    loadgen.Latency `json:"get"`
	Put    loadgen.Latency `json:"put"`
	Errors int64           `json:"errors"` // and what was due and never sent
	Other  float64         `json:"other_cpu"`
}

func measureFrozen(ctx context.Context, s settings, progress io.Writer) (_ *frozen, err error) {
	w, err := newWard(ctx, s, "frozen", progress)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	if err := w.start(ctx); err != nil {
		return nil, err
	}
	out := &frozen{Settings: s, Machine: thisMachine(), Version: w.server.version}
	for range s.Rounds {
		if err := w.equal(ctx); err != nil {
			return nil, err
		}
		f, err := w.freeze(ctx)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(progress, "frozen: GET p99 %.0f us, then %.0f us in the first second, %.0f us later; PUT %.0f us, %.0f us, %.0f us; other %.0f%%\n",
			f.Before.Get.P99, f.First.Get.P99, f.During.Get.P99, f.Before.Put.P99, f.First.Put.P99, f.During.Put.P99, 100*f.Other)
		out.Freezes = append(out.Freezes, f)
		if err := w.equal(ctx); err != nil {
			return nil, err
		}
		u, err := w.upkeep(ctx)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(progress, "upkeep: GET p99.9 %.0f us, %.0f us while keys are compared, %.0f us beside large writes; PUT %.0f us, %.0f us, %.0f us\n",
			u.Quiet.Get.P999, u.Compare.Get.P999, u.Compact.Get.P999, u.Quiet.Put.P999, u.Compare.Put.P999, u.Compact.Put.P999)
		out.Upkeep = append(out.Upkeep, u)
	}
	return out, nil
}

// freeze stops the last node for a second and a window, with clients at the others.
func (w *ward) freeze(ctx context.Context) (f freeze, err error) {
	spec := w.spec()
	if f.Before, err = w.feel(ctx, spec); err != nil {
		return f, err
	}
	hedges, err := w.sum(ctx, hedgesTotal)
	if err != nil {
		return f, err
	}
	last := w.cluster.procs[nodes-1].Process
	if err := last.Signal(syscall.SIGSTOP); err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, last.Signal(syscall.SIGCONT)) }() // a process that stands still does not end
	spec.Warmup, spec.Duration = 0, time.Second
	if f.First, err = w.feel(ctx, spec); err != nil {
		return f, err
	}
	spec.Duration = w.settings.Window
	if f.During, err = w.feel(ctx, spec); err != nil {
		return f, err
	}
	more, err := w.sum(ctx, hedgesTotal)
	if err != nil {
		return f, err
	}
	f.Hedges = more - hedges
	if err := last.Signal(syscall.SIGCONT); err != nil {
		return f, err
	}
	f.After, err = w.feel(ctx, spec)
	f.Other = median([]float64{f.Before.Other, f.During.Other, f.After.Other})
	return f, err
}

const hedgesTotal = "dunlin_coordinator_hedges_total"

// sum is of one metric over the nodes that clients ask.
func (w *ward) sum(ctx context.Context, metric string) (float64, error) {
	all, err := sumOf(ctx, w.server.urls[:nodes-1])
	return all[metric], err
}

// feel measures clients that leave the last node out.
func (w *ward) feel(ctx context.Context, spec loadgen.Spec) (felt, error) {
	return w.feelOf(ctx, spec, w.server.others)
}

func (w *ward) feelOf(ctx context.Context, spec loadgen.Spec, dial loadgen.Dialer) (felt, error) {
	r, err := loadgen.Run(ctx, spec, dial, loadgen.Options{PIDs: w.cluster.pids()})
	if err != nil {
		return felt{}, err
	}
	f := felt{Get: r.Kinds["get"].Latency, Put: r.Kinds["put"].Latency, Errors: r.Errors + r.Unsent}
	if r.Machine != nil {
		f.Other = r.Machine.Other
	}
	return f, nil
}

var kindsFelt = []struct {
	name string
	of   func(felt) loadgen.Latency
}{
	{"GET r=2", func(x felt) loadgen.Latency { return x.Get }},
	{"PUT w=2", func(x felt) loadgen.Latency { return x.Put }},
}

var percentiles = []struct {
	name string
	of   func(loadgen.Latency) float64
}{
	{"p50", func(l loadgen.Latency) float64 { return l.P50 }},
	{"p99", func(l loadgen.Latency) float64 { return l.P99 }},
	{"p99.9", func(l loadgen.Latency) float64 { return l.P999 }},
}

func (f *frozen) markdown() string {
	var b strings.Builder
	s := f.Settings
	fmt.Fprintf(&b, "Measured on %v. %s. Three nodes, %d keys with values of %d bytes, %s. Median [least to most].\n\n", f.Machine, f.Version, s.Keys, s.Value, s.inRounds())
	if other := median(over(f.Freezes, func(x freeze) float64 { return x.Other })); other > disturbed {
		fmt.Fprintf(&b, "**Preliminary:** other work used %.0f%% of the machine meanwhile (median).\n\n", 100*other)
	}
	b.WriteString("| ms | healthy | first second | later | later / healthy | after it went on |\n| --- | --- | --- | --- | --- | --- |\n")
	for _, k := range kindsFelt {
		for _, p := range percentiles {
			at := func(x felt) float64 { return p.of(k.of(x)) / 1e3 }
			column := func(of func(freeze) felt) string {
				return spread(over(f.Freezes, func(x freeze) float64 { return at(of(x)) }))
			}
			fmt.Fprintf(&b, "| %s, %s | %s | %s | %s | %s | %s |\n", k.name, p.name,
				column(func(x freeze) felt { return x.Before }), column(func(x freeze) felt { return x.First }), column(func(x freeze) felt { return x.During }),
				spread(over(f.Freezes, func(x freeze) float64 { return at(x.During) / at(x.Before) })), column(func(x freeze) felt { return x.After }))
		}
	}
	failed := int64(0)
	for _, x := range f.Freezes {
		failed += x.First.Errors + x.During.Errors + x.After.Errors
	}
	fmt.Fprintf(&b, "\nOperations that failed: %d. Reads that asked one more replica (hedges) while the node stood still: %s.\n",
		failed, spread(over(f.Freezes, func(x freeze) float64 { return x.Hedges })))
	b.WriteString(upkeepTable(f.Upkeep))
	return b.String()
}
