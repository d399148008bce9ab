package storage

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/dunlindb/dunlin/vclock"
)

const (
	// A batch ends with the op that reaches one of these. The op that does so adds at most inlineMax and some
	// keys, so a transaction stays below badger's limit, 15 % of a memtable.
	batchOps   = 1000
	batchBytes = 640 << 10

	// maxYields is how often a batch that finds nothing more queued lets others run first.
	maxYields = 2
	// A batch of at least crowd writes has the next one wait, for gather at most, until as many have come.
	crowd  = 4
	gather = 300 * time.Microsecond

	// maxSuspects bounds the keys that a shard remembers from failed batches.
	maxSuspects = 1 << 16
)

// shard is the writer loop of a part of the keys. Only its own goroutine touches the fields below queued.
type shard struct {
	s      *Store
	id     int
	queue  chan *op
	queued atomic.Int64 // bytes

	incarnation uint64
	lately      int // writes of the last batch
	// suspects are the keys of failed batches. What badger shows of them may not be durable, so they are written
	// again before anything about them is acknowledged.
	suspects    map[string]struct{}
	allSuspects bool // too many: every key is one
	// buf holds the records of the batch that is being committed. badger has copied them when the commit returns.
	buf []byte
	// ops and entries are memory for the next batch.
	ops     []*op
	entries entries
}

func newShard(s *Store, id int) *shard {
	return &shard{
		s: s, id: id, queue: make(chan *op, s.opt.QueueLen),
		incarnation: s.random(), suspects: make(map[string]struct{}),
	}
}

// run works until the queue is closed and empty.
func (sh *shard) run() {
	for o := range sh.queue {
		stop := o.barrier
		if stop == nil {
			stop = sh.batch(o)
		}
		if stop != nil {
			stop.wait()
		}
	}
}

// batch takes what is queued, from first on, as far as one transaction goes, or to a barrier, which it returns.
func (sh *shard) batch(first *op) (stop *barrier) {
	b := newBatch(sh)
	b.take(first)
	yields, waited := 0, false
drain:
	for !b.full() {
		select {
		case o, ok := <-sh.queue:
			if !ok {
				break drain
			}
			if stop = o.barrier; stop != nil {
				break drain
			}
			b.take(o)
		default:
			// Callers that are about to run add their writes to this batch, and where there were many the last time, as
			// many are on their way: each then pays less of the commit. A lone writer waits for nobody.
			switch {
			case yields < maxYields:
				yields++
				runtime.Gosched()
			case !waited && sh.lately >= crowd && len(b.ops) < sh.lately:
				waited = true
				time.Sleep(gather)
			default:
				break drain
			}
		}
	}
	sh.lately = len(b.ops)
	err := b.commit()
	if sh.buf = sh.buf[:0]; cap(sh.buf) > 4*batchBytes {
		sh.buf = nil
	}
	if err != nil {
		sh.failed(b)
	} else {
		sh.committed(b)
	}
	b.settle(err == nil)
	b.answer(err)
	garbage := b.garbage(err == nil)
	b.end()
	sh.s.removeChunks(garbage)
	return stop
}

// failed forgets the batch. A dot that it minted may have reached peers, so nothing may continue its actors.
func (sh *shard) failed(b *batch) {
	sh.incarnation = sh.s.random()
	for _, e := range b.entries.list {
		if e.dirty {
			sh.suspects[string(e.key)] = struct{}{}
		}
	}
	if len(sh.suspects) > maxSuspects {
		sh.allSuspects, sh.suspects = true, make(map[string]struct{})
	}
}

func (sh *shard) committed(b *batch) {
	if !b.dirty {
		return
	}
	if len(sh.suspects) > 0 {
		for _, e := range b.entries.list {
			if e.dirty {
				delete(sh.suspects, string(e.key))
			}
		}
	}
	sh.s.buckets.add(b.buckets)
	sh.s.guard.wrote(b.written)
}

func (sh *shard) suspect(key []byte) bool {
	if sh.allSuspects {
		return true
	}
	_, ok := sh.suspects[string(key)]
	return ok
}

// minter is the local node as of now.
func (sh *shard) minter() vclock.Minter {
	s := sh.s
	now := s.opt.Now().UnixMilli()
	stamp := s.hlc.Next(now)
	return vclock.Minter{
		Node: s.node, Incarnation: sh.incarnation, Now: now, Stamp: stamp, Limits: s.opt.Limits,
		Birth: func() vclock.Birth { return vclock.Birth{Millis: uint64(stamp.Millis()), Rand: s.random()} },
	}
}

// answer tells every caller. err is that of the commit.
func (b *batch) answer(err error) {
	fsynced := b.sh.s.opt.Durability == Fsync
	for _, o := range b.ops {
		o.ack.Fsynced = fsynced
		if err != nil && o.err == nil {
			o.err = fmt.Errorf("%w: %w", ErrCommit, err)
		}
		b.sh.s.guard.release(o.held)
		if o.then != nil {
			o.then(o)
		} else {
			o.done <- struct{}{}
		}
	}
}

// commit writes the batch in one transaction. With nothing to write there is nothing to wait for: all that the
// batch read was committed by an earlier one.
func (b *batch) commit() error {
	defer b.txn.Discard()
	m := b.sh.s.metrics
	m.batchOps.Observe(float64(len(b.ops)))
	if !b.dirty {
		return nil
	}
	if err := b.fill(); err != nil {
		return err
	}
	begin := time.Now()
	err := b.sh.s.commit(b.txn)
	m.commitSeconds.Observe(time.Since(begin).Seconds())
	return err
}
