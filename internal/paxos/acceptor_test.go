package paxos

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAcceptorAnswers(t *testing.T) {
	low, mid, high := ballot(1, 9), ballot(2, 1), ballot(2, 2)
	v, w := []byte("v"), []byte("w")
	fresh := State{Epoch: 5}
	promised := State{Epoch: 5, Promised: mid}
	accepted := State{Epoch: 5, Promised: mid, Accepted: mid, Value: v}
	done := State{Epoch: 5, Decided: true, Value: v}
	for _, c := range []struct {
		name    string
		state   State
		request Request
		next    State
		reply   Reply
	}{
		{"first prepare", fresh, Request{Kind: KindPrepare, Ballot: mid},
			promised, Reply{Kind: KindPromise, Ballot: mid}},
		{"lower prepare", promised, Request{Kind: KindPrepare, Ballot: low},
			promised, Reply{Kind: KindRefused, Ballot: low, Promised: mid}},
		{"the same prepare again", promised, Request{Kind: KindPrepare, Ballot: mid},
			promised, Reply{Kind: KindRefused, Ballot: mid, Promised: mid}},
		{"higher prepare tells what was accepted", accepted, Request{Kind: KindPrepare, Ballot: high},
			State{Epoch: 5, Promised: high, Accepted: mid, Value: v},
			Reply{Kind: KindPromise, Ballot: high, Accepted: mid, Value: v}},
		{"accept what was promised", promised, Request{Kind: KindAccept, Ballot: mid, Value: v},
			accepted, Reply{Kind: KindAccepted, Ballot: mid}},
		{"accept without a promise of one's own", promised, Request{Kind: KindAccept, Ballot: high, Value: w},
			State{Epoch: 5, Promised: high, Accepted: high, Value: w}, Reply{Kind: KindAccepted, Ballot: high}},
		{"accept below the promise", promised, Request{Kind: KindAccept, Ballot: low, Value: v},
			promised, Reply{Kind: KindRefused, Ballot: low, Promised: mid}},
		{"the same accept again", accepted, Request{Kind: KindAccept, Ballot: mid, Value: v},
			accepted, Reply{Kind: KindAccepted, Ballot: mid}},
		{"another value under the same ballot", accepted, Request{Kind: KindAccept, Ballot: mid, Value: w},
			accepted, Reply{Kind: KindRefused, Ballot: mid, Promised: mid}},
		{"prepare of what is decided", done, Request{Kind: KindPrepare, Ballot: high},
			done, Reply{Kind: KindDecided, Ballot: high, Value: v}},
		{"accept of what is decided", done, Request{Kind: KindAccept, Ballot: high, Value: w},
			done, Reply{Kind: KindDecided, Ballot: high, Value: v}},
		{"decide over what was accepted", accepted, Request{Kind: KindDecide, Ballot: high, Value: v},
			done, Reply{Kind: KindDecided, Ballot: high, Value: v}},
		{"decide again", done, Request{Kind: KindDecide, Ballot: low, Value: v},
			done, Reply{Kind: KindDecided, Ballot: low, Value: v}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.request.Epoch, c.reply.Epoch = 5, 5
			next, reply, err := c.state.Handle(c.request)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.next, next); diff != "" {
				t.Errorf("state (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.reply, reply); diff != "" {
				t.Errorf("reply (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAcceptorRefusesWhatCannotBe(t *testing.T) {
	done := State{Epoch: 5, Decided: true, Value: []byte("v")}
	next, _, err := done.Handle(Request{Kind: KindDecide, Epoch: 5, Ballot: ballot(1, 1), Value: []byte("w")})
	if !errors.Is(err, ErrForked) || !next.Equal(done) {
		t.Errorf("a second decision: %v, %+v", err, next)
	}
	if _, _, err := done.Handle(Request{Kind: KindPrepare, Epoch: 6, Ballot: ballot(1, 1)}); !errors.Is(err, ErrInvalid) {
		t.Errorf("another epoch: %v", err)
	}
	if _, err := (State{Epoch: 5}).Decide(nil); !errors.Is(err, ErrInvalid) {
		t.Errorf("nothing decided: %v", err)
	}
	if next, reply := (State{Epoch: 5}).Accept(Ballot{}, []byte("v")); reply.Kind != KindRefused || !next.Equal(State{Epoch: 5}) {
		t.Errorf("no ballot: %v", reply.Kind)
	}
}
