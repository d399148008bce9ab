package admission

import (
	"runtime"
	"testing"
	"time"
)

func newBacklog(t *testing.T) *Backlog {
	t.Helper()
	b, err := NewBacklog()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// arrive waits until the byte under way has come.
func (b *Backlog) arrive() {
	for b.sent.Load() != 0 {
		runtime.Gosched()
	}
}

func TestBacklogKnowsAfterTwoBytes(t *testing.T) {
	b := newBacklog(t)
	for i := range 10 {
		wait, ok := b.Waits()
		if ok != (i >= 2) || wait < 0 || ok && wait == 0 {
			t.Errorf("the %d. time: %v, %v", i+1, wait, ok)
		}
		b.arrive()
	}
}

func TestBacklogIsTheShorterOfTwoWaits(t *testing.T) {
	b := newBacklog(t)
	b.Waits()
	b.arrive()
	for _, c := range []struct{ took, want time.Duration }{
		{time.Second, 0}, // the one before is not known
		{2 * time.Second, time.Second},
		{time.Minute, 2 * time.Second},
		{time.Millisecond, time.Millisecond},
		{time.Hour, time.Millisecond},
	} {
		b.took.Store(int64(c.took))
		if wait, ok := b.Waits(); ok != (c.want > 0) || wait != c.want {
			t.Errorf("one took %v: %v, %v, want %v", c.took, wait, ok, c.want)
		}
		b.arrive()
	}
}

// A byte that has not come yet counts with the time that it has been under way.
func TestBacklogCountsTheByteUnderWay(t *testing.T) {
	b := newBacklog(t)
	b.Waits()
	b.arrive()
	const late = 5 * time.Millisecond
	b.sent.Store(int64(time.Since(b.began)) + 1)
	b.before = int64(time.Hour)
	time.Sleep(late)
	if wait, ok := b.Waits(); !ok || wait < late-1 {
		t.Errorf("after %v: %v, %v", late, wait, ok)
	}
	b.before = 1
	if wait, ok := b.Waits(); !ok || wait != 1 {
		t.Errorf("the one before took 1ns: %v, %v", wait, ok)
	}
}
