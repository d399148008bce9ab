package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/dunlindb/dunlin/client"
	"github.com/dunlindb/dunlin/internal/loadgen"
)

type benchCmd struct {
	nodes    `embed:""`
	Bucket   string        `default:"bench" placeholder:"NAME" help:"Bucket that is read and written. Its keys key-000000000000 and on are overwritten and deleted."`
	Conflict string        `placeholder:"lww|siblings" help:"Set the bucket's property first. Default: lww for the bucket \"bench\", else as it is. In a bucket of siblings each write carries the newest context seen."`
	Duration time.Duration `placeholder:"DURATION" help:"Length of the measurement. Default: 10s, unless --ops is given."`
	Ops      int64         `placeholder:"NUMBER" help:"Stop after so many measured operations."`
	Warmup   time.Duration `default:"2s" placeholder:"DURATION" help:"Load before the measurement, which does not count."`
	Preload  bool          `help:"Write every key once first, so that reads find them."`

	Connections int     `short:"c" default:"64" placeholder:"NUMBER" help:"Connections, each with one operation under way at most, 1..4096."`
	Rate        float64 `default:"0" placeholder:"NUMBER" help:"Operations per second of an open loop; latency counts from when an operation was due. 0: closed loop, each connection sends when it was answered."`
	Arrivals    string  `default:"poisson" placeholder:"poisson|even" help:"How the operations of an open loop are spaced."`

	Mix       loadgen.Mix       `default:"put=50,get=50" placeholder:"KIND=SHARE" help:"Shares of put, get and delete."`
	Dist      string            `default:"uniform" placeholder:"uniform|zipfian|latest" help:"Which keys: all alike, few of them hot, or writes in turn with reads of what was written last."`
	Theta     float64           `default:"0.99" placeholder:"NUMBER" help:"Skew of zipfian and latest, above 0 and below 1."`
	Keys      int               `default:"100000" placeholder:"NUMBER" help:"Size of the key space."`
	ValueSize loadgen.SizeRange `default:"1024" placeholder:"BYTES|MIN..MAX" help:"Size of the values, e.g. 1KiB or 100..2000."`
	Seed      uint64            `default:"1" placeholder:"NUMBER" help:"The same seed draws the same operations."`
	Verify    bool              `default:"true" negatable:"" help:"Count a value that no load has written to its key as an error."`

	R       string        `name:"r" placeholder:"1..N|one|quorum|all" help:"Replicas to hear from with each read."`
	W       string        `name:"w" placeholder:"1..N|one|quorum|all" help:"Replicas to wait for with each write."`
	DW      string        `name:"dw" placeholder:"0..W" help:"Of those, how many must have it on disk."`
	Sloppy  string        `placeholder:"true|false" help:"Whether other nodes may stand in for replicas that are down. Default: the node's, true."`
	Timeout time.Duration `default:"5s" placeholder:"DURATION" help:"Time limit of one operation, at most 60s."`

	Pid  []int  `placeholder:"PID" help:"Processes on this machine whose CPU and memory are measured: the servers."`
	JSON string `name:"json" type:"path" placeholder:"FILE" help:"Write settings, results and a point for each second to FILE (-: stdout)."`
	Plot string `type:"path" placeholder:"FILE.png" help:"Draw latency and rate over time."`
}

// Help is shown below the flags of bench.
func (benchCmd) Help() string {
	return `Against a cluster that dunlin dev started, reads and writes in equal parts, spread over its nodes:

  dunlin bench --preload --url http://127.0.0.1:8001,http://127.0.0.1:8002,http://127.0.0.1:8003

A closed loop finds how much the cluster can do; but its latencies flatter, because a server that stalls is not asked
meanwhile. How long users wait at a given load is measured with --rate. Interrupted, it reports what it has.

Exit code 1: some operation failed or was never sent.`
}

const (
	benchBucket  = "bench"
	longestBench = 60 * time.Second // time limit that a node takes
)

// Run measures.
func (c *benchCmd) Run(ctx context.Context, s *streams) error {
	spec, err := c.spec()
	if err != nil {
		return err
	}
	if err := c.checkFiles(); err != nil {
		return err
	}
	target, err := c.prepare(ctx)
	if err != nil {
		return err
	}
	dial := target.Dialer()
	if c.Preload {
		if err := preload(ctx, s.err, spec, dial); err != nil {
			return err
		}
	}
	fmt.Fprintf(s.err, "%v\n", spec)
	if spec.Warmup > 0 {
		fmt.Fprintf(s.err, "warming up for %v\n", spec.Warmup)
	}
	result, err := loadgen.Run(ctx, spec, dial, loadgen.Options{
		PIDs: c.Pid, Progress: func(p loadgen.Point) { fmt.Fprintln(s.err, benchLine(p)) },
	})
	if err != nil {
		return plain(err)
	}
	return c.report(s, result)
}

