package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/dunlindb/dunlin/internal/loadgen"
)

// nodes is the size of a cluster that does not say another.
const nodes = 3

// server is one of those that are measured.
type server struct {
	name     string
	version  string // one line with version and settings that matter
	volatile bool   // keeps nothing over a restart
	command  func(node int, dir string) (*exec.Cmd, error)
	ready    func(ctx context.Context) error // tried until it succeeds
	loads    []load
	loaded   bool // has all keys

	// Of Dunlin only:
	size     int // processes; 0: nodes
	target   loadgen.HTTPTarget
	urls     []string       // of its nodes
	profiles []string       // addresses where their profiles are served, if they are
	others   loadgen.Dialer // clients that leave the last node out
}

// load is one load on a server.
type load struct {
	name string
	mix  loadgen.Mix
	open bool
	dial loadgen.Dialer
	dist string // "": uniform
}

// Names of the loads: what is compared with what.
const (
	loadPut    = "PUT"
	loadGet    = "GET, newest"
	loadGetOne = "GET, one replica"
	loadMix    = "PUT and GET, zipfian"
	loadOpen   = "PUT and GET, open loop"
)

// loads of a server by how it writes and reads; a nil dialer leaves one out.
func loadsOf(s settings, put, newest, one loadgen.Dialer) []load {
	read := newest
	if read == nil {
		read = one
	}
	half := loadgen.Mix{loadgen.Put: 1, loadgen.Get: 1}
	out := []load{{name: loadPut, mix: loadgen.Mix{loadgen.Put: 1}, dial: put}}
	if newest != nil {
		out = append(out, load{name: loadGet, mix: loadgen.Mix{loadgen.Get: 1}, dial: newest})
	}
	if one != nil {
		out = append(out, load{name: loadGetOne, mix: loadgen.Mix{loadgen.Get: 1}, dial: one})
	}
	out = append(out, load{name: loadMix, mix: half, dial: read, dist: loadgen.Zipfian})
	if s.Rate > 0 {
		out = append(out, load{name: loadOpen, mix: half, open: true, dial: read})
	}
	return out
}

// startTime bounds how long a cluster may take to be ready.
const startTime = 60 * time.Second

// stopTime is how long a process may take to end after SIGTERM.
const stopTime = 30 * time.Second

// cluster is a server's processes.
type cluster struct {
	procs []*exec.Cmd
	ended []chan error
	logs  []*os.File
}

// startCluster starts the processes and waits until they serve.
func startCluster(ctx context.Context, v *server, dir string) (*cluster, error) {
	c := &cluster{}
	fail := func(err error) (*cluster, error) { return nil, errors.Join(err, c.stop()) }
	for i := range cmp.Or(v.size, nodes) {
		if err := c.launch(v, dir, i); err != nil {
			return fail(err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for {
		err := v.ready(ctx)
		if err == nil {
			return c, nil
		}
		if gone := c.gone(); gone != nil {
			return fail(gone)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return fail(fmt.Errorf("not ready within %v: %w; the first node's log: %s", startTime, err, tail(c.logs[0].Name())))
		}
	}
}

// gone tells which processes ended by themselves.
func (c *cluster) gone() error {
	var errs []error
	for i, e := range c.ended {
		select {
		case ended := <-e:
			e <- ended
			errs = append(errs, fmt.Errorf("node %d ended (%v); its log: %s", i+1, ended, tail(c.logs[i].Name())))
		default:
		}
	}
	return errors.Join(errs...)
}

func nodeDir(dir string, node int) string { return filepath.Join(dir, fmt.Sprintf("n%d", node+1)) }

// launch starts one process, for the first time or again.
func (c *cluster) launch(v *server, dir string, node int) error {
	own := nodeDir(dir, node)
	if err := os.MkdirAll(own, 0o755); err != nil {
		return err
	}
	cmd, err := v.command(node, own)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(own+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	c.logs = append(c.logs, log)
	cmd.Stdout, cmd.Stderr = log, log
	// A signal of the terminal is for this process, which then stops its children.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if node < len(c.procs) {
		c.procs[node], c.ended[node] = cmd, ended
	} else {
		c.procs, c.ended = append(c.procs, cmd), append(c.ended, ended)
	}
	return nil
}

func (c *cluster) pids() []int {
	var out []int
	for _, p := range c.procs {
		out = append(out, p.Process.Pid)
	}
	return out
}

// stop ends the processes and waits for them.
func (c *cluster) stop() error {
	var errs []error
	for _, p := range c.procs {
		_ = p.Process.Signal(syscall.SIGTERM) // it may have ended
	}
	for i, p := range c.procs {
		select {
		case <-c.ended[i]:
		case <-time.After(stopTime):
			errs = append(errs, fmt.Errorf("process %d did not end within %v and was killed", p.Process.Pid, stopTime), p.Process.Kill())
			<-c.ended[i]
		}
	}
	for _, l := range c.logs {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// tail is the end of a log.
func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b[max(0, len(b)-500):]))
}

// find looks for a program in the directory given, then in the PATH.
func find(bin, name string) (string, error) {
	if bin != "" {
		if path := filepath.Join(bin, name); executable(path) {
			return filepath.Abs(path)
		}
	}
	return exec.LookPath(name)
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// installed are the servers to be measured.
func installed(ctx context.Context, s settings, progress io.Writer) ([]*server, error) {
	known := map[string]func(context.Context, settings) (*server, error){
		"dunlin": dunlin, "dunlin-os": dunlinOS, "etcd": etcd, "etcd-os": etcdOS, "nats": natsDefault, "nats-always": natsAlways, "redis": redisMemory, "redis-always": redisAlways,
	}
	names := []string{"dunlin", "dunlin-os", "etcd", "etcd-os", "nats", "nats-always", "redis", "redis-always"}
	asked := s.only != ""
	if asked {
		names = strings.Split(s.only, ",")
	}
	var out []*server
	for _, name := range names {
		make, ok := known[name]
		if !ok {
			return nil, fmt.Errorf("--servers: %q is none of dunlin, dunlin-os, etcd, etcd-os, nats, nats-always, redis, redis-always", name)
		}
		v, err := make(ctx, s)
		switch {
		case errors.Is(err, exec.ErrNotFound) && !asked:
			fmt.Fprintf(progress, "%s is left out: %v\n", name, err)
			continue
		case err != nil:
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		v.name = name
		out = append(out, v)
	}
	return out, nil
}

// firstLine is the first line that a program prints.
func firstLine(ctx context.Context, program string, args ...string) (string, error) {
	b, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", program, err, b)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return line, nil
}
