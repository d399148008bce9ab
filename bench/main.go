// Command bench measures Dunlin beside other replicated key-value servers on
// this machine and writes the tables of docs/benchmarks.md:
//
//	go run ./bench --write docs/benchmarks.md
//
// Each server is a cluster of three processes. One runs at a time; the rounds
// are interleaved, so that what else the machine does meets all of them alike,
// and ratios are taken between runs of the same round. What is compared is the
// CPU of the servers per operation: the load generator's own does not count.
//
// Servers that are not installed are left out: etcd, nats-server and
// redis-server are looked for in --bin and the PATH.
//
// With --healing it measures Dunlin alone: what it costs to keep replicas
// equal, to mend a few differences, and to fill an empty disk under load:
//
//	go run ./bench --healing --keys 200000 --window 10s --write docs/benchmarks.md
//
// With --join, what it costs that a fifth node joins four, and leaves:
//
//	go run ./bench --join --keys 200000 --value 1000 --window 10s --write docs/benchmarks.md
//
// With --profile, where the CPU of an operation goes:
//
//	go run ./bench --profile --write docs/benchmarks.md
//
// and the profile that the compiler is given:
//
//	go run ./bench --profile --window 20s --pgo cmd/dunlin/load.pgo
//
// With --growth, how CPU and p99 grow with keys, values, siblings, nodes and connections:
//
//	go run ./bench --growth --rounds 3 --window 5s --write docs/benchmarks.md --plot docs/growth.png
//
// and to try it, with one of the series and few keys:
//
//	go run ./bench --growth --series keys --keys 20000 --rounds 1 --window 1s
//
// With --frozen, what clients feel while one of three nodes stands still; with
// --overload, what they get when they want twice what there is:
//
//	go run ./bench --frozen --window 10s --write docs/benchmarks.md
//	go run ./bench --overload --window 10s --write docs/benchmarks.md
//
// With --worn, what they feel after a million overwrites and a restart:
//
//	go run ./bench --worn --keys 20000 --window 10s --write docs/benchmarks.md
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/dunlindb/dunlin/internal/loadgen"
)

// settings are the flags.
type settings struct {
	Rounds      int           `json:"rounds"`
	Window      time.Duration `json:"window_ns"`
	Warmup      time.Duration `json:"warmup_ns"`
	Keys        int           `json:"keys"`
	Connections int           `json:"connections"`
	Value       int           `json:"value"`
	Rate        float64       `json:"rate"`
	only        string
	bin         string
	dunlin      string
	data        string
	out         string
	write       string
	from        string
	Flood       time.Duration `json:"flood_ns,omitempty"`
	healing     bool
	join        bool
	profile     bool
	growth      bool
	series      []string // of growth; empty: all
	plot        string   // of growth
	pgo         string   // of profile
	frozen      bool
	overload    bool
	worn        bool
	Overwrites  int64 `json:"overwrites,omitempty"` // of worn
}

// inRounds says how many rounds there are.
func (s settings) inRounds() string {
	if s.Rounds == 1 {
		return "1 round"
	}
	return fmt.Sprintf("%d rounds", s.Rounds)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench: "+err.Error())
		stop()
		os.Exit(1)
	}
}

