package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/pprof/profile"

	"github.com/dunlindb/dunlin/internal/loadgen"
)

// profiles are where the CPU of operations goes.
type profiles struct {
	Settings settings      `json:"settings"`
	Machine  machine       `json:"machine"`
	Version  string        `json:"version"`
	Loads    []profiledRun `json:"loads"`
}

type profiledRun struct {
	Load  string             `json:"load"`
	CPU   float64            `json:"server_cpu_us_per_op"`
	Parts map[string]float64 `json:"us_per_op"` // by name of a part
	Rate  float64            `json:"ops_per_s"`
	Other float64            `json:"other_cpu"`
}

// part is what a sample's time is counted as, by the first function from the inside that says so.
type part struct {
	name string
	// of what functions: prefixes of their names
	of []string
}

const systemCalls = "system calls: network"

// diskCalls are functions that make system calls for the disk; the others are nearly all for sockets.
var diskCalls = part{"system calls: disk", []string{"golang.org/x/sys/unix.Msync", "os.(*File)", "github.com/dgraph-io/"}}

// parts are asked in this order of each function of a stack, from the innermost on.
var parts = []part{
	{systemCalls, []string{"internal/runtime/syscall", "syscall."}},
	{"allocation", []string{"runtime.mallocgc", "runtime.newobject", "runtime.makeslice", "runtime.growslice"}},
	{"garbage collection", []string{"runtime.gcBgMarkWorker", "runtime.gcAssistAlloc", "runtime.bgsweep", "runtime.bgscavenge", "runtime.gcStart", "runtime.gcMark"}},
	{"scheduling of goroutines", []string{"runtime.mcall", "runtime.schedule", "runtime.mstart", "runtime.sysmon", "runtime.ready", "runtime.newproc"}},
	{"badger: search", []string{"github.com/dgraph-io/badger/v4.(*Txn).Get", "github.com/dgraph-io/badger/v4.(*DB).get", "github.com/dgraph-io/badger/v4.(*levelsController).get", "github.com/dgraph-io/badger/v4.(*levelHandler).get", "github.com/dgraph-io/badger/v4.(*Iterator)", "github.com/dgraph-io/badger/v4.(*Item)"}},
	{"badger: compaction and flush", []string{"github.com/dgraph-io/badger/v4.(*levelsController)", "github.com/dgraph-io/badger/v4.(*DB).flushMemtable", "github.com/dgraph-io/badger/v4.(*DB).handleMemTableFlush"}},
	{"badger: commit", []string{"github.com/dgraph-io/badger/v4.(*DB).doWrites", "github.com/dgraph-io/badger/v4.(*DB).writeRequests", "github.com/dgraph-io/badger/v4.(*Txn)", "github.com/dgraph-io/badger/v4.(*DB)"}},
	{"clocks and digests", []string{"github.com/dunlindb/dunlin/vclock."}},
	{"codec", []string{"github.com/dunlindb/dunlin/internal/wire."}},
	{"storage", []string{"github.com/dunlindb/dunlin/internal/storage."}},
	{"transport", []string{"github.com/dunlindb/dunlin/internal/transport."}},
	{"coordinator", []string{"github.com/dunlindb/dunlin/coordinator.", "github.com/dunlindb/dunlin/internal/node."}},
	{"metrics", []string{"github.com/prometheus/"}},
	{"routing", []string{"github.com/gorilla/mux."}},
	{"HTTP interface", []string{"github.com/dunlindb/dunlin/api."}},
	{"net/http", []string{"net/http.", "net/textproto.", "bufio."}},
}

// otherPart is all that no part names.
const otherPart = "the rest"

// partOf finds what a sample is counted as, from the names of its functions, the innermost first.
func partOf(stack []string) string {
	for i, function := range stack {
		for _, p := range parts {
			switch {
			case !p.has(function):
			case p.name == systemCalls && slices.ContainsFunc(stack[i:], diskCalls.has):
				return diskCalls.name
			default:
				return p.name
			}
		}
	}
	return otherPart
}

func (p part) has(function string) bool {
	return slices.ContainsFunc(p.of, func(prefix string) bool { return strings.HasPrefix(function, prefix) })
}

func stackOf(s *profile.Sample) (stack []string) {
	for _, l := range s.Location {
		for _, line := range l.Line {
			if line.Function != nil {
				stack = append(stack, line.Function.Name)
			}
		}
	}
	return stack
}

