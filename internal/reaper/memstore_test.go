package reaper

import (
	"context"
	"errors"
	"time"

	"github.com/dunlindb/dunlin/vclock"
)

// The model has one partition, two keys, three primaries and one member that is none.
const (
	nodes = 4
	nKeys = 2
)

var errStale = errors.New("refused: the store is in a later round")

// disk is everything a node keeps, a value that can be copied: objects are never changed in place.
type disk struct {
	round   uint64
	recs    [nKeys]vclock.Record
	hints   [nodes][nKeys]vclock.Object // by target
	marks   [nKeys]uint64               // the round in which a key is being removed
	damaged bool
	files   [slots]string
}

// memStore is a node's storage: mem is what it shows, safe what a crash leaves.
type memStore struct {
	w           *world
	node        int
	lazy        bool // writes are not fsynced
	mem, safe   disk
	incarnation uint64
}

// rules that the harm tests switch off.
type rules struct {
	noRounds     bool // a store takes objects of any round
	noRepeat     bool // entering a round repeats no statement
	noHints      bool // hints are no reason not to confirm
	repeatRound  bool // a statement made later in the same round counts
	latestRound  bool // a repair carries the latest of its sources' rounds, not the earliest
	roundZero    bool // a node that gains the partition enters no round before its first object
	noFence      bool // a node that was rolled back goes on as if nothing had happened
	pruneAlone   bool // births are pruned with every merge, without a round
	noDurability bool // statements are made from what is not on the disk, also by a damaged copy
}

func (s *memStore) sync() { s.safe = s.mem; s.w.noteAcks() }

func (s *memStore) wrote() {
	if !s.lazy {
		s.sync()
	}
}

// crash loses what was not fsynced. A node that may have lost something knows it.
func (s *memStore) crash() {
	s.mem = s.safe
	if s.lazy {
		s.mem.damaged = true
		s.safe = s.mem
	}
	s.incarnation = s.w.number()
}

func (s *memStore) fresh(round uint64) error {
	if s.mem.round > round && !s.w.rules.noRounds {
		return errStale
	}
	return nil
}

func (s *memStore) merge(k int, o vclock.Object, round uint64) error {
	if err := s.fresh(round); err != nil {
		return err
	}
	s.mem.recs[k] = s.mem.recs[k].Absorb(o)
	if s.w.rules.pruneAlone {
		s.mem.recs[k].Object = s.mem.recs[k].Pruned()
	}
	s.wrote()
	return nil
}

func (s *memStore) putHint(target, k int, o vclock.Object, round uint64) error {
	if err := s.fresh(round); err != nil {
		return err
	}
	s.mem.hints[target][k] = vclock.Merge(s.mem.hints[target][k], o)
	s.wrote()
	return nil
}

func (s *memStore) deleteHint(target, k int, d vclock.Digest) {
	if o := s.mem.hints[target][k]; !o.IsZero() && digest(k, o) == d {
		s.mem.hints[target][k] = vclock.Object{}
		s.wrote()
	}
}

func (s *memStore) minter() vclock.Minter {
	now := s.w.clock(s.node)
	return vclock.Minter{
		Node: s.w.ids[s.node], Incarnation: s.incarnation, Now: now, Stamp: vclock.StampAt(now), Limits: vclock.DefaultLimits(1 << 20),
		Birth: func() vclock.Birth { return vclock.Birth{Millis: uint64(now), Rand: s.w.number()} },
	}
}

// mint writes to the record, or, with target ≥ 0, to a hint.
func (s *memStore) mint(target, k int, w vclock.Write) (vclock.Minted, error) {
	cur := s.mem.recs[k]
	if target >= 0 {
		cur = vclock.Record{Object: s.mem.hints[target][k]}
	}
	m, err := s.minter().Mint(cur, w)
	if err != nil {
		return m, err
	}
	if target >= 0 {
		s.mem.hints[target][k] = m.Record.Object
	} else {
		s.mem.recs[k] = m.Record
	}
	s.w.noteWrite(k, m.Dot, w)
	s.wrote()
	return m, nil
}

func dead(o vclock.Object, now int64) bool {
	for _, s := range o.Siblings {
		if s.Live(now) {
			return false
		}
	}
	return true
}

// lives reports whether something in an object lives for good: then it is not removed, but may be pruned.
func lives(o vclock.Object) bool {
	for _, s := range o.Siblings {
		if !s.Deleted && s.Expiry == 0 {
			return true
		}
	}
	return false
}

// prunes reports whether a record can be pruned: births that nothing needs, the own actor's not among them.
func (s *memStore) prunes(r vclock.Record) bool {
	p := r.Pruned().Context
	return lives(r.Object) && len(p) < len(r.Context) && p.Counter(r.Own.Actor) == r.Context.Counter(r.Own.Actor)
}

func (s *memStore) judge(primary bool, x Statement) bool {
	k := keyIndex(x.Key)
	r := s.w.rules
	for t := range s.mem.hints {
		if !s.mem.hints[t][k].IsZero() && !r.noHints {
			return false
		}
	}
	o := s.mem.recs[k].Object
	if !primary {
		return o.IsZero()
	}
	if s.mem.damaged && !r.noDurability {
		return false
	}
	return !o.IsZero() && digest(k, o) == x.Digest && (dead(o, s.w.clock(s.node)) || s.prunes(s.mem.recs[k]))
}

