package storage

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/dunlindb/dunlin/vclock"
)

// stock gives partition p records of all kinds, and returns the keys and a tombstone that is under removal.
func stock(t *testing.T, s *Store, p int, n int) (keys []Key, removing Statement) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range n {
		k := Key{p, "b", fmt.Sprintf("key-%05d", i)}
		keys = append(keys, k)
		wg.Go(func() { put(t, s, k, "value") })
	}
	wg.Wait()
	big := Key{p, "b", "large"}
	if _, err := s.Merge(t.Context(), big, bigObject(1, 1, 2<<20), MergeOptions{}); err != nil {
		t.Fatal(err)
	}
	removing = tombstone(t, s, Key{p, "b", "deleted"})
	if got := enter(t, s, p, 3, true, removing); !slices.Equal(got, []bool{true}) {
		t.Fatalf("not confirmed: %v", got)
	}
	return append(keys, big, removing.Key), removing
}

func keysOf(t *testing.T, s *Store, space byte, p int) (n int) {
	t.Helper()
	for _, key := range rawKeys(t, s, space) {
		if partitionOf([]byte(key)) == p {
			n++
		}
	}
	return n
}

// checkGone checks that nothing of a partition is left, on the disk or in memory.
func checkGone(t *testing.T, s *Store, p int) {
	t.Helper()
	for _, space := range []byte{spaceObject, spaceChunk, spaceRemoving, spaceDropping} {
		if n := keysOf(t, s, space, p); n > 0 {
			t.Errorf("%d keys of keyspace %c are left in partition %d", n, space, p)
		}
	}
	if m, _ := s.Marks(p); m != 0 {
		t.Errorf("partition %d has marks %b", p, m)
	}
	if root, ready := s.Root(p); !ready || root != (Sum{}) {
		t.Errorf("partition %d: root %x, ready %v", p, root, ready)
	}
	if len(s.Removing(p)) > 0 || s.Holds(p) {
		t.Errorf("partition %d: removing %v, holds %v", p, s.Removing(p), s.Holds(p))
	}
}

func TestDrop(t *testing.T) {
	path := t.TempDir()
	s, d := openTest(t, path, Options{Partitions: 8})
	keys, _ := stock(t, s, 2, 2*dropStep+10)
	stock(t, s, 3, 5)
	kept := contents(t, s, 3)
	first := get(t, s, keys[0]).Record.Own
	if _, err := s.PutHint(t.Context(), nodeA, keys[0], peerObject(1, 1, "for another"), 3); err != nil {
		t.Fatal(err)
	}
	if err := s.SetMark(t.Context(), []int{2, 3}, MarkFilling|MarkBehind); err != nil {
		t.Fatal(err)
	}
	if left, err := s.Leftovers(); err != nil || !slices.Equal(left, []int{2, 3}) {
		t.Fatalf("leftovers %v, %v", left, err)
	}
	if err := s.Drop(t.Context(), []int{1, 2, 2, 7}); err != nil {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		checkGone(t, s, 2)
		checkMarks(t, s, map[int]Mark{3: MarkFilling | MarkBehind})
		if got := contents(t, s, 3); !slices.Equal(got, kept) {
			t.Errorf("another partition changed: %d keys, had %d", len(got), len(kept))
		}
		if s.Round(2) != 3 || len(s.Removing(3)) != 1 || len(allHints(t, s, nodeA, 10, 0)) != 1 {
			t.Errorf("round %d, hints %v", s.Round(2), allHints(t, s, nodeA, 10, 0))
		}
		if left, err := s.Leftovers(); err != nil || !slices.Equal(left, []int{3}) {
			t.Errorf("leftovers %v, %v", left, err)
		}
	}
	check()
	checkSums(t, s)
	closeTest(t, s, d)
	s, _ = openTest(t, path, Options{Partitions: 8})
	waitFor(t, "the sums", func() bool { _, ready := s.Root(7); return ready })
	check()
	// Gained again: in the round that it was in, and nothing continues an actor of the earlier ownership.
	if _, err := s.Merge(t.Context(), keys[0], peerObject(1, 1, "old"), MergeOptions{Round: 2}); !errors.Is(err, ErrStaleRound) {
		t.Errorf("an object of an earlier round: %v", err)
	}
	if m, _ := put(t, s, keys[0], "new"); m.Record.Own.Actor == first.Actor {
		t.Errorf("the actor %v of the earlier ownership goes on", first.Actor)
	}
	checkSums(t, s)
}

