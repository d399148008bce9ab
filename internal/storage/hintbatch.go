package storage

import (
	"errors"
	"fmt"
	"slices"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// openHint completes the entry of a hint that was read as l.
func (e *entry) openHint(target ring.NodeID, l loaded) {
	e.hint, e.target, e.incomplete = true, target, false
	switch {
	case e.corrupt:
		e.was.bytes = int64(len(e.key) + len(l.value))
	case l.found:
		e.since = hintSince(l.record.Own)
		e.was = tally{found: true, bytes: hintBytes(e.key, l.header.size), since: e.since}
	}
	e.bytes = e.was.bytes
	e.rec.Own = vclock.Own{} // never continued
}

// giveUpCorruptHint makes a hint that cannot be read an empty one. What it held will not reach the target; a change
// notes that (see changeHint).
func (e *entry) giveUpCorruptHint() {
	if e.hint && errors.Is(e.err, ErrCorrupt) {
		e.err = nil
	}
}

// changeHint prepares a hint for becoming r.
func (b *batch) changeHint(e *entry, r *vclock.Record) error {
	s := b.sh.s
	r.Own = vclock.Own{}
	bytes := int64(0)
	if !r.IsZero() {
		bytes = hintBytes(e.key, weigh(r.Object))
	}
	if !s.hints.reserve(e.target, bytes-e.bytes, s.opt.HintBytes) {
		s.metrics.hintsFull.Inc()
		return fmt.Errorf("%w: %v, limit %d bytes", ErrHintsFull, e.target, s.opt.HintBytes)
	}
	e.reserved += bytes - e.bytes
	e.bytes = bytes
	if e.since == 0 {
		e.since = s.opt.Now().UnixMilli()
	}
	if r.IsZero() {
		e.since = 0
	} else {
		s.metrics.hinted.Inc()
	}
	if d := (dropped{e.target, b.sh.s.partition(e.k)}); e.corrupt && !slices.Contains(b.dropped, d) {
		s.hints.mark(d.target, d.partition) // before the commit: see Store.ClearDropped
		b.dropped = append(b.dropped, d)
		b.weight += len(e.target) + entryOverhead
	}
	return nil
}
