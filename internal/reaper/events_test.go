package reaper

import (
	"context"
	"fmt"

	"github.com/dunlindb/dunlin/vclock"
)

// dataEvent is something that clients, coordinators, hints or anti-entropy do.
func (w *world) dataEvent() {
	w.now++
	k := w.rng.IntN(nKeys)
	switch x := w.rng.IntN(36); {
	case x < w.writing:
		w.put(k)
	case x < 2*w.writing:
		w.remove(k)
	case x < 20:
		w.arrive()
	case x < 24:
		w.beginRepair(k)
	case x < 26:
		w.endRepair()
	case x < 30:
		w.replayHints(w.rng.IntN(nodes), k)
	case x < 33:
		w.exchange(w.rng.IntN(3), w.rng.IntN(3), k)
	default:
		w.converge(k)
	}
}

// arrive delivers some frame; sometimes it will arrive again.
func (w *world) arrive() {
	if len(w.frames) == 0 {
		return
	}
	j := w.rng.IntN(len(w.frames))
	f := w.frames[j]
	if !w.chance(3) {
		w.frames[j] = w.frames[len(w.frames)-1]
		w.frames = w.frames[:len(w.frames)-1]
	}
	if !w.chance(8) {
		w.deliver(f)
	}
}

// converge lets the primaries agree on a key; what is under way stays so.
func (w *world) converge(k int) {
	w.now += 25 // more than clocks differ by
	for i, n := range w.nodes {
		for t := range 3 {
			if o := n.store.mem.hints[t][k]; !o.IsZero() && !n.fenced && !w.nodes[t].fenced && w.nodes[t].store.merge(k, o, n.store.mem.round) == nil {
				w.send(frame{kind: handoff, from: i, to: t, target: t, k: k, obj: o, round: n.store.mem.round})
				n.store.deleteHint(t, k, digest(k, o))
			}
		}
		w.heal(i)
	}
	for range 2 {
		for i := range 3 {
			w.exchange(i, (i+1)%3, k)
		}
	}
}

func (w *world) send(f frame) {
	w.sent = append(w.sent, f)
	if f.kind == replicate && f.target >= 0 {
		w.hintsSent = append(w.hintsSent, f)
	}
	if len(w.frames) < 16 {
		w.frames = append(w.frames, f)
	} else {
		w.frames[w.rng.IntN(len(w.frames))] = f
	}
}

// put writes a value, with a context of some earlier read or none.
func (w *world) put(k int) {
	x := vclock.Write{Value: fmt.Appendf(nil, "v%d", w.now)}
	if n := len(w.seen[k]); n > 0 && !w.chance(4) {
		x.Context = w.seen[k][w.rng.IntN(n)]
	}
	if w.chance(6) {
		x.Expiry = w.now + w.rng.Int64N(40)
	}
	w.coordinate(k, x)
}

// remove reads what there is and deletes it.
func (w *world) remove(k int) {
	if c := w.read(k); !c.IsZero() {
		w.coordinate(k, vclock.Write{Deleted: true, Context: c})
	}
}

// coordinate mints at a primary, or at the fallback into a hint, and sends the result to the others.
func (w *world) coordinate(k int, x vclock.Write) {
	i := w.rng.IntN(3)
	if w.chance(8) {
		i = 3
	}
	n := w.nodes[i]
	if n.fenced {
		return
	}
	target := -1
	if i == 3 {
		target = w.rng.IntN(3)
	}
	m, err := n.store.mint(target, k, x)
	if err != nil {
		return
	}
	w.log("write %v deleted=%v at %d round %d", m.Dot, x.Deleted, i, n.store.mem.round)
	for j := range 3 {
		if j == i {
			continue
		}
		f := frame{kind: replicate, from: i, to: j, target: -1, k: k, obj: m.Record.Object, round: n.store.mem.round}
		if j == target {
			continue
		}
		if i != 3 && w.chance(3) {
			f.to, f.target = 3, j
		}
		w.send(f)
		if w.chance(2) {
			w.deliver(f)
		}
	}
}

// read merges some copies, as a coordinator does, and remembers the context that its client got.
func (w *world) read(k int) vclock.Context {
	x := reading{k: k}
	for _, i := range w.rng.Perm(nodes) {
		if x.members < 2 || w.chance(2) {
			w.gather(&x, i)
		}
	}
	c := x.obj.Answer(w.now, false).Context
	if len(w.seen[k]) < 6 {
		w.seen[k] = append(w.seen[k], c)
	} else {
		w.seen[k][w.rng.IntN(6)] = c
	}
	return c
}

// gather adds a member's copy. The round is the earliest of those that were read.
func (w *world) gather(x *reading, i int) {
	n := w.nodes[i]
	if n.fenced {
		return
	}
	switch r := n.store.mem.round; {
	case x.members == 0:
		x.round = r
	case w.rules.latestRound:
		x.round = max(x.round, r)
	default:
		x.round = min(x.round, r)
	}
	x.members++
	x.obj = vclock.Merge(x.obj, n.store.mem.recs[x.k].Object)
	for t := range n.store.mem.hints {
		x.obj = vclock.Merge(x.obj, n.store.mem.hints[t][x.k])
	}
}

// beginRepair is a coordinator that reads, and is then frozen for a while.
func (w *world) beginRepair(k int) {
	x := reading{k: k}
	for range 1 + w.rng.IntN(2) {
		w.gather(&x, w.rng.IntN(nodes))
	}
	if len(w.reads) < 3 {
		w.reads = append(w.reads, x)
	} else {
		w.reads[w.rng.IntN(3)] = x
	}
}

