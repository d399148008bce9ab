package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/dunlindb/dunlin/client"
	"github.com/dunlindb/dunlin/internal/fleet"
)

type devCmd struct {
	Nodes    int           `default:"3" placeholder:"1..9" help:"How many nodes."`
	Dir      string        `default:".dunlin" placeholder:"DIR" help:"Where data and logs of the nodes go: DIR/n1, DIR/n1.log, …"`
	Fresh    bool          `help:"Start over: delete what an earlier dev left in DIR, and nothing else."`
	PortBase int           `default:"8000" placeholder:"PORT" help:"Node i answers HTTP on this port + i, other nodes on + 100 + i, gossip on + 200 + i."`
	LogLevel string        `enum:"debug,info,warn,error" default:"info" placeholder:"debug|info|warn|error" help:"Least level in the nodes' logs."`
	Wait     time.Duration `default:"60s" placeholder:"DURATION" help:"How long the nodes may take to be ready."`
}

// Help is shown below the flags of dev.
func (devCmd) Help() string {
	return `Ctrl-C stops all nodes; started again, they go on with their data. A node that ended, e.g. by a pasted
kill -9, is started again by typing its name and Enter. DUNLIN_ variables do not reach the nodes.`
}

const (
	maxDevNodes = 9
	maxPortBase = 65535 - 2*100 - maxDevNodes
	devStopTime = 15 * time.Second // until a node that does not stop is killed
	readyPause  = 100 * time.Millisecond
	tellPause   = 3 * time.Second // between lines about what is waited for
)

// flock is a dev cluster: the nodes in order and what they tell.
type flock struct {
	cmd   *devCmd
	s     *streams
	dir   string
	nodes []*devNode
	ended chan ending // one message for each process that ended
	ready chan string // what became of nodes started again
}

// Run starts the nodes, watches over them, and stops them when ctx ends.
func (c *devCmd) Run(ctx context.Context, s *streams) error {
	if c.Nodes < 1 || c.Nodes > maxDevNodes {
		return fmt.Errorf("--nodes: %d is out of range; use 1..%d", c.Nodes, maxDevNodes)
	}
	if c.PortBase < 1 || c.PortBase > maxPortBase {
		return fmt.Errorf("--port-base: %d is out of range; use 1..%d", c.PortBase, maxPortBase)
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return fmt.Errorf("--dir: %w", err)
	}
	ctx, cancel := stopWithGoRun(ctx)
	defer cancel()
	lock, err := openDevDir(dir, c.Nodes, c.Fresh)
	if err != nil {
		return err
	}
	defer lock.close()
	f := &flock{cmd: c, s: s, dir: dir, ended: make(chan ending, maxDevNodes), ready: make(chan string, maxDevNodes)}
	for i := 1; i <= c.Nodes; i++ {
		f.nodes = append(f.nodes, newDevNode(i, c.PortBase, dir))
	}
	if err := f.waitForPorts(ctx, lock.unclean); err != nil {
		return err
	}
	if err := lock.found(c.Nodes, c.Fresh); err != nil {
		return err
	}
	defer f.stop()
	for _, n := range f.nodes {
		if err := n.start(f); err != nil {
			return err
		}
	}
	if err := f.waitReady(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	f.welcome()
	f.watch(ctx)
	return nil
}

// waitForPorts checks that every port is free. After a dev that was killed its
// nodes may need a moment to notice and stop.
func (f *flock) waitForPorts(ctx context.Context, unclean bool) error {
	deadline := time.Now().Add(devStopTime)
	for told := false; ; told = true {
		var busy error
		for _, n := range f.nodes {
			if busy = n.busyPort(); busy != nil {
				break
			}
		}
		if busy == nil || !unclean || time.Now().After(deadline) {
			return busy
		}
		if !told {
			fmt.Fprintln(f.s.out, "waiting for nodes of an earlier dev to stop")
		}
		if !pause(ctx, readyPause) {
			return busy
		}
	}
}

// pause waits d and tells whether ctx is still going.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// waitReady waits until every node says that it is, and tells what it waits
// for. A node that ends meanwhile is an error.
func (f *flock) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, f.cmd.Wait)
	defer cancel()
	fmt.Fprintf(f.s.out, "starting %d nodes in %s\n", len(f.nodes), f.dir)
	told := time.Now()
	for {
		var missing []string
		for _, n := range f.nodes {
			if err := n.readyNow(ctx); err != nil {
				missing = append(missing, fmt.Sprintf("%s (%s)", n.Name, reason(err)))
			}
		}
		if len(missing) == 0 {
			return nil
		}
		if time.Since(told) > tellPause {
			told = time.Now()
			fmt.Fprintln(f.s.out, "waiting for "+strings.Join(missing, ", "))
		}
		select {
		case e := <-f.ended:
			return fmt.Errorf("%s ended at its start: %s (log: %s)", e.node.Name, e.process.Words(), e.node.Log)
		case <-ctx.Done():
			if ctx.Err() == context.DeadlineExceeded {
				return fmt.Errorf("not ready within %s (--wait): %s; logs: %s", f.cmd.Wait, strings.Join(missing, ", "), filepath.Join(f.dir, "n*.log"))
			}
			return ctx.Err()
		case <-time.After(readyPause):
		}
	}
}

