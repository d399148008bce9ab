package ring

import (
	"crypto/sha256"
	"slices"

	"github.com/dunlindb/dunlin/internal/wire"
)

// The version is the first value of an encoded layout. A layout is on every disk and in every vote: an old version
// stays readable for as long as a cluster may hold it, and what version 1 can say is said in version 1.
const (
	layoutV1 = 1 // members only
	layoutV2 = 2 // and the table of primaries and Removed
	layoutV3 = 3 // and Buckets and Lineages, for which version 2 has empty places
)

const (
	layoutV1Fields = 7
	layoutV2Fields = 11
	memberFields   = 4
	bucketNFields  = 2
)

// MaxLayout bounds the bytes of an encoded layout: 1 MiB for the table, and less than 0.5 MiB for all the rest.
const MaxLayout = 3 << 19

// version is the lowest that can say what is set.
func (l Layout) version() uint64 {
	switch {
	case len(l.Buckets) > 0 || len(l.Lineages) > 0:
		return layoutV3
	case len(l.Primaries) > 0 || len(l.Removed) > 0:
		return layoutV2
	}
	return layoutV1
}

// Encode returns the canonical encoding of a valid layout: two layouts that differ only in the order of members, or
// of removed ids, encode alike.
func (l Layout) Encode() []byte {
	e := wire.NewEncoder()
	defer e.Free()
	version, fields := l.version(), layoutV1Fields
	if version > layoutV1 {
		fields = layoutV2Fields
	}
	e.Array(fields)
	e.Uint(version)
	e.Uint(l.Epoch)
	e.String(l.Cluster)
	e.Raw(l.ClusterID[:])
	e.Uint(uint64(l.Partitions))
	e.Uint(uint64(l.N))
	members := sorted(l.Members)
	e.Array(len(members))
	for _, m := range members {
		e.Array(memberFields)
		e.Raw(m.ID[:])
		e.String(m.Name)
		e.String(m.Zone)
		e.Uint(uint64(m.Weight))
	}
	if version > layoutV1 {
		l.encodeV2(e, members, version)
	}
	return e.Copy()
}

// encodeV2 writes the fields that version 1 does not have. The table is one byte a slot: the place of the member in the list.
func (l Layout) encodeV2(e *wire.Encoder, members []Member, version uint64) {
	number := numbers(members)
	table := make([]byte, len(l.Primaries))
	for at, id := range l.Primaries {
		table[at] = byte(number[id])
	}
	e.Raw(table)
	e.Array(len(l.Buckets))
	for _, b := range l.Buckets {
		e.Array(bucketNFields)
		e.String(b.Bucket)
		e.Uint(uint64(b.N))
	}
	if version == layoutV2 {
		e.Raw(make([]byte, 16))
	} else {
		e.Array(len(l.Lineages))
		for _, id := range l.Lineages {
			e.Raw(id[:])
		}
	}
	e.Array(len(l.Removed))
	for _, id := range slices.SortedFunc(slices.Values(l.Removed), NodeID.Compare) {
		e.Raw(id[:])
	}
}

// DecodeLayout reads what Encode wrote. The result is valid, and its members and removed ids are sorted. Errors wrap
// wire.ErrMalformed (not a layout, or a version that this release does not know) or ErrInvalid. The result
// shares no memory with b.
func DecodeLayout(b []byte) (Layout, error) {
	d := wire.NewDecoder(b)
	var l Layout
	fields := d.Array(2 * layoutV2Fields) // a later version is told by its number
	version := d.Uint()
	switch {
	case d.Err() != nil:
	case version < layoutV1 || version > layoutV3:
		d.Fail("unknown layout version")
	case version == layoutV1 && fields != layoutV1Fields, version > layoutV1 && fields != layoutV2Fields:
		d.Fail("a layout with another number of fields than its version has")
	}
	l.Epoch = d.Uint()
	l.Cluster = d.String(MaxName)
	d.Fixed(l.ClusterID[:])
	l.Partitions = d.Count(MaxPartitions)
	l.N = d.Count(MaxN)
	l.Members = decodeMembers(d)
	if version > layoutV1 {
		l.decodeV2(d, version)
	}
	if d.Err() == nil && version != l.version() {
		d.Fail("a layout of a version of which it has nothing")
	}
	if err := d.Done(); err != nil {
		return Layout{}, err
	}
	if err := l.Validate(); err != nil {
		return Layout{}, err
	}
	l.Members = sorted(l.Members)
	return l, nil
}

func decodeMembers(d *wire.Decoder) []Member {
	n := d.Array(MaxMembers)
	members := make([]Member, 0, n)
	for range n {
		var m Member
		d.ArrayOf(memberFields)
		d.Fixed(m.ID[:])
		m.Name = d.String(MaxName)
		m.Zone = d.String(MaxName)
		m.Weight = d.Count(MaxWeight)
		if d.Err() != nil {
			break
		}
		members = append(members, m)
	}
	return members
}

// decodeV2 reads what encodeV2 wrote and refuses what it would have written otherwise, so that a layout has one
// encoding and one hash.
func (l *Layout) decodeV2(d *wire.Decoder, version uint64) {
	for i := 1; i < len(l.Members); i++ {
		if l.Members[i-1].ID.Compare(l.Members[i].ID) >= 0 {
			d.Fail("members that are not in the order of their ids")
		}
	}
	table := d.Raw(MaxPartitions * MaxN)
	if len(table) > 0 {
		l.Primaries = make([]NodeID, 0, len(table))
	}
	for _, i := range table {
		if int(i) >= len(l.Members) {
			d.Fail("a primary that is no member")
			break
		}
		l.Primaries = append(l.Primaries, l.Members[i].ID)
	}
	for range d.Array(MaxBucketN) {
		d.ArrayOf(bucketNFields)
		b := BucketN{Bucket: d.String(MaxBucketName), N: d.Count(MaxN)}
		if d.Err() != nil {
			break
		}
		l.Buckets = append(l.Buckets, b)
	}
	if version == layoutV2 {
		var none [16]byte
		if d.Fixed(none[:]); none != [16]byte{} {
			d.Fail("a lineage in a layout of version 2")
		}
	} else {
		for range d.Array(MaxLineages) {
			var id [16]byte
			if d.Fixed(id[:]); d.Err() != nil {
				break
			}
			l.Lineages = append(l.Lineages, id)
		}
	}
	if n := d.Array(MaxRemoved); n > 0 {
		l.Removed = make([]NodeID, n)
		for i := range l.Removed {
			d.Fixed(l.Removed[i][:])
			if i > 0 && l.Removed[i-1].Compare(l.Removed[i]) >= 0 {
				d.Fail("removed ids that are not in order")
			}
			if d.Err() != nil {
				break
			}
		}
	}
}

// Hash identifies the layout: the first 16 bytes of the SHA-256 of its canonical encoding.
func (l Layout) Hash() [16]byte {
	sum := sha256.Sum256(l.Encode())
	return [16]byte(sum[:16])
}
