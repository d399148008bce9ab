package storage

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/dunlindb/dunlin/vclock"
)

// bigObject is a peer's object whose values are not all alike.
func bigObject(node byte, n uint64, size int) vclock.Object {
	o := peerObject(node, n, "")
	value := make([]byte, size)
	for i := 0; i+8 <= size; i += 8 {
		be64(value[i:i+8], rand.Uint64())
	}
	o.Siblings[0].Value = value
	return o
}

func TestLargeObjects(t *testing.T) {
	path := t.TempDir()
	s, d := openTest(t, path, Options{})
	k := Key{5, "b", "big"}
	other := Key{5, "b", "big\x00"} // its chunks sort among those of k
	merge := func(k Key, o vclock.Object) Ack {
		t.Helper()
		ack, err := s.Merge(t.Context(), k, o, MergeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return ack
	}
	merge(other, bigObject(3, 1, 1<<20))
	for n, size := range []int{24 << 20, inlineMax - 4096, inlineMax, 3 << 20, 100} {
		o := bigObject(7, uint64(n)+1, size)
		ack := merge(k, o)
		st := get(t, s, k)
		if !st.Record.Equal(o) || st.Digest != o.Digest("b", "big") || ack.Digest != st.Digest {
			t.Fatalf("object of %d bytes reads back differently", size)
		}
		if d, err := s.Digest(k); err != nil || d.Digest != st.Digest || !d.Found {
			t.Fatalf("Digest of %d bytes = %+v, %v", size, d, err)
		}
		want := chunkCount(1<<20 + 1) // of other
		if e := len(encodeObject(o)); e > inlineMax {
			want += chunkCount(e)
		}
		// The replaced chunks go after the acknowledgement; the next write of the shard waits for that.
		put(t, s, Key{5, "b", "barrier"}, "")
		if got := len(rawKeys(t, s, spaceChunk)); got != want {
			t.Errorf("%d chunks after an object of %d bytes, want %d", got, size, want)
		}
	}
	merge(k, bigObject(8, 1, 2<<20))
	want := get(t, s, k)
	closeTest(t, s, d)
	s, _ = openTest(t, path, Options{})
	if st := get(t, s, k); st.Digest != want.Digest || !st.Record.Equal(want.Record.Object) {
		t.Error("large object differs after a restart")
	}
}

func TestDamagedChunkIsCorrupt(t *testing.T) {
	s := openMemory(t, Options{})
	k := Key{5, "b", "big"}
	o := bigObject(7, 1, 2<<20)
	for name, change := range map[string]func([]byte) []byte{
		"bit":     func(b []byte) []byte { b[10] ^= 1; return b },
		"missing": func([]byte) []byte { return nil },
		"cut":     func(b []byte) []byte { return b[:len(b)-1] },
		"longer":  func(b []byte) []byte { return append(b, make([]byte, 1000)...) },
	} {
		if _, err := s.Merge(t.Context(), k, o, MergeOptions{Heal: true}); err != nil {
			t.Fatal(err)
		}
		keys := rawKeys(t, s, spaceChunk)
		if len(keys) != 5 {
			t.Fatalf("%d chunks", len(keys))
		}
		edit(t, s, []byte(keys[len(keys)-1]), change)
		if _, err := s.Get(k); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: Get: %v", name, err)
		}
		if _, err := s.Digest(k); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: Digest: %v", name, err)
		}
		if ack, err := s.Merge(t.Context(), k, o, MergeOptions{Heal: true}); err != nil || !ack.Changed {
			t.Errorf("%s: heal = %v", name, err)
		}
		if st := get(t, s, k); st.Incomplete || !st.Record.Equal(o) {
			t.Errorf("%s: the healed record differs", name)
		}
		put(t, s, Key{5, "b", "barrier"}, "")
		if got := len(rawKeys(t, s, spaceChunk)); got != 5 {
			t.Errorf("%s: %d chunks after healing", name, got)
		}
	}
}

