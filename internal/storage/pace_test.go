package storage

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Goroutines that merge tables wait in turn, not beside each other, and no longer than is useful.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace(2, newMetrics().paused)
		log := badgerLog{log: slog.New(slog.DiscardHandler), pace: p}
		begin := time.Now()
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				log.Debugf(tableMerged+" %d keys. Skipped %d keys. Iteration took: %v", 0, 1, 2, 10*time.Millisecond)
			})
		}
		wg.Wait()
		if got := time.Since(begin); got != 3*pauseFactor*10*time.Millisecond {
			t.Errorf("three pauses took %v", got)
		}
		begin = time.Now()
		p.pause(time.Minute)
		if got := time.Since(begin); got != longestPause {
			t.Errorf("a long pause took %v", got)
		}
		if got, want := counted(t, p.paused), (longestPause + 3*pauseFactor*10*time.Millisecond).Seconds(); got < want-1e-6 || got > want+1e-6 {
			t.Errorf("%v s were counted, not %v", got, want)
		}
		begin = time.Now()
		log.Debugf("Discard stats: %v", 10*time.Millisecond)
		p.end()
		p.pause(time.Minute)
		if got := time.Since(begin); got != 0 {
			t.Errorf("the end took %v", got)
		}
	})
}

// With more processors, more of them wait beside each other.
func TestPaceOfManyProcessors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace(8, newMetrics().paused)
		begin := time.Now()
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() { p.pause(10 * time.Millisecond) })
		}
		wg.Wait()
		if got := time.Since(begin); got != 2*pauseFactor*10*time.Millisecond {
			t.Errorf("four pauses took %v", got)
		}
	})
}

// badger does say what the pace goes by.
func TestCompactionsArePaced(t *testing.T) {
	s, _ := openTest(t, t.TempDir(), Options{Durability: OS, tune: smallMemTables})
	fill(t, s, func() bool { return counted(t, s.metrics.paused) > 0 })
}

// Compactions do not wait when they fall behind.
func TestUrgentCompactions(t *testing.T) {
	s, _ := openTest(t, t.TempDir(), Options{Durability: OS, tune: func(o badger.Options) badger.Options {
		return smallMemTables(o).WithNumLevelZeroTables(2 * urgentTables).WithNumLevelZeroTablesStall(4 * urgentTables)
	}})
	p := newPace(2, newMetrics().paused)
	p.db.Store(s.db)
	if p.urgent() {
		t.Fatal("nothing is urgent in an empty store")
	}
	fill(t, s, p.urgent)
	p.pause(time.Minute)
	if got := counted(t, p.paused); got > 0 {
		t.Errorf("waited for %v s", got)
	}
}

func smallMemTables(o badger.Options) badger.Options {
	return o.WithMemTableSize(1 << 20).WithValueThreshold(64 << 10)
}

// fill writes until done, 32 MiB at most.
func fill(t *testing.T, s *Store, done func() bool) {
	t.Helper()
	for i := range 1024 {
		if done() {
			return
		}
		put(t, s, Key{0, "b", fmt.Sprintf("key-%05d", i)}, strings.Repeat("v", 32<<10))
	}
	waitFor(t, "what was to happen while the store was filled", done)
}

func counted(t *testing.T, c prometheus.Counter) float64 {
	t.Helper()
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		t.Fatal(err)
	}
	return metricValue(&m)
}
