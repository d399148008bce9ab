package main

import (
	"fmt"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

const (
	barPause  = 200 * time.Millisecond
	linePause = 5 * time.Second

	leastColumns = 40 // of a terminal that a bar is drawn on
)

// position is how far the load is.
func (l *loader) position() (offset, size, failed int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state.Offset, l.state.Size, l.state.Failed
}

// progress returns what shows how far the load is until stopped: a bar on a
// terminal, above which refused records are reported, else a line every few
// seconds.
func (l *loader) progress() func(stop <-chan struct{}) {
	if n, _ := columns(l.s.err); n >= leastColumns {
		l.bars = mpb.New(mpb.WithOutput(l.s.err), mpb.WithWidth(48), mpb.WithRefreshRate(barPause))
		l.notes = l.bars
		return l.bar
	}
	return l.lines
}

func (l *loader) lines(stop <-chan struct{}) {
	tick := time.NewTicker(linePause)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			offset, size, _ := l.position()
			fmt.Fprintln(l.s.err, l.counts()+", "+l.left(offset, size))
		case <-stop:
			return
		}
	}
}

// counts are the numbers of this run.
func (l *loader) counts() string {
	_, _, failed := l.position()
	acked := l.acked.Load()
	rate := float64(acked) / max(time.Since(l.begun).Seconds(), 1e-3)
	return fmt.Sprintf("%d acknowledged, %.0f/s, %d retried, %d failed", acked, rate, l.retried.Load(), failed)
}

// left is the share that is done and an estimate of the time for the rest.
func (l *loader) left(offset, size int64) string {
	if size <= 0 {
		return humanBytes(offset) + " read"
	}
	share := float64(offset) / float64(size)
	spent := time.Since(l.begun)
	done := offset - l.from
	if done <= 0 {
		return fmt.Sprintf("%.0f%%", 100*share)
	}
	eta := time.Duration(float64(spent) * float64(size-offset) / float64(done))
	return fmt.Sprintf("%.0f%%, %s left", 100*share, eta.Round(time.Second))
}

func (l *loader) bar(stop <-chan struct{}) {
	offset, size, _ := l.position()
	b := l.bars.AddBar(max(size, 0),
		mpb.AppendDecorators(
			decor.Any(func(decor.Statistics) string {
				offset, size, _ := l.position()
				return " " + l.counts() + ", " + l.left(offset, size)
			}),
		))
	b.SetCurrent(offset)
	tick := time.NewTicker(barPause)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			offset, size, _ = l.position()
			if size < 0 {
				b.SetTotal(offset+1, false)
			}
			b.SetCurrent(offset)
		case <-stop:
			offset, _, _ = l.position()
			b.SetTotal(offset, true)
			b.Abort(false)
			l.bars.Wait()
			return
		}
	}
}
