package coordinator

import (
	"context"
	"sync"

	"github.com/dunlindb/dunlin/internal/wire"
	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// EndpointExplain tells what a node holds of a key, as it lies there.
const EndpointExplain = "kv.explain"

// Holding is what one node holds of a key: its own copy, or hints for others.
type Holding struct {
	Found   bool
	Damaged bool // the copy is unreadable or incomplete
	Behind  bool
	Digest  vclock.Digest
	Object  vclock.Object // without values
	Sizes   []int         // of the siblings' values, in bytes
}

// Explanation is what one member says of a key.
type Explanation struct {
	Node   ring.NodeID
	Name   string
	Role   string // primary or fallback
	Alive  bool
	Err    string // why the member could not be asked; the rest is then zero
	Epoch  uint64
	Round  uint64 // reap round of the key's partition
	Copy   Holding
	Hinted Holding // the merge of the hints that it holds for others
}

// Explain asks every member what it holds of a key, without a quorum and without repairing anything: the primaries
// first, then the others in the order in which they would stand in.
func (c *Coordinator) Explain(ctx context.Context, bucket, key string) ([]Explanation, error) {
	e, err := c.epochs()
	if err != nil {
		return nil, err
	}
	r := e.Base()
	p := r.Partition(bucket, key)
	walk := r.Walk(p)
	out := make([]Explanation, len(walk))
	m := readMessage{epoch: r.Epoch(), bucket: bucket, key: key}
	var wg sync.WaitGroup
	for i, id := range walk {
		wg.Go(func() {
			x, err := c.explainOne(ctx, id, m)
			if err != nil {
				x = Explanation{Err: err.Error()}
			}
			x.Node, x.Name, x.Role, x.Alive = id, c.name(e)(id), role(i < r.NOf(p)), c.up(e, id)
			out[i] = x
		})
	}
	wg.Wait()
	return out, nil
}

func (c *Coordinator) explainOne(ctx context.Context, id ring.NodeID, m readMessage) (Explanation, error) {
	if id == c.deps.Self {
		return c.explainLocal(m.bucket, m.key)
	}
	b, err := c.call(ctx, id, EndpointExplain, m.encode())
	if err != nil {
		return Explanation{}, err
	}
	return decodeExplanation(b)
}

func (c *Coordinator) explainLocal(bucket, key string) (Explanation, error) {
	e, err := c.epochs()
	if err != nil {
		return Explanation{}, err
	}
	k := Key{e.Partition(bucket, key), bucket, key}
	got, err := c.deps.Local.Get(k)
	x := Explanation{Epoch: e.Base().Epoch(), Round: got.Round, Copy: holding(got)}
	if err != nil {
		if classify(err).word != wordCorrupt {
			return x, err
		}
		x.Copy = Holding{Found: true, Damaged: true}
	}
	if c.deps.Hints != nil {
		hints, found, err := c.deps.Hints.Get(k)
		if err != nil {
			return x, err
		}
		if found {
			x.Hinted = holding(hints)
		}
	}
	return x, nil
}

func holding(c Copy) Holding {
	h := Holding{Found: !c.Object.IsZero(), Damaged: c.Incomplete, Behind: c.Behind, Digest: c.Digest, Object: bare(c.Object, false)}
	for _, s := range c.Object.Siblings {
		h.Sizes = append(h.Sizes, len(s.Value))
	}
	return h
}

func (c *Coordinator) serveExplain(_ context.Context, _ ring.NodeID, body []byte) ([]byte, error) {
	m, err := decodeRead(body)
	if err != nil {
		return nil, badRequest(err)
	}
	x, err := c.explainLocal(m.bucket, m.key)
	if err != nil {
		return nil, coded(err)
	}
	return x.encode(), nil
}

func (x *Explanation) encode() []byte {
	e := wire.NewEncoder()
	defer e.Free()
	e.Array(5)
	e.Uint(messageVersion)
	e.Uint(x.Epoch)
	e.Uint(x.Round)
	x.Copy.encode(e)
	x.Hinted.encode(e)
	return e.Copy()
}

func (h *Holding) encode(e *wire.Encoder) {
	e.Array(6)
	e.Bool(h.Found)
	e.Bool(h.Damaged)
	e.Bool(h.Behind)
	e.Raw(h.Digest[:])
	h.Object.Encode(e)
	e.Array(len(h.Sizes))
	for _, n := range h.Sizes {
		e.Uint(uint64(n))
	}
}

func decodeExplanation(b []byte) (x Explanation, err error) {
	d := wire.NewDecoder(b)
	open(d, 5)
	x.Epoch, x.Round = d.Uint(), d.Uint()
	x.Copy, x.Hinted = decodeHolding(d), decodeHolding(d)
	return x, d.Done()
}

func decodeHolding(d *wire.Decoder) (h Holding) {
	d.ArrayOf(6)
	h.Found, h.Damaged, h.Behind = d.Bool(), d.Bool(), d.Bool()
	d.Fixed(h.Digest[:])
	h.Object = vclock.DecodeObject(d)
	for range d.Array(1 << 14) {
		h.Sizes = append(h.Sizes, d.Count(1<<30))
	}
	if d.Err() == nil && len(h.Sizes) != len(h.Object.Siblings) {
		d.Fail("sizes and siblings differ in number")
	}
	return h
}
