package coordinator

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

const (
	// zoneEdge is by how much the replicas of this node's zone may be slower before those of other zones are asked
	// first. It is more than zones near each other are apart, and less than what a client would notice.
	zoneEdge = 10 * time.Millisecond
	// latencyHalf is after how long without a new measurement a latency counts half: one that was slow is tried again.
	latencyHalf = 5 * time.Second
)

// locality says where a replica is, seen from this node.
type locality string

const (
	atSelf   locality = "self"
	atOwn    locality = "own"     // another node of this node's zone
	atOther  locality = "other"   // of another zone, or of none
	atNoZone locality = "no zone" // this node names no zone
)

// nearest orders the primaries as a read should ask them, and a write tries them: this node, then the live ones by how
// fast they answered lately, where those of other zones count as slower by zoneEdge, then those judged down.
func (c *Coordinator) nearest(e *ring.Epochs, primaries []ring.NodeID) []ring.NodeID {
	out := slices.Clone(primaries)
	var rank [ring.MaxN]time.Duration
	own := c.zone(e)
	for i, id := range out {
		switch {
		case id == c.deps.Self:
			rank[i] = -1
		case !c.up(e, id):
			rank[i] = math.MaxInt64
		default:
			rank[i] = c.latency.of(id)
			if localityOf(e, own, id) == atOther {
				rank[i] += zoneEdge
			}
		}
		for j := i; j > 0 && rank[j-1] > rank[j]; j-- { // there are few
			rank[j-1], rank[j] = rank[j], rank[j-1]
			out[j-1], out[j] = out[j], out[j-1]
		}
	}
	return out
}

// zone is this node's, empty if it has none or is no member.
func (c *Coordinator) zone(e *ring.Epochs) string {
	m, _ := e.Member(c.deps.Self)
	return m.Zone
}

// localityOf says where another node is, seen from a zone.
func localityOf(e *ring.Epochs, own string, id ring.NodeID) locality {
	if own == "" {
		return atNoZone
	}
	if m, _ := e.Member(id); m.Zone == own {
		return atOwn
	}
	return atOther
}

// latencies remembers how long each node's replica reads took lately, as a moving average that fades.
type latencies struct {
	began time.Time
	m     sync.Map // ring.NodeID → *latency
}

// latency is one node's. A lost update among racing ones does no harm to an average.
type latency struct {
	average atomic.Int64 // nanoseconds, when it was measured last
	at      atomic.Int64 // nanoseconds since the coordinator was made
}

func (x *latency) of(now time.Duration) time.Duration {
	age := now - time.Duration(x.at.Load())
	average := float64(x.average.Load())
	if age > latencyHalf/16 {
		average *= math.Exp2(-float64(age) / float64(latencyHalf))
	}
	return time.Duration(average)
}

// of is 0 for a node that was not measured, so that it is soon.
func (l *latencies) of(id ring.NodeID) time.Duration {
	if v, ok := l.m.Load(id); ok {
		return v.(*latency).of(time.Since(l.began))
	}
	return 0
}

// add notes how long an answer took.
func (l *latencies) add(id ring.NodeID, d time.Duration) {
	l.note(id, func(old time.Duration) time.Duration {
		if old == 0 {
			return d
		}
		return old + (d-old)/4
	})
}

// atLeast notes that no answer came for so long: what came of the call is not known, as somebody else answered.
func (l *latencies) atLeast(id ring.NodeID, d time.Duration) {
	l.note(id, func(old time.Duration) time.Duration { return max(old, d) })
}

func (l *latencies) note(id ring.NodeID, next func(old time.Duration) time.Duration) {
	v, ok := l.m.Load(id)
	if !ok {
		v, _ = l.m.LoadOrStore(id, new(latency))
	}
	x, now := v.(*latency), time.Since(l.began)
	x.average.Store(int64(next(x.of(now))))
	x.at.Store(int64(now))
}
