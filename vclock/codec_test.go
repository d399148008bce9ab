package vclock

import (
	"bytes"
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/dunlindb/dunlin/internal/wire"
)

func encoded(o Object) []byte {
	e := wire.NewEncoder()
	defer e.Free()
	o.Encode(e)
	return e.Copy()
}

func decoded(b []byte) (Object, error) {
	d := wire.NewDecoder(b)
	o := DecodeObject(d)
	return o, d.Done()
}

func TestCodecRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		states := history(t)
		o := pick(t, states, "object")
		got, err := decoded(encoded(o))
		if err != nil || !same(got, o) {
			t.Fatalf("%v\n%v\n%v", err, got, o)
		}
		s := Scope{Bucket: "b", Key: "k"}
		c := o.Answer(0, false).Context
		back, err := ParseToken(c.Token(s), s)
		if err != nil || !back.Vector.Equal(c.Vector) || len(back.IDs) != len(c.IDs) || back.Stamp != c.Stamp {
			t.Fatalf("%v: %v, want %v", err, back, c)
		}
	})
}

// golden is an object that uses every field.
func golden() Object {
	a, b, _ := three()
	a.mint(Write{Value: []byte("first"), ContentType: "text/plain", ID: clientID(1, 2)})
	a.mint(Write{Value: []byte("second"), Expiry: 123456789, Context: a.read(), ID: WriteID{Key: [16]byte{9}}})
	b.mint(Write{Deleted: true, ID: clientID(3, 4)})
	return Merge(a.rec.Object, b.rec.Object)
}

// The encoding and the digest are durable and travel between versions: they never change silently.
func TestGoldenObject(t *testing.T) {
	o := golden()
	d := o.Digest("bucket", "key")
	got := hex.EncodeToString(encoded(o)) + "\n" + hex.EncodeToString(d[:]) + "\n" +
		o.Answer(0, false).Context.Token(Scope{Bucket: "b", Key: "k"}) + "\n"
	const file = "testdata/object.v1.hex"
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v; the text should be:\n%s", err, got)
	}
	if got != string(want) {
		t.Fatalf("the format changed:\n%s\nwant:\n%s", got, want)
	}
	old, _ := hex.DecodeString(strings.SplitN(string(want), "\n", 2)[0])
	if back, err := decoded(old); err != nil || !same(back, o) {
		t.Fatalf("%v: %v", err, back)
	}
}

func FuzzDecodeObject(f *testing.F) {
	f.Add(encoded(golden()))
	f.Add(encoded(Object{}))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := decoded(b)
		if err != nil {
			return
		}
		again, err := decoded(encoded(o))
		if err != nil || !same(again, o) {
			t.Fatalf("decoded %v, but then %v, %v", o, again, err)
		}
		if !same(Merge(o, o), o) && len(o.Retired) == 0 {
			t.Fatal("a decoded object breaks merging")
		}
	})
}

func FuzzParseToken(f *testing.F) {
	s := Scope{Bucket: "b", Key: "k"}
	f.Add(golden().Answer(0, false).Context.Token(s))
	f.Fuzz(func(t *testing.T, token string) {
		if c, err := ParseToken(token, s); err == nil && c.Token(s) != token {
			t.Fatalf("%q is not the token of what it parses to", token)
		}
	})
}

func BenchmarkCodec(b *testing.B) {
	o := golden()
	body, scope := encoded(o), Scope{Bucket: "b", Key: "k"}
	c := o.Answer(0, false).Context
	token := c.Token(scope)
	for name, do := range map[string]func(){
		"encode": func() { encoded(o) },
		"decode": func() { _, _ = decoded(body) },
		"digest": func() { o.Digest("bucket", "key") },
		"token":  func() { c.Token(scope) },
		"parse":  func() { _, _ = ParseToken(token, scope) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				do()
			}
		})
	}
}

func BenchmarkMerge(b *testing.B) {
	x, y, _ := three()
	for range 3 {
		x.put("value", x.read())
		y.absorb(x.rec.Object)
		y.put("value", y.read())
		x.absorb(y.rec.Object)
	}
	newer := x.rec.Object
	x.put("newest", x.read())
	b.Run("newer", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			Merge(newer, x.rec.Object)
		}
	})
	b.Run("concurrent", func(b *testing.B) {
		y.put("concurrent", Context{})
		b.ReportAllocs()
		for b.Loop() {
			Merge(y.rec.Object, x.rec.Object)
		}
	})
	b.Run("mint", func(b *testing.B) {
		m, c := x.minter(), x.read()
		b.ReportAllocs()
		for b.Loop() {
			if _, err := m.Mint(x.rec, Write{Value: []byte("v"), Context: c}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("digest", func(b *testing.B) {
		o := x.rec.Object
		o.Siblings[0].Value = bytes.Repeat([]byte("x"), 1024)
		b.ReportAllocs()
		for b.Loop() {
			o.Digest("bucket", "key")
		}
	})
}

// Whoever appends to what was decoded does not write to memory that others hold.
func TestDecodedHasNoSpareRoom(t *testing.T) {
	for dots := range 6 {
		for siblings := range min(dots, 1) + 1 {
			var o Object
			for i := range dots {
				dot := Dot{Actor: Actor{Node: [16]byte{byte(i + 1)}, Birth: Birth{Millis: 1, Rand: 1}}, Counter: 1}
				o.Context = append(o.Context, dot)
				if i < siblings {
					o.Siblings = append(o.Siblings, Sibling{Dot: dot, Value: []byte("v"), ContentType: "text/plain"})
				}
			}
			got, err := decoded(encoded(o))
			if err != nil || !same(got, o) {
				t.Fatalf("%d dots, %d siblings: %v, %v", dots, siblings, got, err)
			}
			if cap(got.Context) != dots || cap(got.Siblings) != siblings {
				t.Errorf("%d dots, %d siblings: room for %d and %d", dots, siblings, cap(got.Context), cap(got.Siblings))
			}
		}
	}
}
