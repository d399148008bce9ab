package storage

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

type hintID struct {
	target ring.NodeID
	k      Key
}

// reapModel is what records, hints and rounds must come to, in plain maps.
type reapModel struct {
	s        *Store
	records  map[Key]vclock.Object
	hints    map[hintID]vclock.Object
	rounds   map[int]uint64
	removing map[Key]removing
	actors   map[vclock.Actor]bool
}

var (
	modelKeys    = []Key{{0, "b", "k"}, {0, "b", "k\x00"}, {0, "c", "k"}, {1, "b", "l"}}
	modelTargets = []ring.NodeID{nodeA, nodeB}
)

func drawObject(t *rapid.T) vclock.Object {
	counter := uint64(rapid.IntRange(1, 4).Draw(t, "counter"))
	o := peerObject(byte(rapid.IntRange(1, 3).Draw(t, "node")), counter, "")
	o.Siblings[0].Deleted = counter != 3 // a dot says always the same
	return o
}

func drawKey(t *rapid.T) Key { return rapid.SampledFrom(modelKeys).Draw(t, "key") }

func drawHint(t *rapid.T) hintID {
	return hintID{rapid.SampledFrom(modelTargets).Draw(t, "target"), drawKey(t)}
}

// drawRound gives a partition's round, or one before or after it.
func (m *reapModel) drawRound(t *rapid.T, p int) uint64 {
	return uint64(max(0, int(m.rounds[p])+rapid.IntRange(-1, 2).Draw(t, "round")))
}

func (m *reapModel) expect(t *rapid.T, what string, got, want error) bool {
	if !errors.Is(got, want) {
		t.Fatalf("%s: %v, want %v", what, got, want)
	}
	return want == nil
}

func (m *reapModel) staleIn(p int, round uint64) error {
	if round < m.rounds[p] {
		return ErrStaleRound
	}
	return nil
}

func (m *reapModel) merge(t *rapid.T) {
	k, o := drawKey(t), drawObject(t)
	round := m.drawRound(t, k.Partition)
	_, err := m.s.Merge(t.Context(), k, o, MergeOptions{Round: round})
	if m.expect(t, "Merge", err, m.staleIn(k.Partition, round)) {
		m.records[k] = vclock.Merge(m.records[k], o)
	}
}

func (m *reapModel) putHint(t *rapid.T) {
	h, o := drawHint(t), drawObject(t)
	round := m.drawRound(t, h.k.Partition)
	_, err := m.s.PutHint(t.Context(), h.target, h.k, o, round)
	if m.expect(t, "PutHint", err, m.staleIn(h.k.Partition, round)) {
		m.hints[h] = vclock.Merge(m.hints[h], o)
	}
}

func (m *reapModel) mintHint(t *rapid.T) {
	h := drawHint(t)
	w := vclock.Write{Deleted: rapid.Bool().Draw(t, "delete"), LastWriteWins: true}
	minted, ack, err := m.s.MintHint(t.Context(), h.target, h.k, w, nil)
	if errors.Is(err, vclock.ErrClock) {
		return
	}
	m.expect(t, "MintHint", err, nil)
	if m.actors[minted.Dot.Actor] || ack.Round != m.rounds[h.k.Partition] || !ack.Object.Covers(m.hints[h]) {
		t.Fatalf("MintHint %+v onto %v", ack, m.hints[h])
	}
	m.actors[minted.Dot.Actor] = true
	m.hints[h] = ack.Object
}

func (m *reapModel) deleteHint(t *rapid.T) {
	h := drawHint(t)
	o, there := m.hints[h]
	d := o.Digest(h.k.Bucket, h.k.Key)
	if rapid.IntRange(0, 3).Draw(t, "right") == 0 {
		d, there = drawObject(t).Digest("other", "key"), false
	}
	deleted, err := m.s.DeleteHint(t.Context(), h.target, h.k, d)
	m.expect(t, "DeleteHint", err, nil)
	if deleted != there {
		t.Fatalf("DeleteHint = %v, want %v", deleted, there)
	}
	if there {
		delete(m.hints, h)
	}
}

func (m *reapModel) statements(t *rapid.T, p int) (ks []Statement) {
	for _, k := range modelKeys {
		if k.Partition == p && rapid.Bool().Draw(t, "stated") {
			d := m.records[k].Digest(k.Bucket, k.Key)
			d[0] += byte(rapid.IntRange(0, 4).Draw(t, "wrong") / 4)
			ks = append(ks, Statement{k, d})
		}
	}
	return ks
}

func (m *reapModel) holds(st Statement, primary bool) bool {
	for _, target := range modelTargets {
		if _, hinted := m.hints[hintID{target, st.Key}]; hinted {
			return false
		}
	}
	o, found := m.records[st.Key]
	if !primary || !found {
		return !primary && !found
	}
	dead := !slices.ContainsFunc(o.Siblings, func(s vclock.Sibling) bool { return !s.Deleted })
	return dead && o.Digest(st.Key.Bucket, st.Key.Key) == st.Digest
}

