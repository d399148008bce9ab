package transport

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/dunlindb/dunlin/internal/wire"
)

const (
	kindRequest  = 1
	kindResponse = 2
	kindCancel   = 3
	kindPing     = 4
	kindPong     = 5
)

const (
	headerBytes = 4
	// frameOverhead is more than a frame needs beside its payload and its text.
	frameOverhead = 128
	// arrivalStep is what is allocated ahead of the bytes that have arrived.
	arrivalStep = 64 << 10

	maxEndpoint = 64
	maxText     = 4 << 10
	// maxLeft bounds the deadline of a request: a day.
	maxLeft = 24 * time.Hour
)

// frame is a decoded frame of any kind; endpoint and payload alias the bytes it was decoded from.
type frame struct {
	kind     int
	id       uint64
	endpoint []byte
	left     time.Duration
	code     uint16
	text     string
	payload  []byte
}

func encodeRequest(e *wire.Encoder, id uint64, endpoint string, left time.Duration, payload []byte) {
	e.Array(5)
	e.Uint(kindRequest)
	e.Uint(id)
	e.String(endpoint)
	// Rounded up: a request must not expire at the peer earlier than at the caller.
	e.Uint(uint64((min(left, maxLeft) + time.Millisecond - 1) / time.Millisecond))
	e.Raw(payload)
}

func encodeResponse(e *wire.Encoder, id uint64, code uint16, text string, payload []byte) {
	e.Array(5)
	e.Uint(kindResponse)
	e.Uint(id)
	e.Uint(uint64(code))
	e.String(text)
	e.Raw(payload)
}

func encodeCancel(e *wire.Encoder, id uint64) {
	e.Array(2)
	e.Uint(kindCancel)
	e.Uint(id)
}

func encodeControl(kind uint64) []byte {
	e := wire.NewEncoder()
	defer e.Free()
	e.Array(1)
	e.Uint(kind)
	return e.Copy()
}

// decodeFrame reads one frame's body. Errors wrap wire.ErrMalformed.
func decodeFrame(b []byte) (frame, error) {
	d := wire.NewDecoder(b)
	var f frame
	n := d.Array(5)
	f.kind = d.Count(kindPong)
	want := 1
	switch f.kind {
	case kindRequest:
		want = 5
		f.id = d.Uint()
		f.endpoint = d.Raw(maxEndpoint)
		f.left = time.Duration(d.Count(int(maxLeft/time.Millisecond))) * time.Millisecond
		f.payload = d.Raw(len(b))
	case kindResponse:
		want = 5
		f.id = d.Uint()
		f.code = uint16(d.Count(0xffff))
		f.text = d.String(maxText)
		f.payload = d.Raw(len(b))
	case kindCancel:
		want = 2
		f.id = d.Uint()
	case kindPing, kindPong:
	default:
		d.Fail("unknown kind of frame")
	}
	if d.Err() == nil && n != want {
		d.Fail(fmt.Sprintf("frame of kind %d has %d values, want %d", f.kind, n, want))
	}
	return f, d.Done()
}

// readFrame reads a length and as many bytes. A length above limit is refused before anything is allocated;
// below it, at most what has already arrived and arrivalStep more is allocated ahead.
func readFrame(r io.Reader, limit int) ([]byte, error) {
	var header [headerBytes]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, err
	}
	claimed := binary.BigEndian.Uint32(header[:])
	if claimed == 0 || int64(claimed) > int64(limit) {
		return nil, fmt.Errorf("%w: frame of %d bytes, want 1 to %d", wire.ErrMalformed, claimed, limit)
	}
	n := int(claimed)
	b := make([]byte, min(n, arrivalStep))
	for have := 0; ; {
		if _, err := io.ReadFull(r, b[have:]); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if have = len(b); have == n {
			return b, nil
		}
		grown := make([]byte, have+min(n-have, max(have, arrivalStep)))
		copy(grown, b)
		b = grown
	}
}
