package storage

import (
	"sync"

	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	// defaultCache is what the records used lately may take.
	defaultCache = 64 << 20
	// recentStripes keep readers and the shards out of each other's way.
	recentStripes = 16
	// recentOverhead is about what a record takes in memory beside its value.
	recentOverhead = 512
)

// recent keeps decoded the records that were used lately: half of the work of a small read, and a third of that of a
// write that has to know what it replaces, is badger's search through its tables.
//
// It is exact: what it has of a key is what was committed last. So shards can go by it as well as readers. Whoever
// commits a change tells it after badger shows the change, and before the change is acknowledged. What a reader has read
// from badger is kept only if nothing of the same stripe was told meanwhile. It never has what is incomplete, in pieces,
// or corrupt, nor that a key is absent. Who finds damage on the disk tells it, too, so that the record is healed.
type recent struct {
	stripes [recentStripes]recentStripe
	hits    prometheus.Counter
	misses  prometheus.Counter
}

// recentStripe holds a part of the keys, least recently used first to go.
type recentStripe struct {
	mu    sync.Mutex
	keys  map[string]*recentRecord
	ring  recentRecord // next is the one that was used last, prev the one that goes first
	bytes int64
	limit int64
	told  uint64 // counts what was told
}

type recentRecord struct {
	key        string
	l          loaded
	bytes      int64
	next, prev *recentRecord
}

// newRecent makes a cache of limit bytes; with 0, or less, one that keeps nothing.
func newRecent(limit int64) *recent {
	c := &recent{
		hits:   counter("cache_hits_total", "Reads and writes whose record was in memory."),
		misses: counter("cache_misses_total", "Reads and writes whose record was looked up in badger."),
	}
	for i := range c.stripes {
		st := &c.stripes[i]
		st.limit = limit / recentStripes
		st.clear()
	}
	return c
}

func (c *recent) stripe(key []byte) *recentStripe { return &c.stripes[xxhash.Sum64(key)%recentStripes] }

// get returns a record, which is not to be changed, and when it is not there the moment to give to keep.
func (c *recent) get(key []byte) (l loaded, moment uint64, found bool) {
	if l, moment, found = c.find(key); !found {
		c.misses.Inc()
	}
	return l, moment, found
}

// find is get for who does not read the disk instead.
func (c *recent) find(key []byte) (l loaded, moment uint64, found bool) {
	st := c.stripe(key)
	st.mu.Lock()
	r := st.keys[string(key)]
	if r == nil {
		moment = st.told
		st.mu.Unlock()
		return loaded{}, moment, false
	}
	r.unlink()
	r.link(&st.ring)
	l = r.l
	st.mu.Unlock()
	c.hits.Inc()
	return l, 0, true
}

// keep takes what was read from badger after the moment.
func (c *recent) keep(key []byte, l loaded, moment uint64) {
	st := c.stripe(key)
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.told == moment && l.cacheable() {
		st.set(key, l)
	}
}

// tell takes what was committed. What is cold takes nobody's place, and may be a part of a much larger message.
func (c *recent) tell(key []byte, l loaded, cold bool) {
	if !l.cacheable() {
		c.forget(key)
		return
	}
	st := c.stripe(key)
	st.mu.Lock()
	defer st.mu.Unlock()
	st.told++
	switch {
	case !cold:
		st.set(key, l)
	case st.keys[string(key)] != nil:
		l.record.Object = l.record.Object.Clone()
		st.set(key, l)
	}
}

// forget is told that a key may hold anything now. It reports whether something was kept of it.
func (c *recent) forget(key []byte) bool {
	st := c.stripe(key)
	st.mu.Lock()
	defer st.mu.Unlock()
	st.told++
	return st.drop(key)
}

// clear is told that all keys may.
func (c *recent) clear() {
	for i := range c.stripes {
		st := &c.stripes[i]
		st.mu.Lock()
		st.told++
		st.clear()
		st.mu.Unlock()
	}
}

func (c *recent) size() (bytes int64) {
	for i := range c.stripes {
		st := &c.stripes[i]
		st.mu.Lock()
		bytes += st.bytes
		st.mu.Unlock()
	}
	return bytes
}

// cacheable reports whether a record is there, and whole.
func (l *loaded) cacheable() bool {
	return l.found && l.chunks == nil && !l.header.incomplete && !l.header.chunked
}

func (st *recentStripe) clear() {
	st.keys, st.bytes = make(map[string]*recentRecord), 0
	st.ring.next, st.ring.prev = &st.ring, &st.ring
}

func (st *recentStripe) set(key []byte, l loaded) {
	bytes := int64(weigh(l.record.Object)+len(key)) + recentOverhead
	if bytes > st.limit/8 {
		st.drop(key)
		return
	}
	r := st.keys[string(key)]
	if r == nil {
		r = &recentRecord{key: string(key)}
		st.keys[r.key] = r
	} else {
		r.unlink()
		st.bytes -= r.bytes
	}
	r.l, r.bytes = l, bytes
	r.link(&st.ring)
	for st.bytes += bytes; st.bytes > st.limit; {
		st.remove(st.ring.prev)
	}
}

func (st *recentStripe) drop(key []byte) bool {
	r := st.keys[string(key)]
	if r != nil {
		st.remove(r)
	}
	return r != nil
}

func (st *recentStripe) remove(r *recentRecord) {
	r.unlink()
	delete(st.keys, r.key)
	st.bytes -= r.bytes
}

func (r *recentRecord) link(after *recentRecord) {
	r.prev, r.next = after, after.next
	r.prev.next, r.next.prev = r, r
}

func (r *recentRecord) unlink() { r.prev.next, r.next.prev = r.next, r.prev }
