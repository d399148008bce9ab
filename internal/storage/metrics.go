package storage

import (
	"fmt"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the store's counters and histograms. What is only looked up is in Store.register.
type metrics struct {
	batchOps      prometheus.Histogram
	commitSeconds prometheus.Histogram
	commitErrors  prometheus.Counter
	mints         prometheus.Counter
	merges        prometheus.Counter
	unchanged     prometheus.Counter
	overloaded    prometheus.Counter
	stale         prometheus.Counter
	hinted        prometheus.Counter
	recounted     prometheus.Counter
	reaped        prometheus.Counter
	pruned        prometheus.Counter
	hintsFull     prometheus.Counter
	droppedParts  prometheus.Counter
	droppedKeys   prometheus.Counter
	reclaimed     prometheus.Counter
	paused        prometheus.Counter
	corrupt       atomic.Uint64

	registered []prometheus.Collector
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "dunlin", Subsystem: "storage", Name: name, Help: help})
}

func gauge(name, help string, value func() float64) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "dunlin", Subsystem: "storage", Name: name, Help: help}, value)
}

func newMetrics() *metrics {
	return &metrics{
		batchOps: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "dunlin", Subsystem: "storage", Name: "batch_ops",
			Help: "Writes that were answered together. The count is the number of batches.", Buckets: prometheus.ExponentialBuckets(1, 2, 11),
		}),
		commitSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "dunlin", Subsystem: "storage", Name: "commit_seconds",
			Help: "Time of a batch's commit, with its fsync.", Buckets: prometheus.ExponentialBuckets(50e-6, 2, 16),
		}),
		commitErrors: counter("commit_errors_total", "Commits that failed."),
		mints:        counter("mints_total", "Client writes applied."),
		merges:       counter("merges_total", "Objects of other replicas merged."),
		unchanged:    counter("merges_unchanged_total", "Merges that changed nothing and wrote nothing."),
		overloaded:   counter("overloaded_total", "Writes refused because the queue was full."),
		stale:        counter("stale_rounds_total", "Objects refused because they were read in an earlier reap round."),
		hinted:       counter("hints_written_total", "Writes and objects kept as hints."),
		recounted:    counter("merkle_differences_total", "Merkle leaves that a recount found wrong."),
		pruned:       counter("pruned_total", "Records from whose contexts births were taken that nothing needs, because all replicas had agreed."),
		reaped:       counter("reaped_total", "Records removed because all replicas had agreed that nothing in them lives."),
		hintsFull:    counter("hints_refused_total", "Hints refused because the target's take as much room as they may."),
		droppedParts: counter("partitions_dropped_total", "Partitions removed because the node no longer holds them."),
		droppedKeys:  counter("keys_dropped_total", "Records, and pieces of large ones, removed with their partitions."),
		reclaimed:    counter("reclaimed_bytes_total", "Bytes given back to the disk by rewriting tables after partitions were removed."),
		paused:       counter("compaction_pause_seconds_total", "Time that compactions waited so that requests got the processors."),
	}
}

func (s *Store) register() error {
	m := s.metrics
	if s.opt.Metrics == nil {
		return nil
	}
	status := func(get func(Status) float64) func() float64 { return func() float64 { return get(s.Status()) } }
	all := []prometheus.Collector{
		m.batchOps, m.commitSeconds, m.commitErrors, m.mints, m.merges, m.unchanged, m.overloaded, m.stale, m.recounted, m.reaped, m.pruned, m.hinted, m.hintsFull,
		m.droppedParts, m.droppedKeys, m.reclaimed, m.paused, s.recent.hits, s.recent.misses,
		gauge("cache_bytes", "Memory of the records that were used lately.", func() float64 { return float64(s.recent.size()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Namespace: "dunlin", Subsystem: "storage", Name: "corrupt_records_total", Help: "Reads that met a corrupt record.",
		}, func() float64 { return float64(m.corrupt.Load()) }),
		gauge("queue_ops", "Writes waiting for a shard.", status(func(st Status) float64 { return float64(st.QueueOps) })),
		gauge("queue_bytes", "Bytes of the writes waiting for a shard.", status(func(st Status) float64 { return float64(st.QueueBytes) })),
		gauge("lsm_bytes", "Size of badger's tables and the logs of its memtables.", func() float64 { lsm, _ := s.DataBytes(); return float64(lsm) }),
		gauge("vlog_bytes", "Size of badger's value log.", func() float64 { _, vlog := s.DataBytes(); return float64(vlog) }),
		gauge("hints", "Hints held for other nodes.", func() float64 { n, _ := s.hints.totals(); return float64(n) }),
		gauge("hint_bytes", "Bytes of the hints held for other nodes.", func() float64 { _, n := s.hints.totals(); return float64(n) }),
		gauge("free_bytes", "Free space of the disk, less what writes under way may take.", status(func(st Status) float64 { return float64(st.Free) })),
		gauge("full", "1 while client writes are refused for want of disk space.", status(func(st Status) float64 { return oneIf(st.Full) })),
		gauge("full_replica", "1 while other replicas' writes and hints are refused, too.", status(func(st Status) float64 { return oneIf(st.FullReplica) })),
		gauge("min_free_bytes", "Free space below which client writes are refused: min-free, or more where badger needs it.", status(func(st Status) float64 { return float64(st.MinFree) })),
		gauge("healthy", "0 while writes are refused because commits failed.", status(func(st Status) float64 { return oneIf(st.Healthy == nil) })),
	}
	for _, c := range all {
		if err := s.opt.Metrics.Register(c); err != nil {
			s.unregister()
			return fmt.Errorf("register the storage metrics: %w", err)
		}
		m.registered = append(m.registered, c)
	}
	return nil
}

func oneIf(set bool) float64 {
	if set {
		return 1
	}
	return 0
}

func (s *Store) unregister() {
	for _, c := range s.metrics.registered {
		s.opt.Metrics.Unregister(c)
	}
	s.metrics.registered = nil
}

// Status is the state of the store at one moment.
type Status struct {
	Free, Total uint64 // bytes of the disk, Free without what writes under way may take; 0 in memory
	MinFree     uint64 // free bytes below which client writes are refused now
	Full        bool   // client writes are refused
	FullReplica bool   // other replicas' writes and hints are refused too
	FullDelete  bool   // deletes are refused too
	Healthy     error  // as Store.Healthy
	Corrupt     uint64
	Shards      int
	QueueOps    int
	QueueBytes  int64
}

// Status returns the state of the store. It is cheap.
func (s *Store) Status() Status {
	full := s.guard.isFull(levelNoClient) // measures, if it is time
	st := Status{
		Free: uint64(max(s.guard.available(), 0)), Total: s.guard.total.Load(), MinFree: s.guard.mark(levelNoClient),
		Full: full, FullReplica: s.guard.isFull(levelNoReplica), FullDelete: s.guard.isFull(levelNothing),
		Healthy: s.Healthy(), Corrupt: s.metrics.corrupt.Load(), Shards: len(s.shards),
	}
	for _, sh := range s.shards {
		st.QueueOps += len(sh.queue)
		st.QueueBytes += sh.queued.Load()
	}
	return st
}

// DataBytes returns how many bytes the data takes on the disk: badger's tables with the logs of its memtables, and its
// value log. In memory the logs take none. It looks at every file.
func (s *Store) DataBytes() (lsm, vlog uint64) {
	f := s.footprint()
	return f.tables + f.logs, diskBytes(s.db.Opts().Dir, ".vlog")
}
