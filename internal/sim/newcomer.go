package sim

import (
	"slices"
	"time"

	"github.com/dunlindb/dunlin/internal/crowd"
)

// newcomersSlices is of how many slices of the hash space each new member gets hints.
const newcomersSlices = 16

// newcomer has a new member hold hints in partitions that it owns nothing of, and in which something was reaped before it
// came: a node that has no reap round of a partition stores hints there that the owners refuse.
func (s *strike) newcomer() {
	in := s.serving()
	if len(in) < 3 || !slices.ContainsFunc(s.order, func(m *member) bool { return m.is(spare) }) {
		return
	}
	via := in[0]
	t := s.w.base(via)
	if t == nil || len(t.live) > 1 {
		return
	}
	first, n := t.of(bucketSiblings)
	inOrder := func(ps ...int) (keys []string) {
		for _, p := range ps {
			keys = append(keys, s.w.crowd.Guest().Key(bucketSiblings, func(key string) bool { return t.partition(bucketSiblings, key) == p }))
		}
		return keys
	}
	// Each has slices of its own: what is reaped there again tells all of the round.
	from := int(s.w.newcomers.Add(1)-1) * newcomersSlices
	var ps []int
	for p := first + from; p < first+min(n, from+newcomersSlices); p++ {
		ps = append(ps, p)
	}
	gone := inOrder(ps...)
	s.w.writeAll(crowd.Wish{At: via.asNode(), W: s.w.plan.W, Strict: true, Timeout: time.Second}, gone)
	for _, key := range gone {
		s.w.crowd.Guest().Remove(crowd.Wish{At: via.asNode(), Bucket: bucketSiblings, Key: key, Strict: true})
	}
	if !s.w.soon(15*time.Second, func() bool { return s.w.isReaped(via, gone) }) {
		return
	}
	i := slices.IndexFunc(s.order, (*member).enlist)
	if i < 0 {
		return
	}
	m := s.order[i]
	s.w.breach(m.start(false))
	defer m.release()
	joined := s.w.soon(tookOver, func() bool {
		now := s.w.base(m)
		if now == nil || len(now.live) > 1 || now.Epoch == t.Epoch {
			return false
		}
		t = now
		return true
	})
	if !joined {
		return
	}
	// Of another bucket's partition there it would know the round, too.
	ps = slices.DeleteFunc(ps, func(p int) bool { return t.ownsOf(p-first, m.id()) })
	s.w.count(s.name, "%s, of %d partitions", m.name, len(ps))
	heal := s.w.cutStreams(s.around(m, false)...)
	wrote := s.w.writeAlone(m, inOrder(ps...))
	time.Sleep(sendsFor) // who refuses what comes from the write itself says in which round it is
	heal()
	s.w.note("%s: %d of %d keys written", s.name, wrote, len(ps))
}

// ownsOf reports whether a node owns a partition of a slice of the hash space, of any bucket.
func (t *table) ownsOf(slice int, id string) bool {
	owns := slices.Contains(t.ids(slice), id)
	for _, b := range t.Buckets {
		owns = owns || slices.Contains(t.ids(b.First+slice), id)
	}
	return owns
}
