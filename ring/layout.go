package ring

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Limits of a layout.
const (
	MaxPartitions = 65536 // Q
	MaxN          = 16    // replicas of a key
	MaxMembers    = 256
	MaxWeight     = 1000
	MaxName       = 128 // bytes of a cluster, member or zone name
	MaxBucketN    = 32  // buckets with a number of replicas of their own: each costs memory for every partition
	MaxBucketName = 255 // bytes
	MaxRemoved    = 4096
	MaxLineages   = 64
	// MaxNumbered bounds the numbers of partitions: see Ring.Partitions.
	MaxNumbered = MaxPartitions * (1 + MaxBucketN)
)

// ErrInvalid is wrapped by every error about a layout, or a replication factor, that breaks a rule.
var ErrInvalid = errors.New("invalid layout")

// Member is a node that owns partitions.
type Member struct {
	ID     NodeID
	Name   string // unique in the layout
	Zone   string // failure domain; may be empty (see DESIGN.md, zones)
	Weight int    // share relative to the other members, 1..MaxWeight
}

// BucketN is the number of replicas of one bucket.
type BucketN struct {
	Bucket string
	N      int // 1..MaxN; may exceed the number of members
}

// Layout is the numbered member set that a ring is computed from. The order of Members and of Removed means nothing.
// It is shared freely between goroutines, so nobody changes the slices and the map of a layout that another can see.
type Layout struct {
	Epoch      uint64 // 1 is the first
	Cluster    string // name, for people
	ClusterID  [16]byte
	Partitions int // Q, a power of two, fixed for the life of the cluster
	N          int // default number of replicas of a key, 1..MaxN; may exceed the number of members
	Members    []Member

	// Primaries holds the primaries of all partitions one after the other, min(N, members) of each, ascending by id. It
	// is empty in a first layout, where a hash assigns them, and kept by Next from then on: see DESIGN.md.
	Primaries []NodeID
	// Buckets are those that have, or once had, another number of replicas than N, in the order in which they got it. A
	// later layout of the same lineage has the same ones first: the place of a bucket is part of the numbers of its
	// partitions.
	Buckets []BucketN
	// Lineages has a random id for each time that a majority was given up, the latest last: it tells those who went on from
	// what was left behind, whatever the two decide afterwards under the same numbers.
	Lineages [][16]byte
	// Removed holds the ids that may never be a member again.
	Removed []NodeID
}

// Validate returns nil, or an error that wraps ErrInvalid and names the field.
func (l Layout) Validate() error {
	if l.Epoch == 0 {
		return invalid("Epoch", "0, the first is 1")
	}
	if err := checkName("Cluster", l.Cluster); err != nil {
		return err
	}
	if l.ClusterID == [16]byte{} {
		return invalid("ClusterID", "zero")
	}
	if q := l.Partitions; q < 1 || q > MaxPartitions || q&(q-1) != 0 {
		return invalid("Partitions", "%d, want a power of two from 1 to %d", q, MaxPartitions)
	}
	if l.N < 1 || l.N > MaxN {
		return invalid("N", "%d, want 1 to %d", l.N, MaxN)
	}
	if err := checkMembers(l.Members); err != nil {
		return err
	}
	if err := l.checkPrimaries(); err != nil {
		return err
	}
	if err := l.checkBuckets(); err != nil {
		return err
	}
	if n := len(l.Lineages); n > MaxLineages {
		return invalid("Lineages", "%d, at most %d: found a new cluster", n, MaxLineages)
	}
	for i, id := range l.Lineages {
		if id == [16]byte{} {
			return invalid(fmt.Sprintf("Lineages[%d]", i), "zero")
		}
	}
	return l.checkRemoved()
}

// width returns the number of primaries of each partition in a table.
func (l Layout) width() int { return min(l.N, len(l.Members)) }

// checkPrimaries does not ask for distinct zones: what was once agreed on stays readable, whatever the rules of a
// later release are.
func (l Layout) checkPrimaries() error {
	if len(l.Primaries) == 0 {
		return nil
	}
	width := l.width()
	if want := l.Partitions * width; len(l.Primaries) != want {
		return invalid("Primaries", "%d ids, want none or %d (%d of each of %d partitions)", len(l.Primaries), want, width, l.Partitions)
	}
	number := numbers(l.Members)
	for at, id := range l.Primaries {
		if _, ok := number[id]; !ok {
			return invalid(fmt.Sprintf("Primaries[%d]", at), "%s is no member", id)
		}
		if at%width > 0 && l.Primaries[at-1].Compare(id) >= 0 {
			return invalid(fmt.Sprintf("Primaries[%d]", at), "%s is not above the one before it", id)
		}
	}
	return nil
}

// numbers returns the place of each member by id.
func numbers(members []Member) map[NodeID]int {
	out := make(map[NodeID]int, len(members))
	for i, m := range members {
		out[m.ID] = i
	}
	return out
}

