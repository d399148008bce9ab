package buckets

import (
	"time"

	"github.com/dunlindb/dunlin/internal/wire"
	"github.com/dunlindb/dunlin/vclock"
)

// Formats, each the first value of what it describes. A record is on disks: its old versions stay readable.
const (
	recordVersion = 1
	pageVersion   = 1

	recordFields = 8
	maxRecords   = 1000    // in one page
	maxStamp     = 1 << 62 // so that a stamp can always be counted up
)

// record is one bucket's properties as stored and sent.
type record struct {
	bucket string
	Properties
}

func (r record) encode(e *wire.Encoder) {
	e.Array(recordFields)
	e.Uint(recordVersion)
	e.String(r.bucket)
	e.Uint(uint64(r.Version.Stamp))
	e.Raw(r.Version.Node[:])
	e.String(r.R)
	e.String(r.W)
	e.Bool(r.LastWriteWins)
	e.Uint(uint64(r.TTL.Milliseconds()))
}

func (r record) bytes() []byte {
	e := wire.NewEncoder()
	defer e.Free()
	r.encode(e)
	return e.Copy()
}

func decodeRecord(d *wire.Decoder) record {
	var r record
	d.ArrayOf(recordFields)
	if v := d.Uint(); d.Err() == nil && v != recordVersion {
		d.Fail("bucket properties of an unknown version")
	}
	r.bucket = d.String(MaxName)
	r.Version.Stamp = vclock.Stamp(d.Uint())
	d.Fixed(r.Version.Node[:])
	r.R = d.String(8)
	r.W = d.String(8)
	r.LastWriteWins = d.Bool()
	r.TTL = time.Duration(d.Count(int(MaxTTL.Milliseconds()))) * time.Millisecond
	if d.Err() == nil {
		r.check(d)
	}
	return r
}

// check refuses what no Set produces.
func (r record) check(d *wire.Decoder) {
	if err := CheckName(r.bucket); err != nil {
		d.Fail(err.Error())
	}
	if got, err := quorum("r", r.R); err != nil || got != r.R {
		d.Fail("r is no number of replicas")
	}
	if got, err := quorum("w", r.W); err != nil || got != r.W {
		d.Fail("w is no number of replicas")
	}
	if r.Version.Stamp == 0 || r.Version.Stamp > maxStamp || r.Version.Node.IsZero() {
		d.Fail("version out of range")
	}
}

func parseRecord(b []byte) (record, error) {
	d := wire.NewDecoder(b)
	r := decodeRecord(d)
	return r, d.Done()
}

// page is a part of all records, in the order of their names.
type page struct {
	records []record
	more    bool
}

func (p page) bytes() []byte {
	e := wire.NewEncoder()
	defer e.Free()
	e.Array(3)
	e.Uint(pageVersion)
	e.Bool(p.more)
	e.Array(len(p.records))
	for _, r := range p.records {
		r.encode(e)
	}
	return e.Copy()
}

func parsePage(b []byte) (page, error) {
	d := wire.NewDecoder(b)
	var p page
	d.ArrayOf(3)
	if v := d.Uint(); d.Err() == nil && v != pageVersion {
		d.Fail("page of an unknown version")
	}
	p.more = d.Bool()
	for range d.Array(maxRecords) {
		r := decodeRecord(d)
		if k := len(p.records); k > 0 && d.Err() == nil && p.records[k-1].bucket >= r.bucket {
			d.Fail("page out of order")
		}
		if d.Err() != nil {
			break
		}
		p.records = append(p.records, r)
	}
	if p.more && len(p.records) == 0 {
		d.Fail("empty page with more to come")
	}
	if err := d.Done(); err != nil {
		return page{}, err
	}
	return p, nil
}

// parseAfter reads a request for the page after a bucket; "" asks for the first.
func parseAfter(b []byte) (string, error) {
	d := wire.NewDecoder(b)
	d.ArrayOf(2)
	if v := d.Uint(); d.Err() == nil && v != pageVersion {
		d.Fail("request of an unknown version")
	}
	after := d.String(MaxName)
	return after, d.Done()
}

func afterBytes(after string) []byte {
	e := wire.NewEncoder()
	defer e.Free()
	e.Array(2)
	e.Uint(pageVersion)
	e.String(after)
	return e.Copy()
}
