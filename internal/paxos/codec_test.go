package paxos

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dunlindb/dunlin/internal/wire"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew; a changed file is a changed disk format")

func ballot(counter uint64, run byte) Ballot {
	return Ballot{Counter: counter, Proposer: [16]byte{run, 15: 0xee}}
}

func sampleStates() []State {
	return []State{
		{Epoch: 1},
		{Epoch: 300, Promised: ballot(7, 2)},
		{Epoch: 300, Promised: ballot(1<<40, 2), Accepted: ballot(7, 9), Value: []byte("layout")},
		{Epoch: 1 << 50, Decided: true, Value: []byte{0, 1, 0xff}},
	}
}

func sampleRequests() []Request {
	return []Request{
		{Kind: KindPrepare, Epoch: 2, Ballot: ballot(1, 1)},
		{Kind: KindAccept, Epoch: 2, Ballot: ballot(1, 1), Value: []byte("layout")},
		{Kind: KindDecide, Epoch: 2, Ballot: ballot(MaxCounter, 1), Value: []byte("layout")},
	}
}

func sampleReplies() []Reply {
	return []Reply{
		{Kind: KindPromise, Epoch: 2, Ballot: ballot(4, 1)},
		{Kind: KindPromise, Epoch: 2, Ballot: ballot(4, 1), Accepted: ballot(3, 9), Value: []byte("layout")},
		{Kind: KindAccepted, Epoch: 2, Ballot: ballot(4, 1)},
		{Kind: KindRefused, Epoch: 2, Ballot: ballot(4, 1), Promised: ballot(4, 2)},
		{Kind: KindDecided, Epoch: 2, Ballot: ballot(4, 1), Value: []byte("layout")},
	}
}

func encoded(encode func(*wire.Encoder)) []byte {
	e := wire.NewEncoder()
	defer e.Free()
	encode(e)
	return e.Copy()
}

func decodeRequest(b []byte) (Request, error) {
	d := wire.NewDecoder(b)
	r := DecodeRequest(d)
	return r, d.Done()
}

func decodeReply(b []byte) (Reply, error) {
	d := wire.NewDecoder(b)
	r := DecodeReply(d)
	return r, d.Done()
}

func TestGoldenStates(t *testing.T) {
	var text strings.Builder
	for _, s := range sampleStates() {
		text.WriteString(hex.EncodeToString(s.Encode()) + "\n")
	}
	path := filepath.Join("testdata", "states.hex")
	if *rewrite {
		if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text.String()); diff != "" {
		t.Errorf("the format on the disk has changed (-want +got):\n%s", diff)
	}
	for i, line := range strings.Fields(string(want)) {
		b, err := hex.DecodeString(line)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeState(b)
		if err != nil {
			t.Fatalf("state %d: %v", i, err)
		}
		if diff := cmp.Diff(sampleStates()[i], got); diff != "" {
			t.Errorf("state %d (-want +got):\n%s", i, diff)
		}
	}
}

// Whatever single bit a disk flips, and wherever a file ends, the acceptor sees it.
func TestDamagedStatesAreSeen(t *testing.T) {
	for i, s := range sampleStates() {
		good := s.Encode()
		for n := range good {
			if _, err := DecodeState(good[:n]); !errors.Is(err, wire.ErrMalformed) {
				t.Errorf("state %d cut to %d bytes: %v", i, n, err)
			}
			for bit := range 8 {
				bad := bytes.Clone(good)
				bad[n] ^= 1 << bit
				if got, err := DecodeState(bad); !errors.Is(err, wire.ErrMalformed) {
					t.Errorf("state %d, bit %d of byte %d flipped: %+v, %v", i, bit, n, got, err)
				}
			}
		}
	}
	impossible := []State{
		{Epoch: 1, Accepted: ballot(1, 1), Value: []byte("x")},
		{Epoch: 1, Promised: ballot(1, 1), Accepted: ballot(1, 1)},
		{Epoch: 1, Promised: ballot(1, 1), Value: []byte("x")},
		{Epoch: 1, Decided: true},
		{Epoch: 1, Decided: true, Promised: ballot(1, 1), Value: []byte("x")},
		{Epoch: 1, Promised: Ballot{Counter: 1}},
		{Epoch: 1, Promised: ballot(MaxCounter+1, 1)},
		{Epoch: 1, Decided: true, Value: make([]byte, MaxValue+1)},
	}
	for i, s := range impossible {
		if got, err := DecodeState(s.Encode()); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("impossible state %d: %+v, %v", i, got, err)
		}
	}
}

func TestMessagesRoundTrip(t *testing.T) {
	for _, want := range sampleRequests() {
		got, err := decodeRequest(encoded(want.Encode))
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%v: %v (-want +got):\n%s", want.Kind, err, diff)
		}
	}
	for _, want := range sampleReplies() {
		got, err := decodeReply(encoded(want.Encode))
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%v: %v (-want +got):\n%s", want.Kind, err, diff)
		}
	}
	full := Request{Kind: KindAccept, Epoch: 2, Ballot: ballot(1, 1), Value: make([]byte, MaxValue)}
	if got, err := decodeRequest(encoded(full.Encode)); err != nil || len(got.Value) != MaxValue {
		t.Errorf("a value of the greatest size: %d bytes, %v", len(got.Value), err)
	}
}