func (l Layout) checkBuckets() error {
	if n := len(l.Buckets); n > MaxBucketN {
		return invalid("Buckets", "%d with a number of replicas of their own, at most %d", n, MaxBucketN)
	}
	seen := make(map[string]bool, len(l.Buckets))
	for i, b := range l.Buckets {
		if seen[b.Bucket] {
			return invalid(fmt.Sprintf("Buckets[%d]", i), "%q is there twice", b.Bucket)
		}
		seen[b.Bucket] = true
		if err := checkBucketN(fmt.Sprintf("Buckets[%d]", i), b); err != nil {
			return err
		}
	}
	return nil
}

func checkBucketN(field string, b BucketN) error {
	if len(b.Bucket) < 1 || len(b.Bucket) > MaxBucketName || strings.IndexByte(b.Bucket, 0) >= 0 {
		return invalid(field, "a bucket name of %d bytes, want 1 to %d and none 0", len(b.Bucket), MaxBucketName)
	}
	if b.N < 1 || b.N > MaxN {
		return invalid(field, "n of %q is %d, want 1 to %d", b.Bucket, b.N, MaxN)
	}
	return nil
}

func (l Layout) checkRemoved() error {
	if n := len(l.Removed); n > MaxRemoved {
		return invalid("Removed", "%d ids, at most %d", n, MaxRemoved)
	}
	members := numbers(l.Members)
	seen := make(map[NodeID]bool, len(l.Removed))
	for i, id := range l.Removed {
		field := fmt.Sprintf("Removed[%d]", i)
		if id.IsZero() {
			return invalid(field, "zero")
		}
		if seen[id] {
			return invalid(field, "%s is there twice", id)
		}
		if _, ok := members[id]; ok {
			return invalid(field, "%s is a member", id)
		}
		seen[id] = true
	}
	return nil
}

func checkMembers(members []Member) error {
	if n := len(members); n < 1 || n > MaxMembers {
		return invalid("Members", "%d, want 1 to %d", n, MaxMembers)
	}
	ids := make(map[NodeID]bool, len(members))
	names := make(map[string]bool, len(members))
	for i, m := range members {
		field := fmt.Sprintf("Members[%d].", i)
		if m.ID.IsZero() {
			return invalid(field+"ID", "zero")
		}
		if ids[m.ID] {
			return invalid(field+"ID", "%s is there twice", m.ID)
		}
		if err := checkName(field+"Name", m.Name); err != nil {
			return err
		}
		if names[m.Name] {
			return invalid(field+"Name", "%q is there twice", m.Name)
		}
		if m.Zone != "" {
			if err := checkName(field+"Zone", m.Zone); err != nil {
				return err
			}
		}
		if m.Weight < 1 || m.Weight > MaxWeight {
			return invalid(field+"Weight", "%d, want 1 to %d", m.Weight, MaxWeight)
		}
		ids[m.ID], names[m.Name] = true, true
	}
	return nil
}

func checkName(field, s string) error {
	if len(s) < 1 || len(s) > MaxName {
		return invalid(field, "%d bytes, want 1 to %d", len(s), MaxName)
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return invalid(field, "%q, want letters, digits, '.', '_' or '-'", s)
		}
	}
	return nil
}

func invalid(field, format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", ErrInvalid, field, fmt.Sprintf(format, args...))
}

// Member finds a member by id.
func (l Layout) Member(id NodeID) (Member, bool) {
	for _, m := range l.Members {
		if m.ID == id {
			return m, true
		}
	}
	return Member{}, false
}

// NFor returns the number of replicas that keys of a bucket have, if there are as many members.
func (l Layout) NFor(bucket string) int {
	for _, b := range l.Buckets {
		if b.Bucket == bucket {
			return b.N
		}
	}
	return l.N
}

// IsRemoved reports whether id was removed for ever.
func (l Layout) IsRemoved(id NodeID) bool { return slices.Contains(l.Removed, id) }

// sorted returns a copy of members in the order of their ids.
func sorted(members []Member) []Member {
	out := slices.Clone(members)
	slices.SortFunc(out, func(a, b Member) int { return a.ID.Compare(b.ID) })
	return out
}

// Kinship is how two layouts of one cluster stand to each other.
type Kinship int

// The kinships of a layout with another one.
const (
	Same       Kinship = iota // no majority was given up between them
	Ancestor                  // the other's members have given up a majority since
	Descendant                // its members have given up a majority of the other's
	Apart                     // each has given up a majority that the other knows nothing of
)

// Kinship tells what l is to another layout of the same cluster.
func (l Layout) Kinship(other Layout) Kinship { return KinshipOf(l.Lineages, other.Lineages) }

// KinshipOf tells what a layout with lineages a is to one with lineages b.
func KinshipOf(a, b [][16]byte) Kinship {
	n := min(len(a), len(b))
	switch {
	case !slices.Equal(a[:n], b[:n]):
		return Apart
	case len(a) < len(b):
		return Ancestor
	case len(a) > len(b):
		return Descendant
	}
	return Same
}
