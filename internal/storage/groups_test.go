package storage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dunlindb/dunlin/vclock"
)

const groupSlices = 8

// numberedBuckets are used by the tests below, with the one that never gets its own partitions between those that do.
var numberedBuckets = []string{"b", "a", "bb", "c"}

// wantSums are the sums of all partitions, by the digests that reads give.
func wantSums(t *testing.T, s *Store, keys []Key) map[int]sum {
	t.Helper()
	want := make(map[int]sum)
	for _, k := range keys {
		if st := get(t, s, k); st.Found {
			p := s.partition(s.at(k))
			want[p] = want[p].add(sumOf(st.Record.Digest(k.Bucket, k.Key)))
		}
	}
	return want
}

func checkPartitionSums(t *testing.T, s *Store, keys []Key) {
	t.Helper()
	want := wantSums(t, s, keys)
	for p := range groupSlices * (1 + len(s.Numbered())) {
		waitFor(t, "sums", func() bool { _, ready := s.Root(p); return ready })
		if root, _ := s.Root(p); root != want[p].bytes() {
			t.Errorf("partition %d: another root than that of its records", p)
		}
		if n, err := s.Recount(t.Context(), p); err != nil || n != 0 {
			t.Errorf("partition %d: %d sums were wrong, %v", p, n, err)
		}
	}
}

// namesIn pages through a partition's keys.
func namesIn(t *testing.T, s *Store, p int) (names []string) {
	t.Helper()
	var cursor ScanCursor
	for more := true; more; {
		var page []KeyEntry
		var err error
		page, cursor, more, err = s.Keys(t.Context(), p, -1, cursor, 3)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page {
			names = append(names, e.Bucket+"/"+e.Key)
		}
	}
	return names
}

func groupKeys(slice, n int) (keys []Key) {
	for _, bucket := range numberedBuckets {
		for i := range n {
			keys = append(keys, Key{slice, bucket, fmt.Sprintf("key-%d-%d", slice, i)})
		}
	}
	return keys
}