func measureProfiles(ctx context.Context, s settings, progress io.Writer) (_ *profiles, err error) {
	w, err := newWard(ctx, s, "profile", progress)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	if err := w.start(ctx); err != nil {
		return nil, err
	}
	spec := w.closedLoop()
	out := &profiles{Settings: s, Machine: thisMachine(), Version: w.server.version}
	var all []*profile.Profile
	for _, l := range w.server.loads {
		if l.open {
			continue
		}
		spec.Mix = l.mix
		run, got, err := profiled(ctx, w.server, w.cluster, spec, l)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", l.name, err)
		}
		all = append(all, got...)
		fmt.Fprintf(progress, "%-18s %8.0f/s  cpu %6.1f us/op\n", run.Load, run.Rate, run.CPU)
		out.Loads = append(out.Loads, *run)
	}
	if s.pgo != "" {
		if err := saveForCompiler(s.pgo, all); err != nil {
			return nil, fmt.Errorf("--pgo: %w", err)
		}
	}
	return out, nil
}

// saveForCompiler writes the samples of all profiles as one, for profile-guided optimization.
func saveForCompiler(path string, all []*profile.Profile) error {
	for _, p := range all {
		// Labels tell goroutines apart, and each one would be a sample of its own.
		for _, s := range p.Sample {
			s.Label, s.NumLabel, s.NumUnit = nil, nil, nil
		}
	}
	merged, err := profile.Merge(all)
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(merged.Write(f), f.Close())
}

// profiled puts a load on the cluster while all nodes are profiled.
func profiled(ctx context.Context, v *server, c *cluster, spec loadgen.Spec, l load) (*profiledRun, []*profile.Profile, error) {
	var wg sync.WaitGroup
	got := make([]*profile.Profile, len(v.profiles))
	errs := make([]error, len(v.profiles))
	for i, addr := range v.profiles {
		wg.Go(func() {
			select {
			case <-time.After(spec.Warmup):
			case <-ctx.Done():
			}
			got[i], errs[i] = fetchProfile(ctx, addr, spec.Duration)
		})
	}
	result, err := loadgen.Run(ctx, spec, l.dial, loadgen.Options{PIDs: c.pids()})
	wg.Wait()
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, nil, err
	}
	run := &profiledRun{Load: l.name, CPU: result.Servers.CPUPerOp, Rate: result.PerSecond, Parts: map[string]float64{}}
	if result.Machine != nil {
		run.Other = result.Machine.Other
	}
	var total int64
	for _, p := range got {
		for _, s := range p.Sample {
			total += s.Value[0]
		}
	}
	if total == 0 {
		return nil, nil, errors.New("the profiles are empty")
	}
	for _, p := range got {
		for _, s := range p.Sample {
			run.Parts[partOf(stackOf(s))] += run.CPU * float64(s.Value[0]) / float64(total)
		}
	}
	return run, got, nil
}

func fetchProfile(ctx context.Context, addr string, d time.Duration) (*profile.Profile, error) {
	url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", addr, int(d.Seconds()))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, res.Status)
	}
	return profile.Parse(res.Body)
}

func (p *profiles) markdown() string {
	var b strings.Builder
	s := p.Settings
	fmt.Fprintf(&b, "Measured on %v. Three nodes (%s), %d connections, %d keys, values of %d bytes; %v of each load.\n\n",
		p.Machine, p.Version, s.Connections, s.Keys, s.Value, s.Window)
	for _, l := range p.Loads {
		if l.Other > disturbed {
			fmt.Fprintf(&b, "**Preliminary:** other work used %.0f%% of the machine during %q.\n\n", 100*l.Other, l.Load)
		}
	}
	header, rule, total := "| part, us of the three servers per operation |", "| --- |", "| **all** |"
	for _, l := range p.Loads {
		header += " " + l.Load + " |"
		rule += " --- |"
		total += fmt.Sprintf(" **%.1f** |", l.CPU)
	}
	fmt.Fprintf(&b, "%s\n%s\n", header, rule)
	names := []string{}
	for _, part := range parts {
		names = append(names, part.name)
	}
	names = slices.Insert(names, 1, diskCalls.name)
	for _, name := range append(names, otherPart) {
		row := "| " + name + " |"
		for _, l := range p.Loads {
			row += fmt.Sprintf(" %.1f |", l.Parts[name])
		}
		fmt.Fprintln(&b, row)
	}
	fmt.Fprintln(&b, total)
	return b.String()
}
