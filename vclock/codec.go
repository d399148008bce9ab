package vclock

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"slices"
	"sync"

	"github.com/dunlindb/dunlin/internal/wire"
)

// Bounds of what is decoded. They are far above Limits, which bound only client writes: what replicas have
// merged must always be readable.
const (
	maxVector      = 1 << 16
	maxSiblings    = 1 << 14
	maxRetired     = 1 << 14
	maxContentType = 1 << 10
	maxValueBytes  = 1 << 30
	objectVersion  = 1

	flagDeleted = 1
	flagClient  = 2
)

func encodeActor(e *wire.Encoder, a Actor) {
	var b [32]byte
	copy(b[:16], a.Node[:])
	binary.BigEndian.PutUint64(b[16:], a.Birth.Millis)
	binary.BigEndian.PutUint64(b[24:], a.Birth.Rand)
	e.Raw(b[:])
}

func decodeActor(d *wire.Decoder) Actor {
	var b [32]byte
	d.Fixed(b[:])
	return Actor{
		Node:  [16]byte(b[:16]),
		Birth: Birth{binary.BigEndian.Uint64(b[16:]), binary.BigEndian.Uint64(b[24:])},
	}
}

func encodeVector(e *wire.Encoder, v VersionVector) {
	e.Array(2 * len(v))
	for _, d := range v {
		encodeActor(e, d.Actor)
		e.Uint(d.Counter)
	}
}

// decodeVector reads a vector of up to limit dots, into room if it is enough.
func decodeVector(d *wire.Decoder, limit int, room VersionVector) VersionVector {
	n := d.Array(2 * limit)
	if n%2 != 0 {
		d.Fail("odd version vector")
		return nil
	}
	if n == 0 {
		return nil
	}
	if cap(room) < n/2 {
		room = make(VersionVector, 0, n/2)
	}
	v := room[: 0 : n/2] // who appends to one that others hold gets memory of its own
	for range n / 2 {
		dot := Dot{Actor: decodeActor(d), Counter: d.Uint()}
		if d.Err() != nil {
			return nil
		}
		if dot.Counter == 0 || dot.Actor.IsZero() || len(v) > 0 && v[len(v)-1].Actor.Compare(dot.Actor) >= 0 {
			d.Fail("version vector out of order")
			return nil
		}
		v = append(v, dot)
	}
	return v
}

// Encode appends the object to e. A sibling's dot is written as its actor's place in the context, since the
// context covers every sibling.
func (o Object) Encode(e *wire.Encoder) {
	e.Array(4)
	e.Uint(objectVersion)
	encodeVector(e, o.Context)
	e.Array(len(o.Siblings))
	for i := range o.Siblings {
		o.Siblings[i].encode(e, o.Context)
	}
	e.Array(3 * len(o.Retired))
	for i := range o.Retired {
		e.Raw(o.Retired[i].ID.Key[:])
		e.Raw(o.Retired[i].ID.Body[:])
		e.Int(o.Retired[i].At)
	}
}

func (s *Sibling) encode(e *wire.Encoder, context VersionVector) {
	at, _ := slices.BinarySearchFunc(context, s.Dot.Actor, byActor)
	flags := uint64(0)
	if s.Deleted {
		flags |= flagDeleted
	}
	if s.ID.Client {
		flags |= flagClient
	}
	e.Array(9)
	e.Uint(uint64(at))
	e.Uint(s.Dot.Counter)
	e.Uint(flags)
	e.Uint(uint64(s.Stamp))
	e.Int(s.Expiry)
	e.Raw(s.ID.Key[:])
	e.Raw(s.ID.Body[:])
	e.String(s.ContentType)
	e.Raw(s.Value)
}

// DecodeObject reads an object and checks its invariants. Values alias the decoder's input. Errors stick to d.
func DecodeObject(d *wire.Decoder) Object {
	var o Object
	usual := new(usualObject)
	d.ArrayOf(4)
	if v := d.Uint(); d.Err() == nil && v != objectVersion {
		d.Fail("object of an unknown version")
	}
	o.Context = decodeVector(d, maxVector, usual.context[:])
	o.Siblings = usual.siblings[:0]
	for range d.Array(maxSiblings) {
		s := decodeSibling(d, o.Context)
		if d.Err() != nil {
			return Object{}
		}
		if k := len(o.Siblings); k > 0 && o.Siblings[k-1].Dot.Compare(s.Dot) >= 0 {
			d.Fail("siblings out of order")
			return Object{}
		}
		o.Siblings = append(o.Siblings, s)
	}
	if len(o.Siblings) == 0 {
		o.Siblings = nil
	}
	n := d.Array(3 * maxRetired)
	if n%3 != 0 {
		d.Fail("odd retired ids")
	}
	for range n / 3 {
		r := Retired{ID: WriteID{Client: true}}
		d.Fixed(r.ID.Key[:])
		d.Fixed(r.ID.Body[:])
		r.At = d.Int()
		if k := len(o.Retired); k > 0 && o.Retired[k-1].ID.Compare(r.ID) >= 0 {
			d.Fail("retired ids out of order")
		}
		o.Retired = append(o.Retired, r)
	}
	if d.Err() != nil {
		return Object{}
	}
	return o
}

