package coordinator

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

func testScope(bucket, key string) vclock.Scope { return vclock.Scope{Bucket: bucket, Key: key} }

func TestPutMessageRoundTrip(t *testing.T) {
	d := vclock.Dot{Actor: vclock.Actor{Node: [16]byte{1}}, Counter: 3}
	req := PutRequest{
		Bucket: "b", Key: "k\x00", HasContext: true, W: 2, DW: 1, PW: 3, R: 2, Sloppy: true, ReturnBody: true,
		Write: vclock.Write{
			Value: []byte("v"), ContentType: "text/plain", Deleted: true, Expiry: 77, ID: clientID(4), LastWriteWins: true,
			Context: vclock.Context{Vector: vclock.VersionVector{d}, Stamp: 9, IDs: []vclock.WriteID{clientID(5)}},
		},
	}
	m := putMessage{epoch: 5, budget: 1234, req: req}
	got, err := decodePut(m.encode(testScope("b", "k\x00")), testScope)
	if err != nil || got.epoch != 5 || got.budget != 1234 {
		t.Fatalf("%+v, %v", got, err)
	}
	if diff := cmp.Diff(req, got.req); diff != "" {
		t.Fatal(diff)
	}
}

// What the coordinator says of a failure reaches the forwarding node whole.
func TestPutReplyCarriesEveryError(t *testing.T) {
	q := &QuorumError{
		Kind: Timeout, Parameter: "dw", Required: 2, Acked: 1, N: 3, Outcome: Indeterminate, Reason: "why",
		Replicas: []ReplicaOutcome{{Node: ring.NodeID{1}, Name: "n1", Role: "primary", Outcome: "full", Detail: "d"}},
	}
	r := putReply{failed: describe(q)}
	back, err := decodePutReply(r.encode())
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := errors.AsType[*QuorumError](back.failed.err()); !ok || !cmp.Equal(got, q) {
		t.Fatalf("%+v", back.failed.err())
	}
	for _, m := range mintErrors {
		r := putReply{failed: describe(m)}
		back, err := decodePutReply(r.encode())
		if err != nil || !errors.Is(back.failed.err(), m) {
			t.Fatalf("%v came back as %v (%v)", m, back.failed.err(), err)
		}
	}
	a := &attemptError{failure{word: wordFull, detail: "no room"}}
	r = putReply{failed: describe(a)}
	back, _ = decodePutReply(r.encode())
	if got, ok := errors.AsType[*attemptError](back.failed.err()); !ok || got.failure.word != wordFull {
		t.Fatalf("%v", back.failed.err())
	}
}

func FuzzMessages(f *testing.F) {
	m := mergeMessage{epoch: 1, bucket: "b", key: "k", heal: true}
	f.Add(m.encode())
	rd := readMessage{epoch: 1, bucket: "b", key: "k", mode: readUnless}
	f.Add(rd.encode())
	p := putMessage{req: PutRequest{Bucket: "b", Key: "k"}}
	f.Add(p.encode(testScope("b", "k")))
	l := listReply{entries: []ListEntry{{Key: "k", All: Life{Deleted: true}, Winner: Life{Expiry: 5}}}, more: true}
	f.Add(l.encode())
	r := putReply{failed: describe(vclock.ErrClock)}
	f.Add(r.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := decodeMerge(b); err == nil {
			if again, err := decodeMerge(m.encode()); err != nil || !again.object.Equal(m.object) || again.key != m.key {
				t.Fatal("merge message")
			}
		}
		if m, err := decodeRead(b); err == nil {
			if again, err := decodeRead(m.encode()); err != nil || again != m {
				t.Fatal("read message")
			}
		}
		_, _ = decodePut(b, testScope)
		_, _ = decodeAnswer(b)
		_, _ = decodePutReply(b)
		_, _ = decodeFsynced(b)
		_, _ = decodeList(b)
		if r, err := decodeListReply(b); err == nil {
			if again, err := decodeListReply(r.encode()); err != nil || len(again.entries) != len(r.entries) {
				t.Fatal("list reply")
			}
		}
	})
}

func FuzzExplanation(f *testing.F) {
	d := vclock.Dot{Actor: vclock.Actor{Node: [16]byte{1}}, Counter: 1}
	o := vclock.Object{Context: vclock.VersionVector{d}, Siblings: []vclock.Sibling{{Dot: d}}}
	x := Explanation{Epoch: 1, Copy: Holding{Found: true, Object: o, Sizes: []int{5}}}
	f.Add(x.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := decodeExplanation(b)
		if err != nil {
			return
		}
		if again, err := decodeExplanation(x.encode()); err != nil || !again.Copy.Object.Equal(x.Copy.Object) {
			t.Fatalf("%v", err)
		}
	})
}
