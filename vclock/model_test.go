package vclock

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// An oracle keeps explicit causal histories: the set of all writes that a state has seen, and which of them are
// live. It has no clocks, so it cannot make a clock's mistakes.
type oracle struct {
	seen, live map[string]bool
}

func (o oracle) clone() oracle { return oracle{maps.Clone(o.seen), maps.Clone(o.live)} }

func newOracle() oracle { return oracle{map[string]bool{}, map[string]bool{}} }

func (o oracle) write(value string, read oracle) oracle {
	next := newOracle()
	for v := range o.live {
		if !read.seen[v] {
			next.live[v] = true
		}
	}
	maps.Copy(next.seen, o.seen)
	maps.Copy(next.seen, read.seen)
	next.seen[value], next.live[value] = true, true
	return next
}

func (o oracle) merge(p oracle) oracle {
	next := newOracle()
	for v := range o.live {
		if p.live[v] || !p.seen[v] {
			next.live[v] = true
		}
	}
	for v := range p.live {
		if !o.seen[v] {
			next.live[v] = true
		}
	}
	maps.Copy(next.seen, o.seen)
	maps.Copy(next.seen, p.seen)
	return next
}

// TestModelAgainstCausalHistories runs random interleavings of puts, reads, merges of present and of old copies,
// restarts and lost state, and compares every state with the oracle: no live sibling ever vanishes and no
// overwritten one ever stays. (Lost state loses in both; what peers hold must come back unharmed.)
func TestModelAgainstCausalHistories(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var births uint64
		n := rapid.IntRange(2, 4).Draw(t, "replicas")
		rs, os := make([]*replica, n), make([]oracle, n)
		for i := range rs {
			rs[i], os[i] = newReplica(i, &births), newOracle()
		}
		type read struct {
			context Context
			oracle  oracle
		}
		type message struct { // a copy under way, delivered late or several times
			object Object
			oracle oracle
		}
		reads := []read{{Context{}, newOracle()}}
		var messages []message
		minted := map[Dot]bool{}
		for step := range rapid.IntRange(1, 60).Draw(t, "steps") {
			i := rapid.IntRange(0, n-1).Draw(t, "at")
			switch rapid.IntRange(0, 7).Draw(t, "do") {
			case 0, 1, 2:
				r := reads[rapid.IntRange(0, len(reads)-1).Draw(t, "read")]
				v := fmt.Sprintf("v%d", step)
				d := rs[i].put(v, r.context)
				if minted[d] {
					t.Fatalf("dot %s was minted twice", d)
				}
				minted[d] = true
				os[i] = os[i].write(v, r.oracle)
			case 3:
				reads = append(reads, read{rs[i].read(), os[i].clone()})
			case 4:
				messages = append(messages, message{rs[i].rec.Object, os[i].clone()})
			case 5:
				if len(messages) > 0 {
					m := messages[rapid.IntRange(0, len(messages)-1).Draw(t, "message")]
					rs[i].absorb(m.object)
					os[i] = os[i].merge(m.oracle)
				}
			case 6:
				rs[i].restart()
			case 7:
				// Lost with its incarnation (a wiped disk), or alone (a record read as not found, a reaped key).
				if rapid.Bool().Draw(t, "whole") {
					rs[i].wipe()
				} else {
					rs[i].rec = Record{}
				}
				os[i] = newOracle()
			}
			want := slices.Sorted(maps.Keys(os[i].live))
			got := rs[i].values()
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Fatalf("step %d at %d: siblings %v, by causal history %v", step, i, got, want)
			}
		}
	})
}
