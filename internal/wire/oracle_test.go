package wire

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"github.com/vmihailenco/msgpack/v5"
	"pgregory.net/rapid"
)

// What is encoded here is byte for byte what the library encodes, and each side reads the other's.
func TestSameBytesAsTheLibrary(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		number := rapid.OneOf(rapid.Uint64(), rapid.Uint64Range(0, 300), rapid.SampledFrom([]uint64{
			0, 127, 128, 255, 256, math.MaxUint16, math.MaxUint16 + 1, math.MaxUint32, math.MaxUint32 + 1, math.MaxInt64, math.MaxUint64,
		})).Draw(t, "uint")
		signed := rapid.OneOf(rapid.Int64(), rapid.Int64Range(-300, 300), rapid.SampledFrom([]int64{
			-32, -33, math.MinInt8, math.MinInt8 - 1, math.MinInt16, math.MinInt16 - 1, math.MinInt32, math.MinInt32 - 1, math.MinInt64,
		})).Draw(t, "int")
		size := rapid.OneOf(rapid.IntRange(0, 70), rapid.SampledFrom([]int{255, 256, math.MaxUint16, math.MaxUint16 + 1})).Draw(t, "size")
		flag := rapid.Bool().Draw(t, "bool")
		raw := bytes.Repeat([]byte{byte(size)}, size)

		e := NewEncoder()
		defer e.Free()
		e.Array(size)
		e.Uint(number)
		e.Int(signed)
		e.Bool(flag)
		e.Raw(raw)
		e.String(string(raw))
		var want bytes.Buffer
		lib := msgpack.NewEncoder(&want)
		for _, err := range []error{
			lib.EncodeArrayLen(size), lib.EncodeUint(number), lib.EncodeInt(signed), lib.EncodeBool(flag),
			lib.EncodeBytes(raw), lib.EncodeString(string(raw)),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(e.Bytes(), want.Bytes()) {
			t.Fatalf("%x, the library encodes %x", e.Bytes(), want.Bytes())
		}
		d := NewDecoder(want.Bytes())
		if n := d.Array(1 << 20); n != size || d.Uint() != number || d.Int() != signed || d.Bool() != flag ||
			!bytes.Equal(d.Raw(1<<20), raw) || d.String(1<<20) != string(raw) || d.Done() != nil {
			t.Fatalf("reads %x differently: %v", want.Bytes(), d.Err())
		}
	})
}

// Of any bytes the decoder reads what the library reads, or refuses them.
func FuzzReadsAsTheLibrary(f *testing.F) {
	for _, seed := range [][]byte{{0x93, 1, 0xc4, 1, 9, 0xa1, 'x'}, {0xd3, 1, 2, 3, 4, 5, 6, 7, 8}, {0xcf, 0xff}, {0xdc, 0, 1, 5}, {0xc2}, {0xe0}} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		check := func(what string, got any, err error, read func(*msgpack.Decoder) (any, error)) {
			want, libErr := read(msgpack.NewDecoder(bytes.NewReader(in)))
			switch {
			case err != nil && !errors.Is(err, ErrMalformed):
				t.Errorf("%s of %x: %v", what, in, err)
			case err == nil && (libErr != nil || got != want):
				t.Errorf("%s of %x: %v, the library reads %v %v", what, in, got, want, libErr)
			}
		}
		d := NewDecoder(in)
		check("array", d.Array(1<<30), d.err, func(l *msgpack.Decoder) (any, error) { return l.DecodeArrayLen() })
		d = NewDecoder(in)
		check("uint", d.Uint(), d.err, func(l *msgpack.Decoder) (any, error) { return l.DecodeUint64() })
		d = NewDecoder(in)
		check("int", d.Int(), d.err, func(l *msgpack.Decoder) (any, error) { return l.DecodeInt64() })
		d = NewDecoder(in)
		check("bool", d.Bool(), d.err, func(l *msgpack.Decoder) (any, error) { return l.DecodeBool() })
		d = NewDecoder(in)
		check("string", d.String(1<<20), d.err, func(l *msgpack.Decoder) (any, error) { return l.DecodeString() })
	})
}
