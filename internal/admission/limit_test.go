package admission

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const atMost = 1024

// fill enters until it is refused, and leaves again.
func (l *Limit) fill() (entered int) {
	for l.Enter() {
		entered++
	}
	for range entered {
		l.Leave()
	}
	return entered
}

func TestLimitFollowsTheWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wait, ok := time.Duration(0), true
		l := New(atMost, func() (time.Duration, bool) { return wait, ok })
		l.least = 16
		next := func(w time.Duration) int {
			wait = w
			time.Sleep(window)
			l.fill()
			return l.Now()
		}
		if n := next(0); n != atMost {
			t.Errorf("nobody waits, and at most %d", n)
		}
		if n := next(target); n != atMost {
			t.Errorf("the wait is put up with, and at most %d", n)
		}
		// What was under way counts, not what might have been.
		l.peak.Store(100)
		if n := next(target + 1); n != 75 {
			t.Errorf("a quarter less than 100: %d", n)
		}
		if n := next(target + 1); n != 57 {
			t.Errorf("a quarter less than 75: %d", n)
		}
		if n := next(target * 3 / 4); n != 57 {
			t.Errorf("just busy, and %d", n)
		}
		if n := next(target/2 - 1); n != 57+57/32+1 {
			t.Errorf("a thirty-second more than 57: %d", n)
		}
		if n := next(target/2 - 1); n != 59+59*2/32+1 {
			t.Errorf("two thirty-seconds more than 59: %d", n)
		}
		l.peak.Store(60)
		if n := next(2 * target); n != 30 {
			t.Errorf("half of 60: %d", n)
		}
		if n := next(target/2 - 1); n != 30+1 {
			t.Errorf("a thirty-second more than 30: %d", n)
		}
		for range 20 {
			next(time.Second)
		}
		if n := l.Now(); n != 16 {
			t.Errorf("not least: %d", n)
		}
		ok = false // too little happens to say anything
		for range 25 {
			next(time.Second)
		}
		if n := l.Now(); n != atMost {
			t.Errorf("nothing is known, and at most %d", n)
		}
	})
}

func TestAnOverloadOfLongAgoIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		l := New(atMost, func() (time.Duration, bool) { asked++; return time.Second, true })
		for range 20 {
			time.Sleep(window)
			l.fill()
		}
		if l.Now() != int(l.least) || asked != 20 {
			t.Fatalf("at most %d after %d looks", l.Now(), asked)
		}
		time.Sleep(idle + window)
		if n := l.fill(); n != atMost || asked != 21 {
			t.Errorf("%d entered, after %d looks", n, asked)
		}
	})
}

func TestWithoutWaitsOnlyTheNumberCounts(t *testing.T) {
	l := New(3, nil)
	for range 3 {
		if !l.Enter() {
			t.Fatal("refused")
		}
	}
	if l.Enter() || l.InFlight() != 3 || l.Now() != 3 {
		t.Errorf("%d of %d are under way", l.InFlight(), l.Now())
	}
	l.Leave()
	if !l.Enter() {
		t.Error("there is room again")
	}
}

func TestLeastIsWithinMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(2, func() (time.Duration, bool) { return time.Second, true })
		time.Sleep(window)
		if n := l.fill(); n != 2 {
			t.Errorf("%d entered, of 2", n)
		}
	})
}

// processor does work that waits for it in turn, and tells how long it waited.
type processor struct {
	work chan time.Time
	mu   sync.Mutex
	most time.Duration // of the waits since somebody asked
	seen int
}

const workTime = time.Millisecond

func (p *processor) run(done func()) {
	for since := range p.work {
		p.mu.Lock()
		p.most, p.seen = max(p.most, time.Since(since)), p.seen+1
		p.mu.Unlock()
		time.Sleep(workTime)
		done()
	}
}

func (p *processor) waits() (time.Duration, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer func() { p.most, p.seen = 0, 0 }()
	return p.most, p.seen > 0
}

// flood asks for twice what a processor can do, for ten seconds, and then for half of it for two.
func flood(waits bool) (done int64, longest time.Duration, after *Limit) {
	p := &processor{work: make(chan time.Time, 2*atMost)}
	sensor := p.waits
	if !waits {
		sensor = nil
	}
	l := New(atMost, sensor)
	l.least = 4
	var finished atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() { p.run(func() { finished.Add(1); l.Leave() }) })
	offer := func(every, during time.Duration) {
		for end := time.Now().Add(during); time.Now().Before(end); time.Sleep(every) {
			if l.Enter() {
				longest = max(longest, time.Duration(l.InFlight())*workTime)
				p.work <- time.Now()
			}
		}
	}
	offer(workTime/2, 10*time.Second)
	done = finished.Load()
	offer(2*workTime, 2*time.Second)
	close(p.work)
	wg.Wait()
	return done, longest, l
}

func TestTwiceTheCapacityIsServedAtCapacityAndWithoutAQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const capacity = int64(10 * time.Second / workTime)
		done, longest, l := flood(true)
		if done < capacity*95/100 {
			t.Errorf("%d of %d were done", done, capacity)
		}
		if longest > 10*target {
			t.Errorf("some waited %v", longest)
		}
		if l.Now() != atMost {
			t.Errorf("two seconds after the overload at most %d", l.Now())
		}
		if n := l.InFlight(); n != 0 {
			t.Errorf("%d are under way for ever", n)
		}
		// With a fixed number, as much is done, and everybody waits for everybody.
		if done, longest, _ := flood(false); done < capacity*95/100 || longest < time.Second/2 {
			t.Errorf("of the fixed number, %d were done, after at most %v", done, longest)
		}
	})
}
