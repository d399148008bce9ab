package sim

import (
	"bufio"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// simulate runs a schedule in a bubble of its own.
func simulate(t *testing.T, p Plan) (res *Result, wall time.Duration) {
	t.Helper()
	begin := time.Now()
	log := slog.New(slog.DiscardHandler)
	if path := os.Getenv("DUNLIN_SIM_LOG"); path != "" {
		w, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		log = slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	synctest.Test(t, func(*testing.T) { res = Run(p, log) })
	return res, time.Since(begin)
}

// report prints what came of a schedule, and fails the test with what was violated.
func report(t *testing.T, res *Result, wall time.Duration) {
	t.Helper()
	t.Logf("%v\n%v simulated in %.2f s, settled in %v, faults %v, operations %v", res.Plan, res.Simulated.Round(time.Second),
		wall.Seconds(), res.Settled.Round(time.Millisecond), res.Faults, res.Operations)
	for i, v := range res.Violations {
		if i == 10 {
			t.Errorf("… and %d more", len(res.Violations)-i)
			break
		}
		t.Errorf("seed %d: %v", res.Plan.Seed, v)
	}
	if len(res.Violations) > 0 {
		save(t, res)
	}
}

// save leaves the history of a schedule in DUNLIN_SIM_OUT, or where temporary files go.
func save(t *testing.T, res *Result) {
	t.Helper()
	dir := os.Getenv("DUNLIN_SIM_OUT")
	if dir == "" {
		dir = os.TempDir()
	}
	path := filepath.Join(dir, fmt.Sprintf("dunlin-sim-%d.jsonl", res.Plan.Seed))
	w, err := os.Create(path)
	if err != nil {
		t.Error(err)
		return
	}
	defer w.Close()
	if err := res.History.Write(w); err != nil {
		t.Error(err)
	}
	t.Logf("history: %s", path)
}

// TestSeed runs the schedule of DUNLIN_SEED.
func TestSeed(t *testing.T) {
	s := os.Getenv("DUNLIN_SEED")
	if s == "" {
		return
	}
	seed, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("DUNLIN_SEED=%s is no number", s)
	}
	res, wall := simulate(t, Draw(seed))
	report(t, res, wall)
	for _, n := range res.History.Notes {
		t.Log(n.At.Round(time.Millisecond), n.Text)
	}
}

// batch runs schedules, as many at once as there are processors, and sums up what they did.
type batch struct {
	mu         sync.Mutex
	begin      time.Time
	cpu        time.Duration // of the process before
	schedules  int
	violated   int
	operations int
	faults     map[string]int
	simulated  time.Duration
}

func newBatch() *batch { return &batch{begin: time.Now(), cpu: cpuTime(), faults: map[string]int{}} }

// run runs the schedules of seeds as parallel subtests of t, which has to return before they begin.
func (b *batch) run(t *testing.T, seeds []uint64) {
	for _, seed := range seeds {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			res, wall := simulate(t, Draw(seed))
			report(t, res, wall)
			b.add(res)
		})
	}
}

func (b *batch) add(res *Result) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.schedules++
	b.simulated += res.Simulated
	b.violated += min(1, len(res.Violations))
	b.operations += len(res.History.Operations)
	for f, n := range res.Faults {
		b.faults[f] += n
	}
}

func (b *batch) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	wall, cpu := time.Since(b.begin), cpuTime()-b.cpu
	return fmt.Sprintf("%d schedules, %.0f simulated minutes, %d operations, faults %v, %d schedules with violations; "+
		"%.0f s, %.0f s of processor time: %.0f simulated minutes a minute, %.0f a minute of one processor",
		b.schedules, b.simulated.Minutes(), b.operations, b.faults, b.violated,
		wall.Seconds(), cpu.Seconds(), b.simulated.Minutes()/wall.Minutes(), b.simulated.Minutes()/max(cpu.Minutes(), 1e-9))
}

// cpuTime is what this process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// number reads a number from the environment.
func number(t *testing.T, name string, usual uint64) uint64 {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return usual
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("%s=%s is no number", name, s)
	}
	return n
}

// TestSchedules runs a batch of new schedules: DUNLIN_SCHEDULES of them, from the seed DUNLIN_SEED on, or from one that
// it prints.
func TestSchedules(t *testing.T) {
	n, first := number(t, "DUNLIN_SCHEDULES", 4), number(t, "DUNLIN_SEED", rand.Uint64()>>16)
	if testing.Short() {
		n = min(n, 2)
	}
	t.Logf("seeds %d to %d", first, first+n-1)
	var seeds []uint64
	for i := range n {
		seeds = append(seeds, first+i)
	}
	b := newBatch()
	t.Cleanup(func() { t.Log(b) })
	b.run(t, seeds)
}

// TestRegressions runs every seed that has once found a bug, from testdata/seeds.txt. A seed does not repeat the
// interleaving, so each runs DUNLIN_REPEAT times.
func TestRegressions(t *testing.T) {
	f, err := os.Open("testdata/seeds.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var seeds []uint64
	for lines := bufio.NewScanner(f); lines.Scan(); {
		text, _, _ := strings.Cut(lines.Text(), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("seeds.txt: %q is no seed", text)
		}
		for range number(t, "DUNLIN_REPEAT", 1) {
			seeds = append(seeds, seed)
		}
	}
	if testing.Short() {
		seeds = seeds[:min(len(seeds), 1)]
	}
	newBatch().run(t, seeds)
}

// TestForever runs new schedules for DUNLIN_SIM, such as 10m or forever, and tells every now and then what was done.
func TestForever(t *testing.T) {
	s := os.Getenv("DUNLIN_SIM")
	if s == "" {
		return
	}
	length := time.Duration(math.MaxInt64)
	if s != "forever" {
		var err error
		if length, err = time.ParseDuration(s); err != nil {
			t.Fatalf("DUNLIN_SIM=%s is no duration", s)
		}
	}
	b := newBatch()
	for time.Since(b.begin) < length {
		t.Run("", func(t *testing.T) {
			var seeds []uint64
			for range 5 * runtime.GOMAXPROCS(0) {
				seeds = append(seeds, rand.Uint64()>>16)
			}
			b.run(t, seeds)
		})
		fmt.Println(b)
	}
}

// TestHunt runs at most DUNLIN_HUNT schedules, from seed 1 or DUNLIN_SEED on, until one fails, and says which.
func TestHunt(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv("DUNLIN_HUNT"))
	if err != nil {
		return
	}
	first := number(t, "DUNLIN_SEED", 1)
	var simulated time.Duration
	for i := range uint64(n) {
		seed := first + i
		res, _ := simulate(t, Draw(seed))
		simulated += res.Simulated
		if len(res.Violations) > 0 {
			t.Logf("HUNT %s | %d | %d | %v |\n%.200s", res.Violations[0].Rule, i+1, seed, simulated.Round(time.Second), res.Violations[0])
			return
		}
	}
}
