package vclock

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Errors of Mint: certainly nothing was written.
var (
	// ErrSiblings: the key has as many unreconciled values as it may, and the write would add one.
	ErrSiblings = errors.New("too many siblings")
	// ErrBytes: the siblings together would take more room than one key may.
	ErrBytes = errors.New("siblings too large")
	// ErrClock: the key's version vector has as many entries as it may, and the write would add one.
	ErrClock = errors.New("version vector too long")
	// ErrStampAhead: a last-write-wins write would need a stamp too far in the future to win.
	ErrStampAhead = errors.New("stamp too far ahead of the clock")
	// ErrIDReused: the client's Idempotency-Key came before with another request.
	ErrIDReused = errors.New("Idempotency-Key used for another request")
)

// Own is the actor that a node last minted with for a key, with its last counter and the incarnation (process
// start) that did. It is local to a replica's record: set only by minting, kept by every read-merge-write, never
// sent, never hashed and never taken from a peer. Whether a node may continue an actor is decided by this field
// and not by what the object shows: the object may have come back from a peer that is behind.
type Own struct {
	Actor       Actor
	Counter     uint64
	Incarnation uint64
}

// Record is what a replica stores for a key: the replicated object and its own actor.
type Record struct {
	Object
	Own Own
}

// Limits bound what client writes may grow a key to. Repair and merging are never bounded by them: replicas must
// converge also past a limit.
type Limits struct {
	Siblings int           // siblings a key
	Bytes    int           // bytes of all siblings of a key
	Clock    int           // entries of a key's version vector
	Retired  int           // retired write ids a key keeps
	Window   time.Duration // how long a retired write id is kept, at least, unless Retired pushes it out
	Ahead    time.Duration // how far a last-write-wins stamp may run ahead of the clock
}

// DefaultLimits returns the limits that Dunlin documents. maxValue is the largest value in bytes.
func DefaultLimits(maxValue int) Limits {
	return Limits{
		Siblings: 100, Bytes: max(8<<20, 2*maxValue), Clock: 256,
		Retired: 64, Window: time.Hour, Ahead: 24 * time.Hour,
	}
}

// Write is a client's write to one key.
type Write struct {
	Value         []byte
	ContentType   string
	Deleted       bool
	Expiry        int64 // Unix milliseconds, 0: never
	ID            WriteID
	Context       Context // of what the client had read; zero: nothing
	LastWriteWins bool    // the bucket's policy
}

// Minter is what the local node brings to a write: its id, its incarnation and its clocks.
type Minter struct {
	Node        [16]byte
	Incarnation uint64 // random, of this process start (or later, after a failed commit); never 0
	Now         int64  // Unix milliseconds
	Stamp       Stamp  // a fresh reading of the node's HLC
	Birth       func() Birth
	Limits      Limits
}

// Minted is the outcome of Mint.
type Minted struct {
	Record Record
	Dot    Dot
	// Existing: the write was a repeated request, found held or already superseded. Nothing was minted and Record
	// is what was there.
	Existing bool
}

// Mint applies w to the local copy cur: it mints the next dot and supersedes what the write's context covers (in
// a last-write-wins bucket: all of cur). The caller must do this atomically against the copy, in one step with
// storing the result.
func (m Minter) Mint(cur Record, w Write) (Minted, error) {
	known, err := m.known(cur.Object, w)
	if err != nil {
		return Minted{}, err
	}
	if known {
		return Minted{Record: cur, Existing: true}, nil
	}
	stamp, err := m.stamp(cur.Object, w)
	if err != nil {
		return Minted{}, err
	}
	own := m.continueOrBear(cur, w.Context.Vector)
	dot := Dot{own.Actor, own.Counter}

	seen := w.Context.Vector
	if w.LastWriteWins {
		seen = seen.Merge(cur.Context)
	}
	next := Record{Own: own}
	next.Context = cur.Context.Merge(w.Context.Vector).With(dot)
	next.Retired = mergeRetired(cur.Retired, m.retire(cur.Object, w.Context, seen))
	kept := slices.DeleteFunc(slices.Clone(cur.Siblings), func(s Sibling) bool { return seen.Covers(s.Dot) })
	kept = dropRetired(kept, next.Retired)
	next.Siblings = insert(kept, Sibling{
		Dot: dot, Value: w.Value, ContentType: w.ContentType, Stamp: stamp,
		Expiry: w.Expiry, Deleted: w.Deleted, ID: w.ID,
	})
	next.Object = next.Purge(m.Now-m.Limits.Window.Milliseconds(), m.Limits.Retired)
	if err := m.Limits.check(cur.Object, next.Object); err != nil {
		return Minted{}, err
	}
	return Minted{Record: next, Dot: dot}, nil
}

