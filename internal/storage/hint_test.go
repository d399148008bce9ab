package storage

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

var (
	nodeA = ring.NodeID{0: 0xa, 5: 0} // the 0 byte must not end anything
	nodeB = ring.NodeID{0: 0xb}
)

func putHint(tb testing.TB, s *Store, target ring.NodeID, k Key, o vclock.Object) Ack {
	tb.Helper()
	ack, err := s.PutHint(tb.Context(), target, k, o, 0)
	if err != nil {
		tb.Fatal(err)
	}
	return ack
}

// allHints reads a target's hints in pages of n.
func allHints(tb testing.TB, s *Store, target ring.NodeID, n, maxBytes int) (all []Hint) {
	tb.Helper()
	var at HintCursor
	for more := true; more; {
		var page []Hint
		var err error
		if page, at, more, err = s.Hints(target, at, n, maxBytes); err != nil {
			tb.Fatal(err)
		}
		if len(page) > n || more && len(page) == 0 {
			tb.Fatalf("page of %d, more %v", len(page), more)
		}
		all = append(all, page...)
	}
	return all
}

// checkHintCounts compares the counters in memory with what the disk shows.
func checkHintCounts(tb testing.TB, s *Store) {
	tb.Helper()
	fresh := &Store{db: s.db, log: s.log, metrics: s.metrics}
	if err := fresh.loadHints(); err != nil {
		tb.Fatal(err)
	}
	s.hints.mu.Lock()
	defer s.hints.mu.Unlock()
	if diff := cmp.Diff(fresh.hints.targets, s.hints.targets, cmp.AllowUnexported(hintCounts{})); diff != "" {
		tb.Errorf("counters (-disk +memory):\n%s", diff)
	}
	if got, want := s.hints.held.Load(), fresh.hints.held.Load(); got != want {
		tb.Errorf("%d hints counted, the disk has %d", got, want)
	}
}

func TestHints(t *testing.T) {
	path := t.TempDir()
	now := time.UnixMilli(1_800_000_000_000)
	o := Options{Now: func() time.Time { return now }}
	s, d := openTest(t, path, o)
	k := Key{513, "b", "k"}
	if _, found, _, err := s.HintsOf(k); found || err != nil {
		t.Fatal(found, err)
	}
	one, two := peerObject(7, 1, "one"), peerObject(8, 1, "two")
	first := putHint(t, s, nodeA, k, one)
	if !first.Changed || !first.Fsynced || first.Digest != one.Digest("b", "k") {
		t.Errorf("PutHint = %+v", first)
	}
	now = now.Add(time.Hour)
	if ack := putHint(t, s, nodeA, k, one); ack.Changed {
		t.Error("the same object changed the hint")
	}
	if ack := putHint(t, s, nodeA, k, two); !ack.Changed || !ack.Object.Equal(vclock.Merge(one, two)) {
		t.Errorf("merged into the hint: %+v", ack)
	}
	putHint(t, s, nodeB, k, peerObject(9, 1, "three"))
	for i := range 5 {
		putHint(t, s, nodeA, Key{5 + i%2, "b", fmt.Sprint(i)}, bigObject(7, 1, 400<<(10+i%2)))
	}
	check := func(s *Store) {
		t.Helper()
		got, found, round, err := s.HintsOf(k)
		want := vclock.Merge(vclock.Merge(one, two), peerObject(9, 1, "three"))
		if err != nil || !found || round != 0 || !got.Equal(want) {
			t.Errorf("HintsOf = %v %v %v %v", got, found, round, err)
		}
		for _, page := range [][2]int{{1, 0}, {2, 1}, {100, 1 << 20}, {100, 64 << 20}} {
			all := allHints(t, s, nodeA, page[0], page[1])
			var keys []string
			for _, h := range all {
				keys = append(keys, fmt.Sprint(h.Key))
				if h.Target != nodeA || h.Corrupt || h.Digest != h.Object.Digest(h.Key.Bucket, h.Key.Key) {
					t.Errorf("hint %v: %v", h.Key, h.Digest)
				}
			}
			if want := []string{"{5 b 0}", "{5 b 2}", "{5 b 4}", "{6 b 1}", "{6 b 3}", "{513 b k}"}; !slices.Equal(keys, want) {
				t.Errorf("pages of %v: %v", page, keys)
			}
		}
		if st := get(t, s, k); st.Found || len(s.Buckets()) != 0 {
			t.Error("a hint shows as a record, or its bucket does")
		}
		targets := s.HintTargets()
		if len(targets) != 2 || targets[0].Target != nodeA || targets[0].Count != 6 || targets[1].Count != 1 ||
			targets[0].Bytes < 2000<<10 || targets[1].Bytes > 1000 {
			t.Errorf("targets %+v", targets)
		}
		for i, age := range []time.Duration{time.Hour, 0} {
			if late := now.Add(-age).Sub(targets[i].Oldest); late < 0 || late > 17*time.Second {
				t.Errorf("oldest of %d: %v, %v early", i, targets[i].Oldest, late)
			}
		}
		checkHintCounts(t, s)
	}
	check(s)
	closeTest(t, s, d)
	s, _ = openTest(t, path, o)
	check(s)
	for _, h := range allHints(t, s, nodeA, 100, 0) {
		if deleted, err := s.DeleteHint(t.Context(), nodeA, h.Key, vclock.Digest{1}); deleted || err != nil {
			t.Errorf("deleted another version: %v %v", deleted, err)
		}
		for _, want := range []bool{true, false} {
			if deleted, err := s.DeleteHint(t.Context(), nodeA, h.Key, h.Digest); deleted != want || err != nil {
				t.Errorf("DeleteHint(%v) = %v, %v, want %v", h.Key, deleted, err, want)
			}
		}
	}
	if targets := s.HintTargets(); len(targets) != 1 || targets[0].Target != nodeB {
		t.Errorf("targets afterwards: %+v", targets)
	}
	put(t, s, Key{1, "b", "barrier"}, "") // pieces go after the answer
	if left := rawKeys(t, s, spacePiece); len(left) != 0 {
		t.Errorf("%d pieces are left of deleted hints", len(left))
	}
	checkHintCounts(t, s)
}

