package hinted

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dunlindb/dunlin/internal/wire"
	"github.com/dunlindb/dunlin/vclock"
)

func samples() map[string][]byte {
	o := object(5, 3)
	deleted := object(6, 0)
	deleted.Siblings[0].Deleted, deleted.Siblings[0].Value = true, nil
	batch := batchMessage{epoch: 7, items: []item{{"b", "k1", 3, o}, {"b", "k2", 0, deleted}}}
	return map[string][]byte{
		"batch":   batch.encode(),
		"answer":  (&answerMessage{statuses: []status{stored, stale, refused, failed}, text: "why"}).encode(),
		"dropped": (&droppedMessage{7, []int{0, 3, 65535}}).encode(),
		"marked":  encodeMarked(3),
	}
}

// recode decodes a message and encodes it again.
func recode(kind string, b []byte) ([]byte, error) {
	switch kind {
	case "batch":
		m, err := decodeBatch(b)
		return m.encode(), err
	case "answer":
		m, err := decodeAnswer(b)
		return m.encode(), err
	case "dropped":
		m, err := decodeDropped(b)
		return m.encode(), err
	default:
		n, err := decodeMarked(b)
		return encodeMarked(n), err
	}
}

// Nodes of different releases exchange these: a change needs a new version number.
func TestGoldenMessages(t *testing.T) {
	for kind, b := range samples() {
		file := filepath.Join("testdata", kind+".hex")
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatalf("%v; it should hold\n%s", err, hex.EncodeToString(b))
		}
		if got := hex.EncodeToString(b); got != strings.TrimSpace(string(want)) {
			t.Errorf("%s is encoded as %s", kind, got)
		}
		if again, err := recode(kind, b); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%s does not survive decoding: %v", kind, err)
		}
	}
}

func TestBatchRoundTrip(t *testing.T) {
	in := batchMessage{epoch: 7, items: []item{{"b", "k1", 3, object(5, 3)}, {"b2", "k2", 1 << 60, object(9, 2000)}}}
	out, err := decodeBatch(in.encode())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(in, out, cmp.AllowUnexported(batchMessage{}, item{}, vclock.Object{})); d != "" {
		t.Fatal(d)
	}
}

func TestMalformedMessages(t *testing.T) {
	for kind, b := range samples() {
		for n := range b {
			if _, err := recode(kind, b[:n]); !errors.Is(err, wire.ErrMalformed) {
				t.Fatalf("%s cut to %d bytes: %v", kind, n, err)
			}
		}
		if _, err := recode(kind, append(bytes.Clone(b), 0)); !errors.Is(err, wire.ErrMalformed) {
			t.Fatalf("%s with a byte more: %v", kind, err)
		}
		newer := bytes.Clone(b)
		newer[1] = messageVersion + 1
		if _, err := recode(kind, newer); !errors.Is(err, wire.ErrMalformed) {
			t.Fatalf("%s of another version: %v", kind, err)
		}
	}
	many := batchMessage{items: make([]item, maxItems+1)}
	for i := range many.items {
		many.items[i] = item{"b", "k", 0, object(1, 0)}
	}
	for name, b := range map[string][]byte{
		"too many hints":        many.encode(),
		"a hint without a key":  (&batchMessage{items: []item{{"b", "", 0, object(1, 0)}}}).encode(),
		"no bucket":             (&batchMessage{items: []item{{"", "k", 0, object(1, 0)}}}).encode(),
		"a key that is too big": (&batchMessage{items: []item{{"b", strings.Repeat("k", maxKey+1), 0, object(1, 0)}}}).encode(),
	} {
		if _, err := decodeBatch(b); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := decodeAnswer((&answerMessage{statuses: []status{statuses}}).encode()); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("an unknown status: %v", err)
	}
	if _, err := decodeDropped((&droppedMessage{partitions: make([]int, maxDropped+1)}).encode()); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("too many partitions: %v", err)
	}
	if b := (&answerMessage{text: strings.Repeat("x", 10_000)}).encode(); len(b) > maxText+16 {
		t.Errorf("an answer of %d bytes", len(b))
	}
}

func FuzzDecode(f *testing.F) {
	for _, b := range samples() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for kind := range samples() {
			again, err := recode(kind, b)
			if err != nil {
				if !errors.Is(err, wire.ErrMalformed) {
					t.Fatalf("%s: %v", kind, err)
				}
				continue
			}
			// What is accepted means the same when it is sent on.
			twice, err := recode(kind, again)
			if err != nil || !bytes.Equal(again, twice) {
				t.Fatalf("%s: %x, then %x: %v", kind, again, twice, err)
			}
		}
	})
}
