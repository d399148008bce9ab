package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dunlindb/dunlin/client"
)

// defaultURLs are asked in turn when no URL is given: the first node of a
// cluster that dev started, the port of a node in a container, and the other
// nodes of dev, should the first be down.
var defaultURLs = []string{"http://127.0.0.1:8001", "http://127.0.0.1:8000", "http://127.0.0.1:8002", "http://127.0.0.1:8003"}

const probeTimeout = 2 * time.Second

// nodes are the flags of a command that talks to a cluster.
type nodes struct {
	URL []string `name:"url" env:"DUNLIN_URL" placeholder:"URL" help:"Base URLs of nodes, e.g. http://127.0.0.1:8001. Without it a node is looked for on this machine, ports 8001, 8000, 8002, 8003."`
}

// connect returns a client of the URLs given, or of the first default that
// answers.
func (n nodes) connect(ctx context.Context, opt client.Options) (*client.Client, error) {
	opt.UserAgent = "dunlin-cli"
	if len(n.URL) > 0 {
		opt.FirstFirst = true
		return client.New(n.URL, opt)
	}
	for _, u := range defaultURLs {
		ctx, cancel := context.WithTimeout(ctx, probeTimeout)
		answers := answersAt(ctx, u)
		cancel()
		if answers {
			return client.New([]string{u}, opt)
		}
	}
	return nil, fmt.Errorf("no node answers at %s; start one (dunlin dev) or give --url (DUNLIN_URL)", strings.Join(defaultURLs, " or "))
}

// answersAt tells whether anything speaks HTTP at u, ready or not.
func answersAt(ctx context.Context, u string) bool {
	c, err := client.New([]string{u}, client.Options{})
	if err != nil {
		return false
	}
	defer c.Close()
	err = c.Ready(ctx)
	var p *client.Problem
	return err == nil || errors.As(err, &p)
}

// plain turns a failure to reach a node into words.
func plain(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return fmt.Errorf("%w; is the node running? --url (DUNLIN_URL) names another", err)
	}
	return err
}

// terminal tells whether w is one.
func terminal(w any) bool {
	_, is := columns(w)
	return is
}

// columns is the width of the terminal w; 0: it is one that does not know.
func columns(w any) (n int, is bool) {
	f, ok := w.(*os.File)
	if !ok {
		return 0, false
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, false
	}
	return int(size.Col), true
}
