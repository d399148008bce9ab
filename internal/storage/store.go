package storage

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/dgraph-io/badger/v4"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

const (
	// maxFailures is the number of commits in a row that may fail before the store refuses writes.
	maxFailures = 3
	// closeLimit and brokenLimit are how long badger may take to close, the latter after a commit failed: it tries for
	// ever to flush to a broken disk.
	closeLimit  = time.Minute
	brokenLimit = 3 * time.Second
)

// Store is one node's durable copy of its keys. All methods are safe for concurrent use.
type Store struct {
	opt      Options
	dir      *Dir
	node     ring.NodeID
	db       *badger.DB
	logs     *logSync   // nil if commits are not synced, or not in files
	dbClosed chan error // takes one
	log      *slog.Logger
	shards   []*shard
	guard    *guard
	metrics  *metrics
	buckets  bucketSet
	rounds   roundTable
	hints    hintTable
	marks    markTable
	forest   *forest
	numbered numbered
	removing removingTable
	drops    dropTable
	giveUp   atomic.Bool // see flatten
	pace     *pace
	lost     bool // the last run may have lost something

	snapshots *snapshots
	recent    *recent
	ops       sync.Pool // see newOp
	hlc       vclock.HLC

	randMu sync.Mutex

	failures  atomic.Int32 // commits that failed, in a row
	unhealthy atomic.Pointer[error]

	begin       time.Time
	lastCorrupt atomic.Int64 // nanoseconds after begin from which on a corrupt record is logged again

	exclusion chan struct{} // holds one while somebody has stopped the shards

	// mu is held shared while a call uses badger or a queue, so that Close waits for them. Never held by a shard.
	mu     sync.RWMutex
	closed bool
	stop   chan struct{}
	wg     sync.WaitGroup // shards, sweep, plant, and who joined
}

// Open opens the store of a directory: it syncs what a killed process left in the page cache and durably consumes
// the mark of a clean stop before it returns. d may be nil with Options.InMemory. The caller closes the Store,
// then d. Errors wrap ErrDirectory or ErrDamaged, or name a bad option.
func Open(d *Dir, o Options) (*Store, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if d == nil {
		if !o.InMemory {
			return nil, fmt.Errorf("%w: none given; open one, or set InMemory", ErrDirectory)
		}
		node, err := newNodeID()
		if err != nil {
			return nil, err
		}
		d = MemoryDir(node, "")
	}
	if err := d.begin(); err != nil {
		return nil, err
	}
	s := &Store{
		opt: o, dir: d, node: d.Identity().Node, stop: make(chan struct{}), dbClosed: make(chan error, 1), exclusion: make(chan struct{}, 1), metrics: newMetrics(), begin: time.Now(),
		log: o.Logger.With("node", d.Identity().Node.String()),
	}
	s.pace = newPace(runtime.GOMAXPROCS(0), s.metrics.paused)
	if err := s.open(); err != nil {
		d.end()
		return nil, err
	}
	return s, nil
}

func (s *Store) open() (err error) {
	path, err := s.prepare()
	if err != nil {
		return err
	}
	if path != "" {
		if err := roomToOpen(path, diskBytes(path, ".mem"), s.opt.Statfs); err != nil {
			return err
		}
	}
	if disk := s.dir.disk; disk != nil {
		s.db, err = disk.badger(s.dir.turn, s.log)
	} else {
		opt := badgerOptions(path, s.opt).WithLogger(badgerLog{s.opt.Logger, &s.giveUp, s.pace})
		if path != "" {
			opt, err = sizeForLogs(opt)
		}
		if err == nil {
			s.db, err = openBadger(opt, s.log)
		}
		if err == nil {
			s.pace.db.Store(s.db)
		}
	}
	if err != nil {
		return damaged(s.dir.path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.closeBadger())
		}
	}()
	if err := s.loadGroups(); err != nil {
		return damaged(s.dir.path, fmt.Errorf("read the groups of buckets: %w", err))
	}
	if err := s.loadMarks(); err != nil {
		return damaged(s.dir.path, fmt.Errorf("read the marks: %w", err))
	}
	if s.dir.persistent() && !s.opt.InMemory {
		if err := s.settle(path); err != nil {
			return unusable(s.dir.path, err)
		}
	}
	if path != "" && s.dir.disk == nil && s.opt.Durability == Fsync {
		if s.logs, err = openLogs(path); err != nil {
			return unusable(s.dir.path, err)
		}
	}
	if err := s.loadBuckets(); err != nil {
		return damaged(s.dir.path, fmt.Errorf("read the buckets: %w", err))
	}
	if err := s.loadRounds(); err != nil {
		return damaged(s.dir.path, fmt.Errorf("read the reap rounds: %w", err))
	}
	if err := s.loadHints(); err != nil {
		return damaged(s.dir.path, fmt.Errorf("count the hints: %w", err))
	}
	if err := s.loadRemoving(); err != nil {
		return damaged(s.dir.path, fmt.Errorf("read the keys under removal: %w", err))
	}
	if err := s.loadDrops(); err != nil {
		return damaged(s.dir.path, fmt.Errorf("read what is being dropped: %w", err))
	}
	s.forest = newForest(s.opt.Partitions, len(s.groups().names))
	if s.dir.disk != nil {
		path = "memory" // what the guard asks Options.Statfs for
	}
	if s.guard, err = newGuard(s.opt, path, s.footprint, s.log); err != nil {
		return err
	}
	s.snapshots, s.recent = newSnapshots(func() *badger.Txn { return s.transaction(false) }), newRecent(s.opt.CacheBytes)
	s.start()
	if err := s.register(); err != nil {
		s.halt()
		return err
	}
	return nil
}