// contents lists a partition's records.
func contents(t *testing.T, s *Store, p int) []KeyEntry {
	t.Helper()
	keys, _, _, err := s.Keys(t.Context(), p, -1, ScanCursor{}, MaxList)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// Who gains partitions waits for this: it costs a few commits, however many partitions have a little left in them.
func TestSmallPartitionsAreDroppedTogether(t *testing.T) {
	var commits atomic.Int64
	s, _ := openTest(t, t.TempDir(), Options{Partitions: 256, Commit: func(commit func() error) error {
		commits.Add(1)
		return commit()
	}})
	parts := make([]int, 250)
	var wg sync.WaitGroup
	for p := range parts {
		parts[p] = p
		for i := range 3 {
			wg.Go(func() { put(t, s, Key{p, "b", fmt.Sprint(i)}, "value") })
		}
	}
	wg.Wait()
	put(t, s, Key{255, "b", "kept"}, "value")
	commits.Store(0)
	if err := s.Drop(t.Context(), parts); err != nil {
		t.Fatal(err)
	}
	if n := commits.Load(); n > 3 { // the note, the records, the note's end
		t.Errorf("%d commits", n)
	}
	for _, p := range []int{0, 1, 128, 249} {
		checkGone(t, s, p)
	}
	if left, err := s.Leftovers(); err != nil || !slices.Equal(left, []int{255}) {
		t.Errorf("leftovers %v, %v", left, err)
	}
	checkSums(t, s)
}

// A mark of all partitions at once must not come back for a partition that was dropped.
func TestDropTakesTheMarkOfAllOff(t *testing.T) {
	live, path := t.TempDir(), t.TempDir()
	s, d := openTest(t, live, Options{Durability: OS})
	copyDir(t, live, path) // as after the death of the process
	closeTest(t, s, d)
	s, d = openTest(t, path, Options{Partitions: 4})
	checkMarks(t, s, map[int]Mark{0: MarkDamaged, 1: MarkDamaged})
	if err := s.Drop(t.Context(), []int{1}); err != nil {
		t.Fatal(err)
	}
	closeTest(t, s, d)
	s, _ = openTest(t, path, Options{Partitions: 4})
	checkMarks(t, s, map[int]Mark{0: MarkDamaged, 1: 0})
}

// Whichever step a crash comes before, the partition is whole before Drop has begun, and refused until it is gone
// after that.
func TestCrashWhileDropping(t *testing.T) {
	for step, finished := 0, false; !finished; step++ {
		if step > 20 {
			t.Fatal("Drop never comes to its end")
		}
		var left atomic.Int64
		left.Store(1 << 30)
		path := t.TempDir()
		s, d := openTest(t, path, Options{Partitions: 8, Commit: func(commit func() error) error {
			if left.Add(-1) < 0 {
				return errors.New("the process dies here")
			}
			return commit()
		}})
		keys, _ := stock(t, s, 2, dropStep+100)
		small, _ := stock(t, s, 4, 3) // the two share a transaction
		if err := s.SetMark(t.Context(), []int{2}, MarkBehind); err != nil {
			t.Fatal(err)
		}
		left.Store(int64(step))
		err := s.Drop(t.Context(), []int{4, 2})
		finished = err == nil
		if !finished {
			if !errors.Is(err, ErrCommit) {
				t.Fatal(err)
			}
			if _, err := s.Get(keys[0]); !errors.Is(err, ErrDropping) {
				t.Errorf("step %d: a key of a partition that is being dropped reads as %v", step, err)
			}
		}
		closeTest(t, s, d)
		s, d = openTest(t, path, Options{Partitions: 8})
		if step == 0 {
			if got, other := len(contents(t, s, 2)), len(contents(t, s, 4)); got != len(keys) || other != len(small) {
				t.Errorf("before the note %d of %d and %d of %d records are left", got, len(keys), other, len(small))
			}
		} else {
			// Marked before the rest is dropped: the mark is of the new ownership, and stays.
			if err := s.SetMark(t.Context(), []int{2}, MarkFilling); err != nil {
				t.Fatal(err)
			}
			waitFor(t, "the rest to be dropped", func() bool { return !s.Holds(2) && !s.Holds(4) })
			waitFor(t, "the sums", func() bool { _, ready := s.Root(2); return ready })
			checkMarks(t, s, map[int]Mark{2: MarkFilling})
			if err := s.Drop(t.Context(), []int{4, 2}); err != nil {
				t.Fatal(err)
			}
			checkGone(t, s, 2)
			checkGone(t, s, 4)
			put(t, s, keys[0], "new")
			checkSums(t, s)
		}
		closeTest(t, s, d)
	}
}

// A write beside Drop is dropped with the rest, refused, or stays as a whole; sums follow.
func TestWritesBesideDrop(t *testing.T) {
	s := openMemory(t, Options{Partitions: 4, Shards: 4})
	stock(t, s, 2, 3*dropStep)
	type write struct {
		k               Key
		before, refused bool // acknowledged before Drop was called; refused
		after           bool // begun after it had returned
	}
	var phase atomic.Int32
	var mu sync.Mutex
	var writes []write
	some := make(chan struct{}) // are done before the dropping begins
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := 0; phase.Load() < 2 || i%10 != 0; i++ {
				w := write{k: Key{2, "w", fmt.Sprintf("%d-%d", g, i)}, after: phase.Load() == 2}
				_, _, err := s.Mint(t.Context(), w.k, vclock.Write{Value: []byte("v")}, nil)
				w.before, w.refused = err == nil && phase.Load() == 0, errors.Is(err, ErrDropping)
				if err != nil && !w.refused {
					t.Error(err)
				}
				mu.Lock()
				if writes = append(writes, w); len(writes) == 40 {
					close(some)
				}
				mu.Unlock()
			}
		})
	}
	<-some
	phase.Store(1)
	if err := s.Drop(t.Context(), []int{2}); err != nil {
		t.Error(err)
	}
	phase.Store(2)
	wg.Wait()
	refused := 0
	for _, w := range writes {
		found := get(t, s, w.k).Found
		switch {
		case w.before && found:
			t.Errorf("%v was acknowledged before the partition was dropped, and is there", w.k)
		case w.after && !found, w.refused && found:
			t.Errorf("%v: found %v, %+v", w.k, found, w)
		}
		if w.refused {
			refused++
		}
	}
	t.Logf("%d writes, %d refused", len(writes), refused)
	checkSums(t, s)
}

