package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

func (g *growth) markdown() string {
	var b strings.Builder
	s := g.Settings
	fmt.Fprintf(&b, "Measured on %v. %s.\n%s of PUT and GET (newest) for %v each after %v. Where a series does not say otherwise: three nodes, %d connections in a closed loop, %d keys, values of %d bytes. Medians [least to most] of the rounds; CPU is that of all servers together.\n",
		g.Machine, g.Version, s.inRounds(), s.Window, s.Warmup, s.Connections, min(baseKeys, s.Keys), s.Value)
	if other := median(g.all(func(m measurement) float64 { return m.Other })); other > disturbed {
		fmt.Fprintf(&b, "\n**Preliminary:** other work used %.0f%% of the machine meanwhile (median).\n", 100*other)
	}
	if s.plot != "" {
		fmt.Fprintf(&b, "\n![CPU of a PUT and of a GET over each series](%s)\n", filepath.Base(s.plot))
	}
	for _, c := range curves {
		if x := g.series(c.name); x != nil {
			x.table(&b, c.what)
		}
	}
	if g.Base != nil {
		last := g.series(overKeys).Points
		most := last[len(last)-1]
		fmt.Fprintf(&b, "\nWith %s keys a PUT costs %s × what it does with %s on a fresh cluster beside it, measured in the same rounds; a GET %s ×.\n",
			count(most.X), spread(g.ratios(loadPut)), count(g.Base.X), spread(g.ratios(loadGet)))
	}
	if g.Listing != nil {
		g.Listing.markdown(&b)
	}
	return b.String()
}

func (g *growth) series(name string) *series {
	if i := slices.IndexFunc(g.Series, func(s series) bool { return s.Name == name }); i >= 0 {
		return &g.Series[i]
	}
	return nil
}

func (g *growth) all(of func(measurement) float64) (out []float64) {
	for _, s := range g.Series {
		for _, p := range s.Points {
			out = append(out, append(p.of(loadPut, of), p.of(loadGet, of)...)...)
		}
	}
	return out
}

// ratios are the CPU with most keys over that of the fresh cluster, of each round.
func (g *growth) ratios(load string) (out []float64) {
	points := g.series(overKeys).Points
	for _, m := range points[len(points)-1].Runs {
		for _, few := range g.Base.Runs {
			if m.Load == load && few.Load == load && few.Round == m.Round && few.CPU > 0 {
				out = append(out, m.CPU/few.CPU)
			}
		}
	}
	return out
}

func (s *series) table(b *strings.Builder, what string) {
	fmt.Fprintf(b, "\n| %s | PUT: CPU us | p99 ms | operations/s | GET: CPU us | p99 ms | operations/s | errors |\n", what)
	b.WriteString("| --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for _, p := range s.Points {
		x, errors := count(p.X), 0.0
		if p.Found > 0 && number(p.Found) != number(float64(p.X)) {
			x += fmt.Sprintf(" (%s in the end)", number(p.Found))
		}
		row := "| " + x + " |"
		for _, load := range []string{loadPut, loadGet} {
			row += fmt.Sprintf(" %s | %s | %s |", spread(p.of(load, cpuOf)), number(median(p.of(load, func(m measurement) float64 { return m.Lat.P99 / 1e3 }))),
				number(median(p.of(load, func(m measurement) float64 { return m.Rate }))))
			for _, n := range p.of(load, func(m measurement) float64 { return float64(m.Errors + m.Missed) }) {
				errors += n
			}
		}
		fmt.Fprintf(b, "%s %.0f |\n", row, errors)
	}
}

// count is a whole number with commas.
func count(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func (l *listing) markdown(b *strings.Builder) {
	mib := func(n int64) float64 { return float64(n) / (1 << 20) }
	fmt.Fprintf(b, "\nA listing of all %s keys through one node, in pages of %s: %.1f s, %s keys/s, %.1f MB/s, %s us of CPU a key over all nodes. Resident memory of that node: %.0f MiB before, %.0f MiB at most meanwhile;",
		count(l.Keys), count(listingPage), l.Seconds, count(int(float64(l.Keys)/l.Seconds)), float64(l.Bytes)/1e6/l.Seconds, number(l.CPU), mib(l.Memory[0].Before), mib(l.Memory[0].Peak))
	var others []string
	for _, m := range l.Memory[1:] {
		others = append(others, fmt.Sprintf("%.0f and %.0f MiB", mib(m.Before), mib(m.Peak)))
	}
	fmt.Fprintf(b, " of the others: %s.\n", strings.Join(others, ", "))
}
