package buckets

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/internal/wire"
	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// goldenRecord is on disks: it must stay readable for ever.
const goldenRecord = "9801a56361727473cf0000000100020003c4100102030405060708090a0b0c0d0e0f10a132a6" + "71756f72756dc3ce05265c00"

func TestGoldenRecord(t *testing.T) {
	want := record{"carts", Properties{
		R: "2", W: "quorum", LastWriteWins: true, TTL: 24 * time.Hour,
		Version: Version{vclock.Stamp(0x100020003), ring.NodeID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}},
	}}
	if got := hex.EncodeToString(want.bytes()); got != goldenRecord {
		t.Errorf("encoded as %s", got)
	}
	b, err := hex.DecodeString(goldenRecord)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := parseRecord(b); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestMalformed(t *testing.T) {
	good := record{"b", Properties{R: "1", Version: Version{1, ring.NodeID{1}}}}
	for name, change := range map[string]func(*record){
		"bucket":       func(r *record) { r.bucket = "a b" },
		"r":            func(r *record) { r.R = "x" },
		"r as written": func(r *record) { r.R = "ONE" },
		"w":            func(r *record) { r.W = "0" },
		"stamp":        func(r *record) { r.Version.Stamp = 1<<63 + 1 },
		"no stamp":     func(r *record) { r.Version.Stamp = 0 },
		"node":         func(r *record) { r.Version.Node = ring.NodeID{} },
		"ttl":          func(r *record) { r.TTL = 2 * MaxTTL },
	} {
		r := good
		change(&r)
		if _, err := parseRecord(r.bytes()); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	second := good
	second.bucket = "a"
	for name, p := range map[string]page{
		"out of order": {records: []record{good, second}}, "twice": {records: []record{good, good}}, "empty and more": {more: true},
	} {
		if _, err := parsePage(p.bytes()); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("page %s: %v", name, err)
		}
	}
	w := newWorld(t, 1)
	for endpoint, h := range w.node(1).Handlers() {
		if _, err := h(t.Context(), ring.NodeID{2}, []byte{0xc1}); err == nil && endpoint != EndpointDigest {
			t.Errorf("%s takes garbage", endpoint)
		}
	}
}

func FuzzCodec(f *testing.F) {
	r := record{"carts", Properties{R: "2", TTL: time.Second, Version: Version{5, ring.NodeID{1}}}}
	f.Add(r.bytes())
	f.Add(page{records: []record{r}, more: true}.bytes())
	f.Add(afterBytes("carts"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := parseRecord(b); err == nil {
			if again, err := parseRecord(r.bytes()); err != nil || again != r {
				t.Fatalf("%+v came back as %+v, %v", r, again, err)
			}
		}
		if p, err := parsePage(b); err == nil {
			if again, err := parsePage(p.bytes()); err != nil || !bytes.Equal(again.bytes(), p.bytes()) {
				t.Fatalf("%+v came back as %+v, %v", p, again, err)
			}
		}
		if after, err := parseAfter(b); err == nil {
			if again, err := parseAfter(afterBytes(after)); err != nil || again != after {
				t.Fatalf("%q came back as %q, %v", after, again, err)
			}
		}
	})
}
