package antientropy

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dunlindb/dunlin/vclock"
)

func testObject() vclock.Object {
	dot := vclock.Dot{Actor: vclock.Actor{Node: [16]byte{1}, Birth: vclock.Birth{Millis: 5, Rand: 6}}, Counter: 3}
	return vclock.Object{
		Context:  vclock.VersionVector{dot},
		Siblings: []vclock.Sibling{{Dot: dot, Value: []byte("v"), ContentType: "text/plain", Stamp: 7}},
	}
}

func testKeysReply() keysReply {
	return keysReply{lists: []list{
		{entries: []KeyEntry{
			{Bucket: "a", Key: "1", Digest: vclock.Digest{1}, Incomplete: true},
			{Bucket: "a", Key: "2", Digest: vclock.Digest{2}, Corrupt: true},
			{Bucket: "b", Key: "1", Digest: vclock.Digest{3}, Removing: true},
		}},
		{},
		{entries: []KeyEntry{{Bucket: "a", Key: "9"}}, more: true},
	}}
}

func TestMessagesRoundTrip(t *testing.T) {
	same := func(name string, want, got any, err error) {
		t.Helper()
		d := cmp.Diff(want, got, cmp.AllowUnexported(rootsRequest{}, rootsReply{}, leavesRequest{}, leavesReply{}, keysRequest{},
			span{}, keysReply{}, list{}, objectsRequest{}, named{}, fetchReply{}, found{}, pushReply{}))
		if err != nil || d != "" {
			t.Errorf("%s: %v %s", name, err, d)
		}
	}
	rr := rootsRequest{epoch: 3, asked: bitmap{5}, roots: bytes.Repeat([]byte{9}, 32)}
	got, err := decodeRootsRequest(rr.encode())
	same("roots", rr, got, err)
	ra := rootsReply{flags: []byte{0, rootDiffers, rootNotReady | rootDamaged}}
	got2, err := decodeRootsReply(ra.encode())
	same("roots reply", ra, got2, err)
	lr := leavesRequest{epoch: 3, partitions: []int{0, 65535}}
	got3, err := decodeLeavesRequest(lr.encode())
	same("leaves", lr, got3, err)
	la := leavesReply{sums: []*[Leaves]Sum{nil, {0: {1}, 255: {2}}}}
	got4, err := decodeLeavesReply(la.encode())
	same("leaves reply", la, got4, err)
	kr := keysRequest{epoch: 3, spans: []span{{1, AllLeaves, Cursor{}}, {2, 255, Cursor{"b", "k"}}}}
	got5, err := decodeKeysRequest(kr.encode())
	same("keys", kr, got5, err)
	ka := testKeysReply()
	got6, err := decodeKeysReply(ka.encode())
	same("keys reply", ka, got6, err)
	fr := objectsRequest{epoch: 3, limit: 77, fetch: []Cursor{{"b", "k"}}}
	got7, err := decodeObjectsRequest(fr.encode())
	same("fetch", fr, got7, err)
	pr := objectsRequest{epoch: 3, kind: objectsPush, push: []named{{"b", "k", 9, testObject()}}}
	got8, err := decodeObjectsRequest(pr.encode())
	same("push", pr, got8, err)
	fa := fetchReply{found: []found{{foundObject, 4, testObject()}, {state: foundCorrupt}}}
	got9, err := decodeFetchReply(fa.encode())
	same("fetch reply", fa, got9, err)
	pa := pushReply{states: []byte{pushMerged, pushStale, pushRefused}}
	got10, err := decodePushReply(pa.encode())
	same("push reply", pa, got10, err)
}

// A peer's list that is out of order would make keys look as if they were missing.
func TestKeysOutOfOrderAreRefused(t *testing.T) {
	for _, entries := range [][]KeyEntry{
		{{Bucket: "a", Key: "2"}, {Bucket: "a", Key: "1"}},
		{{Bucket: "a", Key: "1"}, {Bucket: "a", Key: "1"}},
		{{Bucket: "b", Key: "1"}, {Bucket: "a", Key: "2"}},
	} {
		m := keysReply{lists: []list{{entries: entries}}}
		if _, err := decodeKeysReply(m.encode()); err == nil {
			t.Errorf("%v was taken", entries)
		}
	}
	endless := keysReply{lists: []list{{more: true}}}
	if _, err := decodeKeysReply(endless.encode()); err == nil {
		t.Error("an empty list that goes on was taken")
	}
}

func FuzzMessages(f *testing.F) {
	rr := rootsRequest{epoch: 3, asked: bitmap{5}, roots: make([]byte, 32)}
	ra := rootsReply{flags: []byte{0, 1}}
	lr := leavesRequest{epoch: 3, partitions: []int{1, 2}}
	la := leavesReply{sums: []*[Leaves]Sum{nil, {}}}
	kr := keysRequest{epoch: 3, spans: []span{{2, 255, Cursor{"b", "k"}}}}
	ka := testKeysReply()
	or := objectsRequest{epoch: 3, kind: objectsPush, push: []named{{"b", "k", 9, testObject()}}}
	fa := fetchReply{found: []found{{foundObject, 4, testObject()}}}
	pa := pushReply{states: []byte{pushStale}}
	for _, b := range [][]byte{rr.encode(), ra.encode(), lr.encode(), la.encode(), kr.encode(), ka.encode(), or.encode(), fa.encode(), pa.encode()} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = decodeRootsRequest(b)
		_, _ = decodeRootsReply(b)
		_, _ = decodeLeavesReply(b)
		_, _ = decodePushReply(b)
		if m, err := decodeLeavesRequest(b); err == nil {
			if again, err := decodeLeavesRequest(m.encode()); err != nil || !cmp.Equal(again.partitions, m.partitions) {
				t.Fatal("leaves request")
			}
		}
		if m, err := decodeKeysRequest(b); err == nil {
			if again, err := decodeKeysRequest(m.encode()); err != nil || !cmp.Equal(again.spans, m.spans, cmp.AllowUnexported(span{})) {
				t.Fatal("keys request")
			}
		}
		if m, err := decodeKeysReply(b); err == nil {
			if again, err := decodeKeysReply(m.encode()); err != nil || !cmp.Equal(again.lists, m.lists, cmp.AllowUnexported(list{})) {
				t.Fatal("keys reply")
			}
		}
		if m, err := decodeObjectsRequest(b); err == nil {
			if again, err := decodeObjectsRequest(m.encode()); err != nil || len(again.push) != len(m.push) || !cmp.Equal(again.fetch, m.fetch) {
				t.Fatal("objects request")
			}
		}
		if m, err := decodeFetchReply(b); err == nil {
			if again, err := decodeFetchReply(m.encode()); err != nil || len(again.found) != len(m.found) {
				t.Fatal("fetch reply")
			}
		}
	})
}
