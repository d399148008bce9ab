package coordinator

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// repairJob is a key of which some replicas are behind.
type repairJob struct {
	key    Key
	object vclock.Object
	round  uint64 // the earliest reap round in which a part of the object was read
	repair repair
}

// repairQueue holds jobs until a worker takes them: bounded, and at most one a key, since a hot key is read many
// times before its first repair is through.
type repairQueue struct {
	mu      sync.Mutex
	waiting map[Key]repairJob
	ready   chan Key
	closed  bool
}

func newRepairQueue(limit int) *repairQueue {
	return &repairQueue{waiting: make(map[Key]repairJob), ready: make(chan Key, limit)}
}

// add queues a job, or joins it with one that waits for the same key. False: the queue is full and the job is
// dropped; a later read or exchange finds the difference again.
func (q *repairQueue) add(j repairJob) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	if have, ok := q.waiting[j.key]; ok {
		have.object = vclock.Merge(have.object, j.object)
		have.round = min(have.round, j.round)
		have.repair.stale = union(have.repair.stale, j.repair.stale)
		have.repair.damaged = union(have.repair.damaged, j.repair.damaged)
		q.waiting[j.key] = have
		return true
	}
	select {
	case q.ready <- j.key:
		q.waiting[j.key] = j
		return true
	default:
		return false
	}
}

func (q *repairQueue) take(k Key) repairJob {
	q.mu.Lock()
	defer q.mu.Unlock()
	j := q.waiting[k]
	delete(q.waiting, k)
	return j
}

func (q *repairQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	close(q.ready)
}

func union(a, b []ring.NodeID) []ring.NodeID {
	for _, id := range b {
		seen := false
		for _, have := range a {
			seen = seen || have == id
		}
		if !seen {
			a = append(a, id)
		}
	}
	return a
}

func (c *Coordinator) repairWorker() {
	for k := range c.repairs.ready {
		if c.closing.Err() != nil {
			return
		}
		j := c.repairs.take(k)
		e := c.deps.View.Epochs()
		if e == nil {
			continue
		}
		j.key.Partition = e.Partition(j.key.Bucket, j.key.Key) // it may have another number by now
		ctx, cancel := context.WithTimeout(c.closing, 5*time.Second)
		for _, id := range j.repair.stale {
			c.repairOne(ctx, e, id, "stale", mergeTo{key: j.key, object: j.object, how: Merging{Round: j.round}})
		}
		for _, id := range j.repair.damaged {
			if o, round, ok := c.others(ctx, e.Reading(), j.key, id); ok {
				c.repairOne(ctx, e, id, "damaged", mergeTo{key: j.key, object: o, how: Merging{Heal: true, Round: round}})
			}
		}
		cancel()
	}
}

type mergeTo struct {
	key    Key
	object vclock.Object
	how    Merging
}

func (c *Coordinator) repairOne(ctx context.Context, e *ring.Epochs, id ring.NodeID, cause string, m mergeTo) {
	if !e.Reading().IsPrimary(m.key.Partition, id) || !c.up(e, id) {
		return
	}
	// What makes a copy whole is the others' in this ring; for anything else, the newest epoch in sight is told.
	epoch := e.Newest().Epoch()
	if m.how.Heal {
		epoch = e.Reading().Epoch()
	}
	var err error
	if id == c.deps.Self {
		_, err = c.deps.Local.Merge(ctx, m.key, m.object, m.how)
	} else {
		// A repair that is refused for its round is dropped: what it was built from may have been reaped since.
		msg := mergeMessage{
			epoch: epoch, bucket: m.key.Bucket, key: m.key.Key, heal: m.how.Heal, round: m.how.Round, object: m.object,
		}
		_, err = c.call(ctx, id, EndpointMerge, msg.encode())
	}
	result := "ok"
	if err != nil {
		result = "failed"
		c.log.Debug("read repair failed", "peer", c.name(e)(id), "key", m.key.Key, "err", err)
	}
	c.metrics.repairs.WithLabelValues(cause, result).Inc()
}

// others reads the key from every primary but one whose copy is damaged. Only the merge of them all makes it whole
// again: the write that it lost may be on any single one of them.
func (c *Coordinator) others(ctx context.Context, r *ring.Ring, k Key, damaged ring.NodeID) (merged vclock.Object, round uint64, ok bool) {
	round = math.MaxUint64
	for _, id := range r.Primaries(k.Partition) {
		if id == damaged {
			continue
		}
		a, err := c.readWhole(ctx, r, k, id)
		if err != nil || a.incomplete {
			return merged, 0, false
		}
		merged, round = vclock.Merge(merged, a.object), min(round, a.round)
	}
	return merged, round, true
}

func (c *Coordinator) readWhole(ctx context.Context, r *ring.Ring, k Key, id ring.NodeID) (answer, error) {
	if id == c.deps.Self {
		got, err := c.localCopy(r, k)
		return answer{object: got.Object, incomplete: got.Incomplete, round: got.Round}, err
	}
	m := readMessage{epoch: r.Epoch(), bucket: k.Bucket, key: k.Key, mode: readFull}
	b, err := c.call(ctx, id, EndpointRead, m.encode())
	if err != nil {
		return answer{}, err
	}
	return decodeAnswer(b)
}