// usualObject is what most objects need, in one piece of memory: a sibling, and a dot for each of three coordinators.
type usualObject struct {
	context  [3]Dot
	siblings [1]Sibling
}

// contentType makes a string of b. Most values have one of a few types, whose text is shared.
func contentType(b []byte) string {
	for _, common := range commonTypes {
		if string(b) == common {
			return common
		}
	}
	return string(b)
}

var commonTypes = []string{"application/octet-stream", "application/json", "application/x-www-form-urlencoded", "text/plain", "text/plain; charset=utf-8"}

func decodeSibling(d *wire.Decoder, context VersionVector) Sibling {
	var s Sibling
	d.ArrayOf(9)
	at := d.Uint()
	s.Dot.Counter = d.Uint()
	flags := d.Uint()
	s.Deleted, s.ID.Client = flags&flagDeleted != 0, flags&flagClient != 0
	s.Stamp = Stamp(d.Uint())
	s.Expiry = d.Int()
	d.Fixed(s.ID.Key[:])
	d.Fixed(s.ID.Body[:])
	s.ContentType = contentType(d.Raw(maxContentType))
	s.Value = d.Raw(maxValueBytes)
	switch {
	case d.Err() != nil:
	case at >= uint64(len(context)) || s.Dot.Counter == 0 || s.Dot.Counter > context[at].Counter:
		d.Fail("sibling's dot is not covered by the context")
	case flags&^(flagDeleted|flagClient) != 0:
		d.Fail("unknown sibling flags")
	default:
		s.Dot.Actor = context[at].Actor
	}
	return s
}

// Digest is 128 bits of SHA-256 over one canonical encoding of a key and its object: what replicas compare. Two
// replicas with equal digests hold the same. It covers the bucket, the key, the context, and of each sibling the
// dot, the value's hash, content type, stamp, expiry, whether deleted, and write id; not the own actor, retired
// ids or anything about how the object is stored.
type Digest [16]byte

// Digest returns the object's digest under the given bucket and key.
func (o Object) Digest(bucket, key string) Digest {
	e := wire.NewEncoder()
	defer e.Free()
	h := hashers.Get().(*hasher)
	defer hashers.Put(h)
	e.Array(4)
	e.String(bucket)
	e.String(key)
	encodeVector(e, o.Context)
	e.Array(len(o.Siblings))
	for i := range o.Siblings {
		s := o.Siblings[i]
		s.Value = h.of(s.Value)
		s.encode(e, o.Context)
	}
	return Digest(h.of(e.Bytes())[:16])
}

// hasher is a SHA-256 that is used again, with room for its sum: sha256.Sum256 allocates both.
type hasher struct {
	hash.Hash
	sum [sha256.Size]byte
}

var hashers = sync.Pool{New: func() any { return &hasher{Hash: sha256.New()} }}

// of returns the sum of b. It is valid until the next.
func (h *hasher) of(b []byte) []byte {
	h.Reset()
	h.Write(b)
	return h.Sum(h.sum[:0])
}

// Clone returns a deep copy whose values alias nothing.
func (o Object) Clone() Object {
	o.Context = slices.Clone(o.Context)
	o.Retired = slices.Clone(o.Retired)
	o.Siblings = slices.Clone(o.Siblings)
	for i := range o.Siblings {
		o.Siblings[i].Value = bytes.Clone(o.Siblings[i].Value)
	}
	return o
}

// ContextLen returns how many entries the context of an encoded object has, without decoding it; 0 if it is none.
func ContextLen(encoded []byte) int {
	d := wire.NewDecoder(encoded)
	d.ArrayOf(4)
	if v := d.Uint(); d.Err() != nil || v != objectVersion {
		return 0
	}
	n := d.Array(2 * maxVector)
	if d.Err() != nil {
		return 0
	}
	return n / 2
}
