package storage

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dunlindb/dunlin/internal/wire"
	"github.com/dunlindb/dunlin/vclock"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew; a changed file is a changed disk format")

func goldenRecord() (Key, vclock.Record) {
	k := Key{Partition: 513, Bucket: "bücket", Key: "a\x00\xff"}
	o := vclock.Merge(peerObject(7, 3, "value"), peerObject(9, 1, "other"))
	o.Siblings[0].Expiry = 1_900_000_000_000
	o.Siblings[0].ContentType = "text/plain"
	o.Siblings[1].Deleted, o.Siblings[1].Value = true, nil
	o.Siblings[1].Stamp = 1 << 30
	o.Siblings[1].ID = vclock.WriteID{Key: [16]byte{1}, Body: [16]byte{2}, Client: true}
	o.Retired = []vclock.Retired{{ID: vclock.WriteID{Key: [16]byte{3}, Client: true}, At: 1_800_000_000_000}}
	return k, vclock.Record{Object: o, Own: vclock.Own{Actor: o.Context[0].Actor, Counter: 3, Incarnation: 0x0102030405060708}}
}

func encodeObject(o vclock.Object) []byte {
	e := wire.NewEncoder()
	defer e.Free()
	o.Encode(e)
	return e.Copy()
}

func checkGolden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	text := hexLines(got)
	if *rewrite {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if text != string(want) {
		t.Errorf("%s: the format on the disk has changed:\n%s\nwant:\n%s", name, text, want)
	}
}

func hexLines(b []byte) string {
	var lines strings.Builder
	for i := 0; i < len(b); i += 32 {
		lines.WriteString(hex.EncodeToString(b[i:min(i+32, len(b))]) + "\n")
	}
	return lines.String()
}

func TestRecordGolden(t *testing.T) {
	k, r := goldenRecord()
	payload := encodeObject(r.Object)
	h := newHeader(r, r.Digest(k.Bucket, k.Key), true)
	h.size = len(payload)
	record := h.encode(k.encode(), payload)
	checkGolden(t, "key.hex", k.encode())
	checkGolden(t, "record.hex", record)
	h.chunked, h.size = true, 2<<20
	checkGolden(t, "chunked.hex", h.encode(k.encode(), chunkRef{generation: 5, count: 4, sum: 6}.encode()))
	checkGolden(t, "chunkkey.hex", chunkKey(k.encode(), 5, 3))
	checkGolden(t, "state.hex", seal(stateMagic, "layout", []byte("content")))

	got, body, err := decodeHeader(k.encode(), record)
	if err != nil {
		t.Fatal(err)
	}
	o, err := decodeObject(body)
	if err != nil {
		t.Fatal(err)
	}
	if !o.Equal(r.Object) || got.own != r.Own || !got.incomplete || got.digest != r.Digest(k.Bucket, k.Key) {
		t.Errorf("read %+v %+v, want %+v", got, o, r)
	}
	if want := (Life{Expiry: 1_900_000_000_000}); got.life != want {
		t.Errorf("life %+v, want %+v", got.life, want)
	}
	if want := (Life{Deleted: true}); got.winner != want {
		t.Errorf("winner %+v, want %+v", got.winner, want)
	}
	if back, err := decodeKey(k.encode()); err != nil || back != k {
		t.Errorf("key %+v %v, want %+v", back, err, k)
	}
}

func TestLife(t *testing.T) {
	dead := vclock.Sibling{Deleted: true, Expiry: 9}
	early, late, forever := vclock.Sibling{Expiry: 5}, vclock.Sibling{Expiry: 7}, vclock.Sibling{}
	for _, c := range []struct {
		siblings []vclock.Sibling
		want     Life
	}{
		{nil, Life{Deleted: true}},
		{[]vclock.Sibling{dead, dead}, Life{Deleted: true}},
		{[]vclock.Sibling{late, dead, early}, Life{Expiry: 7}},
		{[]vclock.Sibling{early, forever, late}, Life{}},
	} {
		if got := lifeOf(c.siblings); got != c.want {
			t.Errorf("lifeOf(%v) = %+v, want %+v", c.siblings, got, c.want)
		}
	}
}

// A record must not become "not found", nor another record, whatever happens to its bytes.
func TestDamagedRecordIsCorrupt(t *testing.T) {
	s := openMemory(t, Options{})
	k, other := Key{1, "b", "k"}, Key{1, "b", "l"}
	_, ack := put(t, s, k, "some value")
	put(t, s, other, "another value")
	damage := map[string]func([]byte) []byte{
		"empty":      func([]byte) []byte { return []byte{} },
		"cut":        func(b []byte) []byte { return b[:len(b)-1] },
		"header cut": func(b []byte) []byte { return b[:recordHeader-1] },
		"longer":     func(b []byte) []byte { return append(b, 0) },
		"zeroes":     func(b []byte) []byte { return make([]byte, len(b)) },
	}
	for i := range recordHeader + 20 {
		damage["bit of byte "+hex.EncodeToString([]byte{byte(i)})] = func(b []byte) []byte { b[i] ^= 0x10; return b }
	}
	n := s.Status().Corrupt
	for name, change := range damage {
		var good []byte
		edit(t, s, k.encode(), func(b []byte) []byte { good = bytes.Clone(b); return change(b) })
		for what, read := range map[string]func(Key) (Stored, error){"Get": s.Get, "Digest": s.Digest} {
			if st, err := read(k); !errors.Is(err, ErrCorrupt) || st.Found {
				t.Errorf("%s: %s = %+v, %v, want ErrCorrupt", name, what, st, err)
			}
		}
		if _, _, err := s.Mint(t.Context(), k, vclock.Write{}, nil); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: Mint: %v, want ErrCorrupt", name, err)
		}
		page, err := s.List(t.Context(), ListRequest{Partitions: []int{1}, Bucket: "b"})
		if err != nil || len(page.Entries) != 2 || !page.Entries[0].Corrupt || page.Entries[1].Corrupt {
			t.Errorf("%s: List = %+v, %v, want the first of two corrupt", name, page, err)
		}
		edit(t, s, k.encode(), func([]byte) []byte { return good })
	}
	if got := s.Status().Corrupt - n; got < uint64(3*len(damage)) {
		t.Errorf("counted %d corrupt records, want at least %d", got, 3*len(damage))
	}
	if st := get(t, s, k); st.Digest != ack.Digest {
		t.Error("the restored record reads differently")
	}
	// The record of another key, whole as it is, is not this key's.
	var foreign []byte
	edit(t, s, other.encode(), func(b []byte) []byte { foreign = bytes.Clone(b); return b })
	edit(t, s, k.encode(), func([]byte) []byte { return foreign })
	if _, err := s.Get(k); !errors.Is(err, ErrCorrupt) {
		t.Errorf("record of another key: %v, want ErrCorrupt", err)
	}
}

