package admission

import (
	"runtime/metrics"
	"time"
)

const (
	runWaits = "/sched/latencies:seconds"
	// fewest are how many waits must have been seen to say anything.
	fewest = 20
)

// Runtime returns what the Go runtime counts.
func Runtime() Waits {
	sample := []metrics.Sample{{Name: runWaits}}
	var before []uint64
	return func() (time.Duration, bool) {
		metrics.Read(sample)
		if sample[0].Value.Kind() != metrics.KindFloat64Histogram {
			return 0, false // this Go does not count them
		}
		h := sample[0].Value.Float64Histogram()
		wait, ok := percentile(before, h.Counts, h.Buckets)
		before = append(before[:0], h.Counts...)
		return wait, ok
	}
}

// percentile returns the upper bound of the bucket that nine of ten of what is new in a histogram do not exceed.
func percentile(before, now []uint64, bounds []float64) (time.Duration, bool) {
	fresh := func(i int) uint64 {
		if i < len(before) {
			return now[i] - before[i]
		}
		return now[i]
	}
	all := uint64(0)
	for i := range now {
		all += fresh(i)
	}
	if all < fewest {
		return 0, false
	}
	sum := uint64(0)
	for i := range now {
		if sum += fresh(i); 10*sum >= 9*all {
			// The last bucket has no upper bound: its lower one is long enough.
			bound := min(bounds[i+1], max(bounds[i], 1))
			return time.Duration(bound * float64(time.Second)), true
		}
	}
	return 0, false
}