// welcome prints the nodes and lines to paste.
func (f *flock) welcome() {
	w := f.s.out
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "\nNODE\tURL\tPID\tDATA")
	for _, n := range f.nodes {
		fmt.Fprintf(tw, "%s\t%s\t%d\t%s\n", n.Name, n.URL(""), n.PID(), n.Data)
	}
	_ = tw.Flush()
	first, last := f.nodes[0], f.nodes[len(f.nodes)-1]
	two, all := min(2, len(f.nodes)), min(3, len(f.nodes))
	fmt.Fprintf(w, "\nWrite on one node, read on another; w and r are how many replicas to wait for:\n\n")
	// With all replicas asked to ack, the r=1 read that is pasted right after it cannot be early.
	fmt.Fprintf(w, "  curl -i -X PUT -d 'hello' '%s/kv/demo/greeting?w=%d'\n", first.URL(""), all)
	fmt.Fprintf(w, "  curl -i '%s/kv/demo/greeting?r=1'\n", last.URL(""))
	if two > 1 {
		fmt.Fprintf(w, "  curl -i '%s/kv/demo/greeting?r=2'\n", f.nodes[1].URL(""))
	}
	fmt.Fprintf(w, "  curl '%s/cluster/members'\n", first.URL(""))
	if two > 1 {
		fmt.Fprintf(w, "\nkill -9 %d ends %s as a crash would; typing %s and Enter here starts it again.", last.PID(), last.Name, last.Name)
	}
	fmt.Fprintf(w, "\nCtrl-C stops all.\n")
}

// watch announces nodes that end and starts again those that are typed.
func (f *flock) watch(ctx context.Context) {
	typed := lines(ctx, f.s.in)
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-f.ended:
			name := e.node.Name
			fmt.Fprintf(f.s.out, "%s ended: %s. Type %s and Enter to start it again (log: %s)\n", name, e.process.Words(), name, e.node.Log)
		case text := <-f.ready:
			fmt.Fprintln(f.s.out, text)
		case line, ok := <-typed:
			if !ok {
				typed = nil
				continue
			}
			f.typed(ctx, strings.TrimSpace(line))
		}
	}
}

// typed starts the node that was named.
func (f *flock) typed(ctx context.Context, name string) {
	if name == "" {
		return
	}
	i := slices.IndexFunc(f.nodes, func(n *devNode) bool { return n.Name == name })
	switch {
	case i < 0:
		fmt.Fprintf(f.s.out, "no node is named %q; there are n1 to n%d\n", name, len(f.nodes))
	case f.nodes[i].Running():
		fmt.Fprintf(f.s.out, "%s is running, pid %d\n", name, f.nodes[i].PID())
	default:
		n := f.nodes[i]
		if err := n.start(f); err != nil {
			fmt.Fprintln(f.s.out, oneLine(err.Error()))
			return
		}
		fmt.Fprintf(f.s.out, "%s starts, pid %d\n", name, n.PID())
		go f.announce(ctx, n, n.Process)
	}
}

// announce waits until n, started again, is ready. It ends with ctx, with the
// process, or after the time that dev waits.
func (f *flock) announce(ctx context.Context, n *devNode, p *fleet.Process) {
	ctx, cancel := context.WithTimeout(ctx, f.cmd.Wait)
	defer cancel()
	for p.Running() {
		err := n.readyNow(ctx)
		if err == nil {
			f.ready <- n.Name + " is ready again at " + n.URL("")
			return
		}
		if !pause(ctx, readyPause) {
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				f.ready <- fmt.Sprintf("%s is not ready: %s", n.Name, reason(err))
			}
			return
		}
	}
}

// lines are what is typed. The reader lives as long as the process: a read of
// a terminal cannot be interrupted.
func lines(ctx context.Context, r io.Reader) <-chan string {
	out := make(chan string)
	go func() {
		defer close(out)
		sc := bufio.NewScanner(r)
		for sc.Scan() {
			select {
			case out <- sc.Text():
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// stop ends all nodes, kindly first, and waits for every one.
func (f *flock) stop() {
	var alive []*devNode
	for _, n := range f.nodes {
		if n.Running() {
			alive = append(alive, n)
		}
	}
	if len(alive) == 0 {
		return
	}
	fmt.Fprintf(f.s.out, "stopping %d nodes\n", len(alive))
	for _, n := range alive {
		n.Terminate()
	}
	deadline := time.After(devStopTime)
	for _, n := range alive {
		select {
		case <-n.Done():
		case <-deadline:
			fmt.Fprintf(f.s.out, "%s does not stop and is killed\n", n.Name)
			deadline = time.After(0)      // the others have had their time, too
			_ = n.Signal(syscall.SIGKILL) // one that has ended is as well
			<-n.Done()
		}
	}
	fmt.Fprintln(f.s.out, "all nodes have stopped")
}

// stopWithGoRun ends the context when "go run" dies, which does not hand on
// every signal. Other parents may go: dev in the background outlives its shell.
func stopWithGoRun(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	exe, err := os.Executable()
	if err != nil || !strings.Contains(exe, string(filepath.Separator)+"go-build") {
		return ctx, cancel
	}
	parent := os.Getppid()
	go func() {
		for pause(ctx, tellPause/6) {
			if os.Getppid() != parent {
				cancel()
			}
		}
	}()
	return ctx, cancel
}

// readyNow asks the node once.
func (n *devNode) readyNow(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	c, err := client.New([]string{n.URL("")}, client.Options{UserAgent: "dunlin-dev"})
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Ready(ctx)
}
