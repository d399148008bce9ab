package cluster

import (
	"cmp"
	"crypto/sha256"
	"slices"

	"github.com/dunlindb/dunlin/internal/wire"
	"github.com/dunlindb/dunlin/ring"
)

const (
	voteVersion = 1
	maxFounders = maxSeeds
	maxVoteLen  = 64 << 10
)

// voteBody is what a founder votes for: the first layout, whole. A vote is stored as this body and published as
// its hash, which becomes the cluster's id when every founder in it has published the same.
type voteBody struct {
	Cluster    string
	Partitions int
	N          int
	Founders   []ring.Member // sorted by name, names and ids distinct
}

func newVote(cfg *Config, founders []ring.Member) *voteBody {
	f := slices.Clone(founders)
	slices.SortFunc(f, func(a, b ring.Member) int { return cmp.Compare(a.Name, b.Name) })
	return &voteBody{Cluster: cfg.Cluster, Partitions: cfg.Partitions, N: cfg.N, Founders: f}
}

func (v *voteBody) encode() []byte {
	e := wire.NewEncoder()
	defer e.Free()
	e.Array(5)
	e.Uint(voteVersion)
	e.String(v.Cluster)
	e.Uint(uint64(v.Partitions))
	e.Uint(uint64(v.N))
	e.Array(len(v.Founders))
	for _, m := range v.Founders {
		memberTo(e, m)
	}
	return e.Copy()
}

func decodeVote(b []byte) (*voteBody, error) {
	v := &voteBody{}
	d := wire.NewDecoder(b)
	d.ArrayOf(5)
	version(d, voteVersion, "vote")
	v.Cluster = nameFrom(d)
	v.Partitions = d.Count(ring.MaxPartitions)
	v.N = d.Count(ring.MaxN)
	n := d.Array(maxFounders)
	for i := 0; i < n && d.Err() == nil; i++ {
		m := memberFrom(d)
		if i > 0 && v.Founders[i-1].Name >= m.Name {
			d.Fail("founders are not in order of their names")
		}
		v.Founders = append(v.Founders, m)
	}
	if d.Err() == nil && n == 0 {
		d.Fail("vote without founders")
	}
	if err := d.Done(); err != nil {
		return nil, err
	}
	return v, v.layout().Validate()
}

func (v *voteBody) hash() digest { return sum("dunlin vote", v.encode()) }

// layout is the first layout, should this vote win.
func (v *voteBody) layout() ring.Layout {
	return ring.Layout{
		Epoch: 1, Cluster: v.Cluster, ClusterID: v.hash(),
		Partitions: v.Partitions, N: v.N, Members: slices.Clone(v.Founders),
	}
}

// founder returns the founder with the id.
func (v *voteBody) founder(id ring.NodeID) (ring.Member, bool) {
	for _, m := range v.Founders {
		if m.ID == id {
			return m, true
		}
	}
	return ring.Member{}, false
}

// founding is the hash of what founders must agree on before any of them votes.
func founding(cfg *Config) digest {
	names, _ := cfg.listed()
	e := wire.NewEncoder()
	defer e.Free()
	e.Array(4)
	e.String(cfg.Cluster)
	e.Uint(uint64(cfg.Partitions))
	e.Uint(uint64(cfg.N))
	e.Array(len(names))
	for _, n := range names {
		e.String(n)
	}
	return sum("dunlin founding", e.Bytes())
}

// sum hashes bytes under a purpose, so that two formats never share a hash.
func sum(purpose string, b []byte) (out digest) {
	h := sha256.New()
	h.Write([]byte(purpose))
	h.Write([]byte{0})
	h.Write(b)
	copy(out[:], h.Sum(nil))
	return out
}

func sortedUnique(names []string) []string {
	slices.Sort(names)
	return slices.Compact(names)
}
