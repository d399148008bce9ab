package coordinator

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// Coordinator serves clients' reads and writes, and other nodes' replica requests. Safe for concurrent use.
type Coordinator struct {
	deps    Deps
	opt     Options
	log     *slog.Logger
	now     func() time.Time
	metrics *metrics
	repairs *repairQueue
	latency latencies
	health  *health
	full    fullPeers
	load    load

	closing context.Context // ends background work
	stop    context.CancelFunc
	work    sync.WaitGroup
}

// New returns a coordinator and starts its repair workers, which Close stops.
func New(d Deps, o Options) (*Coordinator, error) {
	if err := d.validate(); err != nil {
		return nil, err
	}
	c := &Coordinator{deps: d, opt: o.withDefaults(), log: d.Log, now: d.Now}
	c.latency.began = time.Now()
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.now == nil {
		c.now = time.Now
	}
	c.metrics = newMetrics(d.Registry)
	c.closing, c.stop = context.WithCancel(context.Background())
	c.repairs = newRepairQueue(c.opt.RepairQueue)
	c.health = newHealth(c.ping, func(f func(context.Context)) { c.work.Go(func() { f(c.closing) }) })
	for range c.opt.RepairWorkers {
		c.work.Go(c.repairWorker)
	}
	return c, nil
}

// Close stops the background work and waits for it. Peers is to be closed first, which ends what was sent.
func (c *Coordinator) Close() {
	c.stop()
	c.repairs.close()
	c.work.Wait()
}

func (c *Coordinator) name(e *ring.Epochs) func(ring.NodeID) string {
	return func(id ring.NodeID) string {
		m, _ := e.Member(id)
		return m.Name
	}
}

func (c *Coordinator) scope(e *ring.Epochs, bucket, key string) vclock.Scope {
	return vclock.Scope{Cluster: e.Base().Layout().ClusterID, Bucket: bucket, Key: key}
}

// alive reports whether a node is worth asking: gossip holds it for alive, and calls to it do not fail.
func (c *Coordinator) alive(id ring.NodeID) bool {
	return id == c.deps.Self || c.deps.View.Alive(id) && !c.health.suspected(id)
}

// up is alive, for a member of live epochs: one that was removed never is.
func (c *Coordinator) up(e *ring.Epochs, id ring.NodeID) bool { return c.alive(id) && !e.Removed(id) }

func (c *Coordinator) ping(ctx context.Context, id ring.NodeID) error {
	_, err := c.deps.Peers.Call(ctx, id, EndpointPing, nil)
	return err
}

// call sends a request to another node and notes what the outcome says of its health. A call that takes long makes
// this node ask whether the other lives.
func (c *Coordinator) call(ctx context.Context, to ring.NodeID, endpoint string, body []byte) ([]byte, error) {
	c.metrics.replicas[endpoint].Inc()
	doubt := time.AfterFunc(slowCall, func() { c.health.doubt(to) })
	b, err := c.deps.Peers.Call(ctx, to, endpoint, body)
	doubt.Stop()
	if err == nil || ctx.Err() == nil {
		c.noteCall(to, err)
	}
	return b, err
}

// callAsync is call for who does not wait: done must not block.
func (c *Coordinator) callAsync(to ring.NodeID, endpoint string, body []byte, limit time.Duration, done func([]byte, error)) (cancel func()) {
	c.metrics.replicas[endpoint].Inc()
	doubt := time.AfterFunc(slowCall, func() { c.health.doubt(to) })
	return c.deps.Peers.CallAsync(to, endpoint, body, limit, func(b []byte, err error) {
		doubt.Stop()
		c.noteCall(to, err)
		done(b, err)
	})
}

// noteCall notes what the outcome of a call says of the other node's health.
func (c *Coordinator) noteCall(to ring.NodeID, err error) {
	switch {
	case err == nil:
		if c.health.suspected(to) {
			c.health.heard(to)
		}
	case c.closing.Err() == nil && classify(err).word == wordDown:
		c.health.suspect(to)
	}
}
