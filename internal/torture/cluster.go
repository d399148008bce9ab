package torture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/dunlindb/dunlin/internal/crowd"
	"github.com/dunlindb/dunlin/internal/fleet"
)

const (
	readyLimit = time.Minute
	stopLimit  = 30 * time.Second
	killLimit  = 30 * time.Second // for the kernel of a machine that is busy
	pollPause  = 50 * time.Millisecond
)

// member is a node, and what is done to it.
type member struct {
	fleet.Node
	down     bool // ended on purpose, and to be started again
	stopping bool // told to stop
	frozen   bool
	begun    time.Time // the latest process
	turn     int       // changes with whatever makes earlier plans for it void
	read     int64     // of its log, by tell
}

// cluster is the nodes, in a network of their own if that can be had.
type cluster struct {
	members  []*member
	lab      *fleet.Lab // nil: all share the machine's network
	noLab    error      // why
	missing  []string   // faults that the kernel cannot do, and why
	canLose  bool
	canDelay bool
	observer *http.Client
}

func newCluster(opt Options) (*cluster, error) {
	c := &cluster{noLab: errors.New("not asked for")}
	if opt.Network != NetworkNo {
		if c.lab, c.noLab = fleet.NewLab(opt.Nodes); c.noLab != nil && opt.Network == NetworkYes {
			return nil, &Invalid{"network", c.noLab}
		}
	}
	if c.lab != nil {
		c.probe()
	}
	c.observer = c.client(30 * time.Second)
	local := fleet.Loopback()
	ports, err := fleet.FreePorts(local, 3*opt.Nodes)
	if err != nil {
		return nil, err
	}
	var seeds, hosts []string
	for i := range opt.Nodes {
		m, host := &member{}, local
		m.Name = fmt.Sprintf("n%d", i+1)
		m.Data, m.Log = filepath.Join(opt.Dir, m.Name), filepath.Join(opt.Dir, m.Name+".log")
		if c.lab != nil {
			host, m.Launch = c.lab.Address(i), c.lab.Launch(i)
		}
		at := func(port int) string { return net.JoinHostPort(host, fmt.Sprint(port)) }
		m.HTTP, m.RPC, m.Gossip = at(ports[3*i]), at(ports[3*i+1]), at(ports[3*i+2])
		m.Program, m.Env = opt.Program, fleet.WithoutSettings(os.Environ())
		c.members, hosts, seeds = append(c.members, m), append(hosts, host), append(seeds, m.Name+"@"+m.Gossip)
	}
	for i, m := range c.members {
		m.Args = m.Serve(hosts[i], seeds, "--cluster", "torture", "--min-free", "64MiB", "--durability", opt.Durability)
	}
	return c, nil
}

// probe tries what not every kernel can do.
func (c *cluster) probe() {
	if err := c.lab.Lose(1); err != nil {
		c.missing = append(c.missing, fmt.Sprintf("loss of packets (%v)", err))
	} else {
		c.canLose = true
	}
	if err := c.lab.Delay(time.Millisecond); err != nil {
		c.missing = append(c.missing, fmt.Sprintf("delay of packets (%v)", err))
	} else {
		c.canDelay = true
	}
	if err := c.lab.Heal(); err != nil {
		c.missing = append(c.missing, fmt.Sprintf("healing (%v)", err))
	}
}

// client returns a new client of the nodes.
func (c *cluster) client(limit time.Duration) *http.Client {
	dial := (&net.Dialer{Timeout: 2 * time.Second}).DialContext
	if c.lab != nil {
		dial = c.lab.Dial
	}
	return &http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 32}, Timeout: limit}
}

// reachable are the nodes as clients see them.
func (c *cluster) reachable() (out []crowd.Node) {
	for _, m := range c.members {
		out = append(out, crowd.Node{Name: m.Name, URL: func() string { return m.URL("") }})
	}
	return out
}

// ready asks a node once whether it serves.
func (c *cluster) ready(ctx context.Context, m *member) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, err := c.ask(ctx, http.MethodGet, m.URL("/readyz"), "")
	return err
}

// ask makes a request, which must be answered with 200.
func (c *cluster) ask(ctx context.Context, method, url, body string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	resp, err := c.observer.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%d %s", resp.StatusCode, strings.TrimSpace(string(text)))
	}
	return string(text), err
}

// allReady waits until every node serves.
func (c *cluster) allReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyLimit, fmt.Errorf("not ready within %v", readyLimit))
	defer cancel()
	for _, m := range c.members {
		for {
			err := c.ready(ctx, m)
			if err == nil {
				break
			}
			for _, m := range c.members {
				if !m.Running() {
					return fmt.Errorf("%s ended by itself: %s", m.Name, m.Words())
				}
			}
			if !pause(ctx, pollPause) {
				return fmt.Errorf("%s: %w: %w", m.Name, context.Cause(ctx), err)
			}
		}
	}
	return nil
}

// pause waits, and reports whether ctx still goes on.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// end kills a process, and waits for its end.
func (m *member) end() error {
	if err := m.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	return m.ended(killLimit)
}

// ended waits for the end of a process that was told to.
func (m *member) ended(limit time.Duration) error {
	select {
	case <-m.Done():
		return nil
	case <-time.After(limit):
		return fmt.Errorf("%s (process %d) does not end within %v", m.Name, m.PID(), limit)
	}
}

// close kills what still runs, and gives the network up.
func (c *cluster) close() error {
	var errs []error
	for _, m := range c.members {
		if m.Running() {
			errs = append(errs, m.end())
		}
	}
	c.observer.CloseIdleConnections()
	if c.lab != nil {
		c.lab.Close()
	}
	return errors.Join(errs...)
}
