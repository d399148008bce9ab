// Package wire is the only way that bytes from a socket or a disk become values: bounded msgpack primitives, in the
// encoding of github.com/vmihailenco/msgpack/v5, whose codes it uses and with which its tests compare it.
//
// The primitives are written out, for two reasons. The library's reflective decoders allocate what a length prefix
// claims before a byte of it has arrived, and recurse without a bound (its issues 376 and 401): here every length is
// compared with the caller's maximum and with the bytes that are left before anything is allocated, and there is no way
// to skip or to decode a value of unknown shape. And a message has a dozen small fields, each of which costs the library
// calls through interfaces: written out, a message is decoded in a third of the time and without an allocation
// (BenchmarkDecode). Messages belong to the packages that own them; this package
// knows none.
package wire

import (
	"encoding/binary"
	"errors"
	"math"
	"sync"

	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

// ErrMalformed is wrapped by every decoding error.
var ErrMalformed = errors.New("malformed message")

// Encoder appends msgpack values to a buffer. It cannot fail. Not safe for concurrent use.
type Encoder struct{ b []byte }

// maxPooled keeps one huge message from pinning its buffer in the pool for ever.
const maxPooled = 1 << 20

var encoders = sync.Pool{New: func() any { return &Encoder{} }}

// NewEncoder takes an empty encoder from a pool. Give it back with Free once its bytes are copied or sent.
func NewEncoder() *Encoder {
	e := encoders.Get().(*Encoder)
	e.b = e.b[:0]
	return e
}

// Free returns the encoder, and the buffer that Bytes returned, to the pool.
func (e *Encoder) Free() {
	if cap(e.b) <= maxPooled {
		encoders.Put(e)
	}
}

// Bytes returns what was encoded so far. It is valid until the next call on e.
func (e *Encoder) Bytes() []byte { return e.b }

// Copy returns a copy of what was encoded so far, of its own.
func (e *Encoder) Copy() []byte { return append(make([]byte, 0, len(e.b)), e.b...) }

// Array opens an array of n values, which the caller encodes next.
func (e *Encoder) Array(n int) {
	switch {
	case n <= int(msgpcode.FixedArrayMask):
		e.b = append(e.b, msgpcode.FixedArrayLow|byte(n))
	case n <= math.MaxUint16:
		e.b = binary.BigEndian.AppendUint16(append(e.b, msgpcode.Array16), uint16(n))
	default:
		e.b = binary.BigEndian.AppendUint32(append(e.b, msgpcode.Array32), uint32(n))
	}
}

// Uint encodes an unsigned integer in its shortest form.
func (e *Encoder) Uint(v uint64) {
	switch {
	case v <= uint64(msgpcode.PosFixedNumHigh):
		e.b = append(e.b, byte(v))
	case v <= math.MaxUint8:
		e.b = append(e.b, msgpcode.Uint8, byte(v))
	case v <= math.MaxUint16:
		e.b = binary.BigEndian.AppendUint16(append(e.b, msgpcode.Uint16), uint16(v))
	case v <= math.MaxUint32:
		e.b = binary.BigEndian.AppendUint32(append(e.b, msgpcode.Uint32), uint32(v))
	default:
		e.b = binary.BigEndian.AppendUint64(append(e.b, msgpcode.Uint64), v)
	}
}

// Int encodes a signed integer in its shortest form.
func (e *Encoder) Int(v int64) {
	switch {
	case v >= 0:
		e.Uint(uint64(v))
	case v >= int64(int8(msgpcode.NegFixedNumLow)):
		e.b = append(e.b, byte(v))
	case v >= math.MinInt8:
		e.b = append(e.b, msgpcode.Int8, byte(v))
	case v >= math.MinInt16:
		e.b = binary.BigEndian.AppendUint16(append(e.b, msgpcode.Int16), uint16(v))
	case v >= math.MinInt32:
		e.b = binary.BigEndian.AppendUint32(append(e.b, msgpcode.Int32), uint32(v))
	default:
		e.b = binary.BigEndian.AppendUint64(append(e.b, msgpcode.Int64), uint64(v))
	}
}

// Bool encodes a boolean.
func (e *Encoder) Bool(v bool) {
	if v {
		e.b = append(e.b, msgpcode.True)
	} else {
		e.b = append(e.b, msgpcode.False)
	}
}

// Raw encodes bytes. Nil is encoded as no bytes.
func (e *Encoder) Raw(b []byte) {
	e.length(len(b), msgpcode.Bin8, msgpcode.Bin16, msgpcode.Bin32)
	e.b = append(e.b, b...)
}

// String encodes a string.
func (e *Encoder) String(s string) {
	if n := len(s); n <= int(msgpcode.FixedStrMask) {
		e.b = append(e.b, msgpcode.FixedStrLow|byte(n))
	} else {
		e.length(n, msgpcode.Str8, msgpcode.Str16, msgpcode.Str32)
	}
	e.b = append(e.b, s...)
}

// length encodes a length after the code of its size.
func (e *Encoder) length(n int, code8, code16, code32 byte) {
	switch {
	case n <= math.MaxUint8:
		e.b = append(e.b, code8, byte(n))
	case n <= math.MaxUint16:
		e.b = binary.BigEndian.AppendUint16(append(e.b, code16), uint16(n))
	default:
		e.b = binary.BigEndian.AppendUint32(append(e.b, code32), uint32(n))
	}
}