// What a crash leaves of a large hint goes, what a hint refers to stays.
func TestSweepOfHints(t *testing.T) {
	path := t.TempDir()
	s, d := openTest(t, path, Options{})
	k := Key{5, "b", "big"}
	putHint(t, s, nodeA, k, bigObject(7, 1, 2<<20))
	live := rawKeys(t, s, spacePiece)
	if _, err := s.writeChunks(hintKey(nodeA, k.encode()), make([]byte, chunkSize+1)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.writeChunks(hintKey(nodeB, k.encode()), make([]byte, chunkSize+1)); err != nil {
		t.Fatal(err)
	}
	closeTest(t, s, d)
	s, _ = openTest(t, path, Options{})
	s.sweepSpace(s.snapshots.acquire().txn, spacePiece) // the one of Open may not be done
	if got := rawKeys(t, s, spacePiece); !slices.Equal(got, live) {
		t.Errorf("%d pieces, want %d", len(got), len(live))
	}
	if h := allHints(t, s, nodeA, 1, 0); len(h) != 1 || h[0].Corrupt {
		t.Errorf("hints %v", h)
	}
}

// Every mint into a hint is a new birth, also within one batch: a hint is deleted once delivered, and then nothing
// here knows up to where its actor counted.
func TestMintHintNeverContinues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f faults
		s := openMemory(t, Options{Commit: f.commit, Shards: 1})
		k := Key{1, "b", "k"}
		m, _ := put(t, s, k, "own record")
		actors := map[vclock.Actor]bool{m.Dot.Actor: true}
		held, release := hold(&f)
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				w := vclock.Write{Value: []byte(fmt.Sprint(i))}
				called := false
				m, ack, err := s.MintHint(t.Context(), nodeA, k, w, func(_ vclock.Minted, round uint64) { called = round == 0 })
				if err != nil || !ack.Changed || !called || m.Dot.Counter != 1 {
					t.Errorf("MintHint = %+v, %+v, %v", m.Dot, ack, err)
				}
				mu.Lock()
				defer mu.Unlock()
				if actors[m.Dot.Actor] {
					t.Errorf("%v was continued", m.Dot.Actor)
				}
				actors[m.Dot.Actor] = true
			})
			if i == 0 {
				<-held
			}
		}
		synctest.Wait()
		release()
		wg.Wait()
		f.set(nil)
		o, _, _, err := s.HintsOf(k)
		if err != nil || len(o.Siblings) != 5 {
			t.Errorf("hint %v, %v", o, err)
		}
		if st := get(t, s, k); len(st.Record.Siblings) != 1 || st.Record.Own != m.Record.Own {
			t.Error("minting into a hint touched the record")
		}
	})
}

