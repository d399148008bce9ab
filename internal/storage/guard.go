package storage

import (
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	guardEvery = time.Second
	guardBytes = 16 << 20

	// writeCopies is how many bytes of the disk an admitted byte may come to need: in the memtable's log, again in
	// the table that the memtable becomes, and again while a compaction has both its input and its output.
	writeCopies = 3
	// deepCompaction bounds what one compaction below the base level writes: a table and what it overlaps.
	deepCompaction = 256 << 20
	// guardSlack is for what nobody counts: indexes of tables, the manifest, other packages' state, old tables that
	// an iterator still holds, and what other programs write until the next measurement.
	guardSlack = 32 << 20
)

// guard refuses writes before the disk is full: badger writes through memory maps of sparse files, and a full disk
// is a SIGBUS, the death of the process. There are three marks, so that what frees space or converges replicas is
// still taken when clients' writes no longer are: MinFree, a half and a quarter of it, and each at least what badger
// may still write by itself, with some slack. What was admitted and is not yet on the disk counts as used.
type guard struct {
	path      string // empty: in memory, nothing to guard
	min       uint64 // configured; 0: auto
	floor     uint64 // least MinFree
	statfs    func(string) (free, total uint64, err error)
	footprint func() footprint
	log       *slog.Logger

	mu       sync.Mutex // held by who measures
	next     atomic.Int64
	free     atomic.Uint64
	total    atomic.Uint64
	minFree  atomic.Uint64
	reserve  atomic.Uint64
	level    atomic.Int32
	inFlight atomic.Int64 // bytes admitted, neither on the disk nor given up
	written  atomic.Int64 // bytes written since the last measurement
	begin    time.Time
}

// Levels of the guard: how many of the marks the free space is below.
const (
	levelFree      int32 = iota
	levelNoClient        // no writes of clients
	levelNoReplica       // none of other replicas, no hints
	levelNothing         // no deletes either
)

// footprint is what badger has on the disk, in bytes.
type footprint struct {
	logs   uint64 // of memtables that are not flushed
	level0 uint64
	base   uint64 // the level that level 0 is compacted into
	tables uint64 // all of them
}

// reserve is what badger may still write without being given anything: the tables of its memtables, and after them
// the largest compactions. All inputs of a compaction stay until its output is there.
func (f footprint) reserve() uint64 {
	return 2*f.logs + min(f.tables, f.level0+f.base+deepCompaction)
}

// newGuard measures the disk once. It fails where the node could never store anything.
func newGuard(o Options, path string, footprint func() footprint, log *slog.Logger) (*guard, error) {
	g := &guard{
		path: path, min: o.MinFree, floor: guardSlack + 2*uint64(o.Limits.Bytes), statfs: o.Statfs, footprint: footprint,
		log: log, begin: time.Now(),
	}
	if path == "" {
		return g, nil
	}
	g.measure()
	if minFree, total := g.minFree.Load(), g.total.Load(); total > 0 && minFree >= total {
		return nil, fmt.Errorf("%w: %d MiB must stay free for writes to be taken, but the disk of %s has %d MiB in all",
			ErrMinFree, minFree>>20, path, total>>20)
	}
	if 0 < g.min && g.min < g.floor {
		log.Warn("min-free is too small to be safe, more is kept free", "op", "statfs", "min_free", g.min, "kept_free", g.floor)
	}
	return g, nil
}

// autoMinFree is MinFree where none is configured: 5 % of the disk and at least 1 GiB. On a disk below 8 GiB, that
// least is an eighth of it instead, and never below 64 MiB.
func autoMinFree(total uint64) uint64 {
	return max(total/20, min(1<<30, max(64<<20, total/8)))
}

func statfs(path string) (free, total uint64, err error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(path, &st); err != nil {
		return 0, 0, err
	}
	return uint64(st.Bavail) * uint64(st.Bsize), uint64(st.Blocks) * uint64(st.Bsize), nil
}

