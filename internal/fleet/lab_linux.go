package fleet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Lab is a network in which each node has a namespace of its own, joined by a bridge in yet another one. No packet of
// it leaves the namespaces, and they have no names: they go with the processes in them. Its methods are for one
// goroutine, except Dial.
type Lab struct {
	bridge *namespace
	nodes  []*namespace
	slow   *slowPath // made when it is first needed
	slowed bool
}

// dialTimeout is short, as who does not answer within a machine does not want to.
const dialTimeout = 2 * time.Second

// NewLab makes a network for n nodes. It needs root, ip and nft, and says what is missing.
func NewLab(n int) (l *Lab, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("network namespaces need root")
	}
	for _, program := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("network namespaces need the program %s", program)
		}
	}
	l = &Lab{}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	if l.bridge, err = newNamespace(); err != nil {
		return nil, err
	}
	if err := l.bridge.run("ip link add name br0 type bridge", "ip link set br0 up"); err != nil {
		return nil, err
	}
	for i := range n {
		ns, err := newNamespace()
		if err != nil {
			return nil, err
		}
		l.nodes = append(l.nodes, ns)
		if err := errors.Join(
			l.bridge.run(fmt.Sprintf("ip link add name p%d type veth peer name eth0 netns %s", i, ns.path()), fmt.Sprintf("ip link set p%d master br0 up", i)),
			ns.run("ip addr add "+l.Address(i)+"/24 dev eth0", "ip link set eth0 up", "ip link set lo up"),
			ns.run("nft add table inet f", "nft add chain inet f in { type filter hook input priority 0; }"),
		); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// Close ends the goroutines. The namespaces last as long as processes are in them.
func (l *Lab) Close() {
	if l.slow != nil {
		l.slow.close()
	}
	for _, ns := range append(l.nodes, l.bridge) {
		if ns != nil {
			ns.close()
		}
	}
}

// Address is the IP address of a node, by its number from 0.
func (l *Lab) Address(i int) string { return fmt.Sprintf("10.77.0.%d", i+1) }

// Launch is a Node's Launch: it starts the process of a node in its namespace.
func (l *Lab) Launch(i int) func(start func() error) error { return l.nodes[i].do }

// Dial connects to an address of the lab from inside the namespace of that node, as a client beside it would. Other
// addresses are reached from here. It is safe for concurrent use.
func (l *Lab) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	for i, ns := range l.nodes {
		if host == l.Address(i) {
			return ns.dial(ctx, network, addr)
		}
	}
	return (&net.Dialer{}).DialContext(ctx, network, addr)
}

// CutOneWay drops everything that goes from one node to another.
func (l *Lab) CutOneWay(from, to int) error {
	return l.nodes[to].run("nft add rule inet f in ip saddr " + l.Address(from) + " drop")
}

// Split drops everything between two sides.
func (l *Lab) Split(a, b []int) error {
	var errs []error
	for _, i := range a {
		for _, j := range b {
			errs = append(errs, l.CutOneWay(i, j), l.CutOneWay(j, i))
		}
	}
	return errors.Join(errs...)
}

// Lose drops some percent of all packets everywhere. Not every kernel can.
func (l *Lab) Lose(percent int) error {
	return l.everywhere(fmt.Sprintf("nft add rule inet f in ip saddr 10.77.0.0/24 numgen random mod 100 < %d drop", percent))
}

// Delay delays every packet by a time around d, up to a half of it less or more. It needs /dev/net/tun.
func (l *Lab) Delay(d time.Duration) (err error) {
	if l.slow == nil {
		if l.slow, err = newSlowPath(l); err != nil {
			return err
		}
	}
	l.slow.delay.Store(int64(d))
	l.slowed = true
	return l.detours("replace")
}

// detours adds to or takes from each node its routes to the others by the slow path.
func (l *Lab) detours(change string) error {
	var errs []error
	for i, ns := range l.nodes {
		for j := range l.nodes {
			if i != j {
				errs = append(errs, ns.run(fmt.Sprintf("ip route %s %s/32 dev %s src %s", change, l.Address(j), detour, l.Address(i))))
			}
		}
	}
	return errors.Join(errs...)
}

// Heal lets everything through again, at once.
func (l *Lab) Heal() error {
	err := l.everywhere("nft flush chain inet f in")
	if l.slowed {
		l.slowed = false
		err = errors.Join(err, l.detours("del"))
	}
	return err
}

func (l *Lab) everywhere(command string) error {
	for _, ns := range l.nodes {
		if err := ns.run(command); err != nil {
			return err
		}
	}
	return nil
}

// namespace is a network namespace, and a thread in it that does what it is given.
type namespace struct {
	file *os.File // keeps it, and names it
	work chan func()
}

func newNamespace() (*namespace, error) {
	ns := &namespace{work: make(chan func())}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // for ever: a goroutine that ends locked ends its thread, which has left its namespace
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			ns.file, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		}
		made <- err
		for f := range ns.work {
			f()
		}
	}()
	if err := <-made; err != nil {
		close(ns.work)
		return nil, fmt.Errorf("a network namespace: %w", err)
	}
	return ns, nil
}

func (ns *namespace) close() {
	close(ns.work)
	_ = ns.file.Close() // it was only kept
}

// path is a name of the namespace for other programs.
func (ns *namespace) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.file.Fd()) }

// do does something in the namespace. Processes that it starts stay there.
func (ns *namespace) do(f func() error) error {
	done := make(chan error)
	ns.work <- func() { done <- f() }
	return <-done
}

// run runs commands, whose words are separated by blanks, one after the other.
func (ns *namespace) run(commands ...string) error {
	for _, command := range commands {
		words := strings.Fields(command)
		var out []byte
		if err := ns.do(func() (err error) {
			out, err = exec.Command(words[0], words[1:]...).CombinedOutput()
			return err
		}); err != nil {
			return fmt.Errorf("%s: %w: %s", command, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

// dial connects from inside. It has a thread of its own, since a connection to a frozen process takes its time.
func (ns *namespace) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // for ever, as above
		if err := unix.Setns(int(ns.file.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- result{nil, err}
			return
		}
		conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, network, addr)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}