// A crash between chunks and record leaves chunks that the next start removes, and no others.
func TestSweepRemovesOrphansOnly(t *testing.T) {
	path := t.TempDir()
	s, d := openTest(t, path, Options{})
	kept, inline, absent := Key{5, "b", "kept"}, Key{5, "b", "inline"}, Key{5, "b", "absent"}
	broken := Key{5, "b", "broken"}
	for _, k := range []Key{kept, broken} {
		if _, err := s.Merge(t.Context(), k, bigObject(7, 1, 2<<20), MergeOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	put(t, s, inline, "small")
	edit(t, s, broken.encode(), func(b []byte) []byte { return b[:10] })
	live := rawKeys(t, s, spaceChunk)
	orphan := bytes.Repeat([]byte{1}, chunkSize+1)
	for _, k := range []Key{kept, inline, absent} {
		if _, err := s.writeChunks(k.encode(), orphan); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := len(rawKeys(t, s, spaceChunk)), len(live)+6; got != want {
		t.Fatalf("%d chunks, want %d", got, want)
	}
	closeTest(t, s, d)
	s, _ = openTest(t, path, Options{})
	deadline := time.Now().Add(20 * time.Second) // of a loaded machine
	var got []string
	for time.Now().Before(deadline) {
		if got = rawKeys(t, s, spaceChunk); len(got) == len(live) {
			break
		}
	}
	if len(got) != len(live) {
		t.Fatalf("%d chunks after the sweep, want %d", len(got), len(live))
	}
	for i := range got {
		if got[i] != live[i] {
			t.Errorf("chunk %d is another one", i)
		}
	}
	get(t, s, kept)
}

// A batch must stay within one transaction of badger's with the smallest memtable, also where its last record is the
// largest that there is.
func TestBatchStaysWithinATransaction(t *testing.T) {
	s := openMemory(t, Options{Shards: 1, QueueBytes: 1 << 30, tune: func(o badger.Options) badger.Options {
		return o.WithMemTableSize(memTableSize)
	}})
	sh := s.shards[0]
	const largest = inlineMax - 4096
	for name, sizes := range map[string]struct{ size, last int }{
		"large": {200 << 10, 200 << 10}, "small": {300, 300}, "chunked": {900 << 10, 900 << 10}, "largest": {largest, largest},
		"small, then the largest": {300, largest},
	} {
		b := newBatch(sh)
		n := 0
		for ; !b.full(); n++ {
			size := sizes.size
			if b.weight+size+2*MaxKey > batchBytes {
				size = sizes.last
			}
			k := Key{n, "b", string(bytes.Repeat([]byte{'k'}, MaxKey-len(name)-2)) + name + string(rune('a'+n%26)) + string(rune('a'+n/26))}
			o := &op{ctx: t.Context(), k: k, key: k.encode(), object: bigObject(7, 1, size), done: make(chan struct{}), level: levelNoReplica}
			b.take(o)
			if o.err != nil {
				t.Fatal(o.err)
			}
		}
		if err := b.commit(); err != nil || errors.Is(err, badger.ErrTxnTooBig) {
			t.Errorf("%s: batch of %d: %v", name, n, err)
		}
		if n < 2 && sizes.size < batchBytes {
			t.Errorf("%s: batch of %d", name, n)
		}
		b.end()
	}
}

// Who reads a large object while it is replaced sees the one or the other, and all of it.
func TestReadsBesideReplacement(t *testing.T) {
	s := openMemory(t, Options{})
	k := Key{5, "b", "big"}
	objects := []vclock.Object{bigObject(7, 1, 1<<20), bigObject(7, 2, 900<<10), bigObject(7, 3, 100)}
	known := make(map[vclock.Digest]bool)
	for _, o := range objects {
		known[o.Digest("b", "big")] = true
	}
	if _, err := s.Merge(t.Context(), k, objects[0], MergeOptions{}); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				st, err := s.Get(k)
				if err != nil || !st.Found || !known[st.Digest] || st.Record.Digest("b", "big") != st.Digest {
					t.Errorf("found %v %x, %v", st.Found, st.Digest, err)
					return
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for _, o := range objects {
		if _, err := s.Merge(t.Context(), k, o, MergeOptions{}); err != nil {
			t.Error(err)
		}
		put(t, s, Key{5, "b", "barrier"}, "") // the pieces are gone
	}
	close(stop)
	wg.Wait()
}
