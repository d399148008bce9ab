package fleet

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// Node is one node: a place, and at most one process at a time. Its methods are for one goroutine.
type Node struct {
	Name, Data, Log   string // Data and Log are paths. Log is where the processes write what they print; it only grows
	HTTP, RPC, Gossip string // addresses to listen on, host:port
	Program           string // path
	Args, Env         []string

	// Launch starts the process where it belongs, such as in a network namespace; nil: here.
	Launch func(start func() error) error

	// Process is the latest one, nil before the first.
	*Process
}

// URL is the address for clients, with a path.
func (n *Node) URL(path string) string { return "http://" + n.HTTP + path }

// Serve are the arguments that make the program a node of a fleet, which stops when its stdin does: see Start.
// The others are reached by advertise and the seeds, such as n1@127.0.0.1:8200.
func (n *Node) Serve(advertise string, seeds []string, more ...string) []string {
	return append([]string{
		"serve", "--stop-with-stdin", "--name", n.Name, "--data", n.Data,
		"--http", n.HTTP, "--rpc", n.RPC, "--gossip", n.Gossip, "--advertise", advertise, "--seeds", strings.Join(seeds, ","),
	}, more...)
}

// WithoutSettings is an environment without the settings of nodes.
func WithoutSettings(environ []string) []string {
	out := make([]string, 0, len(environ))
	for _, e := range environ {
		if !strings.HasPrefix(e, "DUNLIN_") {
			out = append(out, e)
		}
	}
	return out
}

// Start starts a process of the node, whose stdin ends when this process does. The one before must have ended.
func (n *Node) Start() error {
	log, err := os.OpenFile(n.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("log of %s: %w", n.Name, err)
	}
	defer log.Close() // the process has its own copy
	cmd := exec.Command(n.Program, n.Args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = n.Env, log, log
	// A group of its own: Ctrl-C in the terminal is for us, who stop the nodes in our own way.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	alive, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("starting %s: %w", n.Name, err)
	}
	launch := n.Launch
	if launch == nil {
		launch = func(start func() error) error { return start() }
	}
	if err := launch(cmd.Start); err != nil {
		return fmt.Errorf("starting %s: %w", n.Name, err)
	}
	p := &Process{cmd: cmd, alive: alive, log: n.Log, done: make(chan struct{})}
	n.Process = p
	go func() {
		_ = cmd.Wait() // the state is in cmd.ProcessState
		close(p.done)
	}()
	return nil
}

// Process is one process of a node. A nil one has ended. It is safe for concurrent use.
type Process struct {
	cmd   *exec.Cmd
	alive io.Closer
	log   string
	done  chan struct{}
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Running reports whether the process has not ended yet.
func (p *Process) Running() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Signal sends a signal. A process that has ended takes it, too.
func (p *Process) Signal(s os.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("%v to process %d: %w", s, p.PID(), err)
	}
	return nil
}

// Terminate asks the process to stop, in both ways that it knows.
func (p *Process) Terminate() {
	_ = p.Signal(syscall.SIGTERM) // it stops with its stdin, too
	_ = p.alive.Close()
}

// State tells how the process ended, once it has; nil before.
func (p *Process) State() *os.ProcessState {
	if p.Running() {
		return nil
	}
	return p.cmd.ProcessState
}

// Words tell how the process ended, with the last line that it printed when it ended by itself.
func (p *Process) Words() string {
	state := p.State()
	if state == nil {
		return "running"
	}
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return state.String()
	}
	if line := lastLine(p.log); line != "" {
		return state.String() + ": " + line
	}
	return state.String()
}

// lastLine is the last line of a file that is not empty.
func lastLine(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	const tail = 4 << 10
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(0, size-tail), io.SeekStart)
	}
	text, _ := io.ReadAll(io.LimitReader(f, tail))
	text = bytes.TrimSpace(text)
	return string(text[bytes.LastIndexByte(text, '\n')+1:])
}