func parse(args []string, w io.Writer) (settings, error) {
	var s settings
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(w)
	f.IntVar(&s.Rounds, "rounds", 5, "interleaved rounds")
	f.DurationVar(&s.Window, "window", 4*time.Second, "measured time of each load")
	f.DurationVar(&s.Warmup, "warmup", time.Second, "time before it that does not count")
	f.IntVar(&s.Keys, "keys", 100_000, "key space")
	f.IntVar(&s.Connections, "connections", 64, "connections")
	f.IntVar(&s.Value, "value", 1024, "bytes of a value")
	f.Float64Var(&s.Rate, "rate", 1500, "operations per second of the open loop; 0 leaves it out")
	f.StringVar(&s.only, "servers", "", "comma list of servers, e.g. dunlin,etcd; default: all that are installed")
	f.StringVar(&s.bin, "bin", "", "directory with the programs of the other servers, before the PATH")
	f.StringVar(&s.dunlin, "dunlin", "", "the dunlin program; default: built from this repository")
	f.StringVar(&s.data, "data", "", "directory for the servers' data; default: a temporary one, removed in the end")
	f.StringVar(&s.out, "out", "", "write all measurements to this file as JSON")
	f.StringVar(&s.write, "write", "", "put the tables between the marks of this Markdown file")
	f.StringVar(&s.from, "from", "", "measure nothing, take the measurements of this file (--out), of servers or of --growth")
	f.BoolVar(&s.healing, "healing", false, "measure how Dunlin's replicas are kept equal and filled")
	f.BoolVar(&s.join, "join", false, "measure how a fifth node joins four of Dunlin, and leaves")
	f.BoolVar(&s.profile, "profile", false, "measure where the CPU of Dunlin's operations goes")
	f.StringVar(&s.pgo, "pgo", "", "write the samples of --profile to this file, for the compiler")
	s.growthFlags(f)
	f.BoolVar(&s.frozen, "frozen", false, "measure what clients of two nodes of Dunlin feel while the third stands still")
	f.BoolVar(&s.overload, "overload", false, "measure what happens when clients want twice what Dunlin can do")
	f.DurationVar(&s.Flood, "flood", time.Minute, "how long --overload asks for too much")
	f.BoolVar(&s.worn, "worn", false, "measure what clients of Dunlin feel after many overwrites and a restart")
	f.Int64Var(&s.Overwrites, "overwrites", 1_000_000, "how many, for --worn")
	if err := f.Parse(args); err != nil {
		return s, err
	}
	if s.growth && !given(f, "keys") {
		s.Keys = growthKeys
	}
	switch {
	case f.NArg() > 0:
		return s, fmt.Errorf("unexpected argument %q", f.Arg(0))
	case s.Rounds < 1:
		return s, fmt.Errorf("--rounds: %d is less than 1", s.Rounds)
	case s.modes() > 1 || s.modes() == 1 && (s.Rate <= 0 || s.only != "" || s.from != "" && !s.growth):
		return s, errors.New("--healing, --join, --profile, --growth, --frozen, --overload, --worn: need a --rate, and are not for each other, --servers or (but --growth) --from")
	case s.Flood < time.Second:
		return s, fmt.Errorf("--flood: %v is less than a second", s.Flood)
	case s.Window < time.Second:
		return s, fmt.Errorf("--window: %v is less than a second", s.Window)
	case s.Overwrites < 1:
		return s, fmt.Errorf("--overwrites: %d is less than 1", s.Overwrites)
	case s.pgo != "" && !s.profile:
		return s, errors.New("--pgo: is for --profile")
	case s.plot != "" && !s.growth:
		return s, errors.New("--plot: is for --growth")
	}
	return s, nil
}

// given tells whether a flag was set.
func given(f *flag.FlagSet, name string) (set bool) {
	f.Visit(func(x *flag.Flag) { set = set || x.Name == name })
	return set
}

// modes counts the other things to measure that are asked for.
func (s settings) modes() (n int) {
	for _, m := range modes {
		if m.asked(s) {
			n++
		}
	}
	return n
}

// report is what is kept of a whole run.
type report struct {
	Settings settings      `json:"settings"`
	Machine  machine       `json:"machine"`
	Versions []string      `json:"versions"` // of the servers
	Runs     []measurement `json:"runs"`
}