// A decoded value must not change when the frame's buffer is used again.
func TestDecodedValuesAreCopies(t *testing.T) {
	b := encoded(sampleRequests()[1].Encode)
	r, err := decodeRequest(b)
	if err != nil {
		t.Fatal(err)
	}
	clear(b)
	if string(r.Value) != "layout" {
		t.Errorf("value %q", r.Value)
	}
}

func TestImpossibleMessagesAreRefused(t *testing.T) {
	value, large := []byte("x"), make([]byte, MaxValue+1)
	requests := []Request{
		{Kind: 0, Epoch: 2, Ballot: ballot(1, 1)},
		{Kind: KindPromise, Epoch: 2, Ballot: ballot(1, 1)},
		{Kind: KindPrepare, Epoch: 2},
		{Kind: KindPrepare, Epoch: 2, Ballot: ballot(1, 1), Value: value},
		{Kind: KindAccept, Epoch: 2, Ballot: ballot(1, 1)},
		{Kind: KindAccept, Epoch: 2, Ballot: ballot(1, 1), Value: large},
		{Kind: KindDecide, Epoch: 2, Ballot: ballot(1, 1)},
		{Kind: KindPrepare, Epoch: 2, Ballot: ballot(MaxCounter+1, 1)},
		{Kind: KindPrepare, Epoch: 2, Ballot: Ballot{Counter: 1}},
	}
	for i, r := range requests {
		if _, err := decodeRequest(encoded(r.Encode)); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("request %d decoded: %v", i, err)
		}
		before := State{Epoch: 2, Promised: ballot(1, 0)}
		if after, _, err := before.Handle(r); !errors.Is(err, ErrInvalid) || !after.Equal(before) {
			t.Errorf("request %d handled: %v", i, err)
		}
	}
	replies := []Reply{
		{Kind: KindAccept, Epoch: 2, Ballot: ballot(4, 1)},
		{Kind: KindPromise, Epoch: 2},
		{Kind: KindPromise, Epoch: 2, Ballot: ballot(4, 1), Value: value},
		{Kind: KindPromise, Epoch: 2, Ballot: ballot(4, 1), Accepted: ballot(3, 1)},
		{Kind: KindPromise, Epoch: 2, Ballot: ballot(4, 1), Accepted: ballot(4, 1), Value: value},
		{Kind: KindAccepted, Epoch: 2, Ballot: ballot(4, 1), Promised: ballot(5, 1)},
		{Kind: KindAccepted, Epoch: 2, Ballot: ballot(4, 1), Accepted: ballot(3, 1)},
		{Kind: KindAccepted, Epoch: 2, Ballot: ballot(4, 1), Value: value},
		{Kind: KindRefused, Epoch: 2, Ballot: ballot(4, 1)},
		{Kind: KindDecided, Epoch: 2, Ballot: ballot(4, 1)},
		{Kind: KindDecided, Epoch: 2, Ballot: ballot(4, 1), Value: large},
	}
	for i, r := range replies {
		if _, err := decodeReply(encoded(r.Encode)); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("reply %d decoded: %v", i, err)
		}
	}
}

func FuzzDecodeState(f *testing.F) {
	for _, s := range sampleStates() {
		f.Add(s.Encode())
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		s, err := DecodeState(in)
		if err != nil {
			if !errors.Is(err, wire.ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(s.Encode(), in) {
			t.Fatalf("not as written: %+v", s)
		}
	})
}

// Whatever arrives, an acceptor's state stays one that can be stored and read, and its answer one that can be sent.
func FuzzDecodeRequest(f *testing.F) {
	for _, r := range sampleRequests() {
		f.Add(encoded(r.Encode))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := decodeRequest(in)
		if err != nil {
			if !errors.Is(err, wire.ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		for _, s := range sampleStates() {
			s.Epoch = r.Epoch
			next, reply, err := s.Handle(r)
			if err != nil {
				if !errors.Is(err, ErrForked) {
					t.Fatal(err)
				}
				continue
			}
			if got, err := DecodeState(next.Encode()); err != nil || !got.Equal(next) {
				t.Fatalf("state after %v: %v", r.Kind, err)
			}
			if _, err := decodeReply(encoded(reply.Encode)); err != nil {
				t.Fatalf("reply to %v: %v", r.Kind, err)
			}
		}
	})
}

func FuzzDecodeReply(f *testing.F) {
	for _, r := range sampleReplies() {
		f.Add(encoded(r.Encode))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := decodeReply(in)
		if err != nil {
			if !errors.Is(err, wire.ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		p, err := New(r.Epoch, [16]byte{1, 15: 0xee}, [][16]byte{{1}, {2}, {3}}, []byte("own"), 3)
		if err != nil {
			t.Fatal(err)
		}
		for _, from := range p.Acceptors() {
			p.On(from, r)
			if err := p.Request().check(); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.Restart(); err != nil && !errors.Is(err, ErrExhausted) {
			t.Fatal(err)
		}
	})
}
