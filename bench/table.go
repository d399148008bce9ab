package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// base is what the others are compared with, in the same round.
const base = "dunlin"

// disturbed is the share of the machine that others may use before figures are
// called preliminary. It includes the kernel's own work for the disk.
const disturbed = 0.25

// markdown is the section of tables.
func (r *report) markdown() string {
	var b strings.Builder
	s := r.Settings
	fmt.Fprintf(&b, "Measured on %v. Three processes each, %d connections, %d keys, values of %d bytes; %d interleaved rounds of %v after %v.\n",
		r.Machine, s.Connections, s.Keys, s.Value, s.Rounds, s.Window, s.Warmup)
	b.WriteString("Medians [least to most] of the rounds.\n\n")
	if other := median(r.values("", "", func(m measurement) float64 { return m.Other })); other > disturbed {
		fmt.Fprintf(&b, "**Preliminary:** other work used %.0f%% of the machine meanwhile (median). The ratios of\nCPU are usable; rates and latencies only show that it ran.\n\n", 100*other)
	}
	for _, v := range r.Versions {
		fmt.Fprintf(&b, "- %s\n", v)
	}
	for _, load := range []string{loadPut, loadGet, loadGetOne, loadMix, loadOpen} {
		r.table(&b, load)
	}
	return b.String()
}

// servers are the names in the order of measurement.
func (r *report) servers() (out []string) {
	for _, m := range r.Runs {
		if !slices.Contains(out, m.Server) {
			out = append(out, m.Server)
		}
	}
	return out
}

// values are those of all runs of a server (empty: all) under a load (empty:
// all).
func (r *report) values(server, load string, of func(measurement) float64) (out []float64) {
	for _, m := range r.Runs {
		if (server == "" || m.Server == server) && (load == "" || m.Load == load) {
			out = append(out, of(m))
		}
	}
	return out
}

// ratios are the server's CPU per operation over the base's, of each round.
func (r *report) ratios(server, load string) (out []float64) {
	for _, m := range r.Runs {
		if m.Server != server || m.Load != load {
			continue
		}
		for _, b := range r.Runs {
			if b.Server == base && b.Load == load && b.Round == m.Round && b.CPU > 0 {
				out = append(out, m.CPU/b.CPU)
			}
		}
	}
	return out
}

func (r *report) table(b *strings.Builder, load string) {
	if len(r.values("", load, func(measurement) float64 { return 0 })) == 0 {
		return
	}
	title := load
	if load == loadOpen {
		title += fmt.Sprintf(" of %.0f/s", r.Settings.Rate)
	}
	fmt.Fprintf(b, "\n**%s**\n\n| server | server CPU us/op | CPU / %s's | operations/s | p50 ms | p99 ms | flushes/op | KiB to disk/op | peak memory MiB | errors |\n", title, base)
	b.WriteString("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for _, server := range r.servers() {
		of := func(f func(measurement) float64) []float64 { return r.values(server, load, f) }
		if len(of(func(measurement) float64 { return 0 })) == 0 {
			continue
		}
		errors := 0.0
		for _, n := range of(func(m measurement) float64 { return float64(m.Errors + m.Missed) }) {
			errors += n
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s | %.2f | %.1f | %.0f | %.0f |\n", server,
			spread(of(func(m measurement) float64 { return m.CPU })), spread(r.ratios(server, load)),
			spread(of(func(m measurement) float64 { return m.Rate })),
			spread(of(func(m measurement) float64 { return m.Lat.P50 / 1e3 })), spread(of(func(m measurement) float64 { return m.Lat.P99 / 1e3 })),
			median(of(func(m measurement) float64 { return m.Flush })), median(of(func(m measurement) float64 { return m.Bytes / 1024 })),
			slices.Max(of(func(m measurement) float64 { return float64(m.RSS) / (1 << 20) })), errors)
	}
}

// median of an even number of values is the mean of the two in the middle.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	v := slices.Sorted(slices.Values(values))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// spread is "median [least to most]".
func spread(values []float64) string {
	if len(values) == 0 {
		return "-"
	}
	return fmt.Sprintf("%s [%s to %s]", number(median(values)), number(slices.Min(values)), number(slices.Max(values)))
}

// number has about three digits.
func number(x float64) string {
	switch {
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.2f", x)
}
