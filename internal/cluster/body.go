package cluster

import (
	"fmt"

	"github.com/dunlindb/dunlin/internal/wire"
	"github.com/dunlindb/dunlin/ring"
)

const (
	bodyVersion  = 1
	bodyFields   = 11
	maxLayoutLen = 512 << 10 // a larger one is asked for by a call
	maxBodyLen   = 1 << 20
	maxLayout    = ring.MaxLayout
	maxProgress  = 64 << 10
)

// body travels in memberlist's push/pull: what does not fit into the metadata, readable, so that a node can say
// in words how another one differs.
type body struct {
	ID         ring.NodeID
	Start      uint64 // the sender's start id: who hears its own node id with another one is a copy
	Name       string
	Cluster    string
	Partitions int
	N          int
	Listed     []string // names in the seeds list, sorted
	Vote       []byte   // encoded voteBody, or none
	Layout     []byte   // encoded newest layout, or none
	Progress   []byte   // encoded progress of all members, or none
}

func (b *body) encode() []byte {
	e := wire.NewEncoder()
	defer e.Free()
	e.Array(bodyFields)
	e.Uint(bodyVersion)
	e.Raw(b.ID[:])
	e.Uint(b.Start)
	e.String(b.Name)
	e.String(b.Cluster)
	e.Uint(uint64(b.Partitions))
	e.Uint(uint64(b.N))
	e.Array(len(b.Listed))
	for _, n := range b.Listed {
		e.String(n)
	}
	e.Raw(b.Vote)
	e.Raw(b.Layout)
	e.Raw(b.Progress)
	return e.Copy()
}

// decodeBody copies everything that it keeps: memberlist reuses its buffers.
func decodeBody(buf []byte) (*body, error) {
	if len(buf) > maxBodyLen {
		return nil, fmt.Errorf("%w: state of %d bytes", wire.ErrMalformed, len(buf))
	}
	b := &body{}
	d := wire.NewDecoder(buf)
	newer := openMessage(d, bodyFields, bodyVersion, "node state")
	d.Fixed(b.ID[:])
	b.Start = d.Uint()
	b.Name = nameFrom(d)
	b.Cluster = nameFrom(d)
	b.Partitions = d.Count(ring.MaxPartitions)
	b.N = d.Count(ring.MaxN)
	n := d.Array(maxSeeds)
	for i := 0; i < n && d.Err() == nil; i++ {
		b.Listed = append(b.Listed, nameFrom(d))
	}
	b.Vote = append([]byte(nil), d.Raw(maxVoteLen)...)
	b.Layout = append([]byte(nil), d.Raw(maxLayoutLen)...)
	b.Progress = append([]byte(nil), d.Raw(maxProgress)...)
	if err := endMessage(d, newer); err != nil {
		return nil, err
	}
	return b, nil
}