func TestFillingStatesNothing(t *testing.T) {
	s := openMemory(t, Options{Partitions: 4})
	st := tombstone(t, s, Key{1, "b", "k"})
	absent := Statement{Key{1, "b", "absent"}, st.Digest}
	for _, m := range []Mark{0, MarkDamaged, MarkFilling} {
		if m != 0 {
			if err := s.SetMark(t.Context(), []int{1}, m); err != nil {
				t.Fatal(err)
			}
		}
		for _, primary := range []bool{true, false} {
			x, want := st, m == 0
			if !primary {
				x, want = absent, m != MarkFilling
			}
			got, err := s.Confirm(t.Context(), 1, primary, []Statement{x})
			if err != nil || got[0] != want {
				t.Errorf("mark %b, primary %v: %v, %v, want %v", m, primary, got, err, want)
			}
		}
		if _, since := s.Marks(1); m != 0 {
			if err := s.ClearMark(t.Context(), 1, m, since); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestEnterRounds(t *testing.T) {
	path := t.TempDir()
	var commits atomic.Int64
	var fail atomic.Bool
	s, d := openTest(t, path, Options{Partitions: 4, Commit: func(commit func() error) error {
		if commits.Add(1); fail.Load() {
			return errors.New("disk")
		}
		return commit()
	}})
	stock(t, s, 1, 3)
	rounds := make(map[int]uint64)
	for p := range 3000 {
		rounds[p] = uint64(1 + p%7)
	}
	rounds[1] = 9
	commits.Store(0)
	if err := s.EnterRounds(t.Context(), rounds); err != nil {
		t.Fatal(err)
	}
	if n := commits.Load(); n != 3 {
		t.Errorf("%d commits for 3000 partitions, want 3", n)
	}
	if len(s.Removing(1)) > 0 || keysOf(t, s, spaceRemoving, 1) > 0 {
		t.Error("what an earlier round had under removal stays so")
	}
	if err := s.EnterRounds(t.Context(), map[int]uint64{5: 1, 6: 100, 4000: 0}); err != nil {
		t.Fatal(err)
	}
	rounds[6], rounds[4000] = 100, 0
	closeTest(t, s, d)
	s, _ = openTest(t, path, Options{Commit: func(commit func() error) error {
		if fail.Load() {
			return errors.New("disk")
		}
		return commit()
	}})
	for p, want := range rounds {
		if got := s.Rounds([]int{p}); got[0] != want {
			t.Errorf("partition %d is in round %d, want %d", p, got[0], want)
		}
	}
	if err := s.EnterRounds(t.Context(), map[int]uint64{1 << 16: 1}); !errors.Is(err, ErrKey) {
		t.Error(err)
	}
	fail.Store(true)
	if err := s.EnterRounds(t.Context(), map[int]uint64{0: 50}); !errors.Is(err, ErrCommit) || s.Round(0) != rounds[0] {
		t.Errorf("a failed commit: %v, round %d", err, s.Round(0))
	}
	if s.Healthy() == nil {
		t.Error("the store goes on although nobody knows its round")
	}
}
