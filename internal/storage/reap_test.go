package storage

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/vclock"
)

// tombstone deletes a key and returns the statement about it.
func tombstone(tb testing.TB, s *Store, k Key) Statement {
	tb.Helper()
	_, ack, err := s.Mint(tb.Context(), k, vclock.Write{Deleted: true, LastWriteWins: true}, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return Statement{k, ack.Digest}
}

func enter(tb testing.TB, s *Store, p int, round uint64, primary bool, ks ...Statement) []bool {
	tb.Helper()
	confirmed, err := s.EnterRound(tb.Context(), p, round, primary, ks)
	if err != nil || len(confirmed) != len(ks) {
		tb.Fatalf("EnterRound(%d, %d) = %v, %v", p, round, confirmed, err)
	}
	return confirmed
}

// A round from the entering to the end, with restarts between the steps.
func TestReaping(t *testing.T) {
	path := t.TempDir()
	o := Options{Partitions: 2}
	s, d := openTest(t, path, o)
	reopen := func() {
		closeTest(t, s, d)
		s, d = openTest(t, path, o)
	}
	var ks []Statement
	for i := range 6 {
		ks = append(ks, tombstone(t, s, Key{1, "b", fmt.Sprint(i)}))
	}
	live := Key{1, "b", "live"}
	put(t, s, live, "x")
	big := bigObject(7, 1, 2<<20) // in pieces
	big.Siblings[0].Expiry = 1
	ack, err := s.Merge(t.Context(), Key{1, "b", "big"}, big, MergeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ks = append(ks, Statement{Key{1, "b", "big"}, ack.Digest}, Statement{Key: live})
	wrong := enter(t, s, 1, 3, true, ks[0], Statement{ks[1].Key, vclock.Digest{1}})
	if !wrong[0] || wrong[1] {
		t.Errorf("round 3: %v", wrong)
	}
	first := enter(t, s, 1, 5, true, ks...)
	reopen()
	// Again the same round: the same answers, also for what could be confirmed by now, or no longer.
	put(t, s, ks[2].Key, "written meanwhile")
	late := tombstone(t, s, Key{1, "b", "late"})
	again := enter(t, s, 1, 5, true, append(ks, late)...)
	for i := range ks {
		if first[i] != again[i] || first[i] != (i < 7) {
			t.Errorf("key %d: %v, then %v", i, first[i], again[i])
		}
	}
	if again[8] {
		t.Error("a key was confirmed after the round was entered")
	}
	if _, err := s.EnterRound(t.Context(), 1, 4, true, ks); !errors.Is(err, ErrStaleRound) {
		t.Error(err)
	}
	if _, err := s.Remove(t.Context(), 1, 6, ks); !errors.Is(err, ErrNotEntered) {
		t.Error(err)
	}
	flagged := func() (n int) {
		keys, _, _, err := s.Keys(t.Context(), 1, -1, ScanCursor{}, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range keys {
			if e.Removing {
				n++
			}
		}
		return n
	}
	if err := s.Unmark(t.Context(), 1, 5, ks[:1]); err != nil {
		t.Fatal(err)
	}
	if err := s.Unmark(t.Context(), 1, 3, ks); err != nil { // of another round
		t.Fatal(err)
	}
	if n := flagged(); n != 6 || len(s.Removing(1)) != 6 {
		t.Errorf("%d keys under removal, want 6", n)
	}
	reopen()
	if n := flagged(); n != 6 || s.Removing(1)[0].Digest != ks[1].Digest {
		t.Errorf("%d keys under removal after a restart, want 6", n)
	}
	got, err := s.Candidates(t.Context(), 1, 0, time.Now().Add(time.Hour), 0)
	if err != nil || len(got) != 2 || got[0] != ks[0] || got[1] != late {
		t.Errorf("candidates %v, %v", got, err)
	}
	for i, want := range []int{6, 6} { // what is absent counts as removed
		n, err := s.Remove(t.Context(), 1, 5, ks[1:7])
		if want--; n != want || err != nil { // ks[2] was written meanwhile
			t.Errorf("Remove %d: %d, %v, want %d", i, n, err, want)
		}
		if i == 0 {
			reopen()
		}
	}
	if n := flagged(); n != 0 || len(s.Removing(1)) != 0 || len(rawKeys(t, s, spaceRemoving)) != 0 {
		t.Errorf("%d keys are still under removal", n)
	}
	for i, st := range ks {
		if found := get(t, s, st.Key).Found; found != (i == 0 || i == 2 || i == 7) {
			t.Errorf("key %d: found %v", i, found)
		}
	}
	if n := len(rawKeys(t, s, spaceChunk)); n != 0 {
		t.Errorf("%d pieces of a removed record are left", n)
	}
	// A key that was removed begins anew: with another actor.
	m, _ := put(t, s, ks[1].Key, "new")
	if len(get(t, s, ks[1].Key).Record.Context) != 1 || m.Dot.Counter != 1 {
		t.Error("the new record continues the removed one")
	}
	if s.Round(1) != 5 || get(t, s, live).Round != 5 {
		t.Error("round", s.Round(1))
	}
	checkSums(t, s)
	// A later round takes the place of what an earlier one left undone; an earlier one may still finish its work.
	enter(t, s, 1, 6, true, ks[0])
	enter(t, s, 1, 7, true, late)
	reopen()
	if under := s.Removing(1); len(under) != 1 || under[0] != late {
		t.Errorf("under removal: %v", under)
	}
	if n, err := s.Remove(t.Context(), 1, 6, []Statement{ks[0], late}); n != 2 || err != nil || len(s.Removing(1)) != 1 {
		t.Errorf("Remove of an earlier round: %d, %v", n, err)
	}
	checkSums(t, s)
}

func TestReapingWhoseCommitFails(t *testing.T) {
	for _, visible := range []bool{false, true} {
		var f faults
		s := openMemory(t, Options{Commit: f.commit, Partitions: 2, Shards: 2})
		st := tombstone(t, s, Key{1, "b", "k"})
		enter(t, s, 1, 1, true, st)
		f.set(func(commit func() error) error {
			if visible {
				return errors.Join(commit(), errDisk)
			}
			return errDisk
		})
		if n, err := s.Remove(t.Context(), 1, 1, []Statement{st}); n != 0 || !errors.Is(err, ErrCommit) {
			t.Errorf("Remove: %d, %v", n, err)
		}
		checkSums(t, s)
		f.set(nil)
		if got, err := s.Confirm(t.Context(), 1, !visible, []Statement{st}); err != nil || got[0] {
			t.Errorf("confirmed after a failed removal: %v, %v", got, err)
		}
		if n, err := s.Remove(t.Context(), 1, 1, []Statement{st}); n != 1 || err != nil {
			t.Errorf("Remove once more: %d, %v", n, err)
		}
		checkSums(t, s)
		if got, err := s.Confirm(t.Context(), 1, false, []Statement{st}); err != nil || !got[0] {
			t.Errorf("absent: %v, %v", got, err)
		}
		// Nobody knows which round the disk has: no write goes on in the old one.
		f.set(func(commit func() error) error { return errDisk })
		if _, err := s.EnterRound(t.Context(), 1, 2, true, nil); !errors.Is(err, ErrCommit) {
			t.Error(err)
		}
		f.set(nil)
		if _, err := s.Merge(t.Context(), st.Key, peerObject(7, 1, "x"), MergeOptions{Round: 9}); !errors.Is(err, ErrUnhealthy) {
			t.Error(err)
		}
		if _, err := s.EnterRound(t.Context(), 1, 3, true, nil); !errors.Is(err, ErrUnhealthy) || s.Round(1) != 1 {
			t.Error(err, s.Round(1))
		}
	}
}

// Killed at any moment of reaping, a store comes back in the round whose statement it gave, and in no later one than
// it was asked for; what it confirmed is under removal, or gone if it said so.
func TestCrashWhileReaping(t *testing.T) {
	for _, durability := range []Durability{Fsync, OS} {
		t.Run(durability.String(), func(t *testing.T) {
			path := t.TempDir()
			var f faults
			s, _ := openTest(t, path, Options{Durability: durability, Commit: f.commit})
			images := make(map[string]string)
			take := func(step string) { images[step] = t.TempDir(); copyDir(t, path, images[step]) }
			during := func(step string) {
				f.set(func(commit func() error) error {
					take("before the commit of " + step)
					err := commit()
					take("after the commit of " + step)
					return err
				})
			}
			gone, struck := tombstone(t, s, Key{1, "b", "gone"}), tombstone(t, s, Key{1, "b", "struck"})
			struck.Digest[0]++
			take("before")
			during("entering")
			enter(t, s, 1, 1, true, gone, struck)
			take("entered")
			during("removing")
			if n, err := s.Remove(t.Context(), 1, 1, []Statement{gone}); n != 1 || err != nil {
				t.Fatal(n, err)
			}
			take("removed")
			f.set(nil)
			for step, want := range map[string]struct {
				round           uint64
				removing, found bool
			}{
				"before":                        {0, false, true},
				"before the commit of entering": {0, false, true},
				"after the commit of entering":  {1, true, true},
				"entered":                       {1, true, true},
				"before the commit of removing": {1, true, true},
				"after the commit of removing":  {1, false, false},
				"removed":                       {1, false, false},
			} {
				s, d := openTest(t, images[step], Options{Durability: durability})
				if s.Round(1) != want.round || (len(s.Removing(1)) == 1) != want.removing || get(t, s, gone.Key).Found != want.found {
					t.Errorf("%s: round %d, under removal %v, found %v", step, s.Round(1), s.Removing(1), get(t, s, gone.Key).Found)
				}
				_, err := s.Merge(t.Context(), gone.Key, peerObject(7, 1, "old"), MergeOptions{})
				if errors.Is(err, ErrStaleRound) != (want.round == 1) {
					t.Errorf("%s: what is of round 0: %v", step, err)
				}
				if !get(t, s, struck.Key).Found {
					t.Errorf("%s: what was not confirmed is gone", step)
				}
				closeTest(t, s, d)
			}
		})
	}
}

func TestRemovingGolden(t *testing.T) {
	k, r := goldenRecord()
	key := removingKey(k.encode())
	b := encodeRemoving(key, removing{0x0102030405060708, r.Digest(k.Bucket, k.Key)})
	checkGolden(t, "removing.hex", append(key, b...))
}

func FuzzRemoving(f *testing.F) {
	key := removingKey(Key{1, "b", "k"}.encode())
	f.Add(encodeRemoving(key, removing{7, vclock.Digest{1}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := decodeRemoving(key, b); err == nil && string(encodeRemoving(key, r)) != string(b) {
			t.Fatalf("%x", b)
		}
	})
}