func (s *memStore) Candidates(_ context.Context, _, limit int, now time.Time, minAge time.Duration) (out []Statement, _ error) {
	for k := range nKeys {
		o := s.mem.recs[k].Object
		if o.IsZero() || s.mem.marks[k] != 0 || !dead(o, s.w.clock(s.node)) && !s.prunes(s.mem.recs[k]) || len(out) == limit {
			continue
		}
		old := true
		for _, x := range o.Siblings {
			old = old && x.Stamp.Millis() < now.Add(-minAge).UnixMilli()
		}
		if old {
			out = append(out, Statement{keys[k], digest(k, o)})
		}
	}
	return out, nil
}

func (s *memStore) Confirm(_ context.Context, _ int, primary bool, ks []Statement) ([]bool, error) {
	if !s.w.rules.noDurability {
		s.sync()
	}
	out := make([]bool, len(ks))
	for i := range ks {
		out[i] = s.judge(primary, ks[i])
	}
	return out, nil
}

func (s *memStore) EnterRound(_ context.Context, _ int, round uint64, primary bool, ks []Statement) ([]bool, error) {
	if round < s.mem.round {
		return nil, ErrStaleRound
	}
	if round > s.mem.round {
		s.mem.round, s.mem.marks = round, [nKeys]uint64{}
	}
	out := make([]bool, len(ks))
	for i := range ks {
		if out[i] = s.w.rules.noRepeat || s.judge(primary, ks[i]); out[i] {
			s.mem.marks[keyIndex(ks[i].Key)] = round
		}
	}
	if s.w.rules.noDurability {
		s.safe.round, s.safe.marks = s.mem.round, s.mem.marks
	} else {
		s.sync()
	}
	return out, nil
}

func (s *memStore) EnterRounds(ctx context.Context, rounds map[int]uint64) error {
	_, err := s.EnterRound(ctx, 0, rounds[0], false, nil)
	return err
}

func (s *memStore) Remove(_ context.Context, _ int, round uint64, ks []Statement) (int, error) {
	n := 0
	for i := range ks {
		k := keyIndex(ks[i].Key)
		o := s.mem.recs[k].Object
		switch {
		case o.IsZero() || digest(k, o) != ks[i].Digest:
		case lives(o):
			s.w.pruned += len(o.Context)
			s.mem.recs[k].Object = o.Pruned()
			s.w.pruned -= len(s.mem.recs[k].Context)
		default:
			s.w.noteRemoval(o)
			s.mem.recs[k] = vclock.Record{}
		}
		if s.mem.recs[k].IsZero() {
			n++
		}
		s.unmark(k, round)
	}
	s.sync()
	return n, nil
}

func (s *memStore) Removing(int) (out []Statement) {
	for k, round := range s.mem.marks {
		if round != 0 {
			out = append(out, Statement{Key: keys[k]})
		}
	}
	return out
}

func (s *memStore) unmark(k int, round uint64) {
	if s.mem.marks[k] == round {
		s.mem.marks[k] = 0
	}
}

func (s *memStore) Unmark(_ context.Context, _ int, round uint64, ks []Statement) error {
	for i := range ks {
		s.unmark(keyIndex(ks[i].Key), round)
	}
	s.sync()
	return nil
}

func (s *memStore) Round(int) uint64 { return s.mem.round }

// Load and Save are the journal's, always fsynced.
func (s *memStore) Load(name string) ([]byte, error) {
	return []byte(s.mem.files[slotIndex(name)]), nil
}

func (s *memStore) Save(name string, b []byte) error {
	i := slotIndex(name)
	s.mem.files[i], s.safe.files[i] = string(b), string(b)
	return nil
}

func slotIndex(name string) int { return int(name[len(name)-1] - '0') }

// steps is a node's storage as its reaper sees it: between any two steps other things happen, or the node dies.
type steps struct{ *memStore }

func (s steps) Candidates(ctx context.Context, p, limit int, now time.Time, minAge time.Duration) ([]Statement, error) {
	s.w.between(s.node, true)
	defer s.w.between(s.node, true)
	return s.memStore.Candidates(ctx, p, limit, now, minAge)
}

func (s steps) Confirm(ctx context.Context, p int, primary bool, ks []Statement) ([]bool, error) {
	out, err := s.memStore.Confirm(ctx, p, primary, ks)
	s.w.between(s.node, true)
	return out, err
}

func (s steps) EnterRound(ctx context.Context, p int, round uint64, primary bool, ks []Statement) ([]bool, error) {
	s.w.between(s.node, true)
	out, err := s.memStore.EnterRound(ctx, p, round, primary, ks)
	s.w.between(s.node, true)
	return out, err
}

func (s steps) EnterRounds(ctx context.Context, rounds map[int]uint64) error {
	_, err := s.EnterRound(ctx, 0, rounds[0], false, nil)
	return err
}

func (s steps) Remove(ctx context.Context, p int, round uint64, ks []Statement) (int, error) {
	n, err := s.memStore.Remove(ctx, p, round, ks)
	s.w.between(s.node, true)
	return n, err
}

func (s steps) Save(name string, b []byte) error {
	s.w.between(s.node, true)
	err := s.memStore.Save(name, b)
	s.w.between(s.node, true)
	return err
}
