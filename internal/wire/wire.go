// Package wire is the only way that bytes from a socket or a disk become values: bounded msgpack
// primitives over github.com/vmihailenco/msgpack/v5.
//
// The library's reflective decoders allocate what a length prefix claims before a byte of it has arrived, and
// recurse without a bound (its issues 376 and 401). So nothing here is decoded by reflection: every length is
// compared with the caller's maximum and with the bytes that are left before anything is allocated, and there
// is no way to skip or to decode a value of unknown shape. Messages belong to the packages that own them; this
// package knows none.
package wire

import (
	"bytes"
	"errors"
	"fmt"
	"sync"

	"github.com/vmihailenco/msgpack/v5"
)

// ErrMalformed is wrapped by every decoding error.
var ErrMalformed = errors.New("malformed message")

// Encoder appends msgpack values to a buffer. It cannot fail. Not safe for concurrent use.
type Encoder struct {
	buf appender
	enc *msgpack.Encoder
}

type appender struct{ b []byte }

func (a *appender) Write(p []byte) (int, error) { a.b = append(a.b, p...); return len(p), nil }
func (a *appender) WriteByte(c byte) error      { a.b = append(a.b, c); return nil }

// maxPooled keeps one huge message from pinning its buffer in the pool for ever.
const maxPooled = 1 << 20

var encoders = sync.Pool{New: func() any {
	e := &Encoder{}
	e.enc = msgpack.NewEncoder(&e.buf)
	return e
}}

// NewEncoder takes an empty encoder from a pool. Give it back with Free once its bytes are copied or sent.
func NewEncoder() *Encoder {
	e := encoders.Get().(*Encoder)
	e.buf.b = e.buf.b[:0]
	return e
}

// Free returns the encoder, and the buffer that Bytes returned, to the pool.
func (e *Encoder) Free() {
	if cap(e.buf.b) <= maxPooled {
		encoders.Put(e)
	}
}

// Bytes returns what was encoded so far. It is valid until the next call on e.
func (e *Encoder) Bytes() []byte { return e.buf.b }

// Copy returns a copy of what was encoded so far, of its own.
func (e *Encoder) Copy() []byte { return append(make([]byte, 0, len(e.buf.b)), e.buf.b...) }

// The buffer never fails to take bytes, so the library has no error to report: a non-nil one is a bug.
func must(err error) {
	if err != nil {
		panic("wire: encoding into memory failed: " + err.Error())
	}
}

// Array opens an array of n values, which the caller encodes next.
func (e *Encoder) Array(n int) { must(e.enc.EncodeArrayLen(n)) }

// Uint encodes an unsigned integer in its shortest form.
func (e *Encoder) Uint(v uint64) { must(e.enc.EncodeUint(v)) }

// Int encodes a signed integer in its shortest form.
func (e *Encoder) Int(v int64) { must(e.enc.EncodeInt(v)) }

// Bool encodes a boolean.
func (e *Encoder) Bool(v bool) { must(e.enc.EncodeBool(v)) }

// Raw encodes bytes. Nil is encoded as no bytes.
func (e *Encoder) Raw(b []byte) {
	must(e.enc.EncodeBytesLen(len(b)))
	e.buf.b = append(e.buf.b, b...)
}

// String encodes a string.
func (e *Encoder) String(s string) { must(e.enc.EncodeString(s)) }

// Decoder reads msgpack values from a slice. The first error sticks: later calls return zero values, so that a
// message is decoded in a straight line and Err (or Done) is asked once. Not safe for concurrent use.
type Decoder struct {
	data []byte
	r    *bytes.Reader
	dec  *msgpack.Decoder
	err  error
}

// NewDecoder reads from b, which must not change while values that alias it are in use.
func NewDecoder(b []byte) *Decoder {
	r := bytes.NewReader(b)
	d := msgpack.GetDecoder()
	d.Reset(r)
	return &Decoder{data: b, r: r, dec: d}
}

