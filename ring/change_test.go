package ring

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func mustNext(t testing.TB, l Layout, c Change) Layout {
	t.Helper()
	next, err := l.Next(c)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func freshMember(name string) Member {
	return Member{ID: NodeID{0xfe, 15: name[len(name)-1]}, Name: name, Weight: 1}
}

// The same change of the same layout gives the same table, in any order of members and of the change's lists.
func TestNextInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := genLayout.Draw(t, "layout")
		l.Epoch = 1 + l.Epoch/2
		if rapid.Bool().Draw(t, "has a table") {
			l = mustNextRapid(t, l, Change{Update: l.Members})
		}
		some := rapid.Permutation(l.Members).Draw(t, "members")
		c := Change{Join: []Member{freshMember("new1"), freshMember("new2"), freshMember("new3")}}
		c.Leave = ids(some[:rapid.IntRange(0, len(some)/2).Draw(t, "leaving")])
		other, d := l, c
		other.Members = rapid.Permutation(l.Members).Draw(t, "other order")
		d.Join = rapid.Permutation(c.Join).Draw(t, "order of joins")
		d.Leave = rapid.Permutation(c.Leave).Draw(t, "order of leaves")
		one, two := mustNextRapid(t, l, c), mustNextRapid(t, other, d)
		if diff := cmp.Diff(one, two); diff != "" {
			t.Fatal(diff)
		}
		if one.Epoch != l.Epoch+1 || one.Cluster != l.Cluster || one.Partitions != l.Partitions || one.N != l.N {
			t.Fatalf("more than members changed: %+v", one)
		}
		a, errA := New(one, one.N)
		one.Members = rapid.Permutation(one.Members).Draw(t, "order of the next members")
		b, errB := New(one, one.N)
		if err := errors.Join(errA, errB); err != nil || !slices.Equal(a.lists, b.lists) {
			t.Fatalf("the rings differ (%v)", err)
		}
	})
}

func mustNextRapid(t *rapid.T, l Layout, c Change) Layout {
	next, err := l.Next(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := next.Validate(); err != nil {
		t.Fatal(err)
	}
	return next
}

// A ring has the table's primaries, with fewer replicas a part of them, and with more all of them.
func TestRingOfTable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := genLayout.Draw(t, "layout")
		l.Epoch = 1 + l.Epoch/2
		l = mustNextRapid(t, l, Change{Join: []Member{freshMember("new1")}})
		n := rapid.IntRange(1, MaxN).Draw(t, "n")
		whole, errA := New(l, l.N)
		r, errB := New(l, n)
		if err := errors.Join(errA, errB); err != nil {
			t.Fatal(err)
		}
		zone, count := zones(sorted(l.Members))
		of := map[NodeID]int{}
		for i, m := range sorted(l.Members) {
			of[m.ID] = zone[i]
		}
		width := l.width()
		for p := range l.Partitions {
			table := l.Primaries[p*width : (p+1)*width]
			got := slices.SortedFunc(slices.Values(whole.Primaries(p)), NodeID.Compare)
			if !slices.Equal(got, table) {
				t.Fatalf("partition %d: %v, the table has %v", p, got, table)
			}
			few, many := r.Primaries(p), whole.Primaries(p)
			if len(few) > len(many) {
				few, many = many, few
			}
			for _, id := range few {
				if !slices.Contains(many, id) {
					t.Fatalf("partition %d: %d and %d replicas share no list", p, r.N(), whole.N())
				}
			}
			seen := map[int]bool{}
			for _, id := range r.Primaries(p) {
				seen[of[id]] = true
			}
			if want := min(count, r.N()); len(seen) != want {
				t.Fatalf("partition %d: %d replicas in %d zones, want %d", p, r.N(), len(seen), want)
			}
			if walk := r.Walk(p); len(walk) != len(l.Members) || len(slices.Compact(slices.SortedFunc(slices.Values(walk), NodeID.Compare))) != len(walk) {
				t.Fatalf("partition %d: the walk %v is not all members", p, walk)
			}
		}
	})
}

// First places and fallbacks are spread as well in a ring that has changed many times.
func TestTableIsSpread(t *testing.T) {
	full := families[0].layout(32, 7)
	l := full
	l.Members = full.Members[:3]
	for _, m := range full.Members[3:] {
		l = mustNext(t, l, join(m))
	}
	for _, m := range full.Members[:16] {
		l = mustNext(t, l, leave(m.ID))
	}
	r := mustNew(t, l, 3)
	for _, m := range l.Members {
		first, fallback := 0, map[NodeID]int{}
		for _, p := range r.Owned(m.ID) {
			if r.Primaries(p)[0] == m.ID {
				first++
			}
			fallback[r.Walk(p)[3]]++
		}
		if first < 32 || first > 96 {
			t.Errorf("%s is first in %d of 1024 partitions, fair is 64", m.Name, first)
		}
		for id, n := range fallback {
			if n > r.Owns(m.ID)/4 {
				t.Errorf("%s is the first fallback of %d of the %d partitions of %s", id, n, r.Owns(m.ID), m.Name)
			}
		}
	}
}

