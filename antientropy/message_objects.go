package antientropy

import (
	"github.com/dunlindb/dunlin/internal/wire"
	"github.com/dunlindb/dunlin/vclock"
)

// What an objectsRequest is.
const (
	objectsFetch = iota
	objectsPush
)

// named is an object on its way, with its key and the reap round in which its source was read.
type named struct {
	bucket, key string
	round       uint64
	object      vclock.Object
}

// objectsRequest fetches keys, or pushes objects.
type objectsRequest struct {
	epoch uint64
	kind  int
	limit int      // fetch: bytes of objects after which the answer may end
	fetch []Cursor // kind objectsFetch
	push  []named  // kind objectsPush
	// rounds are the sender's reap rounds of what it fetches, one for each; or none, while members do not change.
	rounds []uint64
}

func (r *objectsRequest) encode() []byte {
	e := begin(6)
	defer e.Free()
	e.Uint(r.epoch)
	e.Uint(uint64(r.kind))
	e.Uint(uint64(r.limit))
	encodeRounds(e, r.rounds)
	if r.kind == objectsFetch {
		e.Array(2 * len(r.fetch))
		for _, c := range r.fetch {
			e.String(c.Bucket)
			e.String(c.Key)
		}
		return e.Copy()
	}
	e.Array(4 * len(r.push))
	for i := range r.push {
		e.String(r.push[i].bucket)
		e.String(r.push[i].key)
		e.Uint(r.push[i].round)
		r.push[i].object.Encode(e)
	}
	return e.Copy()
}

// decodeObjectsRequest reads a request; objects share memory with b.
func decodeObjectsRequest(b []byte) (r objectsRequest, err error) {
	d := open(b, 6)
	r.epoch = d.Uint()
	r.kind = d.Count(objectsPush)
	r.limit = d.Count(1 << 30)
	r.rounds = decodeRounds(d)
	if d.Err() != nil {
		return objectsRequest{}, d.Err()
	}
	if r.kind == objectsFetch {
		for range groups(d, 2, maxObjects) {
			r.fetch = append(r.fetch, Cursor{d.String(maxBucket), d.String(maxKey)})
		}
		if d.Err() == nil && len(r.rounds) > 0 && len(r.rounds) != len(r.fetch) {
			d.Fail("not one round for each key")
		}
		return r, d.Done()
	}
	for range groups(d, 4, maxObjects) {
		n := named{bucket: d.String(maxBucket), key: d.String(maxKey), round: d.Uint(), object: vclock.DecodeObject(d)}
		if d.Err() != nil {
			return objectsRequest{}, d.Err()
		}
		r.push = append(r.push, n)
	}
	return r, d.Done()
}

// What a peer has of a key that was fetched. Append only.
const (
	foundNone     = iota // nothing
	foundObject          // an object, perhaps of an incomplete copy
	foundCorrupt         // a record that cannot be read
	foundTooLarge        // an object too large to move
	foundStates
)

type found struct {
	state  int
	round  uint64
	object vclock.Object
}

// fetchReply answers the first keys of a fetch, as many as its limit allows, at least one.
type fetchReply struct{ found []found }

func (r *fetchReply) encode() []byte {
	e := begin(2)
	defer e.Free()
	e.Array(3 * len(r.found))
	for i := range r.found {
		e.Uint(uint64(r.found[i].state))
		e.Uint(r.found[i].round)
		r.found[i].object.Encode(e)
	}
	return e.Copy()
}

func decodeFetchReply(b []byte) (r fetchReply, err error) {
	d := open(b, 2)
	for range groups(d, 3, maxObjects) {
		f := found{state: d.Count(foundStates - 1), round: d.Uint(), object: vclock.DecodeObject(d)}
		if d.Err() != nil {
			return fetchReply{}, d.Err()
		}
		r.found = append(r.found, f)
	}
	return r, d.Done()
}

// What became of an object that was pushed. Append only.
const (
	pushMerged  = iota
	pushStale   // the peer is in a later reap round
	pushRefused // the peer could not store it
	pushStates
)

// pushReply has a state for each object, and if one of them was stale, the peer's reap round for each.
type pushReply struct {
	states []byte
	rounds []uint64
}

func (r *pushReply) encode() []byte {
	e := begin(3)
	defer e.Free()
	e.Raw(r.states)
	encodeRounds(e, r.rounds)
	return e.Copy()
}

func encodeRounds(e *wire.Encoder, rounds []uint64) {
	e.Array(len(rounds))
	for _, r := range rounds {
		e.Uint(r)
	}
}

func decodeRounds(d *wire.Decoder) (rounds []uint64) {
	for range d.Array(maxObjects) {
		rounds = append(rounds, d.Uint())
	}
	return rounds
}

func decodePushReply(b []byte) (r pushReply, err error) {
	d := open(b, 3)
	r.states = d.Raw(maxObjects)
	r.rounds = decodeRounds(d)
	for _, s := range r.states {
		if s >= pushStates {
			d.Fail("unknown state")
			break
		}
	}
	return r, d.Done()
}

// weigh is about the length of an encoded object, never less than it by much.
func weigh(o *vclock.Object) int {
	return o.Bytes() + 32 + 96*len(o.Siblings) + 48*(len(o.Context)+len(o.Retired))
}
