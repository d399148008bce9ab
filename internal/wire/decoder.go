package wire

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

// Decoder reads msgpack values from a slice. The first error sticks: later calls return zero values, so that a
// message is decoded in a straight line and Err (or Done) is asked once. Not safe for concurrent use.
type Decoder struct {
	data []byte
	at   int
	err  error
}

// NewDecoder reads from b, which must not change while values that alias it are in use.
func NewDecoder(b []byte) *Decoder { return &Decoder{data: b} }

func (d *Decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
	}
}

// Fail makes the message malformed for a reason that only its owner can know.
func (d *Decoder) Fail(reason string) { d.fail("%s", reason) }

// Err returns the first error.
func (d *Decoder) Err() error { return d.err }

// Left returns the number of bytes not yet read.
func (d *Decoder) Left() int { return len(d.data) - d.at }

// Done returns the first error, or one that says that bytes are left over.
func (d *Decoder) Done() error {
	if d.err == nil && d.Left() != 0 {
		d.fail("%d bytes left over", d.Left())
	}
	return d.err
}

// take reads n bytes; nil, with an error, if there are not so many.
func (d *Decoder) take(what string, n int) []byte {
	if d.err != nil {
		return nil
	}
	if n > d.Left() {
		d.fail("%s at byte %d: the message ends", what, d.at)
		return nil
	}
	b := d.data[d.at : d.at+n : d.at+n]
	d.at += n
	return b
}

// code reads the code that a value begins with.
func (d *Decoder) code(what string) (c byte, ok bool) {
	b := d.take(what, 1)
	if b == nil {
		return 0, false
	}
	return b[0], true
}

// number reads a big-endian number of size bytes.
func (d *Decoder) number(what string, size int) uint64 {
	b := d.take(what, size)
	if b == nil {
		return 0
	}
	switch size {
	case 1:
		return uint64(b[0])
	case 2:
		return uint64(binary.BigEndian.Uint16(b))
	case 4:
		return uint64(binary.BigEndian.Uint32(b))
	}
	return binary.BigEndian.Uint64(b)
}

func (d *Decoder) unexpected(what string, code byte) {
	d.fail("%s at byte %d: code %#x", what, d.at-1, code)
}

// Array opens an array and returns its length, which is at most limit and at most the bytes that are left.
func (d *Decoder) Array(limit int) int {
	const what = "array"
	c, ok := d.code(what)
	if !ok {
		return 0
	}
	var n int
	switch {
	case msgpcode.IsFixedArray(c):
		n = int(c & msgpcode.FixedArrayMask)
	case c == msgpcode.Array16:
		n = int(d.number(what, 2))
	case c == msgpcode.Array32:
		n = int(d.number(what, 4))
	default:
		d.unexpected(what, c)
	}
	if d.err == nil && (n > limit || n > d.Left()) {
		d.fail("array of %d values, at most %d and %d bytes left", n, limit, d.Left())
	}
	if d.err != nil {
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
	const what = "uint"
	c, ok := d.code(what)
	switch {
	case !ok:
		return 0
	case c <= msgpcode.PosFixedNumHigh:
		return uint64(c)
	case c == msgpcode.Uint8:
		return d.number(what, 1)
	case c == msgpcode.Uint16:
		return d.number(what, 2)
	case c == msgpcode.Uint32:
		return d.number(what, 4)
	case c == msgpcode.Uint64:
		return d.number(what, 8)
	}
	d.unexpected(what, c)
	return 0
}

// Int reads a signed integer.
func (d *Decoder) Int() int64 {
	const what = "int"
	if d.err != nil {
		return 0
	}
	if d.Left() == 0 {
		d.take(what, 1)
		return 0
	}
	switch c := d.data[d.at]; {
	case c >= msgpcode.NegFixedNumLow:
		d.at++
		return int64(int8(c))
	case c == msgpcode.Int8:
		d.at++
		return int64(int8(d.number(what, 1)))
	case c == msgpcode.Int16:
		d.at++
		return int64(int16(d.number(what, 2)))
	case c == msgpcode.Int32:
		d.at++
		return int64(int32(d.number(what, 4)))
	case c == msgpcode.Int64:
		d.at++
		return int64(d.number(what, 8))
	}
	v := d.Uint()
	if v > math.MaxInt64 {
		d.fail("number %d, at most %d", v, int64(math.MaxInt64))
		return 0
	}
	return int64(v)
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
	c, ok := d.code("bool")
	if ok && c != msgpcode.True && c != msgpcode.False {
		d.unexpected("bool", c)
		return false
	}
	return ok && c == msgpcode.True
}

// Raw reads at most limit bytes, or a string of as many. The result aliases the decoder's input; no bytes give nil.
func (d *Decoder) Raw(limit int) []byte {
	const what = "bytes"
	c, ok := d.code(what)
	if !ok {
		return nil
	}
	var n int
	switch {
	case msgpcode.IsFixedString(c):
		n = int(c & msgpcode.FixedStrMask)
	case c == msgpcode.Bin8, c == msgpcode.Str8:
		n = int(d.number(what, 1))
	case c == msgpcode.Bin16, c == msgpcode.Str16:
		n = int(d.number(what, 2))
	case c == msgpcode.Bin32, c == msgpcode.Str32:
		n = int(d.number(what, 4))
	default:
		d.unexpected(what, c)
	}
	if d.err == nil && (n > limit || n > d.Left()) {
		d.fail("%d bytes, at most %d and %d left", n, limit, d.Left())
	}
	if d.err != nil || n == 0 {
		return nil
	}
	return d.take(what, n)
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
