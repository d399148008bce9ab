package hinted

import (
	"github.com/dunlindb/dunlin/internal/wire"
	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// The endpoints of this package. Every message is an array that begins with a version; an unknown one is refused.
const (
	EndpointBatch   = "handoff.batch"   // hints for the node that is called
	EndpointDropped = "handoff.dropped" // partitions of which hints for the node that is called were dropped
)

const (
	messageVersion = 2

	maxItems      = 1024
	maxBatchBytes = 8 << 20
	maxBucket     = 255
	maxKey        = 4096
	maxText       = 512
	// maxDropped is how many partitions one message names.
	maxDropped = 4096
)

// status is what became of one hint at its target. The numbers travel: append only.
type status uint8

const (
	stored  status = iota // merged, durably
	stale                 // read in an earlier reap round
	refused               // the target is no replica of the key
	failed                // not stored, for a reason that may pass
	statuses
)

// item is a hint under way.
type item struct {
	bucket, key string
	round       uint64
	object      vclock.Object
}

type batchMessage struct {
	epoch uint64
	items []item
}

// batch: [version, epoch, [[bucket, key, round, object]...]]
func (m *batchMessage) encode() []byte {
	e := wire.NewEncoder()
	defer e.Free()
	e.Array(3)
	e.Uint(messageVersion)
	e.Uint(m.epoch)
	e.Array(len(m.items))
	for i := range m.items {
		it := &m.items[i]
		e.Array(4)
		e.String(it.bucket)
		e.String(it.key)
		e.Uint(it.round)
		it.object.Encode(e)
	}
	return e.Copy()
}

func open(b []byte, fields int) *wire.Decoder {
	d := wire.NewDecoder(b)
	d.ArrayOf(fields)
	if v := d.Uint(); d.Err() == nil && v != messageVersion {
		d.Fail("unknown version")
	}
	return d
}

// decodeBatch reads what encode wrote. Values alias b.
func decodeBatch(b []byte) (m batchMessage, err error) {
	d := open(b, 3)
	m.epoch = d.Uint()
	n := d.Array(maxItems)
	m.items = make([]item, 0, n)
	for range n {
		d.ArrayOf(4)
		it := item{bucket: d.String(maxBucket), key: d.String(maxKey), round: d.Uint(), object: vclock.DecodeObject(d)}
		if d.Err() == nil && (it.bucket == "" || it.key == "") {
			d.Fail("a hint without a bucket or key")
		}
		if d.Err() != nil {
			break
		}
		m.items = append(m.items, it)
	}
	return m, d.Done()
}

// answerMessage says for each item, in order, what became of it; text tells why the first one failed. If one was stale,
// rounds are the receiver's reap rounds, one for each item.
type answerMessage struct {
	statuses []status
	text     string
	rounds   []uint64
}

// answer: [version, [status...], text, [round...]]
func (m *answerMessage) encode() []byte {
	e := wire.NewEncoder()
	defer e.Free()
	e.Array(4)
	e.Uint(messageVersion)
	e.Array(len(m.statuses))
	for _, s := range m.statuses {
		e.Uint(uint64(s))
	}
	e.String(m.text[:min(len(m.text), maxText)])
	e.Array(len(m.rounds))
	for _, r := range m.rounds {
		e.Uint(r)
	}
	return e.Copy()
}

func decodeAnswer(b []byte) (m answerMessage, err error) {
	d := open(b, 4)
	n := d.Array(maxItems)
	m.statuses = make([]status, 0, n)
	for range n {
		m.statuses = append(m.statuses, status(d.Count(int(statuses)-1)))
	}
	m.text = d.String(maxText)
	for range d.Array(maxItems) {
		m.rounds = append(m.rounds, d.Uint())
	}
	if d.Err() == nil && len(m.rounds) > 0 && len(m.rounds) != len(m.statuses) {
		d.Fail("not one round for each hint")
	}
	return m, d.Done()
}

type droppedMessage struct {
	epoch      uint64
	partitions []int
}

// dropped: [version, epoch, [partition...]]
func (m *droppedMessage) encode() []byte {
	e := wire.NewEncoder()
	defer e.Free()
	e.Array(3)
	e.Uint(messageVersion)
	e.Uint(m.epoch)
	e.Array(len(m.partitions))
	for _, p := range m.partitions {
		e.Uint(uint64(p))
	}
	return e.Copy()
}

func decodeDropped(b []byte) (m droppedMessage, err error) {
	d := open(b, 3)
	m.epoch = d.Uint()
	n := d.Array(maxDropped)
	m.partitions = make([]int, 0, n)
	for range n {
		m.partitions = append(m.partitions, d.Count(ring.MaxNumbered-1))
	}
	return m, d.Done()
}

// The answer to dropped says in so many words that the marks are durable: [version, count].
func encodeMarked(n int) []byte {
	e := wire.NewEncoder()
	defer e.Free()
	e.Array(2)
	e.Uint(messageVersion)
	e.Uint(uint64(n))
	return e.Copy()
}

func decodeMarked(b []byte) (int, error) {
	d := open(b, 2)
	n := d.Count(maxDropped)
	return n, d.Done()
}
