package vclock

import (
	"fmt"

	"pgregory.net/rapid"
)

// testLimits do not get in the way.
var testLimits = Limits{Siblings: 1000, Bytes: 1 << 30, Clock: 1000, Retired: 1000, Window: 1 << 40, Ahead: 1 << 50}

func node(i int) (n [16]byte) { n[0] = byte(i + 1); return n }

func clientID(key, body byte) WriteID {
	return WriteID{Key: [16]byte{key}, Body: [16]byte{body}, Client: true}
}

// replica is one node's copy of one key, minting as storage does.
type replica struct {
	node        int
	rec         Record
	incarnation uint64
	births      *uint64
	now         int64
}

func newReplica(i int, births *uint64) *replica {
	return &replica{node: i, incarnation: uint64(i*1000 + 1), births: births, now: 1_000_000}
}

func (r *replica) minter() Minter {
	r.now++
	return Minter{
		Node: node(r.node), Incarnation: r.incarnation, Now: r.now, Stamp: StampAt(r.now), Limits: testLimits,
		Birth: func() Birth { *r.births++; return Birth{Millis: uint64(r.now), Rand: *r.births} },
	}
}

func (r *replica) mint(w Write) Minted {
	m, err := r.minter().Mint(r.rec, w)
	if err != nil {
		panic(err)
	}
	r.rec = m.Record
	return m
}

func (r *replica) put(value string, c Context) Dot {
	return r.mint(Write{Value: []byte(value), Context: c}).Dot
}

func (r *replica) absorb(o Object) { r.rec = r.rec.Absorb(o) }
func (r *replica) read() Context   { return r.rec.Answer(r.now, false).Context }
func (r *replica) restart()        { r.incarnation++ }
func (r *replica) wipe()           { r.rec = Record{}; r.incarnation++ }
func (r *replica) values() (v []string) {
	for _, s := range r.rec.Siblings {
		v = append(v, string(s.Value))
	}
	return v
}

// history draws a random run of three replicas with client ids, deletes, expiry and both policies, and returns
// every state that any replica ever had.
func history(t *rapid.T) []Object {
	var births uint64
	rs := []*replica{newReplica(0, &births), newReplica(1, &births), newReplica(2, &births)}
	var states []Object
	var seen []Context
	seen = append(seen, Context{})
	for i := range rapid.IntRange(1, 25).Draw(t, "steps") {
		r := rs[rapid.IntRange(0, 2).Draw(t, "replica")]
		switch rapid.IntRange(0, 5).Draw(t, "step") {
		case 0, 1, 2:
			w := Write{
				Value:         fmt.Appendf(nil, "v%d", i),
				Context:       seen[rapid.IntRange(0, len(seen)-1).Draw(t, "context")],
				Deleted:       rapid.IntRange(0, 3).Draw(t, "delete") == 0,
				LastWriteWins: rapid.IntRange(0, 4).Draw(t, "lww") == 0,
			}
			if rapid.Bool().Draw(t, "client id") {
				w.ID = clientID(byte(rapid.IntRange(1, 3).Draw(t, "id")), 1)
			}
			r.mint(w)
		case 3:
			r.absorb(rs[rapid.IntRange(0, 2).Draw(t, "from")].rec.Object)
		case 4:
			seen = append(seen, r.read())
		case 5:
			if rapid.Bool().Draw(t, "wipe") {
				r.wipe()
			} else {
				r.restart()
			}
		}
		states = append(states, r.rec.Object)
	}
	return states
}
