package node

import (
	"syscall"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dunlindb/dunlin/internal/cluster"
)

// registerCluster publishes what the cluster counts.
func registerCluster(r *prometheus.Registry, c *cluster.Cluster) {
	gauge := func(name, help string, f func() float64) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "dunlin", Subsystem: "cluster", Name: name, Help: help}, f))
	}
	counter := func(name, help string, f func(cluster.Stats) uint64) {
		r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "dunlin", Subsystem: "cluster", Name: name, Help: help},
			func() float64 { return float64(f(c.Stats())) }))
	}
	gauge("members", "Members of the layout.", func() float64 {
		if ring := c.Ring(); ring != nil {
			return float64(len(ring.Members()))
		}
		return 0
	})
	gauge("members_alive", "Members of the layout that answer now.", func() float64 {
		n := 0
		if ring := c.Ring(); ring != nil {
			for _, m := range ring.Members() {
				if c.Alive(m.ID) {
					n++
				}
			}
		}
		return float64(n)
	})
	gauge("epoch", "Epoch of the layout; 0 while there is none.", func() float64 {
		if ring := c.Ring(); ring != nil {
			return float64(ring.Epoch())
		}
		return 0
	})
	gauge("ready", "1 when this node may serve.", func() float64 {
		if c.Ready() != nil {
			return 0
		}
		return 1
	})
	counter("conflicts_total", "Times a live node's id appeared at a second address.", func(s cluster.Stats) uint64 { return s.Conflicts })
	counter("foreign_total", "Alive messages of another cluster of the same name.", func(s cluster.Stats) uint64 { return s.Foreign })
	counter("malformed_total", "Unreadable gossip.", func(s cluster.Stats) uint64 { return s.Malformed })
	counter("rejoins_total", "Attempts to reach a lost peer or a seed.", func(s cluster.Stats) uint64 { return s.Rejoins })
}

// diskSize is the size of the file system that holds path, in bytes.
func diskSize(path string) (int64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(path, &s); err != nil {
		return 0, err
	}
	return int64(s.Blocks) * int64(s.Bsize), nil
}
