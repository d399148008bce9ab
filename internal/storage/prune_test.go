package storage

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// worn is a value that one node has written again and again, starting anew before each time.
func worn(value string, starts int) vclock.Object {
	node := ring.NodeID{9}
	o := vclock.Object{}
	for i := range starts {
		dot := vclock.Dot{Actor: vclock.Actor{Node: node, Birth: vclock.Birth{Millis: uint64(1000 + i), Rand: 1}}, Counter: 3}
		o.Context = o.Context.With(dot)
		o.Siblings = []vclock.Sibling{{Dot: dot, Value: []byte(value), Stamp: vclock.StampAt(int64(1000 + i))}}
	}
	return o
}

// PROTOCOL 9: births go on the proof that a tombstone goes on, and only what nothing needs.
func TestBirthsArePruned(t *testing.T) {
	s, _ := openTest(t, t.TempDir(), Options{Partitions: 2})
	in := func(name string) Key { return Key{1, "b", name} }
	state := func(k Key, o vclock.Object) Statement {
		ack, err := s.Merge(t.Context(), k, o, MergeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return Statement{k, ack.Digest}
	}
	long := state(in("long"), worn("kept", 60))
	state(in("short"), worn("kept", pruneFrom-1))
	large := state(in("large"), worn(string(bytes.Repeat([]byte("x"), pruneMost)), 60))
	expires := worn("kept", 60)
	expires.Siblings[0].Expiry = time.Now().Add(time.Hour).UnixMilli()
	expiring := state(in("expiring"), expires)
	changes := state(in("changes"), worn("kept", 60))
	own := state(in("own"), worn("kept", 60))
	owned, _, err := s.Mint(t.Context(), own.Key, vclock.Write{Value: []byte("mine")}, nil) // beside the other
	if err != nil {
		t.Fatal(err)
	}
	own.Digest = owned.Record.Digest("b", "own")
	hinted := state(in("hinted"), worn("kept", 60))
	putHint(t, s, ring.NodeID{7}, hinted.Key, worn("kept", 61))

	found, err := s.Candidates(t.Context(), 1, 0, time.Now(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(names(found)); got != "[changes hinted long]" { // "own" was just written
		t.Errorf("candidates %s", got)
	}
	found, err = s.Candidates(t.Context(), 1, 0, time.Now().Add(2*pruneAge), time.Minute)
	if got := fmt.Sprint(names(found)); err != nil || got != "[changes hinted long own]" {
		t.Errorf("candidates %s, %v", got, err)
	}

	all := []Statement{long, large, expiring, changes, own, hinted, {long.Key, vclock.Digest{1}}}
	if got := fmt.Sprint(enter(t, s, 1, 5, true, all...)); got != "[true false false true true false false]" {
		t.Errorf("confirmed %s", got)
	}
	put(t, s, changes.Key, "and changed")
	before := get(t, s, changes.Key).Record.Object
	n, err := s.Remove(t.Context(), 1, 5, []Statement{long, changes, own})
	if err != nil || n != 2 {
		t.Fatalf("%d, %v", n, err)
	}
	if got := get(t, s, long.Key); len(got.Record.Context) != 1 || string(got.Record.Siblings[0].Value) != "kept" || got.Digest != got.Record.Digest("b", "long") {
		t.Errorf("%+v", got)
	}
	if got := get(t, s, own.Key).Record.Object; len(got.Context) != 2 || len(got.Siblings) != 2 {
		t.Errorf("%+v", got)
	}
	if got := get(t, s, changes.Key).Record.Object; !got.Equal(before) {
		t.Errorf("%+v became %+v", before, got)
	}
	// The node goes on with its own actor.
	next, _, err := s.Mint(t.Context(), own.Key, vclock.Write{Value: []byte("again"), LastWriteWins: true}, nil)
	if err != nil || next.Dot.Actor != owned.Dot.Actor || next.Dot.Counter != owned.Dot.Counter+1 {
		t.Errorf("%v after %v, %v", next.Dot, owned.Dot, err)
	}
	// The sums in memory are those of the disk.
	root, _ := s.Root(1)
	if _, err := s.Recount(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if again, _ := s.Root(1); root != again {
		t.Error("the Merkle root is not that of the records")
	}
	if len(s.Removing(1)) != 0 {
		t.Error("keys stay under removal")
	}
}

// A node's own actor goes with no pruning, however old its birth looks, since it may mint with it again.
func TestAnActorInUseIsNotPruned(t *testing.T) {
	o := worn("x", 40)
	in, out := vclock.Record{Object: o}, vclock.Own{Actor: o.Context[3].Actor, Counter: 3, Incarnation: 1}
	if _, ok := pruned(in); !ok {
		t.Error("without an own actor it is not pruned")
	}
	in.Own = out
	if _, ok := pruned(in); ok {
		t.Error("the own actor is pruned")
	}
	in.Own.Actor = o.Context[39].Actor
	if _, ok := pruned(in); !ok {
		t.Error("an own actor that stays prevents pruning")
	}
}

func names(ks []Statement) (out []string) {
	for _, st := range ks {
		out = append(out, st.Key.Key)
	}
	return out
}
