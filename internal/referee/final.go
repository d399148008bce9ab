package referee

import (
	"fmt"
	"maps"
	"slices"
)

// Final is what is there after the faults have ended and the store had time to settle.
type Final struct {
	Keys  map[string]FinalKey `json:"keys"` // by KeyName
	Nodes []Node              `json:"nodes,omitempty"`
	// Numbered are the partitions of buckets that have a number of replicas of their own, and that number.
	Numbered map[string]int `json:"numbered,omitempty"`
}

// FinalKey is one key as a read of all replicas shows it, and as each member holds it.
type FinalKey struct {
	Values   []string  `json:"values,omitempty"`  // names of the live siblings
	Unknown  bool      `json:"unknown,omitempty"` // it could not be read: Values says nothing
	Replicas []Replica `json:"replicas,omitempty"`
}

// Replica is what one member holds of a key.
type Replica struct {
	Node    string `json:"node"`
	Primary bool   `json:"primary"`
	Digest  string `json:"digest,omitempty"` // of the record; empty: none
	Dead    bool   `json:"dead,omitempty"`   // the record holds nothing but tombstones
	Damaged bool   `json:"damaged,omitempty"`
	Hint    bool   `json:"hint,omitempty"` // it still holds a hint of the key
}

// Node is one member as a whole.
type Node struct {
	Name    string            `json:"name"`
	Hints   int               `json:"hints"`
	Digests map[string]string `json:"digests"` // of each partition that it is a primary of
}

// Settled says why the nodes are not at rest yet: hints wait, or the n replicas of a partition differ. nil: they are.
func Settled(f Final, n int) error {
	owners := map[string]int{}
	digests := map[string]map[string][]string{} // by partition, then by digest: names
	for _, x := range f.Nodes {
		if x.Hints > 0 {
			return fmt.Errorf("%s: %d hints wait", x.Name, x.Hints)
		}
		for partition, digest := range x.Digests {
			if digests[partition] == nil {
				digests[partition] = map[string][]string{}
			}
			owners[partition]++
			digests[partition][digest] = append(digests[partition][digest], x.Name)
		}
	}
	differ, example := 0, ""
	for _, partition := range slices.Sorted(maps.Keys(digests)) {
		want := n
		if own := f.Numbered[partition]; own > 0 {
			want = own
		}
		if d := digests[partition]; len(d) != 1 || owners[partition] != want {
			differ++
			example = fmt.Sprintf("partition %s: %v", partition, d)
		}
	}
	if differ > 0 || len(digests) == 0 {
		return fmt.Errorf("%d of %d partitions differ, such as %s", differ, len(digests), example)
	}
	return nil
}

// judge finds what is wrong with the replicas of a key.
func (k FinalKey) judge(name string, reaped bool) (out []Violation) {
	held := map[string][]string{}
	for _, r := range k.Replicas {
		if r.Hint {
			out = append(out, Violation{HintLeft, name, r.Node + " still holds a hint"})
		}
		if !r.Primary {
			continue
		}
		what := r.Digest
		if r.Damaged {
			what = "damaged"
		}
		held[what] = append(held[what], r.Node)
		if r.Dead && reaped {
			out = append(out, Violation{TombstoneLeft, name, r.Node + " still holds a tombstone"})
		}
	}
	if len(held) > 1 || len(held["damaged"]) > 0 {
		out = append(out, Violation{Diverged, name, fmt.Sprintf("the replicas differ: %v", held)})
	}
	return out
}
