package hinted

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

// deliverMarks tells the target of which partitions hints were dropped, and forgets it once the target knows. It
// reports whether it called the target.
func (w *Worker) deliverMarks(ctx context.Context, t *target) (called bool) {
	for ctx.Err() == nil {
		e := w.deps.View.Epochs()
		ds := w.deps.Store.Dropped(t.id)
		if e == nil || len(ds) == 0 {
			return called
		}
		if !isMember(e, t.id) {
			// Nobody is left to be told. Those who hold the partitions now got what others knew when they were filled.
			if err := w.deps.Store.ClearDropped(ctx, t.id, ds); err != nil && ctx.Err() == nil {
				w.lower(t, fmt.Errorf("forget dropped partitions: %w", err), false)
			}
			return called
		}
		if !w.deps.View.Alive(t.id) {
			return called
		}
		called = true
		before := len(ds)
		ds = ds[:min(len(ds), maxDropped)]
		m := droppedMessage{epoch: e.Newest().Epoch(), partitions: make([]int, len(ds))}
		for i, d := range ds {
			m.partitions[i] = d.Partition
		}
		answer, err := w.call(ctx, t.id, EndpointDropped, m.encode())
		if err == nil {
			var n int
			if n, err = decodeMarked(answer); err == nil && n != len(ds) {
				err = fmt.Errorf("%d of %d partitions marked", n, len(ds))
			}
		}
		if err == nil {
			err = w.deps.Store.ClearDropped(ctx, t.id, ds)
		}
		if err != nil {
			if ctx.Err() == nil {
				w.lower(t, fmt.Errorf("dropped partitions: %w", err), judge(err) == tooSlow)
			}
			return called
		}
		w.met.marked.Add(float64(len(ds)))
		if len(w.deps.Store.Dropped(t.id)) >= before {
			return false // set again meanwhile
		}
		w.deps.Log.Warn("told a peer that hints for it were dropped", "peer", t.id, "partitions", len(ds))
	}
	return called
}

// replay sends hints, a batch at a time, until the turn is over or there is a reason to stop. It
// reports whether it read any.
func (w *Worker) replay(ctx context.Context, t *target) (read bool) {
	end := time.Now().Add(w.opt.Turn)
	for time.Now().Before(end) && w.pace(ctx, t, end) {
		e := w.deps.View.Epochs()
		if e == nil {
			return read
		}
		b := batch{e: e, t: t, direct: w.reaches(e, t)}
		if !b.direct && !w.hasMoved(e, t.id) {
			return read
		}
		read = true
		if !w.batch(ctx, b) {
			return read
		}
	}
	return read
}