// What a joiner takes comes from all that have it to give, so that no member alone has to send it.
func TestJoinTakesFromAll(t *testing.T) {
	full := families[0].layout(17, 8)
	l := full
	l.Members = full.Members[:16]
	l = mustNext(t, mustNext(t, l, update(l.Members[0])), join(full.Members[16]))
	before := full
	before.Members = full.Members[:16]
	from := map[NodeID]int{}
	for _, m := range Diff(mustNew(t, before, 3), mustNew(t, l, 3)) {
		for _, id := range m.Lost {
			from[id]++
		}
	}
	if len(from) < 12 {
		t.Errorf("a joiner takes from %d of 16 members", len(from))
	}
}

func TestReplaceMovesExactlyTheSlotsOfTheReplaced(t *testing.T) {
	for _, f := range some() {
		first := f.layout(12, 9)
		for _, l := range []Layout{first, mustNext(t, first, leave(first.Members[5].ID))} {
			old := l.Members[3]
			heir := Member{ID: NodeID{1}, Name: old.Name, Zone: old.Zone, Weight: old.Weight}
			next := mustNext(t, l, Change{Replace: map[NodeID]Member{old.ID: heir}, Remove: []NodeID{old.ID}})
			a, b := mustNew(t, l, 3), mustNew(t, next, 3)
			if got := Gained(a, b, heir.ID); !slices.Equal(got, a.Owned(old.ID)) || Moved(a, b) != len(got) {
				t.Errorf("%s: of %d slots the successor has %d, and %d moved", f.name, a.Owns(old.ID), len(got), Moved(a, b))
			}
			if !next.IsRemoved(old.ID) {
				t.Errorf("%s: the replaced id is not recorded", f.name)
			}
		}
	}
}

func TestBackRestores(t *testing.T) {
	first := families[11].layout(9, 10)
	second := mustNext(t, first, Change{Join: []Member{freshMember("new1")}, BucketN: map[string]int{"b": 2}})
	third := mustNext(t, second, Change{Leave: ids(first.Members[:2]), Remove: []NodeID{{7}}})
	for _, to := range []Layout{first, second} {
		back, err := third.Back(to)
		if err != nil {
			t.Fatal(err)
		}
		if back.Epoch != 4 || back.NFor("b") != to.NFor("b") || len(back.Buckets) != 1 || !back.IsRemoved(NodeID{7}) {
			t.Errorf("back to epoch %d: %+v", to.Epoch, back)
		}
		for _, n := range []int{1, 3, 5} {
			if a, b := mustNew(t, to, n), mustNew(t, back, n); !slices.Equal(a.lists, b.lists) {
				t.Errorf("back to epoch %d: another ring for %d replicas", to.Epoch, n)
			}
		}
	}
	removed := mustNext(t, third, Change{Remove: []NodeID{first.Members[4].ID}})
	other := first
	other.ClusterID[0]++
	for field, to := range map[string]Layout{"Epoch": third, "ClusterID": other, "Removed[": first} {
		from := third
		if field == "Removed[" {
			from = removed
		}
		if _, err := from.Back(to); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), ": "+field) {
			t.Errorf("want an error about %s, got %v", field, err)
		}
	}
}

func TestNextWithoutMembersMovesNothing(t *testing.T) {
	first := families[10].layout(7, 11)
	l := mustNext(t, first, Change{BucketN: map[string]int{"wide": 5, "same": 3, "odd": 1}, Lineage: [16]byte{9}})
	if len(l.Primaries) != 0 || l.NFor("wide") != 5 || l.NFor("same") != 3 || len(l.Buckets) != 2 || !slices.Equal(l.Lineages, [][16]byte{{9}}) {
		t.Errorf("%+v", l)
	}
	for _, m := range Diff(mustNew(t, first, 3), mustNew(t, l, 3)) {
		if m.Partition < l.Partitions {
			t.Errorf("slots of buckets that are not concerned moved: %+v", m)
		}
	}
	again := mustNext(t, l, Change{BucketN: map[string]int{"wide": 0, "odd": 3}})
	want := []BucketN{{"odd", 3}, {"wide", 3}} // their partitions stay
	if !slices.Equal(again.Buckets, want) || !slices.Equal(again.Lineages, l.Lineages) || l.NFor("wide") != 5 {
		t.Errorf("%+v, from %+v", again, l)
	}
}

func TestNextKeepsTheCallersLayout(t *testing.T) {
	l := mustNext(t, families[4].layout(9, 5), Change{Remove: []NodeID{{9}}, BucketN: map[string]int{"b": 2}})
	copied, _ := DecodeLayout(l.Encode())
	next := mustNext(t, l, Change{Join: []Member{freshMember("new1")}, Remove: []NodeID{{1}, l.Members[0].ID}, BucketN: map[string]int{"b": 1}})
	next.Primaries[0], next.Members[0].Weight = NodeID{}, 77
	if diff := cmp.Diff(copied, l); diff != "" {
		t.Error(diff)
	}
}

