package admission

import (
	"math"
	"runtime"
	"sync"
	"testing"
	"time"
)

func TestPercentileIsOfWhatIsNew(t *testing.T) {
	bounds := []float64{math.Inf(-1), 0, .001, .002, .004, math.Inf(1)}
	for _, test := range []struct {
		before, now []uint64
		want        time.Duration
		ok          bool
	}{
		{nil, []uint64{0, 90, 10, 0, 0}, time.Millisecond, true},
		{nil, []uint64{0, 89, 11, 0, 0}, 2 * time.Millisecond, true},
		{[]uint64{0, 90, 10, 0, 0}, []uint64{0, 92, 10, 18, 0}, 4 * time.Millisecond, true},
		{[]uint64{0, 90, 10, 0, 0}, []uint64{0, 90, 10, 0, 20}, time.Second, true},
		{nil, []uint64{0, 10, 9, 0, 0}, 0, false}, // too few
		{[]uint64{0, 90, 10, 0, 0}, []uint64{0, 90, 10, 0, 0}, 0, false},
	} {
		if got, ok := percentile(test.before, test.now, bounds); got != test.want || ok != test.ok {
			t.Errorf("%v, then %v: %v, %v", test.before, test.now, got, ok)
		}
	}
}

func TestTheRuntimeTellsTheWaits(t *testing.T) {
	waits := Runtime()
	waits()
	for {
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(runtime.Gosched)
		}
		wg.Wait()
		if wait, ok := waits(); ok { // not every wait is counted
			if wait < 0 || wait > time.Hour {
				t.Errorf("nine of ten waited at most %v", wait)
			}
			return
		}
	}
}
