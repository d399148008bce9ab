package storage

import (
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"runtime"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// Durability is what an acknowledgement means.
type Durability int

const (
	// Fsync: the write is on the disk and survives a power cut.
	Fsync Durability = iota
	// OS: the write is in the operating system's cache. It survives the death of the process, not a power cut.
	OS
)

// String returns "fsync" or "os".
func (d Durability) String() string {
	if d == Fsync {
		return "fsync"
	}
	return "os"
}

// Options of a Store. The zero value is ready.
type Options struct {
	Durability Durability
	// Limits bound what client writes may grow a key to. Zero: vclock.DefaultLimits for values of 1 MiB.
	Limits vclock.Limits
	// Shards is the number of writer loops, 1 to 64. 0: one with Fsync, since badger syncs every transaction by
	// itself and two loops share the disk worse than one; else one for two CPUs, at most 4.
	Shards int
	// QueueLen and QueueBytes bound what waits for one shard; beyond, writes get ErrOverloaded. One write is always
	// admitted, however large. 0: 4096 writes and 64 MiB.
	QueueLen   int
	QueueBytes int64
	// MinFree is the free space in bytes below which client writes get ErrFull. 0: see autoMinFree. Other replicas'
	// writes are taken until half of it, deletes until a quarter. More is kept free where badger needs it.
	MinFree uint64
	// Partitions is the number of slices of the hash space in the cluster. The store keeps Merkle sums of the partitions 0
	// to Partitions-1, and of those that Number adds; 0: of none.
	Partitions int
	// HintBytes bounds what the hints for one target take, with what is around them; beyond, hints get ErrHintsFull.
	// 0: 256 MiB.
	HintBytes int64
	// CacheBytes bounds the memory for records that were used lately. 0: 64 MiB; below: none is kept.
	CacheBytes int64
	// InMemory keeps everything in memory. It is implied by a directory from MemoryDir, and needs no directory.
	// Acknowledgements say Fsynced as Durability does, so that a simulation sees what it configures.
	InMemory bool

	Now     func() time.Time      // wall clock of what is stored; nil: time.Now
	Rand    io.Reader             // births and incarnations; nil: crypto/rand. Need not be safe for concurrent use
	Logger  *slog.Logger          // nil: no logs
	Metrics prometheus.Registerer // nil: no metrics

	// Commit, for tests, stands around every commit. It may fail instead of calling commit, or after it.
	Commit func(commit func() error) error
	// Statfs, for tests, tells the free and total bytes of the disk that holds path.
	Statfs func(path string) (free, total uint64, err error)

	tune func(badger.Options) badger.Options // for benchmarks
}

func (o Options) withDefaults() (Options, error) {
	if o.Shards == 0 {
		o.Shards = 1
		if o.Durability == OS {
			o.Shards = min(4, max(1, runtime.GOMAXPROCS(0)/2))
		}
	}
	if o.QueueLen == 0 {
		o.QueueLen = 4096
	}
	if o.QueueBytes == 0 {
		o.QueueBytes = 64 << 20
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = defaultCache
	}
	if o.HintBytes == 0 {
		o.HintBytes = 256 << 20
	}
	switch {
	case o.Durability != Fsync && o.Durability != OS:
		return o, errors.New("storage: Durability must be Fsync or OS")
	case o.Shards < 1 || o.Shards > 64:
		return o, errors.New("storage: Shards must be 0 to 64")
	case o.Partitions < 0 || o.Partitions > ring.MaxPartitions:
		return o, errors.New("storage: Partitions must be 0 to 65536")
	case o.QueueLen < 1 || o.QueueBytes < 1 || o.HintBytes < 1:
		return o, errors.New("storage: QueueLen, QueueBytes and HintBytes must not be negative")
	}
	if o.Limits == (vclock.Limits{}) {
		o.Limits = vclock.DefaultLimits(1 << 20)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Commit == nil {
		o.Commit = func(commit func() error) error { return commit() }
	}
	if o.Statfs == nil {
		o.Statfs = statfs
	}
	return o, nil
}
