package vclock

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

// Each test here is an interleaving that breaks such a store, and shows the rule that stops it; where the rule
// can be taken away, the test also shows that the interleaving then does its harm.

func three() (a, b, c *replica) {
	births := new(uint64)
	return newReplica(0, births), newReplica(1, births), newReplica(2, births)
}

// Last-write-wins decided inside merge can erase both values: a write with a slow clock that supersedes the first
// loses against a third, which loses against the first.
func TestLWWInsideMergeWouldEraseBothValues(t *testing.T) {
	a, b, c := three()
	stamp := func(r *replica, at int64) { r.now = at - 1 }
	stamp(a, 100)
	v1 := a.mint(Write{Value: []byte("v1")}).Record.Object
	b.absorb(v1)
	stamp(b, 90)
	v2 := b.mint(Write{Value: []byte("v2"), Context: b.read(), LastWriteWins: true}).Record.Object
	stamp(c, 95)
	v3 := c.mint(Write{Value: []byte("v3"), LastWriteWins: true}).Record.Object

	// The rule that broke it: the highest stamp survives the merge. Stamps are not bumped by it either.
	naive := func(x, y Object, stamps map[string]int) Object {
		m := Merge(x, y)
		for len(m.Siblings) > 1 {
			i := 0
			if stamps[string(m.Siblings[0].Value)] > stamps[string(m.Siblings[1].Value)] {
				i = 1
			}
			m.Siblings = slices.Delete(slices.Clone(m.Siblings), i, i+1)
		}
		return m
	}
	slow := map[string]int{"v1": 100, "v2": 90, "v3": 95}
	x, y := naive(naive(v1, v3, slow), v2, slow), naive(naive(v2, v3, slow), v1, slow)
	if m := naive(x, y, slow); len(m.Siblings) != 0 {
		t.Fatalf("the interleaving lost its harm: %v", m.Siblings)
	}

	x, y = Merge(Merge(v1, v3), v2), Merge(Merge(v2, v3), v1)
	m := Merge(x, y)
	if !same(x, y) || !same(m, x) || len(m.Siblings) != 2 {
		t.Fatalf("replicas must keep siblings: %v, %v", x.Siblings, y.Siblings)
	}
	// v2 saw v1, so it wins over it whatever its clock said; it was bumped above it.
	got := m.Answer(0, true)
	if len(got.Live) != 1 || string(got.Live[0].Value) != "v2" {
		t.Fatalf("last write wins shows %v", got.Live)
	}
	// The next write in the bucket takes in the whole copy.
	a.absorb(m)
	a.mint(Write{Value: []byte("v4"), LastWriteWins: true})
	if v := a.values(); !slices.Equal(v, []string{"v4"}) {
		t.Fatalf("after a last-write-wins write: %v", v)
	}
}

func TestLWWRefusesFarFutureStampWhenMintingOnly(t *testing.T) {
	a, b, _ := three()
	a.now += (48 * time.Hour).Milliseconds()
	far := a.mint(Write{Value: []byte("future"), LastWriteWins: true}).Record.Object
	b.absorb(far) // never refused from a replica
	m := b.minter()
	m.Limits.Ahead = 24 * time.Hour
	if _, err := m.Mint(b.rec, Write{LastWriteWins: true}); !errors.Is(err, ErrStampAhead) {
		t.Fatalf("want ErrStampAhead, got %v", err)
	}
	if _, err := m.Mint(b.rec, Write{Context: b.read()}); err != nil {
		t.Fatalf("a write that keeps siblings needs no stamp: %v", err)
	}
}

// A node mints into a copy that is then taken away (a hint delivered, a key reaped, a record lost), and an old
// copy comes back from a peer that is behind. Continuing the actor that the old copy shows would mint a dot again.
func TestActorIsNotContinuedOnACopyThatCameBack(t *testing.T) {
	f, peer, behind := three()
	f.put("1", Context{})
	behind.absorb(f.rec.Object)
	f.put("2", f.read())
	f.put("3", f.read())
	peer.absorb(f.rec.Object)
	f.rec = Record{} // delivered and deleted: same incarnation, no record
	f.absorb(behind.rec.Object)
	actor := behind.rec.Context[0].Actor
	d := f.put("4", f.read())
	if d.Actor == actor {
		t.Fatalf("actor continued: %s", d)
	}
	merged := Merge(peer.rec.Object, f.rec.Object)
	if !slices.ContainsFunc(merged.Siblings, func(s Sibling) bool { return string(s.Value) == "4" }) {
		t.Fatalf("the acknowledged write vanished: %v", merged.Siblings)
	}
	// Without the rule: the dot that follows the old copy's is one that the peer has seen superseded.
	bad := Object{Context: behind.rec.Context.With(Dot{actor, 2}), Siblings: []Sibling{{Dot: Dot{actor, 2}, Value: []byte("4")}}}
	if m := Merge(peer.rec.Object, bad); slices.ContainsFunc(m.Siblings, func(s Sibling) bool { return string(s.Value) == "4" }) {
		t.Fatal("the interleaving lost its harm")
	}
}

