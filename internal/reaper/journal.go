package reaper

import (
	"fmt"
	"strconv"

	"github.com/dunlindb/dunlin/internal/wire"
	"github.com/dunlindb/dunlin/ring"
)

// slots is how many rounds a driver may have open at once: one file each, so that the journal needs no index and
// cannot grow.
const slots = 8

type phase uint8

const (
	entering phase = 1 + iota // members enter the round; nothing is decided
	removing                  // decided: keys go, struck are unmarked
	striking                  // abandoned: all are unmarked
)

func (p phase) String() string {
	switch p {
	case entering:
		return "enter"
	case removing:
		return "remove"
	case striking:
		return "abandon"
	}
	return "confirm"
}

// intent is what a driver must know of an open round after a restart.
type intent struct {
	epoch     uint64
	partition int
	round     uint64
	phase     phase
	keys      []Statement // entering: to be judged; removing: to be removed
	struck    []Statement // to be unmarked
}

func (t *intent) encode() []byte {
	e := wire.NewEncoder()
	defer e.Free()
	e.Array(7)
	e.Uint(messageVersion)
	e.Uint(t.epoch)
	e.Uint(uint64(t.partition))
	e.Uint(t.round)
	e.Uint(uint64(t.phase))
	encodeStatements(e, t.keys)
	encodeStatements(e, t.struck)
	return e.Copy()
}

func decodeIntent(b []byte) (t intent, err error) {
	d := open(b, 7)
	t.epoch = d.Uint()
	t.partition = d.Count(ring.MaxNumbered - 1)
	t.round = decodeRound(d)
	t.phase = phase(d.Count(int(striking)))
	t.keys = decodeStatements(d, t.partition)
	t.struck = decodeStatements(d, t.partition)
	if d.Err() == nil && (t.phase == 0 || t.round == 0) {
		d.Fail("no phase or no round")
	}
	if d.Err() == nil && len(t.keys)+len(t.struck) > maxBatch {
		d.Fail("too many keys")
	}
	return t, d.Done()
}

// openRound is a round that this node drives.
type openRound struct {
	intent
	slot    int
	answers map[ring.NodeID][]bool // entering: what each member confirmed of keys
	acked   map[ring.NodeID]bool   // removing, striking: who is done
	tries   int
}

func slotName(i int) string { return "reaper-" + strconv.Itoa(i) }

// load reads the journal. What cannot be decoded is dropped: an open round that is forgotten removes nothing more, and
// its number is not used again, since the members know it.
func (r *Reaper) load() error {
	for i := range slots {
		b, err := r.deps.State.Load(slotName(i))
		if err != nil {
			return fmt.Errorf("reaper: journal: %w", err)
		}
		if len(b) == 0 {
			continue
		}
		t, err := decodeIntent(b)
		if err != nil {
			r.deps.Log.Error("reaper: an open round cannot be read and is forgotten", "node", r.deps.Self, "op", "load", "slot", i, "err", err)
			continue
		}
		if r.open[t.partition] != nil {
			r.deps.Log.Error("reaper: two open rounds of one partition, one is forgotten", "node", r.deps.Self, "op", "load", "partition", t.partition)
			continue
		}
		r.adopt(&openRound{intent: t, slot: i})
	}
	return nil
}

// adopt takes an open round into memory.
func (r *Reaper) adopt(o *openRound) {
	o.reset()
	r.open[o.partition] = o
	r.used[o.slot] = true
	r.watch.opened(o)
}

func (o *openRound) reset() {
	o.answers, o.acked, o.tries = map[ring.NodeID][]bool{}, map[ring.NodeID]bool{}, 0
}

// persist makes t the open round's state, on disk first.
func (r *Reaper) persist(o *openRound, t intent) error {
	if err := r.deps.State.Save(slotName(o.slot), t.encode()); err != nil {
		return fmt.Errorf("reaper: journal: %w", err)
	}
	o.intent = t
	r.watch.opened(o)
	return nil
}

// forget ends an open round.
func (r *Reaper) forget(o *openRound) error {
	if err := r.deps.State.Save(slotName(o.slot), nil); err != nil {
		return fmt.Errorf("reaper: journal: %w", err)
	}
	delete(r.open, o.partition)
	r.used[o.slot] = false
	r.watch.closed(o)
	return nil
}

func (r *Reaper) freeSlot() (int, bool) {
	for i, used := range r.used {
		if !used {
			return i, true
		}
	}
	return 0, false
}
