package loadgen

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Range and precision of latencies: 100 ns to 10 min, three digits.
const (
	leastLatency = 100 * time.Nanosecond
	mostLatency  = 10 * time.Minute
	digits       = 3
	shards       = 4
)

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(int64(leastLatency), int64(mostLatency), digits)
}

// tally is what is counted of one kind of operation.
type tally struct {
	ok       *hdrhistogram.Histogram // latencies of what succeeded
	failed   *hdrhistogram.Histogram // and of what did not
	answers  map[string]int64        // by reason
	missing  int64
	siblings int64
}

func newTally() *tally {
	return &tally{ok: newHistogram(), failed: newHistogram(), answers: map[string]int64{}}
}

func (t *tally) add(a Answer, latency time.Duration) {
	h := t.ok
	switch a.Class {
	case Missing:
		t.missing++
	case Siblings:
		t.siblings++
	case Failed, Broken:
		h = t.failed
	}
	_ = h.RecordValue(int64(min(max(latency, leastLatency), mostLatency))) // in range
	t.answers[a.Reason]++
}

// merge adds o to t and empties o.
func (t *tally) merge(o *tally) {
	if o.ok.TotalCount() > 0 {
		t.ok.Merge(o.ok)
		o.ok.Reset()
	}
	if o.failed.TotalCount() > 0 {
		t.failed.Merge(o.failed)
		o.failed.Reset()
	}
	for r, n := range o.answers {
		t.answers[r] += n
	}
	clear(o.answers)
	t.missing += o.missing
	t.siblings += o.siblings
	o.missing, o.siblings = 0, 0
}

// recorder collects answers of many connections. Safe for concurrent use.
type recorder struct {
	part [shards]shard

	mu    sync.Mutex // guards what is below
	total [kinds]*tally
	late  *hdrhistogram.Histogram // how long operations that were never sent had been due
	first map[string]string       // first detail of each reason of a failure
}

type shard struct {
	mu   sync.Mutex // guards kind
	kind [kinds]*tally
}

func newRecorder() *recorder {
	r := &recorder{late: newHistogram(), first: map[string]string{}}
	for k := range kinds {
		r.total[k] = newTally()
		for i := range r.part {
			r.part[i].kind[k] = newTally()
		}
	}
	return r
}

// add records an answer that connection conn got.
func (r *recorder) add(conn int, kind Kind, a Answer, latency time.Duration) {
	s := &r.part[conn%shards]
	s.mu.Lock()
	s.kind[kind].add(a, latency)
	s.mu.Unlock()
	if a.Class == Failed || a.Class == Broken {
		r.note(a)
	}
}

// unsent records an operation that had been due for so long when the run ended.
// Left out, the worst of an overload would be missing from the percentiles.
func (r *recorder) unsent(wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.late.RecordValue(int64(min(max(wait, leastLatency), mostLatency))) // in range
}

// note keeps what was said with the first failure of each reason.
func (r *recorder) note(a Answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.first[a.Reason]; !known {
		r.first[a.Reason] = a.Detail
	}
}

// roll moves what came since the last call into the totals, and returns it.
func (r *recorder) roll() *tally {
	span := newTally()
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.part {
		s := &r.part[i]
		s.mu.Lock()
		for k, t := range s.kind {
			span.ok.Merge(t.ok)
			span.failed.Merge(t.failed)
			r.total[k].merge(t)
		}
		s.mu.Unlock()
	}
	return span
}