func TestMergeOntoCorruptIsIncompleteUntilHealed(t *testing.T) {
	s := openMemory(t, Options{})
	k := Key{1, "b", "k"}
	m, _ := put(t, s, k, "lost")
	edit(t, s, k.encode(), func(b []byte) []byte { b[recordHeader] ^= 1; return b })

	from := peerObject(7, 1, "peer")
	ack, err := s.Merge(t.Context(), k, from, MergeOptions{})
	if err != nil || !ack.Changed || !ack.Object.Equal(from) {
		t.Fatalf("Merge onto corrupt = %+v, %v", ack, err)
	}
	st := get(t, s, k)
	if !st.Found || !st.Incomplete || !st.Record.Own.Actor.IsZero() {
		t.Errorf("after a merge onto corrupt: %+v, want found, incomplete, no own actor", st)
	}
	if d, err := s.Digest(k); err != nil || !d.Incomplete || d.Digest != st.Digest {
		t.Errorf("Digest = %+v, %v, want incomplete", d, err)
	}
	if _, _, err := s.Mint(t.Context(), k, vclock.Write{}, nil); !errors.Is(err, ErrIncomplete) {
		t.Errorf("Mint on incomplete: %v", err)
	}
	// A second peer's copy does not make it complete; what all others hold does, even if nothing else changes.
	if _, err := s.Merge(t.Context(), k, peerObject(8, 1, "second"), MergeOptions{}); err != nil || !get(t, s, k).Incomplete {
		t.Errorf("after a second merge: %v, want still incomplete", err)
	}
	if ack, err := s.Merge(t.Context(), k, from, MergeOptions{Heal: true}); err != nil || ack.Changed || get(t, s, k).Incomplete {
		t.Errorf("heal = %+v, %v, want unchanged and complete", ack, err)
	}
	again, _ := put(t, s, k, "new")
	if again.Dot.Actor == m.Dot.Actor {
		t.Error("an actor was continued on a record that was replaced")
	}
}

func TestHealOfAKeyThatNobodyHolds(t *testing.T) {
	s := openMemory(t, Options{})
	k := Key{1, "b", "k"}
	put(t, s, k, "lost")
	edit(t, s, k.encode(), func(b []byte) []byte { return b[:3] })
	if _, err := s.Merge(t.Context(), k, vclock.Object{}, MergeOptions{Heal: true}); err != nil {
		t.Fatal(err)
	}
	for what, read := range map[string]func(Key) (Stored, error){"Get": s.Get, "Digest": s.Digest} {
		if st, err := read(k); err != nil || st.Found || st.Digest != (vclock.Digest{}) {
			t.Errorf("%s = %+v, %v, want not found", what, st, err)
		}
	}
}

func FuzzDecodeRecord(f *testing.F) {
	k, r := goldenRecord()
	payload := encodeObject(r.Object)
	h := newHeader(r, r.Digest(k.Bucket, k.Key), false)
	h.size = len(payload)
	f.Add(h.encode(k.encode(), payload), false)
	f.Add(h.encode(k.encode(), payload), true)
	h.chunked, h.size = true, 2<<20
	f.Add(h.encode(k.encode(), chunkRef{1, 4, 2}.encode()), true)
	f.Fuzz(func(t *testing.T, b []byte, seal bool) {
		key := k.encode()
		if seal && len(b) >= recordHeader { // get past the checksum
			copy(b, recordMagic)
			be64(b[recordSum:], recordChecksum(key, b))
		}
		h, payload, err := decodeHeader(key, b)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		if got := h.encode(key, payload); !bytes.Equal(got, b) {
			t.Fatalf("encoded again:\n%x\nwas:\n%x", got, b)
		}
		if h.chunked {
			if ref, err := decodeChunkRef(payload, h.size); err == nil && !bytes.Equal(ref.encode(), payload) {
				t.Fatal("chunk reference differs")
			}
			return
		}
		if o, err := decodeObject(payload); err == nil {
			again, err := decodeObject(encodeObject(o))
			if err != nil || !again.Equal(o) {
				t.Fatalf("object read back: %v", err)
			}
		}
	})
}

func be64(b []byte, v uint64) {
	for i := range 8 {
		b[i] = byte(v >> (56 - 8*i))
	}
}
