package storage

import (
	"context"
	"fmt"
	"maps"
	"slices"
)

// Rounds returns the reap rounds of partitions, in their order. It does not touch the disk.
func (s *Store) Rounds(ps []int) []uint64 {
	out := make([]uint64, len(ps))
	for i, p := range ps {
		out[i] = s.Round(p)
	}
	return out
}

// roundsPerTxn is how many partitions enter rounds in one transaction, with one fsync.
const roundsPerTxn = 1024

// EnterRounds durably takes each partition into the given round, stating nothing, unless it is there already or
// further. What earlier rounds had under removal no longer is. It is EnterRound for many partitions, with one fsync for
// about a thousand. Errors are as with EnterRound; partitions may have been entered then.
func (s *Store) EnterRounds(ctx context.Context, rounds map[int]uint64) error {
	of := make(map[int]uint64, len(rounds)) // by slice
	for p, round := range rounds {
		if err := s.groups().check(p); err != nil {
			return err
		}
		slice := s.groups().slice(p)
		of[slice] = max(of[slice], round)
	}
	rounds = of
	var behind []int
	for _, p := range slices.Sorted(maps.Keys(rounds)) {
		if rounds[p] > s.rounds.get(p) {
			behind = append(behind, p)
		}
	}
	for len(behind) > 0 {
		if err := s.Healthy(); err != nil {
			return err
		}
		if err := s.guard.check(levelNothing); err != nil {
			return err
		}
		n, marks := 0, 0
		for n < min(len(behind), roundsPerTxn) && (n == 0 || marks+s.removing.size(behind[n]) <= dropMarks) {
			marks += s.removing.size(behind[n])
			n++
		}
		err := s.exclusive(ctx, func() error { return s.enterSome(behind[:n], rounds) })
		if err != nil {
			return err
		}
		behind = behind[n:]
	}
	return nil
}

// enterSome enters rounds in one transaction, while all shards stand.
func (s *Store) enterSome(ps []int, rounds map[int]uint64) error {
	txn := s.transaction(true)
	defer txn.Discard()
	ps = slices.DeleteFunc(slices.Clone(ps), func(p int) bool { return s.rounds.get(p) >= rounds[p] })
	earlier := make(map[int][]string)
	for _, p := range ps {
		earlier[p] = s.removing.list(p)
		if err := writeRound(txn, p, rounds[p], earlier[p], nil); err != nil {
			return fmt.Errorf("%w: %w", ErrTooLarge, err)
		}
	}
	if len(ps) == 0 {
		return nil
	}
	if err := s.commitRounds(txn); err != nil {
		return err
	}
	for _, p := range ps {
		s.rounds.set(p, rounds[p])
		s.removing.drop(p, earlier[p])
	}
	return nil
}
