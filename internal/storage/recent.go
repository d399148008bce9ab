package storage

import (
	"slices"
	"sync"

	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	// defaultCache is what the records used lately may take.
	defaultCache = 64 << 20
	// recentStripes keep readers and the shards out of each other's way.
	recentStripes = 16
	// recentOverhead is what a record takes in memory beside its bytes: its slot and its place in the index.
	recentOverhead = 80
	// maxTouched bounds the keys of a stripe that may change while it is filled.
	maxTouched = 1 << 16
)

// recent keeps the records that were used lately: half of the work of a small read, and a third of that of a
// write that has to know what it replaces, is badger's search through its tables.
//
// It keeps each as it is on the disk, in one piece of memory without a pointer in it. Decoded, it was five pieces, two of them
// with pointers, and most of what the collector had to follow: tens of milliseconds each time, in which a node with one
// processor answers late.
//
// It is exact: what it has of a key is what was committed last. So shards can go by it as well as readers. Whoever
// commits a change tells it after badger shows the change, and before the change is acknowledged. What a reader has read
// from badger is kept only if nothing of the same stripe was told meanwhile. It never has what is incomplete, in pieces,
// or corrupt, nor that a key is absent. Who finds damage on the disk tells it, too, so that the record is healed.
//
// The count of all records after Open reads each, and fills it with them as far as there is room, so that a node is not slow
// after a restart. Its snapshot is older than the first write: a key of which anything was told since then is left out.
type recent struct {
	stripes [recentStripes]recentStripe
	hits    prometheus.Counter
	misses  prometheus.Counter
}

// recentStripe holds a part of the keys, least recently used first to go.
type recentStripe struct {
	mu    sync.Mutex
	index map[uint64]int32 // hash of a key: its slot. Of two keys with one hash, one is kept
	slots []recentSlot     // slots[0] is nobody's: its next was used last, its prev goes first
	free  int32            // a slot without a record, whose next is another one; 0: none
	bytes int64
	limit int64
	told  uint64 // counts what was told
	// touched are the hashes of the keys of which something was told since the store was opened; nil: it is not filled
	// any more.
	touched map[uint64]struct{}
}

type recentSlot struct {
	data       []byte // badger's key and its value; never changed, so that readers may hold on to it
	hash       uint64
	key        int32 // length of the key
	next, prev int32
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
		st.touched = make(map[uint64]struct{})
	}
	return c
}

func (c *recent) stripe(key []byte) (st *recentStripe, hash uint64) {
	hash = xxhash.Sum64(key)
	return &c.stripes[hash%recentStripes], hash
}

// get returns a record, which is not to be changed, and when it is not there the moment to give to keep. Without values it
// is the header alone.
func (c *recent) get(key []byte, values bool) (l loaded, moment uint64, found bool) {
	if l, moment, found = c.find(key, values); !found {
		c.misses.Inc()
	}
	return l, moment, found
}

// find is get for who does not read the disk instead.
func (c *recent) find(key []byte, values bool) (l loaded, moment uint64, found bool) {
	st, hash := c.stripe(key)
	st.mu.Lock()
	i := st.at(key, hash)
	if i == 0 {
		moment = st.told
		st.mu.Unlock()
		return loaded{}, moment, false
	}
	st.unlink(i)
	st.link(i)
	value := st.slots[i].data[len(key):]
	st.mu.Unlock()
	if err := l.recall(value, values); err != nil {
		c.forget(key)
		return loaded{}, 0, false
	}
	c.hits.Inc()
	return l, 0, true
}

// recall reads what was checked when it was read from the disk, or has never been there.
func (l *loaded) recall(value []byte, values bool) (err error) {
	l.found, l.header = true, parseHeader(value)
	if values {
		l.record.Own = l.header.own
		l.record.Object, err = decodeObject(value[recordHeader:])
	}
	return err
}

// keep takes what was read from badger after the moment.
func (c *recent) keep(key, value []byte, moment uint64) {
	st, hash := c.stripe(key)
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.told == moment {
		st.set(key, value, hash)
	}
}

