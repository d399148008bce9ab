package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/dunlindb/dunlin/vclock"
)

// Bounds of what one call states, so that it fits a transaction.
const (
	MaxStatements     = 1024
	MaxStatementBytes = 512 << 10 // of buckets and keys
)

// Pruning, PROTOCOL 9: births that nothing needs any more are taken from the context of a record in which something
// lives for good, on the same proof and in the same round as a record of tombstones goes. Which of both a statement is
// about, its record says: one whose last sibling has an expiry is removed when that is over, and never pruned.
const (
	pruneFrom  = 24          // entries of a context
	pruneLeast = 12          // entries of which nothing is needed
	pruneAge   = time.Second // since the last write: more are likely to follow
	pruneMost  = 64 << 10    // bytes of an object
	pruneBytes = 1 << 20     // of all objects of a call, so that they fit a transaction
)

// Statement is that a record is exactly what the digest says, and nothing but tombstones and what has expired, or that
// there is something to prune in it.
type Statement struct {
	Key    Key
	Digest vclock.Digest
}

// stated checks statements about a partition, and returns them with their keys as they are stored.
func (s *Store) stated(p int, ks []Statement) ([]Statement, error) {
	g := s.groups()
	if err := g.checkStatements(p, ks); err != nil {
		return nil, err
	}
	out := make([]Statement, len(ks))
	for i, st := range ks {
		out[i] = Statement{s.at(st.Key), st.Digest}
	}
	return out, nil
}

func (g *groups) checkStatements(p int, ks []Statement) error {
	size := 0
	for _, st := range ks {
		if err := g.checkKey(st.Key); err != nil {
			return err
		}
		if st.Key.Partition != p {
			return fmt.Errorf("%w: key of partition %d, want %d", ErrKey, st.Key.Partition, p)
		}
		size += len(st.Key.Bucket) + len(st.Key.Key)
	}
	if len(ks) > MaxStatements || size > MaxStatementBytes {
		return fmt.Errorf("%w: %d statements of %d bytes, at most %d of %d", ErrTooLarge,
			len(ks), size, MaxStatements, MaxStatementBytes)
	}
	return g.check(p)
}

// Candidates returns the first keys of a partition, at most limit (0: 1000) and as many as fit one call of EnterRound,
// that may be reaped as far as this copy tells: every sibling is a tombstone or has expired at now, the newest stamp
// is older than minAge, no client's write id in it is as young as Limits.Window, and it is not under removal; or that
// are worth pruning. Errors are as with Keys.
func (s *Store) Candidates(ctx context.Context, p, limit int, now time.Time, minAge time.Duration) ([]Statement, error) {
	if err := s.groups().check(p); err != nil {
		return nil, err
	}
	if limit <= 0 {
		limit = 1000
	}
	limit = min(limit, MaxStatements)
	if s.drops.has(p) {
		return nil, nil
	}
	millis := now.UnixMilli()
	c := s.newScan(ctx, p, ScanCursor{}, limit)
	c.room = MaxStatementBytes
	room := pruneBytes
	for {
		c.read, c.more = 0, false
		err := s.view(func(txn *badger.Txn) error {
			return c.run(txn, func(e *KeyEntry, object, v []byte) (bool, error) {
				var l loaded
				h, payload, err := decodeHeader(object, v)
				if err != nil || e.Removing || h.incomplete {
					return false, nil
				}
				if e.Digest = h.digest; h.mayPrune() && h.size <= room && vclock.ContextLen(payload) >= pruneFrom {
					o, err := decodeObject(payload)
					if err != nil || !worthPruning(o, millis) {
						return false, nil
					}
					room -= h.size
					return true, nil
				}
				if !h.life.over(millis) {
					return false, nil
				}
				encoded, err := l.open(txn, object, v)
				if err != nil {
					return false, nil // Get tells
				}
				o, err := decodeObject(encoded)
				return err == nil && s.aged(o, millis, minAge), nil
			})
		})
		if err != nil {
			return nil, err
		}
		if !c.more || len(c.out) == limit || c.room <= 0 {
			break
		}
	}
	out := make([]Statement, 0, len(c.out))
	size := 0
	for _, e := range c.out {
		if size += len(e.Bucket) + len(e.Key); size <= MaxStatementBytes {
			out = append(out, Statement{Key{p, e.Bucket, e.Key}, e.Digest})
		}
	}
	return out, nil
}

// over reports whether nothing lives at now (Unix milliseconds).
func (l Life) over(now int64) bool { return l.Deleted || l.Expiry != 0 && l.Expiry <= now }

// mayPrune reports whether a record can be pruned at all: something in it lives for good, and it is not large.
func (h header) mayPrune() bool { return h.life == Life{} && !h.chunked && h.size <= pruneMost }

