package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/dunlindb/dunlin/client"
	"github.com/dunlindb/dunlin/internal/fleet"
	"github.com/dunlindb/dunlin/internal/loadgen"
)

const (
	founders = 4
	replicas = 3
	// backTime is how long disk space may take to come back after a change: the nodes give it back within a minute.
	backTime = 90 * time.Second
)

// joins is what it costs that a fifth node joins four.
type joins struct {
	Settings settings `json:"settings"`
	Machine  machine  `json:"machine"`
	Version  string   `json:"version"`
	Joins    []joined `json:"joins"`
}

// Kinds of clients beside a join.
const (
	noClients   = "none"
	asMuchAs    = "closed loop"
	atGivenRate = "open loop"
)

// joined is one join.
type joined struct {
	Clients    string  `json:"clients"`
	Seconds    float64 `json:"seconds"` // from the decision until no older epoch lives
	Partitions int     `json:"partitions"`
	All        int     `json:"replicas_of_partitions"` // of all members
	Objects    int64   `json:"objects"`                // sent to the joiner
	Bytes      int64   `json:"bytes"`
	Stored     float64 `json:"stored_bytes"` // by the founders before
	// Without clients only: of the founders' files when they had become smaller, or after backTime.
	Back     float64         `json:"stored_bytes_after"`
	BackTime float64         `json:"seconds_until_back"`
	Before   loadgen.Latency `json:"before"`
	During   loadgen.Latency `json:"during"`
	Rates    [2]float64      `json:"ops_per_s"` // before, during
	Errors   int64           `json:"errors"`
	Other    float64         `json:"other_cpu"`
	Leave    float64         `json:"leave_seconds"` // of the same node afterwards
}

// share is the joiner's fair share of what n members have.
func (j joined) share(of float64) float64 { return of / (founders + 1) }

// colony is four members, and a node that joins them and leaves again.
type colony struct {
	settings settings
	nodes    []*fleet.Node
	target   loadgen.HTTPTarget
	admin    *client.Client // of the first member
	progress io.Writer
}

func measureJoins(ctx context.Context, s settings, progress io.Writer) (_ *joins, err error) {
	remove, err := s.ownData()
	if err != nil {
		return nil, err
	}
	defer remove()
	v, err := dunlin(ctx, s) // builds the program
	if err != nil {
		return nil, err
	}
	c, err := newColony(s, progress)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	if err := c.found(ctx); err != nil {
		return nil, err
	}
	out := &joins{Settings: s, Machine: thisMachine(), Version: v.version}
	for range s.Rounds {
		for _, clients := range []string{noClients, asMuchAs, atGivenRate} {
			j, err := c.join(ctx, clients)
			if err != nil {
				return nil, fmt.Errorf("a join beside clients (%s): %w", clients, err)
			}
			fmt.Fprintf(progress, "join, clients %-12s %.1f s, %d bytes, %.0f/s then %.0f/s, p99 %.0f us then %.0f us, left in %.1f s\n",
				clients, j.Seconds, j.Bytes, j.Rates[0], j.Rates[1], j.Before.P99, j.During.P99, j.Leave)
			out.Joins = append(out.Joins, j)
		}
	}
	return out, nil
}

func newColony(s settings, progress io.Writer) (*colony, error) {
	program := s.dunlin
	if program == "" {
		program = filepath.Join(s.data, "dunlin-program")
	}
	ports, err := fleet.FreePorts("127.0.0.1", 3*(founders+1))
	if err != nil {
		return nil, err
	}
	at := func(node, which int) string { return fmt.Sprintf("127.0.0.1:%d", ports[3*node+which]) }
	var seeds []string
	for i := range founders {
		seeds = append(seeds, fmt.Sprintf("n%d@%s", i+1, at(i, 2)))
	}
	c := &colony{settings: s, progress: progress}
	c.target = loadgen.HTTPTarget{Bucket: "bench", Timeout: opTime, Write: url.Values{"w": {"2"}}, Read: url.Values{"r": {"2"}}}
	for i := range founders + 1 {
		name := fmt.Sprintf("n%d", i+1)
		n := &fleet.Node{
			Name: name, Data: filepath.Join(s.data, name), Log: filepath.Join(s.data, name+".log"),
			HTTP: at(i, 0), RPC: at(i, 1), Gossip: at(i, 2), Program: program, Env: fleet.WithoutSettings(os.Environ()),
		}
		n.Args = n.Serve("127.0.0.1", seeds)
		c.nodes = append(c.nodes, n)
		if i < founders {
			c.target.URLs = append(c.target.URLs, &url.URL{Scheme: "http", Host: n.HTTP})
		}
	}
	return c, nil
}