// tell takes what was committed, or nil if that cannot be kept. What is cold takes nobody's place.
func (c *recent) tell(key, value []byte, cold bool) {
	if value == nil {
		c.forget(key)
		return
	}
	st, hash := c.stripe(key)
	st.mu.Lock()
	defer st.mu.Unlock()
	st.tell(hash)
	if !cold || st.at(key, hash) != 0 {
		st.set(key, value, hash)
	}
}

// forget is told that a key may hold anything now. It reports whether something was kept of it.
func (c *recent) forget(key []byte) bool {
	st, hash := c.stripe(key)
	st.mu.Lock()
	defer st.mu.Unlock()
	st.tell(hash)
	i := st.at(key, hash)
	if i != 0 {
		st.remove(i)
	}
	return i != 0
}

// fill takes what the snapshot shows that was begun before the first write, if there is room for it.
func (c *recent) fill(key, value []byte) (kept bool) {
	st, hash := c.stripe(key)
	st.mu.Lock()
	defer st.mu.Unlock()
	if _, told := st.touched[hash]; told || st.touched == nil || st.index[hash] != 0 {
		return false
	}
	if size := int64(len(key) + len(value)); st.bytes+size+size/8+recentOverhead > st.limit { // the allocator gives an eighth more at most
		return false
	}
	st.set(key, value, hash)
	return st.index[hash] != 0
}

// filled ends it.
func (c *recent) filled() {
	for i := range c.stripes {
		st := &c.stripes[i]
		st.mu.Lock()
		st.touched = nil
		st.mu.Unlock()
	}
}

// clear is told that all keys may.
func (c *recent) clear() {
	for i := range c.stripes {
		st := &c.stripes[i]
		st.mu.Lock()
		st.told++
		st.clear()
		st.touched = nil // the snapshot may show what was dropped
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
	st.index, st.slots, st.free, st.bytes = make(map[uint64]int32), make([]recentSlot, 1), 0, 0
}

// tell notes that something was told of a key.
func (st *recentStripe) tell(hash uint64) {
	st.told++
	if st.touched == nil {
		return
	}
	if st.touched[hash] = struct{}{}; len(st.touched) > maxTouched {
		st.touched = nil
	}
}

// at returns a key's slot, or 0.
func (st *recentStripe) at(key []byte, hash uint64) int32 {
	i := st.index[hash]
	if s := &st.slots[i]; i == 0 || string(s.data[:s.key]) != string(key) {
		return 0
	}
	return i
}

func (st *recentStripe) set(key, value []byte, hash uint64) {
	if i := st.index[hash]; i != 0 {
		st.remove(i)
	}
	if int64(len(key)+len(value))+recentOverhead > st.limit/8 {
		return
	}
	data := slices.Grow([]byte(nil), len(key)+len(value)) // all that the allocator gives for it
	i := st.free
	if i != 0 {
		st.free = st.slots[i].next
	} else {
		i = int32(len(st.slots))
		st.slots = append(st.slots, recentSlot{})
	}
	st.slots[i] = recentSlot{data: append(append(data, key...), value...), hash: hash, key: int32(len(key))}
	st.index[hash] = i
	st.link(i)
	for st.bytes += int64(cap(data)) + recentOverhead; st.bytes > st.limit; {
		st.remove(st.slots[0].prev)
	}
}

func (st *recentStripe) remove(i int32) {
	st.unlink(i)
	s := &st.slots[i]
	delete(st.index, s.hash)
	st.bytes -= int64(cap(s.data)) + recentOverhead
	*s = recentSlot{next: st.free}
	st.free = i
}

// link makes a slot the one that was used last.
func (st *recentStripe) link(i int32) {
	s, first := &st.slots[i], &st.slots[0]
	s.prev, s.next = 0, first.next
	st.slots[s.next].prev = i
	first.next = i
}

func (st *recentStripe) unlink(i int32) {
	s := &st.slots[i]
	st.slots[s.prev].next, st.slots[s.next].prev = s.next, s.prev
}
