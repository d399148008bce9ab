package storage

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/dunlindb/dunlin/vclock"
)

var (
	settingsKeys  = flag.Int("settings.keys", 0, "keys of BenchmarkSettings; 0 skips it, since it takes a minute for each setting")
	settingsPuts  = flag.Int("settings.puts", 300_000, "overwrites of BenchmarkSettings before the restart")
	settingsValue = flag.Int("settings.value", 1024, "bytes of a value")
	settingsOS    = flag.Bool("settings.os", false, "durability os")
)

// settings are what badger could be set to. Each is measured against "chosen".
var settings = []struct {
	name string
	tune func(badger.Options) badger.Options
	env  string
}{
	{name: "chosen"},
	{name: "value-log", tune: valueLog},
	{name: "value-log-l2", tune: func(o badger.Options) badger.Options { return valueLog(o).WithNumLevelZeroTables(2) }},
	{name: "mem8", tune: func(o badger.Options) badger.Options { return o.WithMemTableSize(8 << 20) }},
	{name: "mem32", tune: func(o badger.Options) badger.Options { return o.WithMemTableSize(32 << 20) }},
	{name: "base10", tune: func(o badger.Options) badger.Options { return o.WithBaseLevelSize(10 << 20) }},
	{name: "base256", tune: func(o badger.Options) badger.Options { return o.WithBaseLevelSize(256 << 20) }},
	{name: "tables8", tune: func(o badger.Options) badger.Options { return o.WithBaseTableSize(8 << 20) }},
	{name: "level0-10", tune: func(o badger.Options) badger.Options {
		return o.WithNumLevelZeroTables(10).WithNumLevelZeroTablesStall(20)
	}},
	{name: "block4", tune: func(o badger.Options) badger.Options { return o.WithBlockSize(4 << 10) }},
	{name: "base10-block4", tune: func(o badger.Options) badger.Options {
		return o.WithBaseLevelSize(10 << 20).WithBlockSize(4 << 10)
	}},
	{name: "level-tables", tune: func(o badger.Options) badger.Options { o.TableSizeMultiplier = 1; return o }},
	{name: "fan-out5", tune: func(o badger.Options) badger.Options { return o.WithLevelSizeMultiplier(5) }},
	{name: "fan-out4-tables", tune: func(o badger.Options) badger.Options {
		o.TableSizeMultiplier = 1
		return o.WithLevelSizeMultiplier(4)
	}},
	{name: "base512", tune: func(o badger.Options) badger.Options { return o.WithBaseLevelSize(512 << 20) }},
	{name: "base512-level0-12", tune: func(o badger.Options) badger.Options {
		return o.WithBaseLevelSize(512 << 20).WithNumLevelZeroTables(12)
	}},
	{name: "compactors4", tune: func(o badger.Options) badger.Options { return o.WithNumCompactors(4) }},
	{name: "gogc200", env: "GOGC=200"},
	{name: "gogc400", env: "GOGC=400"},
}

// valueLog keeps values of 512 bytes and more out of the tree. Its garbage is collected, see collect.
func valueLog(o badger.Options) badger.Options { return o.WithValueThreshold(512) }

// collect gives the value log's garbage back until it is ended.
func collect(s *Store) (end func()) {
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Second):
			}
			for s.db.Opts().ValueThreshold < valueThreshold && s.db.RunValueLogGC(0.5) == nil {
			}
		}
	}()
	return func() { close(stop); <-done }
}

// phase is what was measured of one load.
type phase struct {
	Name                  string
	Ops                   int
	CPU                   float64 // microseconds an operation, with the compactions that it leaves
	Rate                  float64
	P50, P99, Max         float64 // milliseconds
	Flushes               float64 // of all disks, an operation
	Written               float64 // KiB an operation, that the process dirtied
	Anon, Mapped, Peak    float64 // MiB of memory: now, now, until now
	Tables, Values, Level float64 // MiB on the disk; tables in level 0
}