func worthPruning(o vclock.Object, now int64) bool {
	for i := range o.Siblings {
		if o.Siblings[i].Stamp.Millis() > now-pruneAge.Milliseconds() {
			return false
		}
	}
	return len(o.Context)-len(o.Pruned().Context) >= pruneLeast
}

// pruned returns a record without the births that nothing needs; ok: there are such, and none is the node's own.
func pruned(r vclock.Record) (out vclock.Record, ok bool) {
	out = vclock.Record{Object: r.Pruned(), Own: r.Own}
	if len(out.Context) == len(r.Context) {
		return r, false
	}
	own := r.Own.Actor
	return out, own.IsZero() || out.Context.Counter(own) == r.Context.Counter(own)
}

// aged reports whether an object is old enough to be reaped: with it goes what recognises repeated requests.
func (s *Store) aged(o vclock.Object, now int64, minAge time.Duration) bool {
	young, window := now-minAge.Milliseconds(), now-s.opt.Limits.Window.Milliseconds()
	for _, sib := range o.Siblings {
		if at := sib.Stamp.Millis(); at > young || sib.ID.Client && at > window {
			return false
		}
	}
	for _, r := range o.Retired {
		if r.At > window {
			return false
		}
	}
	if len(o.Siblings) == 0 {
		for _, d := range o.Context {
			if int64(d.Actor.Birth.Millis) > young {
				return false
			}
		}
	}
	return true
}

// Confirm judges statements about a partition. For a primary one holds if the record is exactly that, complete,
// durable and by this node's clock expired or deleted, or can be pruned, and the partition has no mark; for any other member if it
// holds no record of the key. For both, there must be no hint for the key, of no target. What may have been changed by
// a failed commit is not confirmed. All that was confirmed is on the disk, whatever the durability. Errors: ErrKey,
// ErrTooLarge, ErrRead, ErrCommit (the disk cannot be synced), ErrClosed and the context's.
func (s *Store) Confirm(ctx context.Context, p int, primary bool, ks []Statement) (confirmed []bool, err error) {
	if ks, err = s.stated(p, ks); err != nil {
		return nil, err
	}
	err = s.exclusive(ctx, func() error {
		txn := s.transaction(false)
		defer txn.Discard()
		confirmed, err = s.newJudge(txn, p, primary).all(ks)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := s.syncDisk(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCommit, err)
	}
	return confirmed, nil
}

// judge decides statements while all shards stand.
type judge struct {
	s        *Store
	p        int
	txn      *badger.Txn
	primary  bool
	marked   bool // or being dropped
	filling  bool
	now      int64
	suspects map[string]struct{} // keys of records that a failed commit concerned, themselves or a hint about them
	doubt    bool                // any may be
}

func (s *Store) newJudge(txn *badger.Txn, p int, primary bool) *judge {
	m, _ := s.Marks(p)
	j := &judge{
		s: s, p: p, txn: txn, primary: primary, marked: m != 0 || s.drops.has(p), filling: m&MarkFilling != 0,
		now: s.opt.Now().UnixMilli(), suspects: make(map[string]struct{}),
	}
	for _, sh := range s.shards {
		j.doubt = j.doubt || sh.allSuspects
		for key := range sh.suspects {
			if _, object, ok := splitHintKey([]byte(key)); ok {
				key = string(object)
			}
			j.suspects[key] = struct{}{}
		}
	}
	return j
}

func (j *judge) all(ks []Statement) ([]bool, error) {
	out := make([]bool, len(ks))
	if j.doubt || j.filling || j.primary && j.marked {
		return out, nil
	}
	for i, st := range ks {
		var err error
		if out[i], err = j.one(st); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (j *judge) one(st Statement) (bool, error) {
	if j.s.partition(st.Key) != j.p {
		return false, nil // by another number than it has here
	}
	key := st.Key.encode()
	if _, suspect := j.suspects[string(key)]; suspect {
		return false, nil
	}
	hinted, err := j.hinted(st.Key, key)
	if err != nil || hinted {
		return false, err
	}
	l, err := j.s.verify(j.txn, st.Key, key)
	switch {
	case errors.Is(err, ErrCorrupt): // it is there, whatever it is
		return false, nil
	case err != nil:
		return false, err
	case !j.primary:
		return !l.found, nil
	}
	h := l.header
	if !l.found || h.incomplete || h.digest != st.Digest {
		return false, nil
	}
	if !h.mayPrune() {
		return h.life.over(j.now), nil
	}
	if l, err = j.s.load(j.txn, st.Key, key); err != nil {
		return false, nil // it is there, whatever it is
	}
	_, ok := pruned(l.record)
	return ok, nil
}

// hinted reports whether there is a hint about the record, readable or not.
func (j *judge) hinted(k Key, object []byte) (bool, error) {
	for _, target := range j.s.hints.of(k) {
		_, err := j.txn.Get(hintKey(target, object))
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, badger.ErrKeyNotFound) {
			return false, readError(err)
		}
	}
	return false, nil
}

// EnterRound durably makes round the partition's reap round, and in one step with that, with all writers standing,
// judges the statements as Confirm does and puts the keys that it confirms under removal in this round; what earlier
// rounds had under removal no longer is. Entering the same round again changes nothing and gives the answer of the
// first time, but false for what has been taken off since: to confirm later what was not so at the entering would
// miss what was sent in between. A lower round is ErrStaleRound.
//
// Other errors are as with Confirm and PutMeta. After ErrCommit nobody knows which round the disk has, so the store
// is unhealthy: it takes no more writes until it is opened anew.
func (s *Store) EnterRound(ctx context.Context, p int, round uint64, primary bool, ks []Statement) (confirmed []bool, err error) {
	if ks, err = s.stated(p, ks); err != nil {
		return nil, err
	}
	if err := s.Healthy(); err != nil {
		return nil, err
	}
	if err := s.guard.check(levelNothing); err != nil {
		return nil, err
	}
	if err := s.syncDisk(); err != nil { // most of it before the writers stand
		return nil, fmt.Errorf("%w: %w", ErrCommit, err)
	}
	err = s.exclusive(ctx, func() error {
		switch own := s.Round(p); {
		case round < own:
			return stale(p, round, own)
		case round == own:
			confirmed = s.entered(round, ks)
			return nil
		}
		if err := s.Healthy(); err != nil {
			return err
		}
		confirmed, err = s.enter(p, round, primary, ks)
		return err
	})
	if err != nil {
		return nil, err
	}
	return confirmed, nil
}

// entered gives the answer of a round that was entered before.
func (s *Store) entered(round uint64, ks []Statement) []bool {
	out := make([]bool, len(ks))
	for i, st := range ks {
		r, ok := s.removing.get(st.Key.Partition, st.Key.encode())
		out[i] = ok && r == removing{round, st.Digest}
	}
	return out
}

func (s *Store) enter(p int, round uint64, primary bool, ks []Statement) ([]bool, error) {
	txn := s.transaction(true)
	defer txn.Discard()
	confirmed, err := s.newJudge(txn, p, primary).all(ks)
	if err != nil {
		return nil, err
	}
	slice := s.groups().slice(p)
	earlier := s.removing.list(slice)
	added := make(map[string]removing)
	for i, st := range ks {
		if confirmed[i] {
			added[string(st.Key.encode())] = removing{round, st.Digest}
		}
	}
	if err := writeRound(txn, slice, round, earlier, added); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTooLarge, err)
	}
	if err := s.commitRounds(txn); err != nil {
		return nil, fmt.Errorf("round %d of partition %d: %w", round, p, err)
	}
	s.rounds.set(slice, round)
	s.removing.drop(slice, earlier)
	for object, r := range added {
		s.removing.add(slice, object, r)
	}
	return confirmed, nil
}

