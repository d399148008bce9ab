package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/dunlindb/dunlin/internal/loadgen"
)

// benchLine is one second of a run.
func benchLine(p loadgen.Point) string {
	s := fmt.Sprintf("%4.0fs %9.0f/s  p50 %s  p99 %s  max %s  errors %d", p.At, p.Rate, micros(p.P50), micros(p.P99), micros(p.Max), p.Errors)
	if p.CPU > 0 {
		s += fmt.Sprintf("  cpu %.1fus/op", p.CPU)
	}
	return s
}

// micros is a time in microseconds with three digits.
func micros(us float64) string {
	switch {
	case us >= 1e6:
		return fmt.Sprintf("%.2fs", us/1e6)
	case us >= 100_000:
		return fmt.Sprintf("%.0fms", us/1e3)
	case us >= 10_000:
		return fmt.Sprintf("%.1fms", us/1e3)
	case us >= 1_000:
		return fmt.Sprintf("%.2fms", us/1e3)
	}
	return fmt.Sprintf("%.0fus", us)
}

// report prints the result, writes the files, and fails when the load did.
func (c *benchCmd) report(s *streams, r *loadgen.Result) error {
	out := s.out
	if c.JSON == "-" {
		out = s.err
	}
	printBench(out, r)
	if c.JSON != "" {
		if err := c.writeJSON(s, r); err != nil {
			return err
		}
	}
	if c.Plot != "" {
		if err := c.plot(r); err != nil {
			return fmt.Errorf("--plot: %w", err)
		}
	}
	switch {
	case r.Errors > 0 && r.Unsent > 0:
		return fmt.Errorf("%d of %d operations failed, %d were never sent", r.Errors, r.Ops, r.Unsent)
	case r.Errors > 0:
		return fmt.Errorf("%d of %d operations failed", r.Errors, r.Ops)
	case r.Unsent > 0:
		return fmt.Errorf("%d operations were due and never sent: the rate is beyond what %d connections to this cluster can do", r.Unsent, r.Spec.Connections)
	case r.Ops == 0:
		return fmt.Errorf("no operation was measured")
	}
	return nil
}

func (c *benchCmd) plot(r *loadgen.Result) error {
	f, err := os.Create(c.Plot)
	if err != nil {
		return err
	}
	err = loadgen.Plot(f, r)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

// printBench prints the result for people.
func printBench(w io.Writer, r *loadgen.Result) {
	note := ""
	if r.Cut {
		note = ", interrupted"
	}
	fmt.Fprintf(w, "%.0f operations/s over %.1fs%s\n", r.PerSecond, r.Seconds, note)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tcount\tmean\tp50\tp90\tp99\tp99.9\tp99.99\tmax\t")
	for _, kind := range []string{"put", "get", "delete"} {
		if k, ok := r.Kinds[kind]; ok {
			latencyRow(t, kind, k.Latency)
		}
	}
	latencyRow(t, "all", r.Latency)
	_ = t.Flush() // w's failure, like that of every print here
	for _, kind := range []string{"put", "get", "delete"} {
		if k, ok := r.Kinds[kind]; ok {
			fmt.Fprintf(w, "%s answers: %s\n", kind, answers(k))
		}
	}
	for _, reason := range slices.Sorted(maps.Keys(r.Failures)) {
		fmt.Fprintf(w, "first %s: %s\n", reason, oneLine(r.Failures[reason]))
	}
	if r.Unsent > 0 {
		fmt.Fprintf(w, "%d operations were due and never sent; they are among the latencies with the time that they waited\n", r.Unsent)
	}
	if s := r.Servers; s != nil {
		var rss int64
		for _, b := range s.PeakRSS {
			rss += b
		}
		fmt.Fprintf(w, "servers: %.1f us of CPU per operation, peak memory %s, %d processes\n", s.CPUPerOp, humanBytes(rss), len(s.PIDs))
	}
	if m := r.Machine; m != nil {
		fmt.Fprintf(w, "this program: %.1f us of CPU per operation; machine %.0f%% busy, disk flushes %.3f per operation\n", m.ClientPerOp, 100*m.Busy, m.FlushesPerOp)
	}
}

func latencyRow(w io.Writer, name string, l loadgen.Latency) {
	fmt.Fprintf(w, "%s\t%d", name, l.Count)
	for _, us := range []float64{l.Mean, l.P50, l.P90, l.P99, l.P999, l.P9999, l.Max} {
		fmt.Fprint(w, "\t"+micros(us))
	}
	fmt.Fprintln(w, "\t")
}

// answers lists what was answered how often.
func answers(k loadgen.KindResult) string {
	var parts []string
	for _, reason := range slices.Sorted(maps.Keys(k.Answers)) {
		parts = append(parts, fmt.Sprintf("%s %d", reason, k.Answers[reason]))
	}
	return strings.Join(parts, ", ")
}