// known reports whether the request was applied before: its id is held, retired, or among what the client's
// context has seen.
func (m Minter) known(cur Object, w Write) (bool, error) {
	if !w.ID.Client {
		return false, nil
	}
	ids := append([]WriteID(nil), w.Context.IDs...)
	for _, s := range cur.Siblings {
		ids = append(ids, s.ID)
	}
	for _, r := range cur.Retired {
		ids = append(ids, r.ID)
	}
	return matchID(ids, w.ID)
}

func matchID(ids []WriteID, id WriteID) (bool, error) {
	reused := false
	for _, have := range ids {
		if !have.Client || have.Key != id.Key {
			continue
		}
		if have.Body == id.Body {
			return true, nil
		}
		reused = true
	}
	if reused {
		return false, ErrIDReused
	}
	return false, nil
}

// Applied reports whether the object shows that the client's request id was applied: a sibling holds it, or it
// was superseded. ErrIDReused: it shows the same Idempotency-Key with another request.
func (o Object) Applied(id WriteID) (bool, error) {
	if !id.Client {
		return false, nil
	}
	return matchID(o.context().IDs, id)
}

// stamp is the write's stamp: above the clock and, so that a later write wins wherever its writer's clock was
// slow, above every stamp that it supersedes.
func (m Minter) stamp(cur Object, w Write) (Stamp, error) {
	top := w.Context.Stamp
	for _, s := range cur.Siblings {
		top = max(top, s.Stamp)
	}
	limit := m.Now + m.Limits.Ahead.Milliseconds()
	stamp := m.Stamp
	if top.Millis() <= limit {
		stamp = max(stamp, top+1)
	} else if w.LastWriteWins {
		return 0, fmt.Errorf("%w: the key holds a write stamped %s", ErrStampAhead, top.Time().Format(time.RFC3339))
	}
	if w.LastWriteWins && stamp.Millis() > limit {
		return 0, fmt.Errorf("%w: this node's hybrid clock stands at %s", ErrStampAhead, stamp.Time().Format(time.RFC3339))
	}
	return stamp, nil
}

// continueOrBear returns the actor to mint with, its counter already counted up. An actor is continued only by the
// incarnation that began it, and only if neither the copy nor the client's context knows another state of it than
// the last dot that this record minted; in every other case a new one is born. Otherwise a replica that lost state
// could mint a dot that a peer has seen, and the new value would vanish there.
func (m Minter) continueOrBear(cur Record, seen VersionVector) Own {
	own := cur.Own
	if !own.Actor.IsZero() && own.Incarnation == m.Incarnation && own.Actor.Node == m.Node &&
		cur.Context.Counter(own.Actor) == own.Counter && seen.Counter(own.Actor) <= own.Counter {
		own.Counter++
		return own
	}
	return Own{Actor: Actor{Node: m.Node, Birth: m.Birth()}, Counter: 1, Incarnation: m.Incarnation}
}

// retire lists the client write ids that the write supersedes: of the siblings that it replaces here, and of those
// that its client had read anywhere.
func (m Minter) retire(cur Object, c Context, seen VersionVector) []Retired {
	var out []Retired
	for _, id := range c.IDs {
		out = append(out, Retired{id, m.Now})
	}
	for _, s := range cur.Siblings {
		if s.ID.Client && seen.Covers(s.Dot) {
			out = append(out, Retired{s.ID, m.Now})
		}
	}
	slices.SortFunc(out, func(x, y Retired) int { return x.ID.Compare(y.ID) })
	return slices.CompactFunc(out, func(x, y Retired) bool { return x.ID == y.ID })
}

func insert(siblings []Sibling, s Sibling) []Sibling {
	i, _ := slices.BinarySearchFunc(siblings, s.Dot, func(t Sibling, d Dot) int { return t.Dot.Compare(d) })
	return slices.Insert(siblings, i, s)
}

// check refuses a write that grows the key past a limit. One that shrinks it, such as a client that reconciles
// siblings, passes also when the key is past the limit.
func (l Limits) check(cur, next Object) error {
	if n := len(next.Siblings); n > l.Siblings && n > len(cur.Siblings) {
		return fmt.Errorf("%w: the key has %d, at most %d", ErrSiblings, len(cur.Siblings), l.Siblings)
	}
	if n := next.Bytes(); n > l.Bytes && n > cur.Bytes() {
		return fmt.Errorf("%w: %d bytes with this write, at most %d", ErrBytes, n, l.Bytes)
	}
	if n := len(next.Context); n > l.Clock && n > len(cur.Context) {
		return fmt.Errorf("%w: %d entries, at most %d", ErrClock, len(cur.Context), l.Clock)
	}
	return nil
}

// Absorb merges what a peer sent into the local record. The own actor stays.
func (r Record) Absorb(o Object) Record {
	return Record{Object: Merge(r.Object, o), Own: r.Own}
}