// prepare makes the directory ready for badger, and returns where its files are: empty is in memory.
func (s *Store) prepare() (path string, err error) {
	if s.opt.InMemory || !s.dir.persistent() {
		return "", nil
	}
	if s.dir.disk == nil {
		path = filepath.Join(s.dir.path, dataName)
		if err := makeDir(path); err != nil {
			return "", unusable(s.dir.path, err)
		}
		if err := removeStubs(path); err != nil {
			return "", unusable(s.dir.path, err)
		}
		if err := syncFiles(path); err != nil {
			return "", unusable(s.dir.path, err)
		}
	}
	if s.lost = s.dir.Identity().MayHaveLost; s.lost {
		if err := s.dir.suspect(); err != nil {
			return "", unusable(s.dir.path, err)
		}
	}
	return path, nil
}

// settle puts what badger did while opening on the disk, then notes that a store runs.
func (s *Store) settle(path string) error {
	if s.dir.disk != nil {
		return errors.Join(s.dir.syncData(), s.dir.opened(s.opt.Durability))
	}
	if err := s.db.Sync(); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	if err := syncPath(path); err != nil {
		return err
	}
	return s.dir.opened(s.opt.Durability)
}

func (s *Store) start() {
	// Begun before any write: see sweep and plant.
	forSweep, forTrees := s.transaction(false), s.transaction(false)
	s.wg.Go(func() { s.sweep(forSweep) })
	s.wg.Go(func() { s.plant(forTrees) })
	for i := range s.opt.Shards {
		sh := newShard(s, i)
		s.shards = append(s.shards, sh)
		s.wg.Go(sh.run)
	}
	s.wg.Go(s.finishDrops)
	if !s.opt.InMemory && s.dir.disk == nil {
		s.wg.Go(s.trimBuilders)
		s.wg.Go(s.boundResident)
	}
}

// halt refuses new calls, lets the shards work their queues off, and waits for every goroutine. It reports whether
// this call did so.
func (s *Store) halt() bool {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return false
	}
	s.closed = true
	close(s.stop)
	s.pace.end()
	for _, sh := range s.shards {
		close(sh.queue)
	}
	s.mu.Unlock()
	s.wg.Wait()
	s.snapshots.close()
	return true
}

// Close answers what is queued, closes badger and durably marks a clean stop. Later calls return ErrClosed.
func (s *Store) Close() error {
	if !s.halt() {
		return ErrClosed
	}
	defer s.dir.end()
	s.unregister()
	err := s.closeBadger()
	if s.Healthy() != nil {
		return nil // What could not be committed is no clean stop; the reason was answered and logged.
	}
	if err != nil {
		return fmt.Errorf("close badger: %w", err)
	}
	if s.opt.InMemory {
		return nil
	}
	if err := s.dir.syncData(); err != nil {
		return unusable(s.dir.path, err)
	}
	return s.dir.stopped()
}