// measurement is one load on one server in one round.
type measurement struct {
	Round  int             `json:"round"`
	Server string          `json:"server"`
	Load   string          `json:"load"`
	Rate   float64         `json:"ops_per_s"`
	Lat    loadgen.Latency `json:"latency"`
	CPU    float64         `json:"server_cpu_us_per_op"`
	Flush  float64         `json:"flushes_per_op"`
	Bytes  float64         `json:"disk_bytes_per_op"`
	RSS    int64           `json:"peak_rss_bytes"`
	Other  float64         `json:"other_cpu"` // share of the machine that neither servers nor client used
	Errors int64           `json:"errors"`    // and operations of the open loop that were never sent
	Missed int64           `json:"missed"`    // reads that found nothing
}

func run(ctx context.Context, args []string, out, progress io.Writer) error {
	s, err := parse(args, progress)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if s.write != "" { // before minutes of measuring
		if _, _, err := around(s.write, s.mode().section); err != nil {
			return err
		}
	}
	m, err := s.mode().measure(ctx, s, progress)
	if err != nil {
		return err
	}
	if g, ok := m.(*growth); ok {
		if err := g.save(s.plot); err != nil {
			return err
		}
	}
	return publish(s, m, out)
}

// results are shown as JSON, and as text.
type results interface{ markdown() string }

// mode is a thing to measure, but for servers beside each other.
type mode struct {
	section string // what its text is called
	asked   func(s settings) bool
	measure func(ctx context.Context, s settings, progress io.Writer) (results, error)
}

var modes = []mode{
	{"healing", func(s settings) bool { return s.healing }, measures(measureHealing)},
	{"join", func(s settings) bool { return s.join }, measures(measureJoins)},
	{"profile", func(s settings) bool { return s.profile }, measures(measureProfiles)},
	{"growth", func(s settings) bool { return s.growth }, measures(growthOf)},
	{"frozen", func(s settings) bool { return s.frozen }, measures(measureFrozen)},
	{"overload", func(s settings) bool { return s.overload }, measures(measureOverload)},
	{"worn", func(s settings) bool { return s.worn }, measures(measureWorn)},
}

func measures[R results](f func(context.Context, settings, io.Writer) (R, error)) func(context.Context, settings, io.Writer) (results, error) {
	return func(ctx context.Context, s settings, progress io.Writer) (results, error) { return f(ctx, s, progress) }
}

// mode is what is asked for.
func (s settings) mode() mode {
	for _, m := range modes {
		if m.asked(s) {
			return m
		}
	}
	return mode{section: "bench", measure: measures(reportOf)}
}

func growthOf(ctx context.Context, s settings, progress io.Writer) (*growth, error) {
	if s.from == "" {
		return measureGrowth(ctx, s, progress)
	}
	g, err := read[growth](s.from)
	if err == nil {
		g.Settings.plot = s.plot
	}
	return g, err
}

func reportOf(ctx context.Context, s settings, progress io.Writer) (*report, error) {
	if s.from == "" {
		return measure(ctx, s, progress)
	}
	return read[report](s.from)
}

// publish writes what was measured as JSON, and its text into a file or to out.
func publish(s settings, m results, out io.Writer) error {
	if s.out != "" {
		b, err := json.MarshalIndent(m, "", " ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(s.out, append(b, '\n'), 0o644); err != nil {
			return fmt.Errorf("--out: %w", err)
		}
	}
	if s.write != "" {
		return insert(s.write, s.mode().section, m.markdown())
	}
	_, err := io.WriteString(out, m.markdown())
	return err
}

func read[T any](path string) (*T, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--from: %w", err)
	}
	r := new(T)
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("--from: %s: %w", path, err)
	}
	return r, nil
}

// ownData makes a directory for the servers' data if none was given, and returns what removes it.
func (s *settings) ownData() (remove func(), err error) {
	if s.data != "" {
		return func() {}, nil
	}
	if s.data, err = os.MkdirTemp("", "dunlin-bench-"); err != nil {
		return nil, err
	}
	return func() { _ = os.RemoveAll(s.data) }, nil // what is left there harms nobody
}

