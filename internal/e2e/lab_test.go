package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/dunlindb/dunlin/internal/fleet"
)

// lab is a cluster whose nodes live in network namespaces of their own, so that real packets can be dropped between
// them.
type lab struct {
	*flock
	net *fleet.Lab
}

func newLab(t *testing.T, n int) *lab {
	t.Helper()
	heavy(t)
	network, err := fleet.NewLab(n)
	need(t, "netns", err)
	t.Cleanup(network.Close)
	l := &lab{newFlock(t, n), network}
	var seeds []string
	for i := range n {
		seeds = append(seeds, fmt.Sprintf("n%d@%s:8200", i+1, network.Address(i)))
	}
	for i, p := range l.nodes {
		p.http, p.launch = network.Address(i)+":8000", network.Launch(i)
		p.set("DUNLIN_HTTP", p.http)
		p.set("DUNLIN_RPC", ":8100")
		p.set("DUNLIN_GOSSIP", ":8200")
		p.set("DUNLIN_ADVERTISE", network.Address(i))
		p.set("DUNLIN_SEEDS", strings.Join(seeds, ","))
	}
	labInUse.Store(network)
	t.Cleanup(func() { labInUse.Store(nil) })
	return l
}

// split drops everything between two sides.
func (l *lab) split(a, b []int) {
	l.t.Helper()
	var sides [2][]string
	for i, side := range [2][]int{a, b} {
		for _, n := range side {
			sides[i] = append(sides[i], l.nodes[n].name)
		}
	}
	l.reach.split(sides[0], sides[1])
	l.t.Logf("%s: split %v | %v", clock(), sides[0], sides[1])
	if err := l.net.Split(a, b); err != nil {
		l.t.Fatal(err)
	}
}

// heal lets everything through again.
func (l *lab) heal() {
	l.t.Helper()
	if err := l.net.Heal(); err != nil {
		l.t.Fatal(err)
	}
	l.reach.heal()
	l.t.Logf("%s: healed", clock())
}

// labInUse is the network that requests may go to, beside the machine's own.
var labInUse atomic.Pointer[fleet.Lab]

func init() { http.DefaultClient.Transport = labTransport() }

// labTransport also reaches the nodes of the lab in use.
func labTransport() *http.Transport {
	return &http.Transport{MaxIdleConnsPerHost: 32, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if l := labInUse.Load(); l != nil {
			return l.Dial(ctx, network, addr)
		}
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}}
}
