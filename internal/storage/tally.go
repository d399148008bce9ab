package storage

import (
	"errors"

	"github.com/dgraph-io/badger/v4"
)

// tally is what a record counts for in the sums and counters in memory.
type tally struct {
	found bool
	// corrupt: nobody knows what was counted of it.
	corrupt bool
	sum     sum   // of a record: what it adds to its Merkle leaf
	bytes   int64 // of a hint
	since   int64 // of a hint: Unix milliseconds when it was first stored
}

// hintTally is what the value of a hint counts for.
func hintTally(key, value []byte) tally {
	h, _, err := decodeHeader(key, value)
	if err != nil {
		return tally{found: true, corrupt: true, bytes: int64(len(key) + len(value))}
	}
	return tally{found: true, bytes: hintBytes(key, h.size), since: hintSince(h.own)}
}

// recordTally is what the value of a record counts for.
func recordTally(key, value []byte) tally {
	h, _, err := decodeHeader(key, value)
	if err != nil {
		return tally{found: true, corrupt: true}
	}
	return h.tally()
}

func (h header) tally() tally {
	if h.incomplete {
		return tally{found: true}
	}
	return tally{found: true, sum: sumOf(h.digest)}
}

// tally is what the entry counts for once it is committed.
func (e *entry) tally() tally {
	if e.rec.IsZero() && !e.incomplete {
		return tally{}
	}
	if e.hint {
		return tally{found: true, bytes: hintBytes(e.key, e.size), since: e.since}
	}
	return header{incomplete: e.incomplete, digest: e.digest}.tally()
}

// kept is what was committed, for who keeps it in memory; nil where that is not known.
func (e *entry) kept(committed bool) []byte {
	if !committed {
		return nil
	}
	return e.record
}

// look tells what badger shows of an entry, whatever became of the commit.
func (e *entry) look(s *Store, txn *badger.Txn) (is tally) {
	err := func() (err error) {
		defer s.recoverRead(&err)
		item, err := txn.Get(e.key)
		if errors.Is(err, badger.ErrKeyNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		return item.Value(func(v []byte) error {
			is = e.tallyOf(v)
			return nil
		})
	}()
	if err != nil {
		return tally{found: true, corrupt: true}
	}
	return is
}

func (e *entry) tallyOf(value []byte) tally {
	if e.hint {
		return hintTally(e.key, value)
	}
	return recordTally(e.key, value)
}

// settle brings the counters in memory up to what badger shows after the commit. A failed one may show or not.
func (b *batch) settle(committed bool) {
	if !b.dirty {
		return
	}
	s := b.sh.s
	var txn *badger.Txn
	if !committed {
		txn = s.transaction(false)
		defer txn.Discard()
	}
	for _, e := range b.entries.list {
		if !e.dirty {
			continue
		}
		is := tally{}
		if committed {
			is = e.tally()
		} else {
			is = e.look(s, txn)
		}
		if e.hint {
			s.hints.settle(e.target, hintPart{e.k.Partition, e.k.Bucket}, e.was, is, e.reserved)
		} else {
			s.forest.update(s.partition(e.k), e, is)
			s.recent.tell(e.key, e.kept(committed), e.cold)
		}
	}
}