// A hint is deleted only as the version that was delivered: what comes meanwhile stays.
func TestDeleteHintBesidePutHint(t *testing.T) {
	s := openMemory(t, Options{Shards: 2})
	keys := []Key{{1, "b", "k"}, {2, "b", "l"}}
	const writes = 200
	delivered := make(map[Key]vclock.Object)
	deliver := func() {
		for _, h := range allHints(t, s, nodeA, 1, 0) {
			if deleted, err := s.DeleteHint(t.Context(), nodeA, h.Key, h.Digest); err != nil {
				t.Error(err)
			} else if deleted {
				delivered[h.Key] = vclock.Merge(delivered[h.Key], h.Object)
			}
		}
	}
	var wg sync.WaitGroup
	done := make(chan struct{})
	for w := range 4 {
		wg.Go(func() {
			for i := range writes {
				putHint(t, s, nodeA, keys[i%2], peerObject(byte(w+1), uint64(i+1), "x"))
			}
		})
	}
	go func() { wg.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		deliver()
	}
	deliver()
	for i, k := range keys {
		for w := range 4 {
			last := peerObject(byte(w+1), uint64(writes-1+i), "x").Siblings[0].Dot
			if !delivered[k].Context.Covers(last) {
				t.Errorf("%v: %v was deleted and not delivered", k, last)
			}
		}
	}
	if targets := s.HintTargets(); len(targets) != 0 {
		t.Errorf("left: %+v", targets)
	}
	checkHintCounts(t, s)
}

func TestHintBytesAndDropped(t *testing.T) {
	path := t.TempDir()
	o := Options{HintBytes: 20_000}
	s, d := openTest(t, path, o)
	fill := func(target ring.NodeID) (last Key, n int) {
		t.Helper()
		for ; n < 1000; n++ {
			k := Key{n % 3, "b", fmt.Sprint("key", n)}
			_, err := s.PutHint(t.Context(), target, k, bigObject(7, 1, 500), 0)
			if errors.Is(err, ErrHintsFull) {
				return last, n
			}
			if err != nil {
				t.Fatal(err)
			}
			last = k
		}
		return last, n
	}
	last, n := fill(nodeA)
	if targets := s.HintTargets(); n < 10 || n > 40 || targets[0].Bytes > o.HintBytes {
		t.Errorf("%d hints in %+v", n, targets)
	}
	if _, _, err := s.MintHint(t.Context(), nodeA, Key{1, "b", "m"}, vclock.Write{Value: make([]byte, 1000)}, nil); !errors.Is(err, ErrHintsFull) {
		t.Errorf("MintHint: %v", err)
	}
	putHint(t, s, nodeB, Key{1, "b", "other"}, peerObject(7, 1, "x")) // another target has room of its own
	for _, p := range []int{2, 65535, 2, 0} {
		if err := s.MarkDropped(t.Context(), nodeA, Key{Partition: p, Bucket: "b"}); err != nil {
			t.Fatal(err)
		}
	}
	closeTest(t, s, d)
	s, _ = openTest(t, path, o)
	if _, again := fill(nodeA); again != n { // the same keys once more, and no others
		t.Errorf("after a restart %d hints fit, before %d", again, n)
	}
	if got := s.DroppedTargets(); !slices.Equal(got, []ring.NodeID{nodeA}) || s.Dropped(nodeB) != nil {
		t.Errorf("dropped targets %v", got)
	}
	ranges := s.Dropped(nodeA)
	var ps []int
	for _, r := range ranges {
		ps = append(ps, r.Partition)
	}
	if !slices.Equal(ps, []int{0, 2, 65535}) {
		t.Errorf("dropped %v", ps)
	}
	// What is marked again is not cleared.
	if err := s.MarkDropped(t.Context(), nodeA, Key{Partition: 2, Bucket: "b"}); err != nil {
		t.Fatal(err)
	}
	if err := s.ClearDropped(t.Context(), nodeA, ranges); err != nil {
		t.Fatal(err)
	}
	if left := s.Dropped(nodeA); len(left) != 1 || left[0].Partition != 2 || len(rawKeys(t, s, spaceDropped)) != 1 {
		t.Errorf("left %v", left)
	}
	if err := s.ClearDropped(t.Context(), nodeA, s.Dropped(nodeA)); err != nil || len(s.DroppedTargets()) != 0 {
		t.Errorf("%v, left %v", err, s.DroppedTargets())
	}
	// Room that was deleted is room again.
	for _, h := range allHints(t, s, nodeA, 10, 0) {
		if h.Key == last {
			if _, err := s.DeleteHint(t.Context(), nodeA, last, h.Digest); err != nil {
				t.Fatal(err)
			}
		}
	}
	putHint(t, s, nodeA, last, bigObject(8, 1, 500))
	checkHintCounts(t, s)
}

