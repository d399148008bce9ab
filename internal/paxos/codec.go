package paxos

import (
	"bytes"
	"hash/crc32"

	"github.com/dunlindb/dunlin/internal/wire"
)

const (
	stateVersion   = 1 // of State on the disk
	messageVersion = 1 // of Request and Reply
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func encodeBallot(e *wire.Encoder, b Ballot) {
	if b.IsZero() {
		e.Array(0)
		return
	}
	e.Array(2)
	e.Uint(b.Counter)
	e.Raw(b.Proposer[:])
}

// decodeBallot reads a ballot that a proposer can have made, or none.
func decodeBallot(d *wire.Decoder) Ballot {
	var b Ballot
	n := d.Array(2)
	if d.Err() != nil || n == 0 {
		return b
	}
	if n != 2 {
		d.Fail("ballot of one part")
		return b
	}
	b.Counter = d.Uint()
	d.Fixed(b.Proposer[:])
	if d.Err() == nil && !b.valid() {
		d.Fail("ballot that no proposer makes")
	}
	return b
}

func decodeVersion(d *wire.Decoder, want uint64) {
	if v := d.Uint(); d.Err() == nil && v != want {
		d.Fail("format of an unknown version")
	}
}

// decodeValue copies, so that a value outlives the frame or the page that it came in.
func decodeValue(d *wire.Decoder) []byte { return bytes.Clone(d.Raw(MaxValue)) }

func (s State) check() error {
	switch {
	case s.Decided && !(s.Promised.IsZero() && s.Accepted.IsZero()):
		return invalid("state: decided, with a ballot")
	case s.Accepted.Compare(s.Promised) > 0:
		return invalid("state: accepted %v above promised %v", s.Accepted, s.Promised)
	case (s.Decided || !s.Accepted.IsZero()) != (len(s.Value) > 0):
		return invalid("state: value of %d bytes with accepted %v, decided %v", len(s.Value), s.Accepted, s.Decided)
	case len(s.Value) > MaxValue:
		return invalid("state: value of %d bytes, at most %d", len(s.Value), MaxValue)
	}
	return nil
}

// Encode returns the state as it goes to the disk, with its format's version and a checksum.
func (s State) Encode() []byte {
	e := wire.NewEncoder()
	defer e.Free()
	e.Array(7)
	e.Uint(stateVersion)
	e.Uint(s.Epoch)
	encodeBallot(e, s.Promised)
	encodeBallot(e, s.Accepted)
	e.Bool(s.Decided)
	e.Raw(s.Value)
	e.Uint(uint64(crc32.Checksum(e.Bytes(), castagnoli)))
	return e.Copy()
}

// DecodeState reads what Encode wrote, byte for byte: anything else is an error, which wraps wire.ErrMalformed. An
// acceptor whose state cannot be read must not vote: it is not a fresh one.
func DecodeState(b []byte) (State, error) {
	d := wire.NewDecoder(b)
	var s State
	d.ArrayOf(7)
	decodeVersion(d, stateVersion)
	s.Epoch = d.Uint()
	s.Promised = decodeBallot(d)
	s.Accepted = decodeBallot(d)
	s.Decided = d.Bool()
	s.Value = decodeValue(d)
	d.Uint()
	if err := d.Done(); err != nil {
		return State{}, err
	}
	if err := s.check(); err != nil {
		d.Fail(err.Error())
	} else if !bytes.Equal(s.Encode(), b) {
		d.Fail("state with a wrong checksum, or not as it was written")
	}
	if err := d.Err(); err != nil {
		return State{}, err
	}
	return s, nil
}

// Encode appends the request to e.
func (r Request) Encode(e *wire.Encoder) {
	e.Array(5)
	e.Uint(messageVersion)
	e.Uint(uint64(r.Kind))
	e.Uint(r.Epoch)
	encodeBallot(e, r.Ballot)
	e.Raw(r.Value)
}

// DecodeRequest reads a request. The value is a copy. Errors stick to d.
func DecodeRequest(d *wire.Decoder) Request {
	var r Request
	d.ArrayOf(5)
	decodeVersion(d, messageVersion)
	r.Kind = Kind(d.Count(int(KindDecided)))
	r.Epoch = d.Uint()
	r.Ballot = decodeBallot(d)
	r.Value = decodeValue(d)
	if d.Err() == nil {
		if err := r.check(); err != nil {
			d.Fail(err.Error())
		}
	}
	if d.Err() != nil {
		return Request{}
	}
	return r
}

// Encode appends the reply to e.
func (r Reply) Encode(e *wire.Encoder) {
	e.Array(7)
	e.Uint(messageVersion)
	e.Uint(uint64(r.Kind))
	e.Uint(r.Epoch)
	encodeBallot(e, r.Ballot)
	encodeBallot(e, r.Promised)
	encodeBallot(e, r.Accepted)
	e.Raw(r.Value)
}

// DecodeReply reads a reply. The value is a copy. Errors stick to d.
func DecodeReply(d *wire.Decoder) Reply {
	var r Reply
	d.ArrayOf(7)
	decodeVersion(d, messageVersion)
	r.Kind = Kind(d.Count(int(KindDecided)))
	r.Epoch = d.Uint()
	r.Ballot = decodeBallot(d)
	r.Promised = decodeBallot(d)
	r.Accepted = decodeBallot(d)
	r.Value = decodeValue(d)
	if d.Err() == nil {
		if err := r.check(); err != nil {
			d.Fail(err.Error())
		}
	}
	if d.Err() != nil {
		return Reply{}
	}
	return r
}
