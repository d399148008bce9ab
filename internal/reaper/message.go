package reaper

import (
	"fmt"

	"github.com/dunlindb/dunlin/internal/wire"
	"github.com/dunlindb/dunlin/ring"
)

// The endpoints that every member serves. Each takes a request and gives an answer; both are arrays that begin with a
// version, and another version is refused.
const (
	EndpointConfirm = "reap.confirm" // judge the statements
	EndpointEnter   = "reap.enter"   // enter the round and judge the statements in the same step
	EndpointRounds  = "reap.rounds"  // tell the rounds of partitions
	EndpointRemove  = "reap.remove"  // remove what was decided, unmark what was struck; enter the round if not yet done
)

const (
	messageVersion = 1
	maxBatch       = 256       // keys of a round
	maxBatchBytes  = 512 << 10 // of bucket names and keys of a round
	maxBucket      = 255
	maxKey         = 4096
	// maxRound leaves room for ever, and keeps a garbled number from using rounds up.
	maxRound = 1 << 62
)

// request is what the driver of a partition sends.
type request struct {
	epoch     uint64 // of the layout; a member that knows another refuses
	partition int
	round     uint64      // 0 for EndpointConfirm
	keys      []Statement // to judge, or to remove
	struck    []Statement // to unmark
}

func (m *request) encode() []byte {
	e := wire.NewEncoder()
	defer e.Free()
	e.Array(6)
	e.Uint(messageVersion)
	e.Uint(m.epoch)
	e.Uint(uint64(m.partition))
	e.Uint(m.round)
	encodeStatements(e, m.keys)
	encodeStatements(e, m.struck)
	return e.Copy()
}

func decodeRequest(b []byte) (m request, err error) {
	d := open(b, 6)
	m.epoch = d.Uint()
	m.partition = d.Count(ring.MaxNumbered - 1)
	m.round = decodeRound(d)
	m.keys = decodeStatements(d, m.partition)
	m.struck = decodeStatements(d, m.partition)
	return m, d.Done()
}

// answer is a member's. What Confirmed says of the i-th key is bit i.
type answer struct {
	round     uint64 // of the member's partition
	entered   bool   // EndpointEnter: false: the member is in a later round
	confirmed []bool
}

func (a *answer) encode() []byte {
	e := wire.NewEncoder()
	defer e.Free()
	e.Array(4)
	e.Uint(messageVersion)
	e.Uint(a.round)
	e.Bool(a.entered)
	e.Raw(packBits(a.confirmed))
	return e.Copy()
}

// decodeAnswer reads the answer to a request of n keys.
func decodeAnswer(b []byte, n int) (a answer, err error) {
	d := open(b, 4)
	a.round = decodeRound(d)
	a.entered = d.Bool()
	packed := d.Raw(maxBatch / 8)
	if d.Err() == nil && len(packed) != (n+7)/8 {
		d.Fail("not one bit for each key")
	}
	if err := d.Done(); err != nil {
		return answer{}, err
	}
	a.confirmed = make([]bool, n)
	for i := range a.confirmed {
		a.confirmed[i] = packed[i/8]>>(i%8)&1 == 1
	}
	return a, nil
}

func packBits(bits []bool) []byte {
	b := make([]byte, (len(bits)+7)/8)
	for i, on := range bits {
		if on {
			b[i/8] |= 1 << (i % 8)
		}
	}
	return b
}

func open(b []byte, fields int) *wire.Decoder {
	d := wire.NewDecoder(b)
	d.ArrayOf(fields)
	if v := d.Uint(); d.Err() == nil && v != messageVersion {
		d.Fail(fmt.Sprintf("version %d, this release knows %d", v, messageVersion))
	}
	return d
}

func decodeRound(d *wire.Decoder) uint64 {
	round := d.Uint()
	if d.Err() == nil && round > maxRound {
		d.Fail("impossible round")
	}
	return round
}

func encodeStatements(e *wire.Encoder, ks []Statement) {
	e.Array(3 * len(ks))
	for i := range ks {
		e.String(ks[i].Key.Bucket)
		e.String(ks[i].Key.Key)
		e.Raw(ks[i].Digest[:])
	}
}

func decodeStatements(d *wire.Decoder, partition int) []Statement {
	n := d.Array(3 * maxBatch)
	if n%3 != 0 {
		d.Fail("odd statements")
	}
	if d.Err() != nil || n == 0 {
		return nil
	}
	ks := make([]Statement, n/3)
	for i := range ks {
		ks[i].Key = Key{partition, d.String(maxBucket), d.String(maxKey)}
		d.Fixed(ks[i].Digest[:])
	}
	if d.Err() != nil {
		return nil
	}
	return ks
}
