package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/dunlindb/dunlin/internal/loadgen"
)

// Series of points, by what grows.
const (
	overKeys        = "keys"
	overValue       = "value"
	overSiblings    = "siblings"
	overNodes       = "nodes"
	overConnections = "connections"
)

const (
	growthKeys = 2_000_000 // of --growth, unless --keys says otherwise
	// baseKeys is the key space of all series but the first, and of the cluster that the first is compared with.
	baseKeys = 10_000
	// valueBytes bounds what the keys of one point of the series of values hold together, but for leastKeys.
	valueBytes = 64 << 20
	leastKeys  = 128
	// quietShare is what a node may use of one processor when it counts as at rest, restTime how long that is awaited.
	quietShare = 0.05
	restTime   = time.Minute
)

// curve is one series to be measured.
type curve struct {
	name, what string // what: the axis
	steps      []int
	measure    func(g *grower, ctx context.Context, steps []int) ([]point, error)
}

// curves are all series, in the order in which they are measured.
var curves = []curve{
	{overNodes, "nodes", []int{3, 5, 7, 9}, (*grower).nodes},
	{overConnections, "connections", []int{1, 4, 16, 64, 256, 1024}, (*grower).connections},
	{overValue, "bytes of a value", []int{100, 1 << 10, 10 << 10, 64 << 10, 512 << 10}, (*grower).values},
	{overSiblings, "siblings", []int{1, 2, 5, 10, 20}, (*grower).siblings},
	{overKeys, "keys", []int{1_000, 10_000, 100_000, 1_000_000, 2_000_000}, (*grower).keys},
}

// upTo are the steps that are not beyond most, and most itself at the end.
func upTo(steps []int, most int) (out []int) {
	for _, n := range steps {
		if n < most {
			out = append(out, n)
		}
	}
	return append(out, most)
}

// growth is how the cost of an operation grows.
type growth struct {
	Settings settings `json:"settings"`
	Machine  machine  `json:"machine"`
	Version  string   `json:"version"`
	Series   []series `json:"series"`
	// Base is a fresh cluster with baseKeys, measured in the same rounds as the last point of the keys, if that has more.
	Base    *point   `json:"base,omitempty"`
	Listing *listing `json:"listing,omitempty"`
}

type series struct {
	Name   string  `json:"name"`
	Points []point `json:"points"`
}

// point is what was measured where X things are.
type point struct {
	X     int           `json:"x"`
	Found float64       `json:"found,omitempty"` // siblings of a key that were read after the writes, in the mean
	Runs  []measurement `json:"runs"`
}

// of are the values of all rounds under a load.
func (p point) of(load string, value func(measurement) float64) (out []float64) {
	for _, m := range p.Runs {
		if m.Load == load {
			out = append(out, value(m))
		}
	}
	return out
}

func cpuOf(m measurement) float64 { return m.CPU }

// grower measures growth.
type grower struct {
	settings settings
	progress io.Writer
	out      *growth
}

func measureGrowth(ctx context.Context, s settings, progress io.Writer) (*growth, error) {
	remove, err := s.ownData()
	if err != nil {
		return nil, err
	}
	defer remove()
	v, err := dunlin(ctx, s)
	if err != nil {
		return nil, err
	}
	if s.dunlin == "" {
		s.dunlin = filepath.Join(s.data, "dunlin-program") // built once for all clusters
	}
	g := &grower{settings: s, progress: progress, out: &growth{Settings: s, Machine: thisMachine(), Version: v.version}}
	for _, c := range curves {
		if !s.grows(c.name) {
			continue
		}
		points, err := c.measure(g, ctx, c.steps)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		g.out.Series = append(g.out.Series, series{c.name, points})
	}
	return g.out, nil
}

// site is a running cluster with its own directory, and how it is written (w=2) and read (r=2).
type site struct {
	server   *server
	cluster  *cluster
	dir      string
	put, get loadgen.Dialer
}

