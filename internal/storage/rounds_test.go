package storage

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/dgraph-io/badger/v4"

	"github.com/dunlindb/dunlin/vclock"
)

// What was read in an earlier round is refused in the step that would store it: a merge or hint is either seen by the
// statement, or comes after it and is refused.
func TestStaleRoundIsRefusedAtomically(t *testing.T) {
	s := openMemory(t, Options{Shards: 4})
	const keys = 200
	refused := make([]bool, keys)
	ks := make([]Statement, keys)
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for i := range ks {
		ks[i].Key = Key{1, "b", fmt.Sprint(i)}
		wg.Go(func() {
			<-begin
			var ack Ack
			var err error
			if i%2 == 0 {
				ack, err = s.Merge(t.Context(), ks[i].Key, peerObject(7, 1, "x"), MergeOptions{})
			} else {
				ack, err = s.PutHint(t.Context(), nodeA, ks[i].Key, peerObject(7, 1, "x"), 0)
			}
			if refused[i] = errors.Is(err, ErrStaleRound); err != nil && !refused[i] || ack.Round != 0 {
				t.Errorf("%+v, %v", ack, err)
			}
		})
	}
	close(begin)
	confirmed := enter(t, s, 1, 1, false, ks...)
	wg.Wait()
	for i, k := range ks {
		if confirmed[i] != refused[i] {
			t.Errorf("key %d: confirmed %v, refused %v", i, confirmed[i], refused[i])
		}
		_, hinted, _, err := s.HintsOf(k.Key)
		if found := get(t, s, k.Key).Found || hinted; found == refused[i] || err != nil {
			t.Errorf("key %d: refused %v, found %v", i, refused[i], found)
		}
	}
	if s.Round(1) != 1 || s.Round(0) != 0 || s.Round(-1) != 0 || s.Round(1<<16) != 0 {
		t.Error("rounds", s.Round(1), s.Round(0))
	}
	for round, want := range []error{ErrStaleRound, nil, nil} {
		_, err := s.Merge(t.Context(), Key{1, "b", "later"}, peerObject(7, 1, "x"), MergeOptions{Round: uint64(round)})
		_, herr := s.PutHint(t.Context(), nodeA, Key{1, "b", "later"}, peerObject(7, 1, "x"), uint64(round))
		if !errors.Is(err, want) || !errors.Is(herr, want) {
			t.Errorf("of round %d: %v, %v, want %v", round, err, herr, want)
		}
	}
}

// A client's write is either seen by the statement, or it is of the new round.
func TestEnterRoundBesideMint(t *testing.T) {
	s := openMemory(t, Options{Shards: 4, Partitions: 2})
	const keys = 200
	ks := make([]Statement, keys)
	for i := range ks {
		ks[i] = tombstone(t, s, Key{1, "b", fmt.Sprint(i)})
	}
	rounds := make([]uint64, keys)
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for i, st := range ks {
		wg.Go(func() {
			<-begin
			var sent, hinted uint64
			_, ack, err := s.Mint(t.Context(), st.Key, vclock.Write{Value: []byte("x")}, func(_ vclock.Minted, round uint64) { sent = round })
			_, hint, herr := s.MintHint(t.Context(), nodeA, Key{1, "b", "hint"}, vclock.Write{LastWriteWins: true},
				func(_ vclock.Minted, round uint64) { hinted = round })
			if rounds[i] = ack.Round; err != nil || sent != ack.Round || herr != nil && !errors.Is(herr, vclock.ErrClock) ||
				herr == nil && hinted != hint.Round {
				t.Errorf("%+v, sent %d, %v; %+v, sent %d, %v", ack, sent, err, hint, hinted, herr)
			}
		})
	}
	close(begin)
	confirmed := enter(t, s, 1, 1, true, ks...)
	wg.Wait()
	for i := range ks {
		if confirmed[i] != (rounds[i] == 1) {
			t.Errorf("key %d: confirmed %v, written in round %d", i, confirmed[i], rounds[i])
		}
	}
	// Written over, none is what the statement says.
	if n, err := s.Remove(t.Context(), 1, 1, ks); n != 0 || err != nil {
		t.Errorf("removed %d, %v", n, err)
	}
	for _, st := range ks {
		if !get(t, s, st.Key).Found {
			t.Error("a client's write was removed")
		}
	}
	checkSums(t, s)
}

// A read is given out with the round it was read in or an earlier one, never with a later one.
func TestReadsCarryTheirRound(t *testing.T) {
	s := openMemory(t, Options{Shards: 2})
	k := Key{1, "b", "k"}
	const rounds = 100
	value := string(make([]byte, 200<<10)) // takes a while to read
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				st, err := s.Get(k)
				_, _, hinted, herr := s.HintsOf(k)
				page, _, _, perr := s.Hints(nodeA, HintCursor{}, 1, 0)
				if err != nil || herr != nil || perr != nil || hinted < st.Round {
					t.Error(err, herr, perr, hinted, st.Round)
				}
				if seen := len(st.Record.Context); st.Found && st.Record.Context[seen-1].Counter < st.Round {
					t.Errorf("write %v given out as of round %d", st.Record.Context, st.Round)
				}
				if len(page) > 0 && page[0].Object.Context[0].Counter < page[0].Round {
					t.Errorf("hint %v given out as of round %d", page[0].Object.Context, page[0].Round)
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for r := uint64(1); r <= rounds; r++ { // write r is there when round r begins
		if _, err := s.Merge(t.Context(), k, peerObject(7, r, value), MergeOptions{Round: r - 1}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.PutHint(t.Context(), nodeA, k, peerObject(7, r, "x"), r-1); err != nil {
			t.Fatal(err)
		}
		enter(t, s, 1, r, true)
	}
	close(stop)
	wg.Wait()
}

// A round that cannot be read must not become a lower one; a key under removal that cannot be read is not removed.
func TestUnreadableRound(t *testing.T) {
	path := t.TempDir()
	s, d := openTest(t, path, Options{})
	st := tombstone(t, s, Key{1, "b", "k"})
	enter(t, s, 1, 9, true, st)
	edit(t, s, removingKey(st.Key.encode()), func(b []byte) []byte { return b[:len(b)-1] })
	closeTest(t, s, d)
	s, d = openTest(t, path, Options{})
	if s.Round(1) != 9 || len(s.Removing(1)) != 0 || enter(t, s, 1, 9, true, st)[0] {
		t.Errorf("round %d, under removal %v", s.Round(1), s.Removing(1))
	}
	err := s.db.Update(func(txn *badger.Txn) error { return txn.Set(partitionKey(spaceRound, 1), nil) })
	if err != nil {
		t.Fatal(err)
	}
	closeTest(t, s, d)
	if d, err = OpenDir(path, "test"); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(d, Options{}); !errors.Is(err, ErrDamaged) {
		t.Errorf("Open: %v, want ErrDamaged", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}