// roomToOpen returns an error where badger would not survive being opened: it writes the tables of the memtables
// that the last run left.
func roomToOpen(path string, logs uint64, statfs func(string) (free, total uint64, err error)) error {
	free, _, err := statfs(path)
	if need := logs + guardSlack/8; err == nil && free < need {
		return fmt.Errorf("%w: %d MiB free at %s, opening it needs %d MiB; make room", ErrFull, free>>20, path, need>>20+1)
	}
	return nil
}

// check says whether a small write that is refused from a level on may be taken.
func (g *guard) check(level int32) error {
	if g.path == "" {
		return nil
	}
	g.refresh()
	if g.level.Load() >= level {
		return g.full(level)
	}
	return nil
}

// admit is check for a write of n bytes, which then count as used until release.
func (g *guard) admit(level int32, n int64) error {
	if err := g.check(level); err != nil || g.path == "" {
		return err
	}
	g.inFlight.Add(n)
	if g.available() >= int64(g.mark(level)) {
		return nil
	}
	// Less is left than there may be: what was written since the last measurement counts more than it has taken.
	g.measure()
	if g.level.Load() >= level {
		g.inFlight.Add(-n)
		return g.full(level)
	}
	return nil
}

// release ends what admit began: the bytes are given up, or on the disk and counted by wrote.
func (g *guard) release(n int64) { g.inFlight.Add(-n) }

// wrote counts what goes to the disk, so that fast writers are not measured too late.
func (g *guard) wrote(n int) {
	if g.path != "" && g.written.Add(int64(n)) >= guardBytes {
		g.measure()
	}
}

func (g *guard) full(level int32) error {
	return fmt.Errorf("%w: %d MiB free beside the writes under way, writes like this need %d MiB",
		ErrFull, max(g.available(), 0)>>20, g.mark(level)>>20)
}

// available is what will be free once all that was admitted is on the disk.
func (g *guard) available() int64 {
	free := int64(min(g.free.Load(), math.MaxInt64))
	return free - writeCopies*(g.inFlight.Load()+g.written.Load())
}

// mark is the free space below which a level is reached.
func (g *guard) mark(level int32) uint64 {
	shift := level - 1
	return max(g.minFree.Load()>>shift, g.reserve.Load()+g.floor>>shift)
}

// refresh measures if it is time, unless somebody does.
func (g *guard) refresh() {
	if g.path != "" && int64(time.Since(g.begin)) >= g.next.Load() && g.mu.TryLock() {
		g.measureLocked()
		g.mu.Unlock()
	}
}

func (g *guard) measure() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.measureLocked()
}

func (g *guard) measureLocked() {
	g.next.Store(int64(time.Since(g.begin) + guardEvery))
	written := g.written.Load() // before looking: all of it is on the disk by now
	f := g.footprint()
	free, total, err := g.statfs(g.path)
	if err != nil {
		g.log.Warn("cannot measure the free space of the disk", "op", "statfs", "err", err)
		return
	}
	minFree := g.min
	if minFree == 0 {
		minFree = autoMinFree(total)
	}
	g.free.Store(free)
	g.total.Store(total)
	g.minFree.Store(max(minFree, g.floor))
	g.reserve.Store(f.reserve())
	g.written.Add(-written)
	old := g.level.Load()
	level := g.levelNow(old)
	g.level.Store(level)
	attrs := []any{"op", "statfs", "level", level, "free", free, "in_flight", g.inFlight.Load(), "min_free", g.mark(levelNoClient)}
	switch {
	case level > old:
		g.log.Error("the disk is getting full, refusing writes", attrs...)
	case level < old:
		g.log.Info("the disk has more room again", attrs...)
	}
}

// levelNow counts the marks that the available space is below. A mark once passed counts until a tenth more is free.
func (g *guard) levelNow(old int32) int32 {
	level, available := levelFree, g.available()
	for l := levelNoClient; l <= levelNothing; l++ {
		mark := int64(g.mark(l))
		if old >= l {
			mark += int64(g.minFree.Load()>>(l-1)) / 10
		}
		if available < mark {
			level = l
		}
	}
	return level
}

// isFull reports whether writes refused from a level on are refused now.
func (g *guard) isFull(level int32) bool {
	g.refresh()
	return g.level.Load() >= level
}