// BenchmarkSettings puts the same series of loads on stores with different settings of badger, each in a process of its
// own: fill with keys, read, overwrite, restart, overwrite and read again. To compare, run it several times and take
// the ratios of one run.
//
//	go test -run '^$' -bench 'Settings/(chosen|value-log)$' -benchtime 1x -v ./internal/storage -settings.keys 60000
func BenchmarkSettings(b *testing.B) {
	if *settingsKeys == 0 {
		b.Skip("needs -settings.keys, such as 60000")
	}
	for _, setting := range settings {
		b.Run(setting.name, func(b *testing.B) {
			for b.Loop() {
				out := filepath.Join(b.TempDir(), "phases")
				cmd := exec.Command(os.Args[0], "-test.run=^TestSettingsSeries$", "-test.timeout=20m", // the child's
					fmt.Sprintf("-settings.keys=%d", *settingsKeys), fmt.Sprintf("-settings.puts=%d", *settingsPuts),
					fmt.Sprintf("-settings.value=%d", *settingsValue), fmt.Sprintf("-settings.os=%v", *settingsOS))
				cmd.Env = append(os.Environ(), "DUNLIN_SETTINGS="+setting.name, "DUNLIN_SETTINGS_OUT="+out, setting.env)
				if text, err := cmd.CombinedOutput(); err != nil {
					b.Fatalf("%v\n%s", err, text)
				}
				text, err := os.ReadFile(out)
				if err != nil {
					b.Fatal(err)
				}
				var phases []phase
				if err := json.Unmarshal(text, &phases); err != nil {
					b.Fatal(err)
				}
				for _, p := range phases {
					b.ReportMetric(p.CPU, p.Name+"-us/op")
					b.Logf("%-12s %-11s cpu %6.1f us/op  %7.0f/s  p50 %6.2f p99 %7.2f max %7.1f ms  %5.3f flushes/op  %6.2f KiB/op  anon %4.0f mapped %4.0f peak %4.0f MiB  tables %4.0f values %4.0f MiB level0 %2.0f",
						setting.name, p.Name, p.CPU, p.Rate, p.P50, p.P99, p.Max, p.Flushes, p.Written, p.Anon, p.Mapped, p.Peak, p.Tables, p.Values, p.Level)
				}
			}
		})
	}
}