// endRepair reads one copy more and repairs all primaries.
func (w *world) endRepair() {
	if len(w.reads) == 0 {
		return
	}
	j := w.rng.IntN(len(w.reads))
	x := w.reads[j]
	w.reads[j] = w.reads[len(w.reads)-1]
	w.reads = w.reads[:len(w.reads)-1]
	w.gather(&x, w.rng.IntN(nodes))
	if x.obj.IsZero() {
		return
	}
	from := w.rng.IntN(nodes)
	for to := range 3 {
		w.send(frame{kind: repair, from: from, to: to, target: -1, k: x.k, obj: x.obj, round: x.round})
	}
}

func (w *world) replayHints(i, k int) {
	n := w.nodes[i]
	if n.fenced {
		return
	}
	for t := range 3 {
		if o := n.store.mem.hints[t][k]; !o.IsZero() {
			f := frame{kind: handoff, from: i, to: t, target: t, k: k, obj: o, round: n.store.mem.round}
			w.send(f)
			if w.calm || w.chance(2) {
				w.deliver(f)
			}
		}
	}
}

// exchange brings one primary's copy to another. Keys under removal are left out, and a damaged copy is no source.
func (w *world) exchange(i, j, k int) {
	a, b := w.nodes[i].store, w.nodes[j].store
	o := a.mem.recs[k].Object
	if i == j || o.IsZero() || a.mem.damaged || a.mem.marks[k] != 0 || b.mem.marks[k] != 0 {
		return
	}
	f := frame{kind: exchange, from: i, to: j, target: -1, k: k, obj: o, round: a.mem.round}
	w.send(f)
	w.deliver(f)
}

func (w *world) deliver(f frame) {
	from, to := w.nodes[f.from], w.nodes[f.to]
	if from.fenced || to.fenced {
		return
	}
	var err error
	switch {
	case f.kind == acked:
		to.store.deleteHint(f.target, f.k, digest(f.k, f.obj))
	case f.kind == replicate && f.target >= 0:
		err = to.store.putHint(f.target, f.k, f.obj, f.round)
	default:
		err = to.store.merge(f.k, f.obj, f.round)
	}
	w.log("frame kind %d %d->%d key %d round %d at %d: %v", f.kind, f.from, f.to, f.k, f.round, to.store.mem.round, err)
	switch {
	case err == nil && f.kind == handoff:
		w.send(frame{kind: acked, from: f.to, to: f.from, target: f.target, k: f.k, obj: f.obj})
		if w.calm {
			from.store.deleteHint(f.target, f.k, digest(f.k, f.obj))
		}
	case err != nil:
		w.refused(f)
	}
}

// refused: the sender, if it is behind, catches up, and reads its store again. A repair is dropped.
func (w *world) refused(f frame) {
	n, peer := w.nodes[f.from], w.nodes[f.to].store.mem.round
	if n.entered == 0 && n.store.mem.round < peer && (w.calm || w.chance(2)) {
		w.guard(f.from, func() ([]byte, error) { return nil, n.reaper.CatchUp(context.Background(), 0, peer) })
	}
	if f.kind != replicate && f.kind != handoff || n.store.mem.round < peer || w.calm {
		return
	}
	f.obj, f.round = n.store.mem.recs[f.k].Object, n.store.mem.round
	if f.from == 3 || f.kind == handoff {
		f.obj = n.store.mem.hints[f.to][f.k]
	}
	if !f.obj.IsZero() {
		w.send(f)
	}
}

// heal refills a damaged primary from every other one.
func (w *world) heal(i int) {
	n := w.nodes[i]
	if !n.store.mem.damaged || n.fenced || i == 3 {
		return
	}
	for j := range 3 {
		peer := w.nodes[j]
		if j == i {
			continue
		}
		if peer.fenced || peer.store.mem.damaged && !w.calm {
			return
		}
		for k := range nKeys {
			if n.store.merge(k, peer.store.mem.recs[k].Object, peer.store.mem.round) != nil {
				return
			}
		}
	}
	n.store.mem.damaged = false
	n.store.sync()
}

// noteWrite remembers a write.
func (w *world) noteWrite(k int, d vclock.Dot, x vclock.Write) {
	w.writes = append(w.writes, &write{k: k, dot: d, seen: x.Context.Vector, value: !x.Deleted && x.Expiry == 0})
}

// noteAcks looks which writes are on two disks now.
func (w *world) noteAcks() {
	for _, x := range w.writes {
		if x.acked {
			continue
		}
		copies := 0
		for _, n := range w.nodes {
			if !n.fenced && n.store.safe.knows(x) {
				copies++
			}
		}
		x.acked = copies >= 2
	}
}

func (d *disk) knows(x *write) bool {
	if d.recs[x.k].Context.Covers(x.dot) {
		return true
	}
	for t := range d.hints {
		if d.hints[t][x.k].Context.Covers(x.dot) {
			return true
		}
	}
	return false
}

// noteRemoval checks the clocks: nothing may go that some node still shows.
func (w *world) noteRemoval(o vclock.Object) {
	w.reaped++
	for _, s := range o.Siblings {
		for i := range 3 {
			if s.Live(w.clock(i)) && w.trouble == nil {
				w.trouble = fmt.Errorf("a value was removed that node %d still shows", i)
			}
		}
	}
}
