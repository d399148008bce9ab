package storage

import (
	"errors"

	"github.com/dgraph-io/badger/v4"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// A hint is a record (see recordHeader) in a keyspace of its own. Nothing is ever minted with the own actor of a
// hint, so that field holds something else: the milliseconds of birth are when the hint was first stored.

const hintPrefix = 1 + len(ring.NodeID{}) // keyspace and target, before what follows the keyspace in a record's key

// hintKey is badger's key of the hint for target about the record at object.
func hintKey(target ring.NodeID, object []byte) []byte {
	b := make([]byte, 0, len(target)+len(object))
	b = append(b, spaceHint)
	b = append(b, target[:]...)
	return append(b, object[1:]...)
}

// splitHintKey gives the target, and badger's key of the record that the hint is about.
func splitHintKey(b []byte) (target ring.NodeID, object []byte, ok bool) {
	if len(b) < hintPrefix+3 || b[0] != spaceHint {
		return ring.NodeID{}, nil, false
	}
	object = append([]byte{spaceObject}, b[hintPrefix:]...)
	return ring.NodeID(b[1:hintPrefix]), object, true
}

func decodeHintKey(b []byte) (ring.NodeID, Key, error) {
	target, object, ok := splitHintKey(b)
	if !ok {
		return ring.NodeID{}, Key{}, errors.New("not the key of a hint")
	}
	k, err := decodeKey(object)
	return target, k, err
}

// droppedKey marks that hints of a partition for a target were dropped. Only its being there says something.
func droppedKey(g *groups, target ring.NodeID, p int) []byte {
	return g.appendNumber(append([]byte{spaceDropped}, target[:]...), p)
}

var droppedValue = []byte{1}

func hintOwn(since int64) vclock.Own {
	return vclock.Own{Actor: vclock.Actor{Birth: vclock.Birth{Millis: uint64(since)}}}
}

func hintSince(own vclock.Own) int64 { return max(0, int64(own.Actor.Birth.Millis)) }

// hintBytes is what a hint counts for: its key, its object and what there is around them.
func hintBytes(key []byte, size int) int64 {
	return int64(len(key) + size + recordHeader + entryOverhead)
}

// loadHints counts the hints, and the marks of dropped ones, when the store opens.
func (s *Store) loadHints() error {
	s.hints.targets = make(map[ring.NodeID]*hintCounts)
	s.hints.dropped = make(map[ring.NodeID]map[int]uint64)
	s.hints.marking = make(chan struct{}, 1)
	err := s.each(spaceHint, func(item *badger.Item) error {
		target, k, err := decodeHintKey(item.Key())
		if err != nil {
			s.log.Error("a hint under a key that cannot be read", "op", "open", "err", err)
			return nil
		}
		return item.Value(func(v []byte) error {
			s.hints.settle(target, hintPart{k.Partition, k.Bucket}, tally{}, hintTally(item.Key(), v), 0)
			return nil
		})
	})
	if err != nil {
		return err
	}
	return s.each(spaceDropped, func(item *badger.Item) error {
		key := item.Key()
		if len(key) < hintPrefix {
			return nil
		}
		if p, ok := s.groups().readNumber(key[hintPrefix:]); ok {
			s.hints.mark(ring.NodeID(key[1:hintPrefix]), p)
		}
		return nil
	})
}
