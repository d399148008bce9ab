package reaper

import (
	"context"
	"errors"

	"github.com/dunlindb/dunlin/ring"
)

// view is what one node knows of layouts: the epochs that live, by how many changes it has heard of and how many of
// them it knows to be over. With no change it is theRing alone.
type view struct {
	learnt, over uint64 // changes; learnt is never below over
}

// rings are the layouts of the model, by epoch-1: all of the same members.
var rings = []*ring.Ring{theRing, makeRing(2), makeRing(3)}

func (v view) newest() uint64 { return 1 + v.learnt }

// ring is nil while two epochs live.
func (v view) ring() *ring.Ring {
	if v.learnt != v.over {
		return nil
	}
	return rings[v.over]
}

// change moves the layout on: a node hears that there is a new one, or, once all have, that the old one is over. While
// members change, one of the primaries may be another node in its place.
func (w *world) change() {
	least, most := w.views[0].learnt, w.views[0].learnt
	for _, v := range w.views[1:] {
		least, most = min(least, v.learnt), max(most, v.learnt)
	}
	i := w.rng.IntN(nodes)
	v := &w.views[i]
	switch {
	case v.learnt < most:
		v.learnt = most
	case least == most && v.over < least:
		w.settleLayout(i)
	case least == most && most+1 < uint64(len(rings)) && w.allOver():
		v.learnt++
		w.log("layout %d is known at %d", v.newest(), i)
	}
}

func (w *world) allOver() bool {
	for _, v := range w.views {
		if v.over != v.learnt {
			return false
		}
	}
	return true
}

// settleLayout tells node i that only the newest layout lives.
func (w *world) settleLayout(i int) {
	w.views[i].over = w.views[i].learnt
	if n := w.nodes[i]; n.entered == 0 && !n.fenced {
		w.guard(i, func() ([]byte, error) {
			n.reaper.unmarkAll(context.Background(), w.views[i].ring())
			return nil, nil
		})
	}
}

// join puts an empty disk in the place of primary 2 while members change, as a node that gains the partition has: in
// the round that an old owner tells, and filled with what the node in its place held, under the rule of rounds. The
// others fill it as they do a damaged copy. Hints were drained before: they stay.
func (w *world) join() {
	n := w.nodes[2]
	if n.entered > 0 || n.fenced || n.store.lazy || w.views[2].learnt == w.views[2].over || w.joined == w.views[2].learnt {
		return
	}
	from := w.rng.IntN(2)
	m := roundsRequest{w.views[2].newest(), []int{0}}
	b, err := w.deliverLetter(context.Background(), letter{2, from, EndpointRounds, m.encode()})
	if err != nil {
		return
	}
	rounds, err := decodeRounds(b, 1)
	if err != nil {
		panic(err)
	}
	old := n.store.mem
	fresh := disk{round: rounds[0], hints: old.hints, damaged: true}
	if w.rules.roundZero {
		fresh.round = 0
	}
	n.store.mem, n.store.safe = fresh, fresh
	n.backup = nil
	w.log("node 2 is new, in round %d of %d's", fresh.round, from)
	for k := range nKeys {
		if o := old.recs[k].Object; !o.IsZero() {
			w.send(frame{kind: exchange, from: 2, to: 2, target: -1, k: k, obj: o, round: old.round})
			if n.store.merge(k, o, old.round) != nil { // it catches up, and is read again
				n.store.merge(k, o, max(old.round, fresh.round))
			}
		}
	}
	w.joined = w.views[2].learnt
	w.crash(2)
}

func (v *view) learn(epoch uint64) error {
	if epoch > uint64(len(rings)) {
		return errors.New("no such epoch")
	}
	v.learnt = max(v.learnt, epoch-1)
	return nil
}