// spec checks the flags.
func (c *benchCmd) spec() (loadgen.Spec, error) {
	if c.Duration == 0 && c.Ops == 0 {
		c.Duration = 10 * time.Second
	}
	spec := loadgen.Spec{
		Connections: c.Connections, Rate: c.Rate, Mix: c.Mix, Dist: c.Dist, Keys: c.Keys, ValueSize: c.ValueSize,
		Warmup: c.Warmup, Duration: c.Duration, Ops: c.Ops, Seed: c.Seed, Verify: c.Verify, Arrivals: c.Arrivals, Theta: c.Theta,
	}
	if err := spec.Validate(); err != nil {
		var field *loadgen.Invalid
		if errors.As(err, &field) {
			err = fmt.Errorf("--%s: %w", strings.ReplaceAll(field.Field, "_", "-"), field.Err)
		}
		return spec, err
	}
	if spec.Rate == 0 {
		spec.Arrivals = ""
	}
	if spec.Dist == loadgen.Uniform {
		spec.Theta = 0
	}
	if c.Timeout <= 0 || c.Timeout > longestBench {
		return spec, fmt.Errorf("--timeout: %v is out of range; use more than 0 and at most %v", c.Timeout, longestBench)
	}
	if c.Conflict != "" && c.Conflict != "lww" && c.Conflict != "siblings" {
		return spec, fmt.Errorf("--conflict: %q is neither lww nor siblings", c.Conflict)
	}
	if c.Sloppy != "" {
		if _, err := strconv.ParseBool(c.Sloppy); err != nil {
			return spec, fmt.Errorf("--sloppy: %q is neither true nor false", c.Sloppy)
		}
	}
	for _, pid := range c.Pid {
		if err := loadgen.CheckProcess(pid); err != nil {
			return spec, fmt.Errorf("--pid: %w", err)
		}
	}
	return spec, nil
}

// checkFiles makes the files, so that a measurement is not lost to a path that
// cannot be written.
func (c *benchCmd) checkFiles() error {
	if c.Plot != "" && !strings.HasSuffix(c.Plot, ".png") {
		return fmt.Errorf("--plot: %s: only PNG is drawn; let the name end in .png", c.Plot)
	}
	for flag, path := range map[string]string{"--json": c.JSON, "--plot": c.Plot} {
		if path == "" || path == "-" {
			continue
		}
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return fmt.Errorf("%s: %w", flag, err)
		}
		if err := f.Close(); err != nil {
			return fmt.Errorf("%s: %w", flag, err)
		}
	}
	return nil
}

// prepare finds the nodes, and sets or asks how the bucket treats writes of
// existing keys.
func (c *benchCmd) prepare(ctx context.Context) (*loadgen.HTTPTarget, error) {
	cluster, err := c.connect(ctx, client.Options{Tries: 3})
	if err != nil {
		return nil, err
	}
	defer cluster.Close()
	t := &loadgen.HTTPTarget{Bucket: c.Bucket, Timeout: c.Timeout + slack, Write: url.Values{}, Read: url.Values{}}
	t.Header = "User-Agent: dunlin-bench\r\n"
	for _, e := range cluster.Endpoints() {
		u, err := url.Parse(e)
		if err != nil {
			return nil, fmt.Errorf("--url: %w", err)
		}
		t.URLs = append(t.URLs, u)
	}
	for name, value := range map[string]string{"w": c.W, "dw": c.DW, "sloppy": c.Sloppy, "timeout": c.Timeout.String()} {
		if value != "" {
			t.Write.Set(name, value)
		}
	}
	for name, value := range map[string]string{"r": c.R, "sloppy": c.Sloppy, "timeout": c.Timeout.String()} {
		if value != "" {
			t.Read.Set(name, value)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout+slack)
	defer cancel()
	conflict := c.Conflict
	if conflict == "" && c.Bucket == benchBucket {
		conflict = "lww"
	}
	b := cluster.Bucket(c.Bucket)
	if conflict != "" {
		if _, err := b.SetProperties(ctx, client.Properties{"conflict": conflict}); err != nil {
			return nil, fmt.Errorf("setting conflict=%s of bucket %s: %w", conflict, c.Bucket, plain(err))
		}
		t.Contexts = conflict == "siblings"
		return t, nil
	}
	p, err := b.Properties(ctx)
	if err != nil {
		return nil, fmt.Errorf("--bucket: %s: %w", c.Bucket, plain(err))
	}
	t.Contexts = p["conflict"] != "lww"
	return t, nil
}

// preload writes all keys, telling how far it is each second.
func preload(ctx context.Context, w io.Writer, spec loadgen.Spec, dial loadgen.Dialer) error {
	var done atomic.Int64
	begun := time.Now()
	told := make(chan struct{})
	stop := make(chan struct{})
	go func() {
		defer close(told)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				fmt.Fprintf(w, "preload: %d of %d keys\n", done.Load(), spec.Keys)
			case <-stop:
				return
			}
		}
	}()
	err := loadgen.Preload(ctx, spec, dial, &done)
	close(stop)
	<-told
	if err != nil {
		return plain(err)
	}
	fmt.Fprintf(w, "preload: %d keys in %.1fs\n", done.Load(), time.Since(begun).Seconds())
	return nil
}

// writeJSON writes the result to the file given, or stdout.
func (c *benchCmd) writeJSON(s *streams, r *loadgen.Result) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	b = append(b, '\n')
	if c.JSON == "-" {
		_, err = s.out.Write(b)
	} else {
		err = os.WriteFile(c.JSON, b, 0o644)
	}
	if err != nil {
		return fmt.Errorf("--json: %w", err)
	}
	return nil
}
