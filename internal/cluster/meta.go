package cluster

import (
	"fmt"

	"github.com/dunlindb/dunlin/internal/wire"
	"github.com/dunlindb/dunlin/ring"
	"github.com/hashicorp/memberlist"
)

// digest is the first half of a SHA-256.
type digest [16]byte

func (d digest) zero() bool { return d == digest{} }

func (d digest) hex() string { return fmt.Sprintf("%x", d[:]) }

func (d digest) String() string { return fmt.Sprintf("%x", d[:4]) }

const (
	metaVersion = 1
	metaFields  = 14
	metaMax     = memberlist.MetaMaxSize
)

// meta is what every node says about itself in gossip. It travels in each alive message, so it is small.
type meta struct {
	Start    uint64 // this process's start id
	Name     string
	HTTPAddr string
	RPCAddr  string
	Zone     string
	Weight   int
	Epoch    uint64   // 0: no layout
	Layout   digest   // hash of the layout of that epoch
	Vote     digest   // hash voted for; with an epoch, the cluster id
	Founding digest   // hash of the settings that founders must share
	Progress progress // of this node with the live epochs
}

func (m *meta) encode() []byte {
	e := wire.NewEncoder()
	defer e.Free()
	e.Array(metaFields)
	e.Uint(metaVersion)
	e.Uint(m.Start)
	e.String(m.Name)
	e.String(m.HTTPAddr)
	e.String(m.RPCAddr)
	e.String(m.Zone)
	e.Uint(uint64(m.Weight))
	e.Uint(m.Epoch)
	e.Raw(m.Layout[:])
	e.Raw(m.Vote[:])
	e.Raw(m.Founding[:])
	e.Uint(m.Progress.Ack)
	e.Uint(m.Progress.Sync)
	e.Uint(m.Progress.SyncAck)
	return e.Copy()
}

func decodeMeta(b []byte) (meta, error) {
	var m meta
	if len(b) > metaMax {
		return m, fmt.Errorf("%w: node metadata of %d bytes", wire.ErrMalformed, len(b))
	}
	d := wire.NewDecoder(b)
	newer := openMessage(d, metaFields, metaVersion, "node metadata")
	m.Start = d.Uint()
	m.Name = nameFrom(d)
	m.HTTPAddr = d.String(MaxAddress)
	m.RPCAddr = d.String(MaxAddress)
	m.Zone = d.String(MaxZone)
	m.Weight = d.Count(maxWeight)
	m.Epoch = d.Uint()
	d.Fixed(m.Layout[:])
	d.Fixed(m.Vote[:])
	d.Fixed(m.Founding[:])
	m.Progress = progress{Ack: d.Uint(), Sync: d.Uint(), SyncAck: d.Uint()}
	return m, endMessage(d, newer)
}

// openMessage opens a message to another node. Nodes of two releases meet during an upgrade, so a later format
// is read as far as this one knows it: later formats only append fields.
func openMessage(d *wire.Decoder, fields, format int, what string) (newer bool) {
	n := d.Array(64)
	v := d.Uint()
	switch {
	case d.Err() != nil:
	case v < uint64(format) || n < fields || v == uint64(format) && n != fields:
		d.Fail(fmt.Sprintf("%s of format %d with %d fields, this version knows format %d with %d", what, v, n, format, fields))
	}
	return v > uint64(format)
}

// endMessage tells whether the message was read whole, or as far as this version can.
func endMessage(d *wire.Decoder, newer bool) error {
	if newer {
		return d.Err()
	}
	return d.Done()
}

// version reads a file's leading format version, which must be the one that this build writes.
func version(d *wire.Decoder, want int, what string) {
	if got := d.Uint(); d.Err() == nil && got != uint64(want) {
		d.Fail(fmt.Sprintf("%s of format %d, this version knows %d", what, got, want))
	}
}

func nameFrom(d *wire.Decoder) string {
	name := d.String(MaxName)
	if d.Err() == nil {
		if err := checkName(name); err != nil {
			d.Fail("name: " + err.Error())
		}
	}
	return name
}

func memberTo(e *wire.Encoder, m ring.Member) {
	e.Array(4)
	e.Raw(m.ID[:])
	e.String(m.Name)
	e.String(m.Zone)
	e.Uint(uint64(m.Weight))
}

func memberFrom(d *wire.Decoder) (m ring.Member) {
	d.ArrayOf(4)
	d.Fixed(m.ID[:])
	m.Name = nameFrom(d)
	m.Zone = d.String(MaxZone)
	m.Weight = d.Count(maxWeight)
	return m
}
