package reaper

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dunlindb/dunlin/ring"
)

// Wait says what holds a partition up.
type Wait struct {
	Partition int
	Phase     string      // confirm, enter, remove or abandon
	Peer      ring.NodeID // the member that did not answer; this node: its own disk
	Since     time.Time   // that this peer holds it up
	Reason    string
}

// OpenRound is a round that this node drives.
type OpenRound struct {
	Partition int
	Round     uint64
	Phase     string // enter, remove or abandon
	Keys      int    // of which Struck will stay
	Struck    int
}

// Status is what a reaper has done since it was made, and is doing. Numbers are of keys where nothing else is said.
type Status struct {
	Candidates uint64 // taken up
	Confirmed  uint64 // by all members, before a round
	Struck     uint64 // from an open round
	Removed    uint64 // for good, at all primaries
	Rounds     uint64 // rounds opened
	Abandoned  uint64 // rounds abandoned
	Open       []OpenRound
	Waiting    []Wait // by partition
}

// Status returns a snapshot. Safe for concurrent use.
func (r *Reaper) Status() Status { return r.watch.snapshot() }

// watch counts, for Status and for the metrics.
type watch struct {
	mu       sync.Mutex
	open     map[int]OpenRound
	waits    map[int]Wait
	dropping prometheus.Counter

	candidates, confirmed, struck, removed, rounds, abandoned tally
}

// tally is one number and its metric.
type tally struct {
	n      uint64
	metric prometheus.Counter
}

func newWatch(reg prometheus.Registerer) *watch {
	w := &watch{open: map[int]OpenRound{}, waits: map[int]Wait{}}
	opts := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "dunlin", Subsystem: "reaper", Name: name, Help: help}
	}
	w.candidates.metric = prometheus.NewCounter(opts("candidates_total", "Keys this node proposed to reap."))
	w.confirmed.metric = prometheus.NewCounter(opts("confirmed_total", "Proposed keys that every member confirmed before a round."))
	w.struck.metric = prometheus.NewCounter(opts("struck_total", "Keys struck from an open round."))
	w.removed.metric = prometheus.NewCounter(opts("removed_total", "Keys removed at all primaries in rounds this node drove."))
	w.rounds.metric = prometheus.NewCounter(opts("rounds_total", "Rounds this node opened."))
	w.abandoned.metric = prometheus.NewCounter(opts("rounds_abandoned_total", "Rounds this node abandoned."))
	w.dropping = prometheus.NewCounter(opts("records_removed_total", "Records of keys removed from this node's own copy, absent ones included."))
	gauge := func(name, help string, f func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "dunlin", Subsystem: "reaper", Name: name, Help: help}, func() float64 {
			w.mu.Lock()
			defer w.mu.Unlock()
			return float64(f())
		})
	}
	open := gauge("open_rounds", "Rounds this node drives now.", func() int { return len(w.open) })
	waits := gauge("waiting_partitions", "Partitions that some member holds up.", func() int { return len(w.waits) })
	if reg != nil {
		reg.MustRegister(w.candidates.metric, w.confirmed.metric, w.struck.metric, w.removed.metric, w.rounds.metric, w.abandoned.metric, w.dropping, open, waits)
	}
	return w
}

func (w *watch) add(t *tally, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t.n += uint64(n)
	t.metric.Add(float64(n))
}

func (w *watch) dropped(n int) { w.dropping.Add(float64(n)) }

func (w *watch) opened(o *openRound) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open[o.partition] = OpenRound{o.partition, o.round, o.phase.String(), len(o.keys) + len(o.struck), len(o.struck)}
}

func (w *watch) closed(o *openRound) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.open, o.partition)
}

// hold keeps the time since when the same peer holds the partition up.
func (w *watch) hold(x Wait) {
	w.mu.Lock()
	defer w.mu.Unlock()
	x.Since = time.Now()
	if old, ok := w.waits[x.Partition]; ok && old.Peer == x.Peer {
		x.Since = old.Since
	}
	w.waits[x.Partition] = x
}

func (w *watch) free(p int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.waits, p)
}

// planned drops the waits of partitions that this node drives no longer.
func (w *watch) planned(mine func(p int) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	maps.DeleteFunc(w.waits, func(p int, _ Wait) bool { return !mine(p) })
}

func (w *watch) snapshot() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := Status{
		Candidates: w.candidates.n, Confirmed: w.confirmed.n, Struck: w.struck.n, Removed: w.removed.n,
		Rounds: w.rounds.n, Abandoned: w.abandoned.n,
	}
	for _, p := range slices.Sorted(maps.Keys(w.open)) {
		s.Open = append(s.Open, w.open[p])
	}
	for _, p := range slices.Sorted(maps.Keys(w.waits)) {
		s.Waiting = append(s.Waiting, w.waits[p])
	}
	return s
}