// found starts the members and writes all keys.
func (c *colony) found(ctx context.Context) (err error) {
	for _, n := range c.nodes[:founders] {
		if err := n.Start(); err != nil {
			return err
		}
	}
	var urls []string
	for _, n := range c.nodes[:founders] {
		urls = append(urls, n.URL(""))
	}
	if err := until(ctx, func() error { return dunlinReady(ctx, urls) }); err != nil {
		return err
	}
	if c.admin, err = client.New(urls[:1], client.Options{Tries: 1}); err != nil {
		return err
	}
	return loadgen.Preload(ctx, c.spec(asMuchAs), c.target.Dialer(), new(atomic.Int64))
}

func (c *colony) spec(clients string) loadgen.Spec {
	s := loadgen.Spec{
		Connections: c.settings.Connections, Dist: loadgen.Uniform, Keys: c.settings.Keys, Warmup: c.settings.Warmup, Duration: c.settings.Window,
		Mix: loadgen.Mix{loadgen.Put: 1, loadgen.Get: 1}, Verify: true, ValueSize: loadgen.SizeRange{Min: c.settings.Value, Max: c.settings.Value}, Seed: 1,
	}
	if clients == atGivenRate {
		s.Rate, s.Arrivals = background*c.settings.Rate, loadgen.Poisson
	}
	return s
}

func (c *colony) load(ctx context.Context, clients string) (*loadgen.Result, error) {
	var pids []int
	for _, n := range c.nodes {
		if n.Process.Running() {
			pids = append(pids, n.PID())
		}
	}
	return loadgen.Run(ctx, c.spec(clients), c.target.Dialer(), loadgen.Options{PIDs: pids})
}

// join lets the fifth node join with an empty directory, and leave again.
func (c *colony) join(ctx context.Context, clients string) (j joined, err error) {
	j.Clients = clients
	if err := sleep(ctx, healPause); err != nil {
		return j, err
	}
	if clients != noClients {
		before, err := c.load(ctx, clients)
		if err != nil {
			return j, err
		}
		j.Before, j.Rates[0], j.Errors = before.Latency, before.PerSecond, before.Errors+before.Unsent
	}
	if j.Stored, err = c.stored(ctx); err != nil {
		return j, err
	}
	last := c.nodes[founders]
	if err := os.RemoveAll(last.Data); err != nil {
		return j, err
	}
	if err := last.Start(); err != nil {
		return j, err
	}
	begun, err := c.awaitChange(ctx, true)
	if err != nil {
		return j, err
	}
	meanwhile := make(chan error, 1)
	if clients == noClients {
		meanwhile <- nil
	} else {
		go func() {
			during, err := c.load(ctx, clients)
			if err == nil {
				j.During, j.Rates[1], j.Errors = during.Latency, during.PerSecond, j.Errors+during.Errors+during.Unsent
				if during.Machine != nil {
					j.Other = during.Machine.Other
				}
			}
			meanwhile <- err
		}()
	}
	ended, err := c.awaitChange(ctx, false)
	if err = errors.Join(err, <-meanwhile); err != nil {
		return j, err
	}
	j.Seconds = ended.Sub(begun).Seconds()
	if err := c.moved(ctx, last, &j); err != nil {
		return j, err
	}
	if clients == noClients {
		if err := c.back(ctx, &j); err != nil {
			return j, err
		}
	}
	return j, c.leave(ctx, last, &j)
}

// awaitChange waits until a change is under way, or no longer is, as the first member knows.
func (c *colony) awaitChange(ctx context.Context, changing bool) (time.Time, error) {
	err := until(ctx, func() error {
		t, err := c.admin.Transfers(ctx)
		if err == nil && t.Changing != changing {
			err = fmt.Errorf("epoch %d, waiting for %v", t.Epoch, t.WaitingFor)
		}
		return err
	})
	return time.Now(), err
}

// moved asks the joiner what it was sent, and what it owns now.
func (c *colony) moved(ctx context.Context, last *fleet.Node, j *joined) error {
	o, err := client.New([]string{last.URL("")}, client.Options{Tries: 1})
	if err != nil {
		return err
	}
	defer o.Close()
	t, err := o.Transfers(ctx)
	if err != nil {
		return err
	}
	j.Objects, j.Bytes = t.Objects, t.Bytes
	members, err := c.admin.Members(ctx)
	for _, m := range members {
		j.All += m.Partitions
		if m.Name == last.Name {
			j.Partitions = m.Partitions
		}
	}
	return err
}

// stored is what the founders' tables and logs take.
func (c *colony) stored(ctx context.Context) (sum float64, err error) {
	for _, n := range c.nodes[:founders] {
		body, err := fetch(ctx, n.URL("/metrics"))
		if err != nil {
			return 0, err
		}
		lines := bufio.NewScanner(bytes.NewReader(body))
		for lines.Scan() {
			if value, ok := strings.CutPrefix(lines.Text(), "dunlin_storage_lsm_bytes "); ok {
				x, err := strconv.ParseFloat(value, 64)
				if err != nil {
					return 0, err
				}
				sum += x
			}
		}
	}
	return sum, nil
}