// A range that is marked again while its mark is being cleared stays marked, in memory and on the disk.
func TestMarkDroppedBesideClearing(t *testing.T) {
	var f faults
	s := openMemory(t, Options{Commit: f.commit})
	for p := range 2 {
		if err := s.MarkDropped(t.Context(), nodeA, Key{Partition: p, Bucket: "b"}); err != nil {
			t.Fatal(err)
		}
	}
	f.set(func(commit func() error) error {
		f.set(nil)
		if err := s.MarkDropped(t.Context(), nodeA, Key{Partition: 1, Bucket: "b"}); err != nil { // committed before the deletion
			t.Error(err)
		}
		return commit()
	})
	if err := s.ClearDropped(t.Context(), nodeA, s.Dropped(nodeA)); err != nil {
		t.Fatal(err)
	}
	left := s.Dropped(nodeA)
	if want := []string{string(droppedKey(newGroups(0, nil), nodeA, 1))}; len(left) != 1 || left[0].Partition != 1 ||
		!slices.Equal(rawKeys(t, s, spaceDropped), want) {
		t.Errorf("left %v, on the disk %q", left, rawKeys(t, s, spaceDropped))
	}
}

// A hint that cannot be read is never silently gone: what it held is marked as dropped when it goes.
func TestCorruptHint(t *testing.T) {
	k := Key{3, "b", "k"}
	for name, replace := range map[string]func(*Store) error{
		"put": func(s *Store) error {
			_, err := s.PutHint(t.Context(), nodeA, k, peerObject(8, 1, "new"), 0)
			return err
		},
		"mint": func(s *Store) error {
			_, _, err := s.MintHint(t.Context(), nodeA, k, vclock.Write{Value: []byte("new")}, nil)
			return err
		},
		"delete": func(s *Store) error {
			deleted, err := s.DeleteHint(t.Context(), nodeA, k, vclock.Digest{})
			if !deleted {
				t.Error("the corrupt hint was not deleted")
			}
			return err
		},
	} {
		s := openMemory(t, Options{})
		ack := putHint(t, s, nodeA, k, peerObject(7, 1, "lost"))
		edit(t, s, hintKey(nodeA, k.encode()), func(b []byte) []byte { b[recordHeader] ^= 1; return b })
		if _, _, _, err := s.HintsOf(k); !errors.Is(err, ErrCorrupt) {
			t.Errorf("HintsOf: %v", err)
		}
		if h := allHints(t, s, nodeA, 10, 0); len(h) != 1 || !h[0].Corrupt || h[0].Key != k || !h[0].Object.IsZero() {
			t.Errorf("hints %+v", h)
		}
		if deleted, err := s.DeleteHint(t.Context(), nodeA, k, ack.Digest); deleted || err != nil {
			t.Errorf("DeleteHint by digest: %v %v", deleted, err)
		}
		if err := replace(s); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := s.Dropped(nodeA); len(got) != 1 || got[0].Partition != 3 || len(rawKeys(t, s, spaceDropped)) != 1 {
			t.Errorf("%s: dropped %v", name, got)
		}
		o, found, _, err := s.HintsOf(k)
		if err != nil || found != (name != "delete") || found && (len(o.Siblings) != 1 || string(o.Siblings[0].Value) != "new") {
			t.Errorf("%s: HintsOf = %v %v %v", name, o, found, err)
		}
	}
}

