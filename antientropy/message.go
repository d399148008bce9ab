package antientropy

import (
	"fmt"

	"github.com/dunlindb/dunlin/internal/wire"
	"github.com/dunlindb/dunlin/ring"
)

// The endpoints that a node serves to its peers. Every message is an array that begins with a version; an unknown one
// is refused. Requests carry the newest epoch that the sender knows. A node that knows a newer one refuses, one that
// does not know it yet learns it before it answers.
const (
	EndpointRoots   = "sync.roots"   // which of the shared partitions differ
	EndpointLeaves  = "sync.leaves"  // leaf sums of some partitions
	EndpointKeys    = "sync.keys"    // pages of key lists
	EndpointObjects = "sync.objects" // fetch, or push, objects
)

const (
	messageVersion = 2

	maxBucket = 255
	maxKey    = 4096

	maxLeafPartitions = 64
	maxSpans          = 64
	maxEntries        = 4096 // of all lists in one answer
	maxObjects        = 1024 // in one message
)

func open(b []byte, fields int) *wire.Decoder {
	d := wire.NewDecoder(b)
	d.ArrayOf(fields)
	if v := d.Uint(); d.Err() == nil && v != messageVersion {
		d.Fail("unknown version")
	}
	return d
}

func begin(fields int) *wire.Encoder {
	e := wire.NewEncoder()
	e.Array(fields)
	e.Uint(messageVersion)
	return e
}

// rootsRequest carries the roots of the partitions whose bit is set in asked, in ascending order: of those that both
// nodes hold in some live epoch, as far as the sender knows, and whose tree is ready there. 16 bytes a partition, and a
// bit for each that there is.
type rootsRequest struct {
	epoch   uint64
	settled bool // the sender knows that the epoch has settled
	asked   bitmap
	roots   []byte // 16 bytes for each bit that is set
}

// bitmap holds one bit for each partition.
type bitmap []byte

func newBitmap(n int) bitmap           { return make(bitmap, (n+7)/8) }
func (b bitmap) set(i int)             { b[i/8] |= 1 << (i % 8) }
func (b bitmap) has(i int) bool        { return b[i/8]&(1<<(i%8)) != 0 }
func (b bitmap) fits(n int) bool       { return len(b) == (n+7)/8 && (n%8 == 0 || b[n/8]>>(n%8) == 0) }
func (b bitmap) places(n int) []int    { return filter(n, b.has) }
func (r *rootsRequest) root(i int) Sum { return Sum(r.roots[16*i:]) }

func filter(n int, keep func(int) bool) (out []int) {
	for i := range n {
		if keep(i) {
			out = append(out, i)
		}
	}
	return out
}

func (r *rootsRequest) encode() []byte {
	e := begin(5)
	defer e.Free()
	e.Uint(r.epoch)
	e.Bool(r.settled)
	e.Raw(r.asked)
	e.Raw(r.roots)
	return e.Copy()
}

func decodeRootsRequest(b []byte) (r rootsRequest, err error) {
	d := open(b, 5)
	r.epoch = d.Uint()
	r.settled = d.Bool()
	r.asked = d.Raw(ring.MaxNumbered / 8)
	r.roots = d.Raw(16 * ring.MaxPartitions)
	if len(r.roots)%16 != 0 {
		d.Fail("broken roots")
	}
	return r, d.Done()
}

// What a rootsReply says of a partition.
const (
	rootDiffers  = 1 << iota // the roots differ
	rootNotReady             // the peer's tree is not ready: nothing was compared
	rootDamaged              // the peer's copy is damaged: what it lacks says nothing of what it acknowledged
	rootFilling              // the peer's copy is being filled: it lacks what others held before
	rootZero                 // the peer's sum is that of no records
	rootNotOurs              // as the peer sees it, the two nodes do not both hold the partition
)

// rootsReply has one byte for each partition that was asked.
type rootsReply struct{ flags []byte }

func (r *rootsReply) encode() []byte {
	e := begin(2)
	defer e.Free()
	e.Raw(r.flags)
	return e.Copy()
}

func decodeRootsReply(b []byte) (r rootsReply, err error) {
	d := open(b, 2)
	r.flags = d.Raw(ring.MaxPartitions)
	return r, d.Done()
}

type leavesRequest struct {
	epoch      uint64
	partitions []int
}

func (r *leavesRequest) encode() []byte {
	e := begin(3)
	defer e.Free()
	e.Uint(r.epoch)
	e.Array(len(r.partitions))
	for _, p := range r.partitions {
		e.Uint(uint64(p))
	}
	return e.Copy()
}

func decodeLeavesRequest(b []byte) (r leavesRequest, err error) {
	d := open(b, 3)
	r.epoch = d.Uint()
	for range d.Array(maxLeafPartitions) {
		r.partitions = append(r.partitions, d.Count(ring.MaxNumbered-1))
	}
	return r, d.Done()
}

// leavesReply has the sums of each partition that was asked; nil: its tree is not ready.
type leavesReply struct{ sums []*[Leaves]Sum }

func (r *leavesReply) encode() []byte {
	e := begin(2)
	defer e.Free()
	e.Array(len(r.sums))
	flat := make([]byte, 0, Leaves*16)
	for _, sums := range r.sums {
		flat = flat[:0]
		if sums != nil {
			for i := range sums {
				flat = append(flat, sums[i][:]...)
			}
		}
		e.Raw(flat)
	}
	return e.Copy()
}

func decodeLeavesReply(b []byte) (r leavesReply, err error) {
	d := open(b, 2)
	for range d.Array(maxLeafPartitions) {
		flat := d.Raw(Leaves * 16)
		var sums *[Leaves]Sum
		switch {
		case len(flat) == Leaves*16:
			sums = new([Leaves]Sum)
			for i := range sums {
				sums[i] = Sum(flat[16*i:])
			}
		case len(flat) != 0:
			d.Fail(fmt.Sprintf("%d bytes of leaf sums", len(flat)))
		}
		r.sums = append(r.sums, sums)
	}
	return r, d.Done()
}