// measure runs all rounds. A server that fails ends the whole: a table with
// holes is easily misread.
func measure(ctx context.Context, s settings, progress io.Writer) (*report, error) {
	remove, err := s.ownData()
	if err != nil {
		return nil, err
	}
	defer remove()
	servers, err := installed(ctx, s, progress)
	if err != nil {
		return nil, err
	}
	r := &report{Settings: s, Machine: thisMachine()}
	for _, v := range servers {
		r.Versions = append(r.Versions, v.name+": "+v.version)
	}
	for round := 1; round <= s.Rounds; round++ {
		for _, v := range servers {
			runs, err := v.round(ctx, s, round, progress)
			if err != nil {
				return nil, fmt.Errorf("%s, round %d: %w", v.name, round, err)
			}
			r.Runs = append(r.Runs, runs...)
		}
	}
	return r, nil
}

// round starts the server, puts every load on it, and stops it.
func (v *server) round(ctx context.Context, s settings, round int, progress io.Writer) (out []measurement, err error) {
	c, err := startCluster(ctx, v, filepath.Join(s.data, v.name))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	spec := loadgen.Spec{
		Connections: s.Connections, Dist: loadgen.Uniform, Theta: loadgen.DefaultTheta, Keys: s.Keys,
		ValueSize: loadgen.SizeRange{Min: s.Value, Max: s.Value}, Warmup: s.Warmup, Duration: s.Window, Verify: true,
	}
	if v.volatile || !v.loaded {
		var done atomic.Int64
		if err := loadgen.Preload(ctx, spec, v.loads[0].dial, &done); err != nil {
			return nil, err
		}
		v.loaded = true
	}
	for i, l := range v.loads {
		spec.Mix, spec.Rate, spec.Arrivals, spec.Dist = l.mix, 0, "", cmp.Or(l.dist, loadgen.Uniform)
		spec.Seed = uint64(100*round + i)
		if l.open {
			spec.Rate, spec.Arrivals = s.Rate, loadgen.Poisson
		}
		result, err := loadgen.Run(ctx, spec, l.dial, loadgen.Options{PIDs: c.pids()})
		if err != nil {
			return nil, err
		}
		if result.Cut {
			return nil, context.Cause(ctx)
		}
		m := measured(round, v.name, l.name, result)
		out = append(out, m)
		fmt.Fprintf(progress, "round %d  %-12s %-24s %8.0f/s  cpu %6.1f us/op  p50 %8.0f us  p99 %8.0f us  errors %d %v\n",
			round, v.name, l.name, m.Rate, m.CPU, m.Lat.P50, m.Lat.P99, m.Errors, result.Failures)
	}
	return out, nil
}

func measured(round int, server, load string, r *loadgen.Result) measurement {
	m := measurement{
		Round: round, Server: server, Load: load, Rate: r.PerSecond, Lat: r.Latency, CPU: r.Servers.CPUPerOp,
		Errors: r.Errors + r.Unsent, Missed: r.Kinds["get"].Missing,
	}
	for _, b := range r.Servers.PeakRSS {
		m.RSS += b
	}
	if r.Machine != nil {
		m.Flush, m.Bytes, m.Other = r.Machine.FlushesPerOp, r.Machine.WrittenPerOp, r.Machine.Other
	}
	return m
}

// Marks in a Markdown file between which the text of a section stands.
func marks(section string) (begin, end string) {
	return "<!-- " + section + ": begin -->", "<!-- " + section + ": end -->"
}

// around returns what stands before and after the text of a section in a file, with its marks.
func around(path, section string) (before, after string, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", "", fmt.Errorf("--write: %w", err)
	}
	begin, end := marks(section)
	before, rest, ok := strings.Cut(string(b), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return "", "", fmt.Errorf("--write: %s has no lines %s and %s", path, begin, end)
	}
	return before + begin, end + after, nil
}

// insert puts text between the marks of the file.
func insert(path, section, text string) error {
	before, after, err := around(path, section)
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(before+"\n\n"+text+"\n"+after), 0o644)
}