// closeBadger gives up when badger does not come to an end. Whoever closes a store ends the process then, too: the
// directory is not to be opened again beside this badger. What was acknowledged is in its logs. The badger of a
// MemoryDisk outlives the store.
func (s *Store) closeBadger() error {
	if s.dir.disk != nil {
		return nil
	}
	s.pace.end()
	limit := closeLimit
	if s.Healthy() != nil {
		limit = brokenLimit
	}
	var closed error
	if s.logs != nil {
		closed = s.logs.close() // the shards have ended
	}
	go func() { s.dbClosed <- s.db.Close() }()
	select {
	case err := <-s.dbClosed:
		return errors.Join(err, closed)
	case <-time.After(limit):
		err := fmt.Errorf("badger cannot write its last table within %v; the next start does", limit)
		s.log.Error("closed without a last flush", "op", "close", "err", err)
		return err
	}
}

func (s *Store) stopping() bool {
	select {
	case <-s.stop:
		return true
	default:
		return false
	}
}

// shardOf deals badger's keys to shards.
func (s *Store) shardOf(key []byte) *shard {
	if len(s.shards) == 1 {
		return s.shards[0]
	}
	return s.shards[xxhash.Sum64(key)%uint64(len(s.shards))]
}

// random returns 64 random bits, never 0.
func (s *Store) random() uint64 {
	var b [8]byte
	s.randMu.Lock()
	defer s.randMu.Unlock()
	for {
		if _, err := io.ReadFull(s.opt.Rand, b[:]); err != nil {
			rand.Read(b[:]) // never fails
		}
		if v := binary.BigEndian.Uint64(b[:]); v != 0 {
			return v
		}
	}
}

// update commits what fn sets, in one transaction.
func (s *Store) update(fn func(*badger.Txn) error) error {
	txn := s.transaction(true)
	defer txn.Discard()
	if err := fn(txn); err != nil {
		return err
	}
	return s.commit(txn)
}

// transaction begins one of badger's that shows all that was acknowledged, and nothing that is not on the disk with Fsync.
func (s *Store) transaction(update bool) *badger.Txn {
	if s.logs != nil {
		return s.logs.begin(s.db, update)
	}
	return s.db.NewTransaction(update)
}

// commit is the only way to the disk. One failure of badger's own makes the store unhealthy: its log may have a
// hole, and what is written behind a hole is lost by the next start after a power cut.
func (s *Store) commit(txn *badger.Txn) error {
	if err := s.Healthy(); err != nil {
		return err // badger may have no memtable any more, and would end the process
	}
	var own error
	err := s.opt.Commit(func() error {
		if disk := s.dir.disk; disk != nil {
			own = disk.commit(s.dir.turn, txn, s.opt.Durability == Fsync)
		} else if s.logs != nil {
			own = s.logs.commit(txn)
		} else {
			own = txn.Commit()
		}
		return own
	})
	s.snapshots.refresh() // a failed one may be visible too
	if err == nil {
		s.failures.Store(0)
		return nil
	}
	s.metrics.commitErrors.Inc()
	n := s.failures.Add(1)
	s.log.Error("commit failed", "op", "commit", "err", err, "in_a_row", n)
	if own != nil || n >= maxFailures {
		reason := fmt.Errorf("%w: %w; repair the disk and restart the node", ErrUnhealthy, err)
		s.unhealthy.CompareAndSwap(nil, &reason)
	}
	return err
}

// Healthy returns nil, or why the store refuses writes until it is opened anew; the error wraps ErrUnhealthy.
func (s *Store) Healthy() error {
	if err := s.unhealthy.Load(); err != nil {
		return *err
	}
	return nil
}

// view runs fn on a snapshot that shows every write acknowledged before the call.
func (s *Store) view(fn func(*badger.Txn) error) (err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return ErrClosed
	}
	sn := s.snapshots.acquire()
	defer s.snapshots.release(sn)
	defer s.recoverRead(&err)
	return fn(sn.txn)
}

// opened returns nil until the store is closed.
func (s *Store) opened() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return ErrClosed
	}
	return nil
}

// recoverRead turns badger's panics about a damaged block into ErrCorrupt. After a failed commit badger may panic
// because it has no memtable; that says nothing about the record.
func (s *Store) recoverRead(err *error) {
	if r := recover(); r != nil {
		if s.Healthy() != nil {
			*err = fmt.Errorf("%w: badger panicked: %v", ErrRead, r)
			return
		}
		*err = corrupt("badger panicked while reading: %v", r)
	}
}

// readError tells a failure of badger's from a bad record.
func readError(err error) error {
	if errors.Is(err, ErrCorrupt) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrRead, err)
}
