package admission

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"
)

// Backlog measures how long what comes waits to be looked at. A request that the kernel has taken waits twice: unseen,
// until the runtime asks the kernel what has come, and then as a goroutine, until it runs. The runtime counts the second
// only, and when there is too much to do, that is the smaller part: it asks for little at a time. So a byte is sent
// through a pipe, which waits in the same two queues.
//
// One byte may be late because something else had the processors for a moment. A queue that stays is seen by the
// shortest of several waits: K. Nichols, V. Jacobson, Controlling Queue Delay, ACM Queue 10 (5), 2012.
type Backlog struct {
	in, out *os.File
	began   time.Time
	sent    atomic.Int64 // when the byte under way was sent, since began; 0: none is
	took    atomic.Int64 // what the one before took; 0: nothing is known
	before  int64        // what one earlier took; belongs to who asks
	ended   chan struct{}
}

// NewBacklog returns one that is to be closed.
func NewBacklog() (*Backlog, error) {
	out, in, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("a pipe to measure how long requests wait: %w", err)
	}
	b := &Backlog{in: in, out: out, began: time.Now(), ended: make(chan struct{})}
	go b.receive()
	return b, nil
}

func (b *Backlog) receive() {
	defer close(b.ended)
	var one [1]byte
	for {
		if n, err := b.out.Read(one[:]); err != nil || n == 0 {
			return
		}
		b.took.Store(int64(time.Since(b.began)) - b.sent.Load())
		b.sent.Store(0)
	}
}

// Waits is a [Waits], for one who asks now and then: the shorter of what the last two bytes took, the last one being
// perhaps still under way. If it is not, the next is sent. ok is false until two are known.
func (b *Backlog) Waits() (wait time.Duration, ok bool) {
	now := int64(time.Since(b.began))
	if sent := b.sent.Load(); sent != 0 {
		return time.Duration(min(b.before, now-sent)), b.before > 0
	}
	took, before := b.took.Load(), b.before
	b.before = took
	b.sent.Store(now)
	if _, err := b.in.Write([]byte{0}); err != nil {
		b.sent.Store(0) // closed
	}
	return time.Duration(min(before, took)), before > 0
}

// Close ends it. Nobody may ask it any more.
func (b *Backlog) Close() error {
	err := b.in.Close()
	<-b.ended
	return errors.Join(err, b.out.Close())
}
