package coordinator

import (
	"github.com/dunlindb/dunlin/internal/wire"
	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// The endpoints that a node serves to other nodes' coordinators. Every message is an array that begins with a
// version; an unknown one is refused.
const (
	EndpointPut   = "kv.put"   // coordinate a write that this node forwards
	EndpointMerge = "kv.merge" // merge an object into the replica
	EndpointRead  = "kv.read"  // read the replica's copy, or its digest
	EndpointList  = "kv.list"  // list the replica's keys
	EndpointHint  = "kv.hint"  // keep an object for a primary that is down
)

const (
	messageVersion = 1
	maxBucket      = 128
	maxKey         = 1024
	maxText        = 4096
	maxListed      = 10_000
	maxCount       = 1000 // of replicas
)

// open begins a message. The decoder is its caller's, so that it needs no allocation.
func open(d *wire.Decoder, fields int) {
	d.ArrayOf(fields)
	if v := d.Uint(); d.Err() == nil && v != messageVersion {
		d.Fail("unknown version")
	}
}

// mergeMessage is a replica write.
type mergeMessage struct {
	epoch       uint64
	bucket, key string
	heal        bool
	round       uint64      // the reap round in which the object's source was read
	target      ring.NodeID // of a hint; zero: the receiver
	object      vclock.Object
	encoded     []byte // all of this, where it is encoded already
}

func (m *mergeMessage) encode() []byte {
	e := wire.NewEncoder()
	defer e.Free()
	e.Array(8)
	e.Uint(messageVersion)
	e.Uint(m.epoch)
	e.String(m.bucket)
	e.String(m.key)
	e.Bool(m.heal)
	e.Uint(m.round)
	e.Raw(m.target[:])
	m.object.Encode(e)
	return e.Copy()
}

func decodeMerge(b []byte) (m mergeMessage, err error) {
	d := wire.NewDecoder(b)
	open(d, 8)
	m.epoch = d.Uint()
	m.bucket, m.key = d.String(maxBucket), d.String(maxKey)
	m.heal = d.Bool()
	m.round = d.Uint()
	d.Fixed(m.target[:])
	m.object = vclock.DecodeObject(d)
	return m, d.Done()
}

// encodeFsynced is the answer to a replica write. It is not to be changed: all of them share it.
func encodeFsynced(fsynced bool) []byte {
	if fsynced {
		return repliedFsynced
	}
	return repliedStored
}

var repliedFsynced, repliedStored = makeFsynced(true), makeFsynced(false)

func makeFsynced(fsynced bool) []byte {
	e := wire.NewEncoder()
	defer e.Free()
	e.Array(2)
	e.Uint(messageVersion)
	e.Bool(fsynced)
	return e.Copy()
}

func decodeFsynced(b []byte) (bool, error) {
	d := wire.NewDecoder(b)
	open(d, 2)
	fsynced := d.Bool()
	return fsynced, d.Done()
}

// readMode is what a replica read wants.
type readMode uint64

const (
	readFull   readMode = iota // the object
	readDigest                 // the digest only
	readUnless                 // the object, unless its digest is the one sent along
)

func (m readMode) String() string {
	return [...]string{"for the object", "for its digest", "for the object unless it is the same"}[m]
}

type readMessage struct {
	epoch       uint64
	bucket, key string
	mode        readMode
	hint        bool // the hints that the receiver holds, instead of its copy
	digest      vclock.Digest
}

func (m *readMessage) encode() []byte {
	e := wire.NewEncoder()
	defer e.Free()
	e.Array(7)
	e.Uint(messageVersion)
	e.Uint(m.epoch)
	e.String(m.bucket)
	e.String(m.key)
	e.Uint(uint64(m.mode))
	e.Bool(m.hint)
	e.Raw(m.digest[:])
	return e.Copy()
}

func decodeRead(b []byte) (m readMessage, err error) {
	d := wire.NewDecoder(b)
	open(d, 7)
	m.epoch = d.Uint()
	m.bucket, m.key = d.String(maxBucket), d.String(maxKey)
	m.mode = readMode(d.Count(int(readUnless)))
	m.hint = d.Bool()
	d.Fixed(m.digest[:])
	return m, d.Done()
}

func (a *answer) encode() []byte {
	e := wire.NewEncoder()
	defer e.Free()
	e.Array(7)
	e.Uint(messageVersion)
	e.Raw(a.digest[:])
	e.Bool(a.incomplete)
	e.Bool(a.behind)
	e.Uint(a.round)
	e.Bool(a.hasObject)
	if a.hasObject {
		a.object.Encode(e)
	} else {
		e.Uint(0)
	}
	return e.Copy()
}

func decodeAnswer(b []byte) (a answer, err error) {
	d := wire.NewDecoder(b)
	open(d, 7)
	d.Fixed(a.digest[:])
	a.incomplete = d.Bool()
	a.behind = d.Bool()
	a.round = d.Uint()
	a.hasObject = d.Bool()
	if a.hasObject {
		a.object = vclock.DecodeObject(d)
	} else {
		d.Uint()
	}
	return a, d.Done()
}

// putMessage is a forwarded write. Its budget, in milliseconds, is a little less than the forwarder's own time, so
// that the coordinator's account of a failure arrives before the forwarder gives up.
type putMessage struct {
	epoch  uint64
	budget uint64
	req    PutRequest
}

const (
	putHasContext = 1 << iota
	putSloppy
	putReturnBody
	putDeleted
	putLastWriteWins
	putClientID
	putTrace
)

func (m *putMessage) flags() uint64 {
	var f uint64
	for _, b := range []struct {
		on  bool
		bit uint64
	}{
		{m.req.HasContext, putHasContext}, {m.req.Sloppy, putSloppy}, {m.req.ReturnBody, putReturnBody},
		{m.req.Write.Deleted, putDeleted}, {m.req.Write.LastWriteWins, putLastWriteWins}, {m.req.Write.ID.Client, putClientID},
		{m.req.Trace != nil, putTrace},
	} {
		if b.on {
			f |= b.bit
		}
	}
	return f
}

func (m *putMessage) encode(s vclock.Scope) []byte {
	e := wire.NewEncoder()
	defer e.Free()
	w := &m.req.Write
	e.Array(16)
	e.Uint(messageVersion)
	e.Uint(m.epoch)
	e.Uint(m.budget)
	e.String(m.req.Bucket)
	e.String(m.req.Key)
	e.Uint(m.flags())
	for _, k := range []int{m.req.W, m.req.DW, m.req.PW, m.req.R} {
		e.Int(int64(k))
	}
	e.Int(w.Expiry)
	e.Raw(w.ID.Key[:])
	e.Raw(w.ID.Body[:])
	e.String(w.Context.Token(s))
	e.String(w.ContentType)
	e.Raw(w.Value)
	return e.Copy()
}

func decodePut(b []byte, scope func(bucket, key string) vclock.Scope) (m putMessage, err error) {
	d := wire.NewDecoder(b)
	open(d, 16)
	w := &m.req.Write
	m.epoch, m.budget = d.Uint(), d.Uint()
	m.req.Bucket, m.req.Key = d.String(maxBucket), d.String(maxKey)
	flags := d.Uint()
	for _, k := range []*int{&m.req.W, &m.req.DW, &m.req.PW, &m.req.R} {
		v := d.Int()
		if *k = int(v); v < AsW || v > maxCount {
			d.Fail("a number of replicas that none can have")
		}
	}
	w.Expiry = d.Int()
	d.Fixed(w.ID.Key[:])
	d.Fixed(w.ID.Body[:])
	token := d.String(vclock.MaxToken)
	w.ContentType = d.String(maxText)
	w.Value = d.Raw(1 << 30)
	m.req.HasContext, m.req.Sloppy = flags&putHasContext != 0, flags&putSloppy != 0
	m.req.ReturnBody, w.Deleted = flags&putReturnBody != 0, flags&putDeleted != 0
	w.LastWriteWins, w.ID.Client = flags&putLastWriteWins != 0, flags&putClientID != 0
	if flags&putTrace != 0 {
		m.req.Trace = NewTrace()
	}
	if err := d.Done(); err != nil {
		return m, err
	}
	w.Context, err = vclock.ParseToken(token, scope(m.req.Bucket, m.req.Key))
	return m, err
}

// A putReply is the result of a forwarded write, or its failure.
type putReply struct {
	result PutResult
	failed *putFailure
	trace  []TraceEvent
}

// putFailure carries an error of Put from the coordinator to the node that forwarded.
type putFailure struct {
	mint   uint64 // 1 + index in mintErrors; 0: quorum is set
	text   string
	quorum QuorumError
	retry  bool // another primary may coordinate: nothing was minted here
}

func encodeOutcomes(e *wire.Encoder, outcomes []ReplicaOutcome) {
	e.Array(5 * len(outcomes))
	for i := range outcomes {
		o := &outcomes[i]
		e.Raw(o.Node[:])
		e.String(clip(o.Name))
		e.String(o.Role)
		e.String(o.Outcome)
		e.String(clip(o.Detail))
	}
}

func decodeOutcomes(d *wire.Decoder) []ReplicaOutcome {
	n := d.Array(5 * 1024)
	if n%5 != 0 {
		d.Fail("odd outcomes")
		return nil
	}
	out := make([]ReplicaOutcome, 0, n/5)
	for range n / 5 {
		var o ReplicaOutcome
		d.Fixed(o.Node[:])
		o.Name, o.Role, o.Outcome, o.Detail = d.String(maxText), d.String(64), d.String(64), d.String(maxText)
		out = append(out, o)
	}
	return out
}

func clip(s string) string { return s[:min(len(s), maxText)] }

func (r *putReply) encode() []byte {
	e := wire.NewEncoder()
	defer e.Free()
	if f := r.failed; f != nil {
		q := &f.quorum
		e.Array(12)
		e.Uint(messageVersion)
		e.Bool(false)
		e.Uint(f.mint)
		e.String(clip(f.text))
		e.Bool(f.retry)
		e.Uint(uint64(q.Kind))
		e.String(q.Parameter)
		e.Array(3)
		e.Uint(uint64(q.Required))
		e.Uint(uint64(q.Acked))
		e.Uint(uint64(q.N))
		e.String(string(q.Outcome))
		e.String(clip(q.Reason))
		encodeOutcomes(e, q.Replicas)
		encodeTrace(e, r.trace)
		return e.Copy()
	}
	e.Array(9)
	e.Uint(messageVersion)
	e.Bool(true)
	e.Raw(r.result.Coordinator[:])
	e.Uint(uint64(r.result.Acks))
	e.Uint(uint64(r.result.N))
	e.Bool(r.result.Repeated)
	encodeOutcomes(e, r.result.Replicas)
	r.result.Object.Encode(e)
	encodeTrace(e, r.trace)
	return e.Copy()
}

func decodePutReply(b []byte) (r putReply, err error) {
	d := wire.NewDecoder(b)
	n := d.Array(12)
	if v := d.Uint(); d.Err() == nil && v != messageVersion {
		d.Fail("unknown version")
	}
	ok := d.Bool()
	switch {
	case ok && n == 9:
		d.Fixed(r.result.Coordinator[:])
		r.result.Acks, r.result.N = d.Count(1000), d.Count(1000)
		r.result.Repeated = d.Bool()
		r.result.Replicas = decodeOutcomes(d)
		r.result.Object = vclock.DecodeObject(d)
		r.trace = decodeTrace(d)
	case !ok && n == 12:
		f := &putFailure{}
		f.mint = uint64(d.Count(len(mintErrors)))
		f.text = d.String(maxText)
		f.retry = d.Bool()
		f.quorum.Kind = Kind(d.Count(255))
		f.quorum.Parameter = d.String(16)
		d.ArrayOf(3)
		f.quorum.Required, f.quorum.Acked, f.quorum.N = d.Count(1000), d.Count(1000), d.Count(1000)
		f.quorum.Outcome = Outcome(d.String(32))
		f.quorum.Reason = d.String(maxText)
		f.quorum.Replicas = decodeOutcomes(d)
		r.trace = decodeTrace(d)
		r.failed = f
	default:
		d.Fail("neither a result nor a failure")
	}
	return r, d.Done()
}

type listMessage struct {
	epoch uint64
	query ListQuery // without Partitions: the replica lists those it owns
}

func (m *listMessage) encode() []byte {
	e := wire.NewEncoder()
	defer e.Free()
	e.Array(6)
	e.Uint(messageVersion)
	e.Uint(m.epoch)
	e.String(m.query.Bucket)
	e.String(m.query.Prefix)
	e.String(m.query.After)
	e.Uint(uint64(m.query.Limit))
	return e.Copy()
}

func decodeList(b []byte) (m listMessage, err error) {
	d := wire.NewDecoder(b)
	open(d, 6)
	m.epoch = d.Uint()
	m.query.Bucket, m.query.Prefix, m.query.After = d.String(maxBucket), d.String(maxKey), d.String(maxKey+1)
	m.query.Limit = d.Count(maxListed)
	return m, d.Done()
}

// listReply is one replica's page of a listing.
type listReply struct {
	node    ring.NodeID
	entries []ListEntry
	more    bool
}

const (
	listDeleted = 1 << iota
	listWinnerDeleted
	listDamaged
)

func (r *listReply) encode() []byte {
	e := wire.NewEncoder()
	defer e.Free()
	e.Array(3)
	e.Uint(messageVersion)
	e.Bool(r.more)
	e.Array(5 * len(r.entries))
	for i := range r.entries {
		x := &r.entries[i]
		var flags uint64
		if x.All.Deleted {
			flags |= listDeleted
		}
		if x.Winner.Deleted {
			flags |= listWinnerDeleted
		}
		if x.Damaged {
			flags |= listDamaged
		}
		e.String(x.Key)
		e.Raw(x.Digest[:])
		e.Uint(flags)
		e.Int(x.All.Expiry)
		e.Int(x.Winner.Expiry)
	}
	return e.Copy()
}

func decodeListReply(b []byte) (r listReply, err error) {
	d := wire.NewDecoder(b)
	open(d, 3)
	r.more = d.Bool()
	n := d.Array(5 * maxListed)
	if n%5 != 0 {
		d.Fail("odd entries")
	}
	for i := 0; i < n/5 && d.Err() == nil; i++ {
		var x ListEntry
		x.Key = d.String(maxKey)
		d.Fixed(x.Digest[:])
		flags := d.Uint()
		x.All.Deleted, x.Winner.Deleted, x.Damaged = flags&listDeleted != 0, flags&listWinnerDeleted != 0, flags&listDamaged != 0
		x.All.Expiry, x.Winner.Expiry = d.Int(), d.Int()
		r.entries = append(r.entries, x)
	}
	return r, d.Done()
}
