package wire

import (
	"bytes"
	"errors"
	"testing"
)

func TestRoundTrip(t *testing.T) {
	e := NewEncoder()
	defer e.Free()
	e.Array(7)
	e.Uint(1 << 40)
	e.Int(-5)
	e.Bool(true)
	e.Raw([]byte{0, 1, 2})
	e.String("häuser")
	e.Raw(nil)
	e.Raw(bytes.Repeat([]byte{7}, 70000))
	d := NewDecoder(e.Copy())
	d.ArrayOf(7)
	if v := d.Uint(); v != 1<<40 {
		t.Errorf("uint %d", v)
	}
	if v := d.Int(); v != -5 {
		t.Errorf("int %d", v)
	}
	if !d.Bool() {
		t.Error("bool")
	}
	var three [3]byte
	d.Fixed(three[:])
	if three != [3]byte{0, 1, 2} {
		t.Errorf("fixed %v", three)
	}
	if s := d.String(100); s != "häuser" {
		t.Errorf("string %q", s)
	}
	if b := d.Raw(10); b != nil {
		t.Errorf("nil bytes came back as %v", b)
	}
	if b := d.Raw(1 << 20); len(b) != 70000 {
		t.Errorf("long bytes: %d", len(b))
	}
	if err := d.Done(); err != nil {
		t.Error(err)
	}
}

// A five-byte message that claims gigabytes must cost nothing and be refused.
func TestLengthBombs(t *testing.T) {
	for name, in := range map[string][]byte{
		"array32":  {0xdd, 0xff, 0xff, 0xff, 0xff},
		"bytes32":  {0xc6, 0xff, 0xff, 0xff, 0xff},
		"string32": {0xdb, 0xff, 0xff, 0xff, 0xff},
		"map32":    {0xdf, 0xff, 0xff, 0xff, 0xff},
		"empty":    {},
		"nested":   bytes.Repeat([]byte{0x91}, 1<<16),
	} {
		allocs := testing.AllocsPerRun(1, func() {
			d := NewDecoder(in)
			d.Array(1 << 30)
			d.Raw(1 << 30)
			if err := d.Done(); !errors.Is(err, ErrMalformed) {
				t.Errorf("%s: %v", name, err)
			}
		})
		if allocs > 64 {
			t.Errorf("%s: %v allocations", name, allocs)
		}
	}
}

func FuzzDecoder(f *testing.F) {
	f.Add([]byte{0x93, 1, 0xc4, 1, 9, 0xa1, 'x'})
	f.Add([]byte{0xdd, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, in []byte) {
		d := NewDecoder(in)
		for n := d.Array(1000); n > 0 && d.Err() == nil; n-- {
			d.Uint()
			d.Raw(1 << 20)
			_ = d.String(64)
			d.Bool()
			d.Int()
		}
		if err := d.Done(); err != nil && !errors.Is(err, ErrMalformed) {
			t.Fatal(err)
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	val := make([]byte, 1024)
	b.ReportAllocs()
	for b.Loop() {
		e := NewEncoder()
		e.Array(3)
		e.Uint(77)
		e.String("bucket")
		e.Raw(val)
		e.Free()
	}
}

func BenchmarkDecode(b *testing.B) {
	e := NewEncoder()
	e.Array(3)
	e.Uint(77)
	e.String("bucket")
	e.Raw(make([]byte, 1024))
	in := e.Copy()
	b.ReportAllocs()
	for b.Loop() {
		d := NewDecoder(in)
		d.ArrayOf(3)
		d.Uint()
		_ = d.String(100)
		d.Raw(2000)
	}
}

// What encoding and decoding a message may allocate; it does not depend on the machine.
func TestAllocations(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector, which runs with -short, allocates")
	}
	val := make([]byte, 1024)
	var in []byte
	encode := func() {
		e := NewEncoder()
		e.Array(2)
		e.Uint(77)
		e.Raw(val)
		in = e.Copy()
		e.Free()
	}
	decode := func() {
		d := NewDecoder(in)
		d.ArrayOf(2)
		d.Uint()
		d.Raw(2000)
	}
	for name, c := range map[string]struct {
		do   func()
		most float64
	}{"encode": {encode, 1}, "decode": {decode, 0}} {
		encode()
		if got := testing.AllocsPerRun(500, c.do); got > c.most {
			t.Errorf("%s: %.0f allocations, at most %.0f", name, got, c.most)
		}
	}
}