func TestNextRefuses(t *testing.T) {
	l := mustNext(t, families[6].layout(4, 12), Change{Remove: []NodeID{{0xdd}}})
	m := l.Members
	joined := func(change func(*Member)) Change {
		x := freshMember("new1")
		change(&x)
		return join(x)
	}
	renamed := m[1]
	renamed.Name = "other"
	for _, c := range []struct {
		field  string
		change Change
	}{
		{"Leave[0]", leave(NodeID{1})},
		{"Leave[1]", leave(m[0].ID, m[0].ID)},
		{"Leave", leave(ids(m)...)},
		{"Remove[0]", Change{Remove: []NodeID{{}}}},
		{"Remove[0]", Change{Leave: []NodeID{m[2].ID}, Remove: []NodeID{m[2].ID}}},
		{"Removed", Change{Remove: manyIDs(MaxRemoved)}},
		{"Update[0].ID", update(freshMember("new1"))},
		{"Update[0].Name", update(renamed)},
		{"Update[1]", update(m[1], m[1])},
		{"Update[0]", Change{Leave: ids(m[:1]), Update: m[:1]}},
		{"Join[0].ID", join(m[0])},
		{"Join[0].ID", joined(func(x *Member) { x.ID = NodeID{0xdd} })},
		{"Join[1].ID", join(freshMember("new1"), freshMember("new1"))},
		{"Join[0].Name", joined(func(x *Member) { x.Name = m[2].Name })},
		{"Members[4].Weight", joined(func(x *Member) { x.ID, x.Weight = NodeID{0xff, 0xff}, 0 })},
		{"Join[252]", join(manyMembers(MaxMembers - 3)...)},
		{"Replace[" + NodeID{1}.String() + "]", Change{Replace: map[NodeID]Member{{1}: freshMember("new1")}}},
		{"Replace[" + m[0].ID.String() + "].Name", Change{Replace: map[NodeID]Member{m[0].ID: {ID: NodeID{1}, Name: m[1].Name, Weight: 1}}}},
		{"BucketN[\"b\"]", Change{BucketN: map[string]int{"b": MaxN + 1}}},
		{"BucketN[\"" + strings.Repeat("b", MaxBucketName+1) + "\"]", Change{BucketN: map[string]int{strings.Repeat("b", MaxBucketName+1): 2}}},
		{"BucketN[\"a\\x00\"]", Change{BucketN: map[string]int{"a\x00": 2}}},
		{"BucketN", Change{BucketN: manyBuckets(MaxBucketN + 1)}},
	} {
		if next, err := l.Next(c.change); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), ": "+c.field+": ") {
			t.Errorf("want an error about %s, got %v (%d members)", c.field, err, len(next.Members))
		}
	}
	l.Epoch = 0
	if _, err := l.Next(Change{}); !errors.Is(err, ErrInvalid) {
		t.Errorf("of a layout that is not valid: %v", err)
	}
}

func manyBuckets(n int) map[string]int {
	out := map[string]int{}
	for i := range n {
		out[fmt.Sprintf("bucket%d", i)] = 2
	}
	return out
}

func manyIDs(n int) (out []NodeID) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range n {
		out = append(out, randomID(rnd))
	}
	return out
}

func manyMembers(n int) (out []Member) {
	for i, id := range manyIDs(n) {
		out = append(out, Member{ID: id, Name: fmt.Sprintf("many%d", i), Weight: 1})
	}
	return out
}

func TestDiff(t *testing.T) {
	l := families[11].layout(9, 13)
	next := mustNext(t, l, Change{Join: []Member{freshMember("new1")}, Leave: ids(l.Members[:1])})
	a, b := mustNew(t, l, 3), mustNew(t, next, 3)
	gained, lost := map[NodeID][]int{}, map[NodeID][]int{}
	for _, m := range Diff(a, b) {
		if len(m.Gained) == 0 || len(m.Gained) != len(m.Lost) {
			t.Errorf("partition %d: %d gained, %d lost", m.Partition, len(m.Gained), len(m.Lost))
		}
		for _, id := range m.Gained {
			gained[id] = append(gained[id], m.Partition)
		}
		for _, id := range m.Lost {
			lost[id] = append(lost[id], m.Partition)
		}
	}
	moved := 0
	for _, id := range append(ids(next.Members), l.Members[0].ID) {
		if !slices.Equal(Gained(a, b, id), gained[id]) || !slices.Equal(Gained(b, a, id), lost[id]) {
			t.Errorf("%s: Gained and Diff disagree", id)
		}
		moved += len(gained[id])
	}
	if moved != Moved(a, b) || moved == 0 {
		t.Errorf("Diff lists %d slots, Moved says %d", moved, Moved(a, b))
	}
	if d := Diff(a, a); len(d) != 0 {
		t.Errorf("from a ring to itself: %v", d)
	}
}