// After a failed commit, the counters say what badger shows, and what may not be durable is written again.
func TestHintsAfterFailedCommits(t *testing.T) {
	for _, visible := range []bool{false, true} {
		var f faults
		s := openMemory(t, Options{Commit: f.commit, Shards: 1})
		k, gone := Key{1, "b", "k"}, Key{1, "b", "gone"}
		ack := putHint(t, s, nodeA, gone, peerObject(7, 1, "delivered"))
		fail := func(commit func() error) error {
			if visible {
				return errors.Join(commit(), errDisk)
			}
			return errDisk
		}
		f.set(fail)
		if _, err := s.PutHint(t.Context(), nodeA, k, peerObject(7, 1, "x"), 0); !errors.Is(err, ErrCommit) {
			t.Fatal(err)
		}
		if _, err := s.DeleteHint(t.Context(), nodeA, gone, ack.Digest); !errors.Is(err, ErrCommit) {
			t.Fatal(err)
		}
		checkHintCounts(t, s)
		if _, found, _, err := s.HintsOf(k); err != nil || found != visible {
			t.Errorf("HintsOf: %v %v, want %v", found, err, visible)
		}
		commits := 0
		f.set(func(commit func() error) error { commits++; return commit() })
		putHint(t, s, nodeA, k, peerObject(7, 1, "x"))
		if _, err := s.DeleteHint(t.Context(), nodeA, gone, ack.Digest); err != nil || commits != 2 {
			t.Errorf("%v after %d commits, want 2", err, commits)
		}
		checkHintCounts(t, s)
		if c := s.hints.targets[nodeA]; c == nil || c.count != 1 || c.reserved != 0 || len(s.shards[0].suspects) != 0 {
			t.Errorf("counts %+v, suspects %v", c, slices.Collect(maps.Keys(s.shards[0].suspects)))
		}
	}
}

func TestHintGolden(t *testing.T) {
	k, r := goldenRecord()
	target := ring.NodeID{0: 1, 15: 2}
	key := hintKey(target, k.encode())
	payload := encodeObject(r.Object)
	r.Own = hintOwn(1_800_000_000_000)
	h := newHeader(r, r.Digest(k.Bucket, k.Key), false)
	h.size = len(payload)
	record := h.encode(key, payload)
	checkGolden(t, "hintkey.hex", key)
	checkGolden(t, "hint.hex", record)
	checkGolden(t, "hintchunkkey.hex", chunkKey(key, 5, 3))
	checkGolden(t, "dropped.hex", append(droppedKey(newGroups(0, nil), target, 513), droppedValue...))
	if gotTarget, gotKey, err := decodeHintKey(key); err != nil || gotTarget != target || gotKey != k {
		t.Errorf("key %v %v %v", gotTarget, gotKey, err)
	}
	if object, generation, ok := splitChunkKey(chunkKey(key, 5, 3)); !ok || generation != 5 || string(object) != string(key) {
		t.Errorf("chunk key %q %d %v", object, generation, ok)
	}
	want := tally{found: true, bytes: hintBytes(key, len(payload)), since: 1_800_000_000_000}
	if got := hintTally(key, record); got != want {
		t.Errorf("tally %+v, want %+v", got, want)
	}
}

func FuzzHintKey(f *testing.F) {
	k, _ := goldenRecord()
	f.Add(hintKey(nodeA, k.encode()))
	f.Add([]byte("h0123456789abcdef"))
	f.Fuzz(func(t *testing.T, b []byte) {
		target, k, err := decodeHintKey(b)
		if err == nil && string(hintKey(target, k.encode())) != string(b) {
			t.Fatalf("%x is %v %v", b, target, k)
		}
	})
}