// TestSettingsSeries is the process that BenchmarkSettings measures.
func TestSettingsSeries(t *testing.T) {
	name, out := os.Getenv("DUNLIN_SETTINGS"), os.Getenv("DUNLIN_SETTINGS_OUT")
	i := slices.IndexFunc(settings, func(s struct {
		name string
		tune func(badger.Options) badger.Options
		env  string
	}) bool {
		return s.name == name
	})
	if i < 0 || out == "" {
		t.Skip("only for BenchmarkSettings")
	}
	o := Options{Partitions: 1024, Logger: slog.New(slog.DiscardHandler), tune: settings[i].tune}
	if *settingsOS {
		o.Durability = OS
	}
	path := t.TempDir()
	keys := *settingsKeys / writers * writers
	var phases []phase
	s, d := openTest(t, path, o)
	key := func(i int) Key { return Key{i * 7919 % 1024, "bench", fmt.Sprintf("key-%08d", i)} }
	var next atomic.Int64
	mint := func(k Key, random *rand.Rand) error {
		value := make([]byte, *settingsValue)
		for at := 0; at+8 <= len(value); at += 8 {
			*(*[8]byte)(value[at:]) = [8]byte{byte(random.Uint32()), byte(random.Uint32()), byte(at)}
		}
		_, _, err := s.Mint(t.Context(), k, vclock.Write{Value: value, LastWriteWins: true}, nil)
		return err
	}
	fill := func(random *rand.Rand) error { return mint(key(int(next.Add(1))-1), random) }
	overwrite := func(random *rand.Rand) error { return mint(key(random.IntN(keys)), random) }
	read := func(random *rand.Rand) error {
		st, err := s.Get(key(random.IntN(keys)))
		if err == nil && !st.Found {
			err = errors.New("not found")
		}
		return err
	}
	run := func(name string, ops int, op func(*rand.Rand) error) {
		p, err := measurePhase(s, name, ops, op)
		if err != nil {
			t.Fatal(err)
		}
		phases = append(phases, p)
	}
	end := collect(s)
	run("fill", keys, fill)
	run("get", keys, read)
	run("put", *settingsPuts/3, overwrite)
	run("more", *settingsPuts-*settingsPuts/3, overwrite)
	end()
	closeTest(t, s, d)
	s, _ = openTest(t, path, o)
	end = collect(s)
	defer end()
	run("put2", *settingsPuts/3, overwrite)
	run("get2", keys, read)
	text, err := json.Marshal(phases)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(out, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// writers is what one of three nodes gets of 64 connections, roughly.
const writers = 24

func measurePhase(s *Store, name string, ops int, op func(*rand.Rand) error) (phase, error) {
	before := sampleSelf()
	begin := time.Now()
	took := make([][]time.Duration, writers)
	failed := make([]error, writers)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(w), uint64(ops)))
			for range ops / writers {
				start := time.Now()
				if failed[w] = op(random); failed[w] != nil {
					return
				}
				took[w] = append(took[w], time.Since(start))
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(begin)
	flushes, done := sampleSelf().flushes-before.flushes, ops/writers*writers
	settleBadger(s)
	after := sampleSelf()
	all := slices.Sorted(slices.Values(slices.Concat(took...)))
	per := func(n float64) float64 { return n / float64(done) }
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	p := phase{
		Name: name, Ops: done, CPU: per(float64((after.cpu - before.cpu).Microseconds())), Rate: float64(done) / elapsed.Seconds(),
		Flushes: per(float64(flushes)), Written: per(float64(after.written-before.written) / 1024),
		Anon: after.anon, Mapped: after.mapped, Peak: after.peak,
	}
	if len(all) > 0 {
		p.P50, p.P99, p.Max = ms(all[len(all)/2]), ms(all[len(all)*99/100]), ms(all[len(all)-1])
	}
	lsm, vlog := s.DataBytes()
	p.Tables, p.Values, p.Level = float64(lsm)/(1<<20), float64(vlog)/(1<<20), float64(s.db.Levels()[0].NumTables)
	return p, errors.Join(failed...)
}

// settleBadger waits until what badger does in the background costs next to nothing, or half a minute.
func settleBadger(*Store) {
	last := sampleSelf().cpu
	for range 60 {
		<-time.After(500 * time.Millisecond)
		now := sampleSelf().cpu
		if now-last < 20*time.Millisecond {
			return
		}
		last = now
	}
}

type selfSample struct {
	cpu                time.Duration
	flushes            int64
	written            int64
	anon, mapped, peak float64
}

// sampleSelf reads /proc.
func sampleSelf() (s selfSample) {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) == nil {
		s.cpu = time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	number := func(text, name string) int64 {
		for line := range strings.Lines(text) {
			if rest, ok := strings.CutPrefix(line, name); ok {
				n, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
				return n
			}
		}
		return 0
	}
	if runtime.GOOS != "linux" {
		return s
	}
	io, _ := os.ReadFile("/proc/self/io")
	s.written = number(string(io), "write_bytes:")
	status, _ := os.ReadFile("/proc/self/status")
	for name, to := range map[string]*float64{"RssAnon:": &s.anon, "RssFile:": &s.mapped, "VmHWM:": &s.peak} {
		*to = float64(number(string(status), name)) / 1024
	}
	disks, _ := os.ReadFile("/proc/diskstats")
	for line := range strings.Lines(string(disks)) {
		if f := strings.Fields(line); len(f) >= 20 && !strings.HasPrefix(f[2], "loop") {
			n, _ := strconv.ParseInt(f[18], 10, 64)
			s.flushes += n
		}
	}
	return s
}