// A bucket gets partitions of its own while it is written to: nothing moves, and each partition counts, lists and drops
// what is its own, also after a restart.
func TestNumberWhileWritesGoOn(t *testing.T) {
	path := t.TempDir()
	s, d := openTest(t, path, Options{Partitions: groupSlices})
	var keys []Key
	for slice := range groupSlices {
		keys = append(keys, groupKeys(slice, 4)...)
	}
	for _, k := range keys[:len(keys)/2] {
		put(t, s, k, "before")
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := w; ctx.Err() == nil; i += 4 {
				put(t, s, keys[i%len(keys)], fmt.Sprint("value", i))
			}
		})
	}
	names := []string{"b", "c"}
	for n := range names {
		if err := s.Number(t.Context(), names[:n+1]); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	wg.Wait()
	for _, k := range keys {
		put(t, s, k, "after")
	}
	checkPartitionSums(t, s, keys)
	checkOwnKeys := func(s *Store) {
		t.Helper()
		for slice := range groupSlices {
			of := map[int][]string{}
			for _, k := range groupKeys(slice, 4) {
				p := slice + groupSlices*(1+slices.Index(names, k.Bucket))
				of[p] = append(of[p], k.Bucket+"/"+k.Key)
				if got := s.outside(s.at(k)); got.Partition != p {
					t.Fatalf("%v is in %d, want %d", k, got.Partition, p)
				}
			}
			for p, want := range of {
				slices.Sort(want)
				if got := namesIn(t, s, p); !slices.Equal(got, want) {
					t.Errorf("partition %d lists %q, want %q", p, got, want)
				}
			}
		}
	}
	checkOwnKeys(s)
	left, err := s.Leftovers()
	if err != nil || len(left) != 3*groupSlices {
		t.Errorf("left over: %v, %v", left, err)
	}
	closeTest(t, s, d)
	d, err = OpenDir(path, "test")
	if err != nil {
		t.Fatal(err)
	}
	// A key would be in another partition.
	if _, err := Open(d, Options{Partitions: 2 * groupSlices}); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "Options.Partitions") {
		t.Fatalf("opened with another number of partitions: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	s, _ = openTest(t, path, Options{Partitions: groupSlices})
	if !slices.Equal(s.Numbered(), names) {
		t.Fatalf("after a restart: %q", s.Numbered())
	}
	checkPartitionSums(t, s, keys)
	checkOwnKeys(s)
}

func TestNumberRefuses(t *testing.T) {
	s := openMemory(t, Options{Partitions: groupSlices})
	if err := s.Number(t.Context(), []string{"x", "y"}); err != nil {
		t.Fatal(err)
	}
	for _, names := range [][]string{{"y"}, {"x", "z"}, {"y", "x", "z"}, {"x", "y", ""}, {"x", "y", "a\x00"}} {
		if err := s.Number(t.Context(), names); !errors.Is(err, ErrKey) {
			t.Errorf("%q: %v", names, err)
		}
	}
	if err := s.Number(t.Context(), []string{"x"}); err != nil || len(s.Numbered()) != 2 {
		t.Errorf("an older list: %v", err)
	}
	if _, err := s.Get(Key{3 * groupSlices, "x", "k"}); err != nil { // beyond the cluster's, as before
		t.Error(err)
	}
	without := openMemory(t, Options{})
	if err := without.Number(t.Context(), []string{"x"}); !errors.Is(err, ErrKey) {
		t.Errorf("without partitions: %v", err)
	}
}

// Marks of a partition hold for the buckets that leave it, and then go their own ways.
func TestNumberTakesMarksAlong(t *testing.T) {
	path := t.TempDir()
	s, d := openTest(t, path, Options{Partitions: groupSlices})
	ctx := t.Context()
	if err := s.SetMark(ctx, []int{2}, MarkDamaged); err != nil {
		t.Fatal(err)
	}
	if err := s.MarkDropped(ctx, nodeA, Key{Partition: 5, Bucket: "other"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Number(ctx, []string{"x"}); err != nil {
		t.Fatal(err)
	}
	own := Key{2, "x", "k"} // by the number of before
	if m, _ := s.MarksOf(own); m != MarkDamaged {
		t.Errorf("mark %b of a bucket whose partition was damaged", m)
	}
	if m, _ := s.Marks(groupSlices + 3); m != 0 {
		t.Errorf("mark %b of a partition without", m)
	}
	_, since := s.Marks(2)
	if err := s.ClearMark(ctx, 2, MarkDamaged, since); err != nil {
		t.Fatal(err)
	}
	if err := s.SetMark(ctx, []int{groupSlices + 7}, MarkFilling); err != nil {
		t.Fatal(err)
	}
	if err := s.MarkDropped(ctx, nodeA, Key{Partition: 6, Bucket: "x"}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for p, want := range map[int]Mark{2: 0, groupSlices + 2: MarkDamaged, groupSlices + 7: MarkFilling, 7: 0} {
			if m, _ := s.Marks(p); m != want {
				t.Errorf("partition %d has marks %b, want %b", p, m, want)
			}
		}
		var dropped []int
		for _, r := range s.Dropped(nodeA) {
			dropped = append(dropped, r.Partition)
		}
		if want := []int{5, groupSlices + 5, groupSlices + 6}; !slices.Equal(dropped, want) {
			t.Errorf("dropped %v, want %v", dropped, want)
		}
		closeTest(t, s, d)
		s, d = openTest(t, path, Options{Partitions: groupSlices})
	}
}

// Damage to all is one mark, which later clearings do not touch: the new partitions have it as those had from which they
// come.
func TestNumberAfterALoss(t *testing.T) {
	path := t.TempDir()
	s, d := openTest(t, path, Options{Partitions: groupSlices, Durability: OS})
	put(t, s, Key{1, "x", "k"}, "v")
	killed := t.TempDir()
	copyDir(t, path, killed)
	closeTest(t, s, d)
	s, _ = openTest(t, killed, Options{Partitions: groupSlices, Durability: OS})
	if !s.MayHaveLost() {
		t.Fatal("a killed store has lost nothing")
	}
	_, since := s.Marks(4)
	if err := s.ClearMark(t.Context(), 4, MarkDamaged, since); err != nil {
		t.Fatal(err)
	}
	if err := s.Number(t.Context(), []string{"x"}); err != nil {
		t.Fatal(err)
	}
	for p := range groupSlices {
		a, _ := s.Marks(p)
		b, _ := s.Marks(groupSlices + p)
		if a != b || (a == 0) != (p == 4) {
			t.Errorf("partition %d has mark %b, and its part %b", p, a, b)
		}
	}
}

// To drop one partition of a slice leaves the others alone.
func TestDropOneOfASlice(t *testing.T) {
	s, _ := openTest(t, t.TempDir(), Options{Partitions: groupSlices})
	keys := groupKeys(3, 5)
	for _, k := range keys {
		put(t, s, k, "value")
	}
	if err := s.Number(t.Context(), []string{"b", "c"}); err != nil {
		t.Fatal(err)
	}
	var marked []Statement
	for _, bucket := range numberedBuckets {
		k := s.outside(Key{3, bucket, "deleted"})
		st := tombstone(t, s, k)
		keys = append(keys, k)
		marked = append(marked, st)
	}
	// One round for the whole slice: each partition states its own keys only.
	round := uint64(0)
	for _, st := range marked {
		round++
		confirmed, err := s.EnterRound(t.Context(), st.Key.Partition, round, true, []Statement{st})
		if err != nil || !confirmed[0] || s.Round(3) != round || s.Round(st.Key.Partition) != round {
			t.Fatalf("%v: %v, %v, round %d", st.Key, confirmed, err, s.Round(3))
		}
		if got := s.Removing(st.Key.Partition); len(got) != 1 || got[0] != st {
			t.Errorf("under removal: %v, want %v", got, st)
		}
		if _, err := s.Confirm(t.Context(), 3+groupSlices*3, true, []Statement{st}); err == nil {
			t.Error("a statement about another partition was taken")
		}
	}
	own := 3 + groupSlices // of b
	left := func(bucket string) (n int) {
		for _, k := range keys {
			if k.Bucket == bucket {
				if st := get(t, s, k); st.Found {
					n++
				}
			}
		}
		return n
	}
	for _, step := range []struct {
		drop int
		gone []string
	}{{own, []string{"b"}}, {3, []string{"b", "a", "bb"}}, {own + groupSlices, numberedBuckets}} {
		if err := s.Drop(t.Context(), []int{step.drop}); err != nil {
			t.Fatal(err)
		}
		for _, bucket := range numberedBuckets {
			if n := left(bucket); (n == 0) != slices.Contains(step.gone, bucket) || n != 0 && n != 6 {
				t.Errorf("after dropping %d: %d keys of %q", step.drop, n, bucket)
			}
		}
		if s.Holds(step.drop) {
			t.Errorf("still holds %d", step.drop)
		}
		checkPartitionSums(t, s, keys)
	}
}

// Hints are told by the partition that their key is in now.
func TestHintsOfNumberedBuckets(t *testing.T) {
	s := openMemory(t, Options{Partitions: groupSlices})
	k := Key{2, "x", "k"}
	if _, err := s.PutHint(t.Context(), nodeA, k, peerObject(1, 1, "v"), 0); err != nil {
		t.Fatal(err)
	}
	if err := s.Number(t.Context(), []string{"x"}); err != nil {
		t.Fatal(err)
	}
	hints, _, _, err := s.Hints(nodeA, HintCursor{}, 0, 0)
	if err != nil || len(hints) != 1 || hints[0].Key.Partition != 2+groupSlices {
		t.Fatalf("%v, %v", hints, err)
	}
	if got := s.HintTargets(); len(got) != 1 || !slices.Equal(got[0].Partitions, []int{2 + groupSlices}) {
		t.Errorf("%+v", got)
	}
	if _, found, _, err := s.HintsOf(k); err != nil || !found {
		t.Errorf("by the number of before: %v, %v", found, err)
	}
	st := Statement{Key: hints[0].Key, Digest: vclock.Digest{1}}
	if ok, err := s.Confirm(t.Context(), st.Key.Partition, false, []Statement{st}); err != nil || ok[0] {
		t.Errorf("confirmed with a hint here: %v, %v", ok, err)
	}
	if ok, err := s.DeleteHint(t.Context(), nodeA, hints[0].Key, hints[0].Digest); err != nil || !ok || len(s.HintTargets()) != 0 {
		t.Errorf("not deleted: %v, %v", ok, err)
	}
}

func TestGoldenGroups(t *testing.T) {
	b := encodeGroups(1024, []string{"sessions", "audit"})
	checkGolden(t, "groups.hex", b)
	if q, names, err := decodeGroups(b); err != nil || q != 1024 || !slices.Equal(names, []string{"sessions", "audit"}) {
		t.Errorf("%q, %v", names, err)
	}
	for i := range b {
		bad := slices.Clone(b)
		bad[i] ^= 1
		if _, _, err := decodeGroups(bad); !errors.Is(err, ErrCorrupt) {
			t.Errorf("byte %d changed: %v", i, err)
		}
	}
}

// Reads ask which hints are held. They wait for no disk, also while a bucket gets partitions of its own.
func TestNumberKeepsNobodyFromTheHints(t *testing.T) {
	var s *Store
	commits := 0
	s = openMemory(t, Options{Partitions: groupSlices, Commit: func(commit func() error) error {
		if s != nil {
			commits++
			if !s.hints.mu.TryLock() {
				t.Error("the table of hints is locked while the disk works")
			} else {
				s.hints.mu.Unlock()
			}
		}
		return commit()
	}})
	if err := s.Number(t.Context(), []string{"b"}); err != nil {
		t.Fatal(err)
	}
	if commits == 0 {
		t.Error("nothing was stored")
	}
}
