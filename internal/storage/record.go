package storage

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/dunlindb/dunlin/internal/wire"
	"github.com/dunlindb/dunlin/vclock"
)

// A record is what badger holds for a key. All numbers are big endian.
//
//	 0  4  magic "DLRC"
//	 4  1  version
//	 5  1  flags
//	 6  2  length of the header
//	 8 32  own actor: node, milliseconds of birth, random bits
//	40  8  own counter
//	48  8  own incarnation
//	56 16  digest
//	72  8  expiry of the last live sibling, Unix milliseconds, 0: never
//	80  8  the same of the sibling that wins under last-write-wins
//	88  4  length of the encoded object
//	92  4  length of the payload
//	96  8  xxhash64 of badger's key, of all before this field, and of the payload
//	104    payload: the encoded object, or where its chunks are
//
// The checksum takes in the key: a record that turns up under another key is corrupt.
const (
	recordMagic   = "DLRC"
	recordVersion = 1
	recordHeader  = 104
	recordSum     = 96

	flagIncomplete    = 1
	flagChunked       = 2
	flagDeleted       = 4
	flagWinnerDeleted = 8
	knownFlags        = 15

	// inlineMax is the largest object that is kept in its record. A record stays below badger's value threshold,
	// whose other side is the value log.
	inlineMax = 768 << 10
	// maxObject bounds an encoded object.
	maxObject = 1 << 30
)

// Life says what a key's siblings come to in a listing: whether all are tombstones, and else the Unix milliseconds
// at which the last of the others expires, 0: never.
type Life struct {
	Deleted bool
	Expiry  int64
}

func lifeOf(siblings []vclock.Sibling) Life {
	l := Life{Deleted: true}
	for _, s := range siblings {
		if s.Deleted {
			continue
		}
		if s.Expiry == 0 {
			return Life{}
		}
		l = Life{Expiry: max(l.Expiry, s.Expiry)}
	}
	return l
}

// winnerOf is the life of the sibling that last-write-wins shows.
func winnerOf(o vclock.Object) Life {
	if len(o.Siblings) <= 1 {
		return lifeOf(o.Siblings)
	}
	return lifeOf(o.Answer(math.MinInt64, true).Live)
}

// header is a record without its payload.
type header struct {
	incomplete, chunked bool
	own                 vclock.Own
	digest              vclock.Digest
	life, winner        Life
	size                int // of the encoded object
}

func newHeader(r vclock.Record, digest vclock.Digest, incomplete bool) header {
	return header{
		incomplete: incomplete, own: r.Own, digest: digest,
		life: lifeOf(r.Siblings), winner: winnerOf(r.Object),
	}
}

func (h header) flags() byte {
	var f byte
	for i, set := range []bool{h.incomplete, h.chunked, h.life.Deleted, h.winner.Deleted} {
		if set {
			f |= 1 << i
		}
	}
	return f
}

// encode returns the record of badger's key.
func (h header) encode(key, payload []byte) []byte { return h.appendTo(nil, key, payload) }

// appendTo appends the record of badger's key to buf.
func (h header) appendTo(buf, key, payload []byte) []byte {
	be := binary.BigEndian
	start := len(buf)
	buf = slices.Grow(buf, recordHeader+len(payload))[:start+recordHeader+len(payload)]
	b := buf[start:]
	clear(b[:recordHeader])
	copy(b, recordMagic)
	b[4], b[5] = recordVersion, h.flags()
	be.PutUint16(b[6:], recordHeader)
	copy(b[8:], h.own.Actor.Node[:])
	be.PutUint64(b[24:], h.own.Actor.Birth.Millis)
	be.PutUint64(b[32:], h.own.Actor.Birth.Rand)
	be.PutUint64(b[40:], h.own.Counter)
	be.PutUint64(b[48:], h.own.Incarnation)
	copy(b[56:], h.digest[:])
	be.PutUint64(b[72:], uint64(h.life.Expiry))
	be.PutUint64(b[80:], uint64(h.winner.Expiry))
	be.PutUint32(b[88:], uint32(h.size))
	be.PutUint32(b[92:], uint32(len(payload)))
	copy(b[recordHeader:], payload)
	be.PutUint64(b[recordSum:], recordChecksum(key, b))
	return buf
}

func recordChecksum(key, record []byte) uint64 {
	var h xxhash.Digest
	h.Reset()
	h.Write(key)
	h.Write(record[:recordSum])
	h.Write(record[recordHeader:])
	return h.Sum64()
}

// corrupt is the error for a record that cannot be read.
func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}

// decodeHeader reads a record. The payload aliases b.
func decodeHeader(key, b []byte) (h header, payload []byte, err error) {
	be := binary.BigEndian
	switch {
	case len(b) < recordHeader:
		return header{}, nil, corrupt("%d bytes, a record has at least %d", len(b), recordHeader)
	case string(b[:4]) != recordMagic:
		return header{}, nil, corrupt("no magic")
	case be.Uint64(b[recordSum:]) != recordChecksum(key, b):
		return header{}, nil, corrupt("checksum does not match")
	case b[4] != recordVersion || be.Uint16(b[6:]) != recordHeader:
		return header{}, nil, corrupt("version %d with a header of %d bytes, this release knows version %d with %d",
			b[4], be.Uint16(b[6:]), recordVersion, recordHeader)
	case b[5]&^knownFlags != 0:
		return header{}, nil, corrupt("unknown flags %#x", b[5])
	case uint64(be.Uint32(b[92:])) != uint64(len(b)-recordHeader):
		return header{}, nil, corrupt("payload of %d bytes, the header says %d", len(b)-recordHeader, be.Uint32(b[92:]))
	case be.Uint32(b[88:]) > maxObject:
		return header{}, nil, corrupt("object of %d bytes, at most %d", be.Uint32(b[88:]), maxObject)
	}
	h = parseHeader(b)
	payload = b[recordHeader:]
	if !h.chunked && h.size != len(payload) {
		return header{}, nil, corrupt("object of %d bytes, the header says %d", len(payload), h.size)
	}
	return h, payload, nil
}

// parseHeader reads the header of a record that was checked.
func parseHeader(b []byte) header {
	be, f := binary.BigEndian, b[5]
	return header{
		incomplete: f&flagIncomplete != 0,
		chunked:    f&flagChunked != 0,
		own: vclock.Own{
			Actor: vclock.Actor{
				Node:  [16]byte(b[8:24]),
				Birth: vclock.Birth{Millis: be.Uint64(b[24:]), Rand: be.Uint64(b[32:])},
			},
			Counter:     be.Uint64(b[40:]),
			Incarnation: be.Uint64(b[48:]),
		},
		digest: vclock.Digest(b[56:72]),
		life:   Life{f&flagDeleted != 0, int64(be.Uint64(b[72:]))},
		winner: Life{f&flagWinnerDeleted != 0, int64(be.Uint64(b[80:]))},
		size:   int(be.Uint32(b[88:])),
	}
}

// decodeObject reads an encoded object, whose values alias b.
func decodeObject(b []byte) (vclock.Object, error) {
	d := wire.NewDecoder(b)
	o := vclock.DecodeObject(d)
	if err := d.Done(); err != nil {
		return vclock.Object{}, corrupt("%v", err)
	}
	return o, nil
}