func TestActorIsNotContinuedByAnotherIncarnation(t *testing.T) {
	a, _, _ := three()
	d1 := a.put("1", Context{})
	a.restart()
	if d2 := a.put("2", a.read()); d2.Actor == d1.Actor {
		t.Fatal("the actor of another process start was continued")
	}
}

// A client's context or the merged copy knows more of the node's actor than the node: it has lost state.
func TestActorIsNotContinuedWhenPeersKnowMore(t *testing.T) {
	a, _, _ := three()
	a.put("1", Context{})
	old := a.rec
	a.put("2", a.read())
	ahead := a.read()
	for name, setup := range map[string]func() Context{
		"context": func() Context { return ahead },
		"copy":    func() Context { a.absorb(Object{Context: ahead.Vector}); return Context{} },
	} {
		a.rec = old
		c := setup()
		if d := a.put("3", c); d.Actor == old.Own.Actor {
			t.Fatalf("%s: actor continued as %s", name, d)
		}
	}
}

// A directory restored from a backup of a cleanly stopped node starts with the records of then. Births are
// random, and every start is a new incarnation, so that it cannot mint what it minted before.
func TestRestoredDirectoryMintsNoOldDot(t *testing.T) {
	a, b, _ := three()
	a.put("1", Context{})
	backup := a.rec
	a.restart()
	a.put("2", a.read())
	b.absorb(a.rec.Object)
	a.rec = backup
	a.restart()
	a.put("3", a.read())
	m := Merge(a.rec.Object, b.rec.Object)
	if len(m.Siblings) != 2 {
		t.Fatalf("both writes on top of 1 must be siblings: %v", m.Siblings)
	}
}

// A request is repeated through a second coordinator while the first is in flight; a client that saw only one of
// the twins deletes it. Joining the other brings the value back, unless the delete retired the request.
func TestRetiredWriteIDStopsTheTwin(t *testing.T) {
	a, b, c := three()
	id := clientID(1, 1)
	a.mint(Write{Value: []byte("t"), ID: id})
	b.mint(Write{Value: []byte("t"), ID: id})
	c.absorb(a.rec.Object)
	c.mint(Write{Deleted: true, Context: a.read()})
	m := Merge(c.rec.Object, b.rec.Object)
	if len(m.Siblings) != 1 || !m.Siblings[0].Deleted {
		t.Fatalf("the deleted value is back: %v", m.Siblings)
	}
	if !m.Context.Covers(b.rec.Siblings[0].Dot) {
		t.Fatal("the twin's dot must stay covered")
	}
	// Associativity, where the model found it broken: V overwrote one twin.
	q, r := a.rec.Object, b.rec.Object
	a.mint(Write{Value: []byte("v"), Context: a.read()})
	p := a.rec.Object
	if l, rr := Merge(Merge(p, q), r), Merge(p, Merge(q, r)); !same(l, rr) || len(l.Siblings) != 1 {
		t.Fatalf("%v and %v", l.Siblings, rr.Siblings)
	}
}

// A retry that comes after its write was read and deleted by another client must not mint it again.
func TestRetryAfterDeleteMintsNothing(t *testing.T) {
	a, b, _ := three()
	id := clientID(1, 1)
	w := Write{Value: []byte("t"), ID: id}
	a.mint(w)
	if m := a.mint(w); !m.Existing {
		t.Fatal("a repeated request minted while its sibling is held")
	}
	a.mint(Write{Deleted: true, Context: a.read()})
	if m := a.mint(w); !m.Existing || len(m.Record.Siblings) != 1 || !m.Record.Siblings[0].Deleted {
		t.Fatalf("a repeated request minted after it was deleted: %v", m.Record.Siblings)
	}
	b.absorb(a.rec.Object)
	if m := b.mint(w); !m.Existing {
		t.Fatal("another replica minted it")
	}
	// Same Idempotency-Key, other body.
	if _, err := b.minter().Mint(b.rec, Write{ID: clientID(1, 2)}); !errors.Is(err, ErrIDReused) {
		t.Fatalf("want ErrIDReused, got %v", err)
	}
	if applied, err := b.rec.Applied(id); !applied || err != nil {
		t.Fatalf("Applied: %v, %v", applied, err)
	}
}

// Twins that both stand are shown once, and the context covers both.
func TestTwinsAreShownOnce(t *testing.T) {
	a, b, _ := three()
	id := clientID(1, 1)
	a.mint(Write{Value: []byte("t"), ID: id})
	b.mint(Write{Value: []byte("t"), ID: id})
	m := Merge(a.rec.Object, b.rec.Object)
	if len(m.Siblings) != 2 {
		t.Fatal("merge joined twins")
	}
	got := m.Answer(0, false)
	if len(got.Live) != 1 || !got.Context.Vector.Descends(m.Context) {
		t.Fatalf("%v", got)
	}
}