// Free returns the library's decoder to its pool. The Decoder must not be used afterwards.
func (d *Decoder) Free() {
	if d.dec != nil {
		d.dec.Reset(nil)
		msgpack.PutDecoder(d.dec)
		d.dec = nil
	}
}

func (d *Decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
	}
}

func (d *Decoder) wrap(what string, err error) bool {
	if err != nil {
		d.fail("%s at byte %d: %v", what, len(d.data)-d.r.Len(), err)
	}
	return d.err == nil
}

// Fail makes the message malformed for a reason that only its owner can know.
func (d *Decoder) Fail(reason string) { d.fail("%s", reason) }

// Err returns the first error.
func (d *Decoder) Err() error { return d.err }

// Left returns the number of bytes not yet read.
func (d *Decoder) Left() int { return d.r.Len() }

// Done returns the first error, or one that says that bytes are left over.
func (d *Decoder) Done() error {
	if d.err == nil && d.r.Len() != 0 {
		d.fail("%d bytes left over", d.r.Len())
	}
	return d.err
}

// Array opens an array and returns its length, which is at most limit and at most the bytes that are left.
func (d *Decoder) Array(limit int) int {
	if d.err != nil {
		return 0
	}
	n, err := d.dec.DecodeArrayLen()
	if !d.wrap("array", err) {
		return 0
	}
	if n < 0 || n > limit || n > d.r.Len() {
		d.fail("array of %d values, at most %d and %d bytes left", n, limit, d.r.Len())
		return 0
	}
	return n
}

// ArrayOf opens an array that must have exactly n values.
func (d *Decoder) ArrayOf(n int) {
	if got := d.Array(max(n, 64)); d.err == nil && got != n {
		d.fail("array of %d values, want %d", got, n)
	}
}

// Uint reads an unsigned integer.
func (d *Decoder) Uint() uint64 {
	if d.err != nil {
		return 0
	}
	v, err := d.dec.DecodeUint64()
	if !d.wrap("uint", err) {
		return 0
	}
	return v
}

// Int reads a signed integer.
func (d *Decoder) Int() int64 {
	if d.err != nil {
		return 0
	}
	v, err := d.dec.DecodeInt64()
	if !d.wrap("int", err) {
		return 0
	}
	return v
}

// Count reads an unsigned integer that must not exceed limit.
func (d *Decoder) Count(limit int) int {
	v := d.Uint()
	if d.err == nil && v > uint64(limit) {
		d.fail("number %d, at most %d", v, limit)
		return 0
	}
	return int(v)
}

// Bool reads a boolean.
func (d *Decoder) Bool() bool {
	if d.err != nil {
		return false
	}
	v, err := d.dec.DecodeBool()
	return d.wrap("bool", err) && v
}

// Raw reads at most limit bytes. The result aliases the decoder's input; no bytes give nil.
func (d *Decoder) Raw(limit int) []byte {
	if d.err != nil {
		return nil
	}
	n, err := d.dec.DecodeBytesLen()
	if !d.wrap("bytes", err) || n <= 0 {
		return nil
	}
	if n > limit || n > d.r.Len() {
		d.fail("%d bytes, at most %d and %d left", n, limit, d.r.Len())
		return nil
	}
	off := len(d.data) - d.r.Len()
	if _, err := d.r.Seek(int64(n), 1); !d.wrap("bytes", err) {
		return nil
	}
	return d.data[off : off+n : off+n]
}

// Fixed reads exactly len(dst) bytes into dst.
func (d *Decoder) Fixed(dst []byte) {
	b := d.Raw(len(dst))
	if d.err == nil && len(b) != len(dst) {
		d.fail("%d bytes, want %d", len(b), len(dst))
		return
	}
	copy(dst, b)
}

// String reads a string of at most limit bytes.
func (d *Decoder) String(limit int) string { return string(d.Raw(limit)) }
