package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/dunlindb/dunlin/internal/fleet"
)

// devNode is one node of a dev cluster. Only the goroutine of dev's Run starts
// and stops it.
type devNode struct{ fleet.Node }

func newDevNode(i, base int, dir string) *devNode {
	at := func(offset int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(base+offset+i)) }
	name := "n" + strconv.Itoa(i)
	return &devNode{fleet.Node{
		Name: name, Data: filepath.Join(dir, name), Log: filepath.Join(dir, name+".log"),
		HTTP: at(0), RPC: at(100), Gossip: at(200),
	}}
}

// ending is the end of one process of a node, which may run again by the time
// that it is told.
type ending struct {
	node    *devNode
	process *fleet.Process
}

// busyPort is an error that names the first port of n that is in use.
func (n *devNode) busyPort() error {
	for _, p := range []struct{ addr, what string }{{n.HTTP, "HTTP"}, {n.RPC, "RPC"}, {n.Gossip, "gossip"}} {
		l, err := net.Listen("tcp", p.addr)
		if err != nil {
			return fmt.Errorf("%s (%s of %s) cannot be used: %w; stop what listens there or give another --port-base", p.addr, p.what, n.Name, cause(err))
		}
		_ = l.Close()
	}
	u, err := net.ListenPacket("udp", n.Gossip)
	if err != nil {
		return fmt.Errorf("%s (gossip of %s) cannot be used: %w; stop what listens there or give another --port-base", n.Gossip, n.Name, cause(err))
	}
	return u.Close()
}

// cause is the system's own word for a network failure.
func cause(err error) error {
	var e syscall.Errno
	if errors.As(err, &e) {
		return e
	}
	return err
}

// start runs this program again as a node. Its end is told to f.
func (n *devNode) start(f *flock) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	var seeds []string
	for _, s := range f.nodes {
		seeds = append(seeds, s.Name+"@"+s.Gossip)
	}
	n.Program, n.Args = exe, n.Serve("127.0.0.1", seeds, "--log-level", f.cmd.LogLevel)
	n.Env = fleet.WithoutSettings(os.Environ()) // its flags alone
	if err := n.Start(); err != nil {
		return err
	}
	p := n.Process
	go func() {
		<-p.Done()
		select {
		case f.ended <- ending{n, p}:
		default: // nobody listens any more
		}
	}()
	return nil
}