// commitRounds commits that rounds are entered. After a failure nobody knows which the disk has: the store takes no
// more writes.
func (s *Store) commitRounds(txn *badger.Txn) error {
	err := s.commit(txn)
	if err == nil {
		err = s.syncDisk()
	}
	if err != nil {
		err = fmt.Errorf("%w: entering a reap round: %w", ErrCommit, err)
		reason := fmt.Errorf("%w: %w; repair the disk and restart the node", ErrUnhealthy, err)
		s.unhealthy.CompareAndSwap(nil, &reason)
	}
	return err
}

// writeRound puts a round and its keys under removal into a transaction.
func writeRound(txn *badger.Txn, p int, round uint64, earlier []string, added map[string]removing) error {
	for _, object := range earlier {
		if _, again := added[object]; again {
			continue
		}
		if err := txn.Delete(removingKey([]byte(object))); err != nil {
			return err
		}
	}
	for object, r := range added {
		key := removingKey([]byte(object))
		if err := txn.Set(key, encodeRemoving(key, r)); err != nil {
			return err
		}
	}
	key := partitionKey(spaceRound, p)
	return txn.Set(key, encodeRound(key, round))
}

// Removing returns the keys of a partition that are under removal in its present round, ordered by bucket and key. It
// does not touch the disk.
func (s *Store) Removing(p int) []Statement {
	var out []Statement
	slice := s.groups().slice(p)
	for _, object := range s.removing.list(slice) {
		r, ok := s.removing.get(slice, []byte(object))
		if k, err := decodeKey(bytes.Clone([]byte(object))); ok && err == nil && s.partition(k) == p {
			out = append(out, Statement{s.outside(k), r.digest})
		}
	}
	return out
}
