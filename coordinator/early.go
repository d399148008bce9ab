package coordinator

import (
	"context"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

// Early answers a request of another node without blocking, and reports true, or reports false and leaves it to the Handler.
type Early func(from ring.NodeID, body []byte, left time.Duration, reply func([]byte, error)) bool

// EarlyHandlers are asked before Handlers, and answer most of what a healthy cluster sends. What is out of the ordinary, and
// every refusal, is left to the handlers.
func (c *Coordinator) EarlyHandlers() map[string]Early {
	return map[string]Early{EndpointMerge: c.mergeEarly, EndpointRead: c.readEarly}
}

// mergeEarly queues a replica write that goes by an epoch that is known here.
func (c *Coordinator) mergeEarly(from ring.NodeID, body []byte, left time.Duration, reply func([]byte, error)) bool {
	m, err := decodeMerge(body)
	if err != nil || !c.knows(m.epoch) {
		return false
	}
	k, err := c.writable(context.Background(), from, &m, c.deps.Self)
	if err != nil {
		return false
	}
	heal, epoch := m.heal, m.epoch // not all of m, which would move to the heap
	c.load.begin()
	c.deps.Local.MergeAsync(k, m.object, Merging{Heal: m.heal, Round: m.round}, left, func(fsynced bool, err error) {
		defer c.load.end()
		if err == nil {
			err = c.stillWritable(heal, epoch)
		}
		if err != nil {
			reply(nil, coded(err))
			return
		}
		reply(encodeFsynced(fsynced), nil)
	})
	return true
}

// readEarly answers with what is in memory.
func (c *Coordinator) readEarly(_ ring.NodeID, body []byte, _ time.Duration, reply func([]byte, error)) bool {
	m, err := decodeRead(body)
	if err != nil || m.hint {
		return false
	}
	e := c.deps.View.Epochs()
	if e == nil {
		return false
	}
	r := e.At(m.epoch)
	if r == nil {
		return false
	}
	k := Key{r.Partition(m.bucket, m.key), m.bucket, m.key}
	if !r.IsPrimary(k.Partition, c.deps.Self) {
		return false
	}
	got, found := c.deps.Local.Recent(k)
	if !found || c.stillLive(m.epoch) != nil {
		return false
	}
	reply(m.answered(got), nil)
	return true
}

// knows reports whether an epoch, or a later one, is known here.
func (c *Coordinator) knows(epoch uint64) bool {
	e := c.deps.View.Epochs()
	return e != nil && e.Newest().Epoch() >= epoch
}