func (m *reapModel) enter(t *rapid.T) {
	p := rapid.IntRange(0, 1).Draw(t, "partition")
	round, primary, ks := m.drawRound(t, p), rapid.IntRange(0, 2).Draw(t, "primary") > 0, m.statements(t, p)
	own := m.rounds[p]
	confirmed, err := m.s.EnterRound(t.Context(), p, round, primary, ks)
	if !m.expect(t, "EnterRound", err, m.staleIn(p, round)) {
		return
	}
	if round > own {
		for k := range m.removing {
			if k.Partition == p {
				delete(m.removing, k)
			}
		}
	}
	for i, st := range ks {
		want := m.removing[st.Key] == removing{round, st.Digest} && round > 0
		if round > own {
			if want = m.holds(st, primary); want {
				m.removing[st.Key] = removing{round, st.Digest}
			}
		}
		if confirmed[i] != want {
			t.Fatalf("EnterRound(%d, %d, %v): %v %v, want %v", p, round, primary, st, confirmed[i], want)
		}
	}
	m.rounds[p] = round
}

func (m *reapModel) remove(t *rapid.T) {
	p := rapid.IntRange(0, 1).Draw(t, "partition")
	round, ks := m.drawRound(t, p), m.statements(t, p)
	unmark := rapid.IntRange(0, 3).Draw(t, "unmark") == 0
	var want error
	if round > m.rounds[p] {
		want = ErrNotEntered
	}
	n, err := 0, error(nil)
	if unmark {
		err = m.s.Unmark(t.Context(), p, round, ks)
	} else {
		n, err = m.s.Remove(t.Context(), p, round, ks)
	}
	if !m.expect(t, "Remove", err, want) {
		return
	}
	for _, st := range ks {
		o, found := m.records[st.Key]
		lives := lifeOf(o.Siblings) == Life{} // with too few births to be pruned, so that nothing is done
		if !unmark && (!found || !lives && o.Digest(st.Key.Bucket, st.Key.Key) == st.Digest) {
			delete(m.records, st.Key)
			n--
		}
		if m.removing[st.Key].round == round {
			delete(m.removing, st.Key)
		}
	}
	if n != 0 {
		t.Fatalf("Remove(%v) counted %d wrong", ks, n)
	}
}

// check compares everything that can be read.
func (m *reapModel) check(t *rapid.T) {
	counts := make(map[ring.NodeID]int)
	for h, o := range m.hints {
		counts[h.target]++
		page, _, _, err := m.s.Hints(h.target, HintCursor{}, 0, 0)
		i := slices.IndexFunc(page, func(x Hint) bool { return x.Key == h.k })
		if err != nil || i < 0 || !page[i].Object.Equal(o) || page[i].Round != m.rounds[h.k.Partition] {
			t.Fatalf("hint %v: %v, %v", h, page, err)
		}
	}
	for _, target := range m.s.HintTargets() {
		if target.Count != counts[target.Target] || target.Count == 0 {
			t.Fatalf("%+v, want %d", target, counts[target.Target])
		}
		delete(counts, target.Target)
	}
	if len(counts) > 0 {
		t.Fatalf("targets are missing: %v", counts)
	}
	under := make(map[Key]vclock.Digest)
	for p := range 2 {
		for _, st := range m.s.Removing(p) {
			under[st.Key] = st.Digest
		}
	}
	for _, k := range modelKeys {
		st, err := m.s.Get(k)
		o, found := m.records[k]
		if err != nil || st.Found != found || !st.Record.Equal(o) || st.Round != m.rounds[k.Partition] {
			t.Fatalf("%v: %+v, %v, want %v", k, st, err, o)
		}
		want := vclock.Merge(m.hints[hintID{nodeA, k}], m.hints[hintID{nodeB, k}])
		got, hinted, round, err := m.s.HintsOf(k)
		if err != nil || hinted == want.IsZero() || !got.Equal(want) || round != m.rounds[k.Partition] {
			t.Fatalf("hints of %v: %v, %v, want %v", k, got, err, want)
		}
		if d, ok := under[k]; ok != (m.removing[k].round > 0) || d != m.removing[k].digest {
			t.Fatalf("%v under removal: %v, want %+v", k, ok, m.removing[k])
		}
	}
}

// Hints, rounds and removal against a model that is a few maps.
func TestHintsAndRoundsAgainstAModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s, err := Open(nil, Options{InMemory: true, Shards: rapid.IntRange(1, 2).Draw(rt, "shards"), Partitions: 2})
		if err != nil {
			rt.Fatal(err)
		}
		defer func() {
			if err := s.Close(); err != nil {
				rt.Fatal(err)
			}
		}()
		m := &reapModel{
			s: s, records: make(map[Key]vclock.Object), hints: make(map[hintID]vclock.Object),
			rounds: make(map[int]uint64), removing: make(map[Key]removing), actors: make(map[vclock.Actor]bool),
		}
		rt.Repeat(map[string]func(*rapid.T){
			"merge": m.merge, "put hint": m.putHint, "mint hint": m.mintHint, "delete hint": m.deleteHint,
			"enter": m.enter, "remove": m.remove, "": m.check,
		})
		for p := range 2 {
			if n, err := s.Recount(rt.Context(), p); n != 0 || err != nil {
				rt.Fatal(fmt.Sprintf("recount: %d, %v", n, err))
			}
		}
		checkHintCounts(t, s)
	})
}