func (g *grower) start(ctx context.Context, name string, size int) (*site, error) {
	v, err := dunlinWith(ctx, g.settings, "fsync", size)
	if err != nil {
		return nil, err
	}
	v.name = name
	dir := filepath.Join(g.settings.data, name)
	c, err := startCluster(ctx, v, dir)
	if err != nil {
		return nil, err
	}
	dial := v.target.Dialer()
	return &site{server: v, cluster: c, dir: dir, put: dial, get: dial}, nil
}

// stop ends the nodes and removes what they stored, which may be much. It tells which of them had ended by themselves.
func (p *site) stop() error {
	return errors.Join(p.cluster.gone(), p.cluster.stop(), os.RemoveAll(p.dir))
}

// base starts a cluster with baseKeys.
func (g *grower) base(ctx context.Context, name string, size int) (*site, loadgen.Spec, error) {
	spec := g.spec(min(baseKeys, g.settings.Keys))
	p, err := g.start(ctx, name, size)
	if err != nil {
		return nil, spec, err
	}
	if err := errors.Join(p.grow(ctx, spec, 0), p.rest(ctx)); err != nil {
		return nil, spec, errors.Join(err, p.stop())
	}
	return p, spec, nil
}

func (g *grower) spec(keys int) loadgen.Spec {
	s := g.settings
	return loadgen.Spec{
		Connections: s.Connections, Dist: loadgen.Uniform, Keys: keys, ValueSize: loadgen.SizeRange{Min: s.Value, Max: s.Value},
		Warmup: s.Warmup, Duration: s.Window, Verify: true,
	}
}

// grow writes the keys of the spec from the first on.
func (p *site) grow(ctx context.Context, spec loadgen.Spec, first int) error {
	return loadgen.PreloadFrom(ctx, spec, first, p.put, new(atomic.Int64))
}

// rest waits until the nodes have done what writes left for later, such as compactions. What they do all the time, and
// what takes longer, belongs to the cost of operations.
func (p *site) rest(ctx context.Context) error {
	last, err := sumOf(ctx, p.server.urls)
	for begin := time.Now(); err == nil && time.Since(begin) < restTime; {
		at := time.Now()
		if err = sleep(ctx, time.Second); err != nil {
			break
		}
		var now counters
		if now, err = sumOf(ctx, p.server.urls); err != nil {
			break
		}
		if now[processorUse]-last[processorUse] < quietShare*float64(len(p.server.urls))*time.Since(at).Seconds() {
			break
		}
		last = now
	}
	return err
}

// round measures PUT, then GET, and adds both to the point.
func (g *grower) round(ctx context.Context, p *site, spec loadgen.Spec, round int, to *point) error {
	for i, l := range []load{{name: loadPut, mix: loadgen.Mix{loadgen.Put: 1}, dial: p.put}, {name: loadGet, mix: loadgen.Mix{loadgen.Get: 1}, dial: p.get}} {
		spec.Mix, spec.Seed = l.mix, uint64(100*round+i)
		result, err := loadgen.Run(ctx, spec, l.dial, loadgen.Options{PIDs: p.cluster.pids()})
		if err != nil {
			return err
		}
		if result.Cut {
			return context.Cause(ctx)
		}
		m := measured(round, p.server.name, l.name, result)
		to.Runs = append(to.Runs, m)
		fmt.Fprintf(g.progress, "%-12s %8d  round %d  %-12s %8.0f/s  cpu %7.1f us/op  p99 %8.0f us  errors %d %v\n",
			p.server.name, to.X, round, l.name, m.Rate, m.CPU, m.Lat.P99, m.Errors, result.Failures)
	}
	return nil
}

// rounds measures a point.
func (g *grower) rounds(ctx context.Context, p *site, spec loadgen.Spec, x int) (point, error) {
	out := point{X: x}
	for round := range g.settings.Rounds {
		if err := g.round(ctx, p, spec, round+1, &out); err != nil {
			return out, err
		}
	}
	return out, nil
}