// Pruning the oldest entries of a clock brings deleted values back; neither merging nor minting ever prunes.
func TestClockIsNeverPrunedByMergeOrMint(t *testing.T) {
	a, b, _ := three()
	for i := range 40 {
		a.restart()
		a.put(fmt.Sprint(i), a.read())
		b.absorb(a.rec.Object)
	}
	if len(b.rec.Context) != 40 {
		t.Fatalf("%d entries after 40 births", len(b.rec.Context))
	}
	m := a.minter()
	m.Limits.Clock = 40
	m.Incarnation++
	if _, err := m.Mint(a.rec, Write{Context: a.read()}); !errors.Is(err, ErrClock) {
		t.Fatalf("past the cap a client's write is refused, got %v", err)
	}
	c := newReplica(2, a.births)
	c.put("x", Context{})
	if b.absorb(c.rec.Object); len(b.rec.Context) != 41 {
		t.Fatal("repair must pass the cap")
	}
}

// A context of another key or cluster would cover dots that its client never saw.
func TestContextHoldsForItsKeyOnly(t *testing.T) {
	a, _, _ := three()
	a.put("1", Context{})
	home := Scope{Cluster: [16]byte{1}, Bucket: "b", Key: "k"}
	token := a.read().Token(home)
	got, err := ParseToken(token, home)
	if err != nil || !got.Vector.Equal(a.read().Vector) || got.Stamp != a.read().Stamp {
		t.Fatalf("%v, %v", got, err)
	}
	for name, s := range map[string]Scope{
		"key":     {Cluster: [16]byte{1}, Bucket: "b", Key: "k2"},
		"bucket":  {Cluster: [16]byte{1}, Bucket: "b2", Key: "k"},
		"split":   {Cluster: [16]byte{1}, Bucket: "bk", Key: ""},
		"cluster": {Cluster: [16]byte{2}, Bucket: "b", Key: "k"},
	} {
		if _, err := ParseToken(token, s); !errors.Is(err, ErrTokenScope) {
			t.Errorf("%s: want ErrTokenScope, got %v", name, err)
		}
	}
	for _, bad := range []string{"", "x", token[1:], token + "A", token[:len(token)-2], "!!!!"} {
		if _, err := ParseToken(bad, home); !errors.Is(err, ErrToken) {
			t.Errorf("%q: want ErrToken, got %v", bad, err)
		}
	}
}

// Clocks differ: a replica that dropped an expired sibling by its own clock would remove an unexpired value
// everywhere. Expiry is judged when answering only.
func TestExpiryIsJudgedWhenAnsweringOnly(t *testing.T) {
	a, b, _ := three()
	a.mint(Write{Value: []byte("v"), Expiry: 5000})
	b.now = 1 << 40 // far ahead
	b.absorb(a.rec.Object)
	if !b.rec.Equal(a.rec.Object) {
		t.Fatal("a fast clock changed the record")
	}
	m := Merge(b.rec.Object, a.rec.Object)
	if !m.Answer(4999, false).Found() || m.Answer(5000, false).Found() || m.Answer(5000, true).Found() {
		t.Fatal("expiry when answering")
	}
	if len(m.Answer(5000, false).Context.Vector) == 0 {
		t.Fatal("an expired value's context must still cover it")
	}
}

func TestSiblingCapBindsClientsNotRepair(t *testing.T) {
	a, b, _ := three()
	m := a.minter()
	m.Limits.Siblings, m.Limits.Bytes = 3, 100
	write := func(w Write) error {
		got, err := m.Mint(a.rec, w)
		if err == nil {
			a.rec = got.Record
		}
		return err
	}
	for range 3 {
		if err := write(Write{Value: []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
	if err := write(Write{Value: []byte("x")}); !errors.Is(err, ErrSiblings) {
		t.Fatalf("want ErrSiblings, got %v", err)
	}
	b.put("y", Context{})
	if a.absorb(b.rec.Object); len(a.rec.Siblings) != 4 {
		t.Fatal("repair must pass the cap")
	}
	if err := write(Write{Value: make([]byte, 200)}); !errors.Is(err, ErrSiblings) && !errors.Is(err, ErrBytes) {
		t.Fatalf("want a cap, got %v", err)
	}
	if err := write(Write{Value: []byte("one"), Context: a.read()}); err != nil || len(a.rec.Siblings) != 1 {
		t.Fatalf("reconciling past the cap: %v", err)
	}
}

func TestPurgeKeepsTheWindow(t *testing.T) {
	a, _, _ := three()
	for i := range byte(10) {
		a.mint(Write{ID: clientID(i, 1), Context: a.read()})
	}
	if n := len(a.rec.Retired); n != 9 {
		t.Fatalf("%d retired ids", n)
	}
	if n := len(a.rec.Purge(0, 4).Retired); n != 4 {
		t.Fatalf("kept %d, want the latest 4", n)
	}
	if n := len(a.rec.Purge(a.now+1, 100).Retired); n != 0 {
		t.Fatalf("kept %d past the window", n)
	}
	if kept := a.rec.Purge(0, 1).Retired; kept[0].ID != clientID(8, 1) {
		t.Fatalf("kept %v, want the latest", kept)
	}
}
