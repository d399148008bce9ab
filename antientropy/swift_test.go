package antientropy

import (
	"testing"
	"testing/synctest"
	"time"
)

// Between a change of members and its end nothing is waited for but messages: who is told to look is filled at once from all
// of its sources, and tells when there is progress.
func TestFillingWaitsForNoInterval(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newChange(t, 400, Options{})
		c.know(1, c.both()[:1], 0, 1, 2, 3)
		c.start()
		time.Sleep(time.Minute)
		c.adopt(c.joiner, c.moved)
		c.know(2, c.both(), 0, 1, 2, 3, 4)
		began := time.Now()
		c.joiner.s.Look()
		for len(c.filling(c.joiner)) > 0 && time.Since(began) < time.Minute {
			time.Sleep(time.Millisecond)
		}
		// Several sources are asked at once, and who leaves partitions to another one looks again when that has ended.
		if took := time.Since(began); took > lookEvery/2 {
			t.Errorf("filled after %v", took)
		}
		synctest.Wait()
		if c.joiner.progress.Load() == 0 {
			t.Error("nobody was told")
		}
	})
}