// back waits until a tenth of the founders' disks is free again, or for backTime.
func (c *colony) back(ctx context.Context, j *joined) (err error) {
	for begin := time.Now(); ; {
		if j.Back, err = c.stored(ctx); err != nil {
			return err
		}
		j.BackTime = time.Since(begin).Seconds()
		if j.Back < 0.9*j.Stored || j.BackTime > backTime.Seconds() {
			return nil
		}
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
	}
}

func (c *colony) leave(ctx context.Context, last *fleet.Node, j *joined) error {
	if _, err := c.admin.Apply(ctx, client.Change{Action: "leave", Node: last.Name}); err != nil {
		return err
	}
	begin := time.Now()
	at, err := c.awaitChange(ctx, false)
	if err != nil {
		return err
	}
	j.Leave = at.Sub(begin).Seconds()
	return end(last)
}

// end ends one node's process.
func end(n *fleet.Node) error {
	if !n.Process.Running() {
		return nil
	}
	n.Terminate()
	select {
	case <-n.Done():
		return nil
	case <-time.After(stopTime):
		err := n.Signal(syscall.SIGKILL)
		<-n.Done()
		return errors.Join(fmt.Errorf("%s did not end within %v and was killed", n.Name, stopTime), err)
	}
}

func (c *colony) stop() error {
	if c.admin != nil {
		c.admin.Close()
	}
	var errs []error
	for _, n := range c.nodes {
		if n.Process.Running() {
			n.Terminate() // all at the same time
		}
	}
	for _, n := range c.nodes {
		errs = append(errs, end(n))
	}
	return errors.Join(errs...)
}

func (j *joins) of(clients string, value func(joined) float64) (out []float64) {
	for _, x := range j.Joins {
		if x.Clients == clients {
			out = append(out, value(x))
		}
	}
	return out
}

func (j *joins) markdown() string {
	var b strings.Builder
	s := j.Settings
	fmt.Fprintf(&b, "Measured on %v. %s. Four members and a fifth process that joins, N=3, %d keys with values of %d bytes, %s. Median [least to most].\n\n",
		j.Machine, j.Version, s.Keys, s.Value, s.inRounds())
	other := median(append(j.of(asMuchAs, func(x joined) float64 { return x.Other }), j.of(atGivenRate, func(x joined) float64 { return x.Other })...))
	if other > disturbed {
		fmt.Fprintf(&b, "**Preliminary:** other work used %.0f%% of the machine meanwhile (median).\n\n", 100*other)
	}
	fair := func(x joined) float64 { return x.share(float64(s.Keys * replicas)) }
	mega := func(f func(joined) float64) func(joined) float64 {
		return func(x joined) float64 { return f(x) / 1e6 }
	}
	fmt.Fprintf(&b, "| clients | %s | %s, %d connections | %s, %.0f/s |\n| --- | --- | --- | --- |\n", noClients, asMuchAs, s.Connections, atGivenRate, background*s.Rate)
	row := func(what string, cell func(clients string) string) {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", what, cell(noClients), cell(asMuchAs), cell(atGivenRate))
	}
	all := func(value func(joined) float64) func(string) string {
		return func(clients string) string { return spread(j.of(clients, value)) }
	}
	loaded := func(value func(joined) float64) func(string) string {
		return func(clients string) string {
			if clients == noClients {
				return ""
			}
			return spread(j.of(clients, value))
		}
	}
	row("from the decision to the end, s", all(func(x joined) float64 { return x.Seconds }))
	row("sent to the joiner, MB", all(mega(func(x joined) float64 { return float64(x.Bytes) })))
	row("of its fair share of the members' files", func(clients string) string {
		if clients != noClients { // their files hold what was overwritten, too
			return ""
		}
		return spread(j.of(clients, func(x joined) float64 { return float64(x.Bytes) / x.share(x.Stored) }))
	})
	row("objects, of its fair share of all copies", all(func(x joined) float64 { return float64(x.Objects) / fair(x) }))
	row("partitions, of its fair share", all(func(x joined) float64 { return float64(x.Partitions) / x.share(float64(x.All)) }))
	row("operations/s before", loaded(func(x joined) float64 { return x.Rates[0] }))
	row("and meanwhile", loaded(func(x joined) float64 { return x.Rates[1] }))
	row("p99 before, ms", loaded(func(x joined) float64 { return x.Before.P99 / 1e3 }))
	row("and meanwhile", loaded(func(x joined) float64 { return x.During.P99 / 1e3 }))
	row("operations that failed", loaded(func(x joined) float64 { return float64(x.Errors) }))
	row("leave of the same node, s", all(func(x joined) float64 { return x.Leave }))
	back := j.of(noClients, func(x joined) float64 { return x.BackTime })
	fmt.Fprintf(&b, "\nFiles of the four members: %s MB before the join without clients, %s MB %s s after its end.\n",
		spread(j.of(noClients, mega(func(x joined) float64 { return x.Stored }))), spread(j.of(noClients, mega(func(x joined) float64 { return x.Back }))), spread(back))
	return b.String()
}