// nodes measures fresh clusters of different sizes.
func (g *grower) nodes(ctx context.Context, steps []int) (out []point, err error) {
	for _, n := range steps {
		p, spec, err := g.base(ctx, overNodes, n)
		if err != nil {
			return nil, err
		}
		at, err := g.rounds(ctx, p, spec, n)
		if err = errors.Join(err, p.stop()); err != nil {
			return nil, err
		}
		out = append(out, at)
	}
	return out, nil
}

func (g *grower) connections(ctx context.Context, steps []int) (out []point, err error) {
	p, spec, err := g.base(ctx, overConnections, nodes)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	for _, n := range steps {
		spec.Connections = n
		at, err := g.rounds(ctx, p, spec, n)
		if err != nil {
			return nil, err
		}
		out = append(out, at)
	}
	return out, nil
}

// values measures larger and larger values of fewer and fewer keys.
func (g *grower) values(ctx context.Context, steps []int) (out []point, err error) {
	p, err := g.start(ctx, overValue, nodes)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	for _, size := range steps {
		spec := g.spec(min(baseKeys, g.settings.Keys, max(valueBytes/size, leastKeys)))
		spec.ValueSize = loadgen.SizeRange{Min: size, Max: size}
		if err := errors.Join(p.grow(ctx, spec, 0), p.rest(ctx)); err != nil {
			return nil, err
		}
		at, err := g.rounds(ctx, p, spec, size)
		if err != nil {
			return nil, err
		}
		out = append(out, at)
	}
	return out, nil
}

// keys grows one key space, and lists it in the end. Beside its last point, a fresh cluster with few keys is measured in
// the same rounds, so that what the machine does meanwhile meets both.
func (g *grower) keys(ctx context.Context, steps []int) (out []point, err error) {
	p, err := g.start(ctx, overKeys, nodes)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	have, most := 0, g.settings.Keys
	for _, n := range upTo(steps, most) {
		begin := time.Now()
		if err := errors.Join(p.grow(ctx, g.spec(n), have), p.rest(ctx)); err != nil {
			return nil, err
		}
		fmt.Fprintf(g.progress, "%-12s %8d  written in %.0f s\n", overKeys, n, time.Since(begin).Seconds())
		have = n
		if n == most && most > baseKeys {
			break
		}
		at, err := g.rounds(ctx, p, g.spec(n), n)
		if err != nil {
			return nil, err
		}
		out = append(out, at)
	}
	if most > baseKeys {
		at, err := g.beside(ctx, p, most)
		if err != nil {
			return nil, err
		}
		out = append(out, at)
	}
	g.out.Listing, err = g.list(ctx, p, have)
	return out, err
}

// beside measures the last point of keys and the fresh cluster.
func (g *grower) beside(ctx context.Context, p *site, keys int) (at point, err error) {
	few, spec, err := g.base(ctx, "few keys", nodes)
	if err != nil {
		return at, err
	}
	defer func() { err = errors.Join(err, few.stop()) }()
	at.X, g.out.Base = keys, &point{X: spec.Keys}
	for round := range g.settings.Rounds {
		if err := g.round(ctx, p, g.spec(keys), round+1, &at); err != nil {
			return at, err
		}
		if err := g.round(ctx, few, spec, round+1, g.out.Base); err != nil {
			return at, err
		}
	}
	return at, nil
}

func (s *settings) growthFlags(f *flag.FlagSet) {
	var names []string
	for _, c := range curves {
		names = append(names, c.name)
	}
	f.BoolVar(&s.growth, "growth", false, "measure how the cost of an operation grows with keys and others, by default up to 2,000,000 keys")
	f.Func("series", "what grows with --growth, of "+strings.Join(names, ",")+"; default: all", func(list string) error {
		for name := range strings.SplitSeq(list, ",") {
			if !slices.Contains(names, name) {
				return fmt.Errorf("%q is none of %s", name, strings.Join(names, ", "))
			}
			s.series = append(s.series, name)
		}
		return nil
	})
	f.StringVar(&s.plot, "plot", "", "write the curves of --growth to this PNG")
}

// grows tells whether a series is asked for.
func (s settings) grows(name string) bool {
	return len(s.series) == 0 || slices.Contains(s.series, name)
}
