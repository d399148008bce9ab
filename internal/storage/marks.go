package storage

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/dgraph-io/badger/v4"
)

// Mark says what is wrong with the node's copy of a partition. Marks are durable; they can be set together.
type Mark uint8

const (
	// MarkBehind: writes were missed and the hints for them dropped. A single copy must not be read here.
	MarkBehind Mark = 1 << iota
	// MarkDamaged: the copy may have lost what it acknowledged. It counts in no quorum and no proof, and is no source.
	MarkDamaged
	// MarkFilling: the copy began empty, and what other replicas held before is being brought over. It counts like a
	// damaged one, until exchanges with all that held the partition have filled it.
	MarkFilling

	knownMarks = MarkBehind | MarkDamaged | MarkFilling
)

const (
	markMagic = "DLMK"
	markSize  = 1 + 8 // marks, since
	// marksPerTxn keeps a transaction of marks well below badger's limit.
	marksPerTxn = 4096
)

// markState is what a record of marks says.
type markState struct {
	mark  Mark
	since uint64
}

// markTable is the marks in memory. A partition without a state of its own that is later than all is damaged: after
// a stop that may have lost anything, one record marks all partitions, however many there are.
type markTable struct {
	writer chan struct{} // holds one while somebody changes a mark on the disk

	mu    sync.RWMutex
	parts map[int]markState
	all   uint64 // since when all are damaged; 0: never
	last  uint64 // the highest since
}

func (t *markTable) get(p int) markState {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.getLocked(p)
}

func (t *markTable) getLocked(p int) markState {
	m := t.parts[p]
	if t.all > m.since {
		return markState{m.mark | MarkDamaged, t.all}
	}
	return m
}

// set adds marks; only the holder of writer may.
func (t *markTable) set(p int, m Mark) markState {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last++
	t.parts[p] = markState{t.getLocked(p).mark | m, t.last}
	return t.parts[p]
}

// without is what clearing marks leaves; only the holder of writer may ask.
func (t *markTable) without(p int, m Mark) markState {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return markState{t.getLocked(p).mark &^ m, t.last + 1}
}

func (t *markTable) store(p int, m markState) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.parts[p] = m
	t.last = max(t.last, m.since)
}

// latest is the highest since.
func (t *markTable) latest() uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.last
}

// with returns the partitions that have a mark of m.
func (t *markTable) with(m Mark) (out []int) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for p, state := range t.parts {
		if state.mark&m != 0 {
			out = append(out, p)
		}
	}
	return out
}

func (t *markTable) storeAll(since uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all = since
	t.last = max(t.last, since)
}

func encodeMark(key []byte, m markState) []byte {
	return seal(markMagic, string(key), binary.BigEndian.AppendUint64([]byte{byte(m.mark)}, m.since))
}

func decodeMark(key, b []byte) (markState, error) {
	data, err := unseal(markMagic, string(key), b)
	if err != nil {
		return markState{}, corrupt("mark: %v", err)
	}
	if len(data) != markSize || Mark(data[0])&^knownMarks != 0 {
		return markState{}, corrupt("mark of %d bytes: %x", len(data), data)
	}
	return markState{Mark(data[0]), binary.BigEndian.Uint64(data[1:])}, nil
}

// Marks returns what is wrong with the copy of a partition, and a number that grows with each new marking, also over
// restarts. It does not touch the disk.
func (s *Store) Marks(p int) (m Mark, since uint64) {
	state := s.marks.get(p)
	return state.mark, state.since
}

// MarksOf is Marks for the partition of a key.
func (s *Store) MarksOf(k Key) (m Mark, since uint64) { return s.Marks(s.partition(s.at(k))) }

// SetMark durably adds marks to partitions. They count at once, whatever the error. Errors are as with PutMeta, and
// the context's.
func (s *Store) SetMark(ctx context.Context, ps []int, m Mark) error {
	for _, p := range ps {
		if err := s.groups().check(p); err != nil {
			return err
		}
	}
	if m == 0 || m&^knownMarks != 0 {
		return fmt.Errorf("%w: mark %#x", ErrKey, m)
	}
	return s.markWriter(ctx, func() error {
		states := make([]markState, len(ps))
		for i, p := range ps {
			states[i] = s.marks.set(p, m)
		}
		for len(ps) > 0 {
			n := min(len(ps), marksPerTxn)
			err := s.change(ctx, func(txn *badger.Txn) error {
				for i, p := range ps[:n] {
					key := s.groups().number(spaceMark, p)
					if err := txn.Set(key, encodeMark(key, states[i])); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
			ps, states = ps[n:], states[n:]
		}
		return nil
	})
}

// ClearMark durably takes marks off a partition, unless it was marked again since: then it does nothing. Errors are as
// with SetMark; after one, the marks count until the store is opened anew.
func (s *Store) ClearMark(ctx context.Context, p int, m Mark, since uint64) error {
	if err := s.groups().check(p); err != nil {
		return err
	}
	return s.markWriter(ctx, func() error {
		if cur := s.marks.get(p); cur.since != since || cur.mark&m == 0 {
			return nil
		}
		next := s.marks.without(p, m)
		key := s.groups().number(spaceMark, p)
		if err := s.change(ctx, func(txn *badger.Txn) error { return txn.Set(key, encodeMark(key, next)) }); err != nil {
			return err
		}
		s.marks.store(p, next)
		return nil
	})
}

func (s *Store) markWriter(ctx context.Context, fn func() error) error {
	select {
	case s.marks.writer <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.marks.writer }()
	return fn()
}

// MayHaveLost reports whether the run before this one may have lost what it acknowledged. Then all partitions were
// marked damaged when the store opened.
func (s *Store) MayHaveLost() bool { return s.lost }

// loadMarks reads the marks when the store opens. One that cannot be read is taken for the worst.
func (s *Store) loadMarks() error {
	s.marks.parts, s.marks.writer = make(map[int]markState), make(chan struct{}, 1)
	var unread []int
	err := s.each(spaceMark, func(item *badger.Item) error {
		key := item.Key()
		var m markState
		err := item.Value(func(v []byte) (err error) {
			m, err = decodeMark(key, v)
			return err
		})
		p, of := s.groups().readNumber(key[1:])
		switch {
		case !of && len(key) > 1:
			return nil // of a bucket that did not come to have partitions of its own
		case err != nil && of:
			unread = append(unread, p)
		case err != nil:
			s.lost = true
		case of:
			s.marks.store(p, m)
		default:
			s.marks.storeAll(m.since)
		}
		if err != nil {
			s.log.Error("a mark cannot be read; marking as damaged", "op", "open", "err", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, p := range unread {
		s.marks.set(p, MarkBehind|MarkDamaged) // no reader takes a copy that is damaged for better than one being filled
	}
	if !s.lost {
		return nil
	}
	s.log.Warn("the last run may have lost acknowledged writes; all partitions count as damaged until repaired", "op", "open")
	s.marks.storeAll(s.marks.last + 1)
	key := []byte{spaceMark}
	return s.db.Update(func(txn *badger.Txn) error {
		return txn.Set(key, encodeMark(key, markState{MarkDamaged, s.marks.all}))
	})
}