// pace waits until the target's and the common budget allow a batch. It is asked before hints are read, so that what
// is sent is fresh. It gives the turn back when the target's own budget outlasts it.
func (w *Worker) pace(ctx context.Context, t *target, end time.Time) bool {
	for ctx.Err() == nil {
		w.mu.Lock()
		own, free := t.paid, later(t.paid, w.paid)
		if own.After(end) {
			t.notBefore = later(t.notBefore, own)
			w.mu.Unlock()
			return false
		}
		w.mu.Unlock()
		wait := time.Until(free)
		if wait <= 0 {
			return true
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
	return false
}

// reaches reports whether hints may be sent to the target itself: it is alive for long enough, and knows already of what
// hints were dropped.
func (w *Worker) reaches(e *ring.Epochs, t *target) bool {
	if !isMember(e, t.id) || !w.deps.View.Alive(t.id) || len(w.deps.Store.Dropped(t.id)) > 0 {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return !t.aliveSince.IsZero() && (t.direct || !t.settled(w.opt.Settle).After(time.Now()))
}

// batch is one step of a target's turn.
type batch struct {
	e      *ring.Epochs
	t      *target
	direct bool // the target itself is served
}

// batch reads, sends and deletes one batch, and reports whether the turn goes on.
func (w *Worker) batch(ctx context.Context, b batch) bool {
	t := b.t
	w.mu.Lock()
	cursor, items := t.cursor, t.items
	w.mu.Unlock()
	hints, next, more, err := w.deps.Store.Hints(t.id, cursor, items, w.opt.BatchBytes)
	if err != nil {
		w.met.failed.WithLabelValues("store").Inc()
		w.lower(t, fmt.Errorf("read hints: %w", err), false)
		return false
	}
	step := passCount{}
	send, moved := hints[:0:0], hints[:0:0]
	read := 0
	for _, h := range hints {
		read += h.Object.Bytes()
		switch {
		case h.Key.Partition < 0 || h.Key.Partition >= b.e.Partitions():
		case !b.e.Newest().IsPrimary(h.Key.Partition, t.id):
			if b.direct || !b.e.Holds(h.Key.Partition, t.id) || !isMember(b.e, t.id) || !w.deps.View.Alive(t.id) {
				moved = append(moved, h)
			} // else it has just come alive, and is due soon
		case b.direct:
			send = append(send, h)
		}
	}
	var sum outcome
	if len(moved) > 0 {
		if sum = w.move(ctx, b, moved); ctx.Err() != nil {
			return false
		}
		step.misplaced = len(moved) - sum.deleted
	}
	step.deleted = sum.deleted
	if len(send) == 0 {
		w.charge(t, read)
		return w.advance(t, next, more, step) && !w.slowedDown(t, sum.err)
	}
	answer, err := w.send(ctx, b, t.id, send)
	if err != nil {
		if ctx.Err() == nil {
			w.undelivered(t, unanswered{next, more, len(send), step, err})
		}
		return false
	}
	w.catchUp(ctx, b, send, answer)
	direct := w.settle(ctx, t, send, answer)
	if ctx.Err() != nil {
		return false
	}
	step.deleted += direct.deleted
	sum.err = cmp.Or(direct.err, sum.err)
	goOn := w.advance(t, next, more, step)
	if w.slowedDown(t, sum.err) {
		return false
	}
	w.raise(t)
	return goOn
}

// slowedDown has the target rest if there was an error.
func (w *Worker) slowedDown(t *target, err error) bool {
	if err != nil {
		w.lower(t, err, true)
	}
	return err != nil
}

// send carries the hints over and returns what became of each.
func (w *Worker) send(ctx context.Context, b batch, to ring.NodeID, hints []Hint) (answerMessage, error) {
	m := batchMessage{epoch: b.e.Newest().Epoch(), items: make([]item, len(hints))}
	for i, h := range hints {
		m.items[i] = item{bucket: h.Key.Bucket, key: h.Key.Key, round: h.Round, object: h.Object}
	}
	body := m.encode()
	w.charge(b.t, len(body))
	w.met.sent.Add(float64(len(body)))
	reply, err := w.call(ctx, to, EndpointBatch, body)
	if err != nil {
		return answerMessage{}, err
	}
	a, err := decodeAnswer(reply)
	if err == nil && len(a.statuses) != len(hints) {
		err = fmt.Errorf("%d answers for %d hints", len(a.statuses), len(hints))
	}
	return a, err
}

func (w *Worker) call(ctx context.Context, to ring.NodeID, endpoint string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, w.opt.CallTimeout)
	defer cancel()
	return w.deps.Peers.Call(ctx, to, endpoint, body)
}

// outcome is that of a batch that was answered. deleted: hints that are no longer held. err: why to slow down.
type outcome struct {
	deleted int
	err     error
}

// settle deletes what the target stored, in exactly the version that it stored, and counts the rest.
func (w *Worker) settle(ctx context.Context, t *target, hints []Hint, a answerMessage) outcome {
	var gone atomic.Int64
	var storeErr atomic.Pointer[error]
	parallel(len(hints), func(i int) {
		if a.statuses[i] != stored || ctx.Err() != nil {
			return
		}
		deleted, err := w.deps.Store.DeleteHint(ctx, t.id, hints[i].Key, hints[i].Digest)
		if err != nil {
			storeErr.CompareAndSwap(nil, &err)
		} else if deleted {
			gone.Add(1)
		}
	})
	var c [statuses]uint64
	for _, s := range a.statuses {
		c[s]++
	}
	w.mu.Lock()
	t.deleted += int(gone.Load())
	t.count.replayed += c[stored]
	t.count.stale += c[stale]
	t.count.refused += c[refused]
	t.count.failed += c[failed]
	if c[refused] > 0 && a.text != "" {
		t.lastErr, t.lastErrAt = a.text, time.Now()
	}
	w.mu.Unlock()
	w.met.replayed.Add(float64(c[stored]))
	for _, s := range []status{stale, refused, failed} {
		w.met.failed.WithLabelValues(statusNames[s]).Add(float64(c[s]))
	}
	out := outcome{deleted: int(gone.Load())}
	if p := storeErr.Load(); p != nil {
		w.met.failed.WithLabelValues("store").Inc()
		out.err = fmt.Errorf("delete hint: %w", *p)
	} else if c[failed] > 0 {
		out.err = fmt.Errorf("%d of %d hints not stored: %s", c[failed], len(hints), a.text)
	}
	return out
}

// advance moves behind the batch; at the end of a pass it decides when the next begins. It reports whether there is
// more of this pass.
func (w *Worker) advance(t *target, next Cursor, more bool, step passCount) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	t.cursor = next
	t.pass.deleted += step.deleted
	t.pass.misplaced += step.misplaced
	if more {
		return true
	}
	pass := t.pass
	t.cursor, t.pass, t.misplaced = nil, passCount{}, pass.misplaced
	if pass.deleted == 0 {
		// Nothing moved, perhaps because no hint could be read: do not go over them all again at once.
		t.notBefore = time.Now().Add(w.opt.Retry << min(t.idle, maxIdle))
		t.idle++
	} else {
		t.idle = 0
		w.deps.Log.Info("hints delivered", "peer", t.id, "hints", pass.deleted)
	}
	return false
}

// unanswered is a batch that got no answer.
type unanswered struct {
	next  Cursor
	more  bool
	items int
	step  passCount
	err   error
}

// undelivered decides what follows a batch that got no answer: less speed, smaller batches until the hint that does
// it is alone, and then past that hint, so that one hint never holds up those behind it.
func (w *Worker) undelivered(t *target, b unanswered) {
	why := judge(b.err)
	w.met.failed.WithLabelValues("call").Inc()
	if why == tooSlow || why == odd {
		if b.items > 1 {
			w.mu.Lock()
			t.items = max(1, min(t.items, b.items)/4)
			w.mu.Unlock()
		} else {
			w.advance(t, b.next, b.more, b.step)
		}
	}
	w.lower(t, b.err, why == tooSlow || why == overloaded)
}

// reason is what a failed call says about the target and the batch.
type reason int

const (
	odd        reason = iota // something about this batch, perhaps
	tooSlow                  // no answer in time
	overloaded               // refused unread, as too much
	away                     // the batch did not arrive, or the two nodes are at different epochs
)

type (
	notSentError interface {
		error
		NotSent() bool
	}
	overloadedError interface {
		error
		Overloaded() bool
	}
	codeError interface {
		error
		Code() uint16
	}
)

func judge(err error) reason {
	if e, ok := errors.AsType[overloadedError](err); ok && e.Overloaded() {
		return overloaded
	}
	if e, ok := errors.AsType[codeError](err); ok {
		switch Code(e.Code()) {
		case CodeOverloaded:
			return overloaded
		case CodeEpoch:
			return away
		}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return tooSlow
	}
	if e, ok := errors.AsType[notSentError](err); ok && e.NotSent() {
		return away
	}
	return odd
}
