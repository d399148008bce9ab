package config

import (
	"fmt"
	"math"
	"net"
	"strconv"
	"strings"
)

// Quorum is a number of replicas: a decimal number, or one of the words below,
// whose number depends on N.
type Quorum string

// The words a Quorum may be.
const (
	QuorumOne      Quorum = "one"
	QuorumMajority Quorum = "quorum"
	QuorumAll      Quorum = "all"
)

// UnmarshalText accepts one, quorum, all in any case, or a number from 1.
func (q *Quorum) UnmarshalText(text []byte) error {
	s := strings.ToLower(strings.TrimSpace(string(text)))
	if _, err := Quorum(s).Of(maxN); err != nil {
		return fmt.Errorf("%q is no number of replicas; use a number from 1, one, quorum or all", text)
	}
	*q = Quorum(s)
	return nil
}

// Of returns the number of replicas that q means where a key has n, or an
// error when q is malformed or not in 1..n.
func (q Quorum) Of(n int) (int, error) {
	switch q {
	case QuorumOne:
		return 1, nil
	case QuorumMajority:
		return n/2 + 1, nil
	case QuorumAll:
		return n, nil
	}
	k, err := strconv.Atoi(string(q))
	switch {
	case err != nil:
		return 0, fmt.Errorf("%q is no number of replicas; use 1..%d, one, quorum or all", string(q), n)
	case k < 1:
		return 0, fmt.Errorf("%q is less than 1; use 1..%d, one, quorum or all", string(q), n)
	case k > n:
		return 0, fmt.Errorf("%q is more than N=%d; use 1..%d, one, quorum or all", string(q), n, n)
	}
	return k, nil
}

// Size is a number of bytes.
type Size int64

// Units of Size.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
	TiB Size = 1 << 40
)

var units = []struct {
	suffix string
	size   Size
}{
	{"tib", TiB}, {"gib", GiB}, {"mib", MiB}, {"kib", KiB},
	{"tb", 1e12}, {"gb", 1e9}, {"mb", 1e6}, {"kb", 1e3},
	{"t", TiB}, {"g", GiB}, {"m", MiB}, {"k", KiB}, {"b", 1},
}

// UnmarshalText accepts a number of bytes with an optional unit: KiB, MiB, GiB,
// TiB (also K, M, G, T) are powers of 1024, kB, MB, GB, TB powers of 1000.
func (s *Size) UnmarshalText(text []byte) error {
	word := strings.ToLower(strings.TrimSpace(string(text)))
	unit := Size(1)
	for _, u := range units {
		if rest, ok := strings.CutSuffix(word, u.suffix); ok {
			word, unit = strings.TrimSpace(rest), u.size
			break
		}
	}
	v, err := strconv.ParseFloat(word, 64)
	bytes := v * float64(unit)
	if err != nil || math.IsNaN(bytes) || bytes < 0 || bytes >= math.MaxInt64 {
		return fmt.Errorf("%q is no size; use a number of bytes or e.g. 512KiB, 1MiB, 2GiB", text)
	}
	*s = Size(bytes)
	return nil
}

// String is the shortest exact form, e.g. 1MiB.
func (s Size) String() string {
	for _, u := range units[:4] {
		if s >= u.size && s%u.size == 0 {
			return strconv.FormatInt(int64(s/u.size), 10) + strings.ToUpper(u.suffix[:1]) + "iB"
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}

// Free is the disk guard: how much of a file system must stay free. At most
// one field is set.
type Free struct {
	Auto    bool
	Bytes   Size
	Percent float64 // 0..100
}

// UnmarshalText accepts auto, a Size, or a percentage such as 5%.
func (f *Free) UnmarshalText(text []byte) error {
	word := strings.ToLower(strings.TrimSpace(string(text)))
	if word == "auto" {
		*f = Free{Auto: true}
		return nil
	}
	if number, ok := strings.CutSuffix(word, "%"); ok {
		v, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || !(v >= 0 && v < 100) {
			return fmt.Errorf("%q is no percentage of the disk; use e.g. 5%%, 1GiB or auto", text)
		}
		*f = Free{Percent: v}
		return nil
	}
	var s Size
	if err := s.UnmarshalText(text); err != nil {
		return fmt.Errorf("%q is no amount of free space; use e.g. 1GiB, 5%% or auto", text)
	}
	*f = Free{Bytes: s}
	return nil
}

// String is the form that UnmarshalText accepts.
func (f Free) String() string {
	switch {
	case f.Auto:
		return "auto"
	case f.Percent > 0:
		return strconv.FormatFloat(f.Percent, 'g', -1, 64) + "%"
	}
	return f.Bytes.String()
}

// Of returns the bytes that must stay free on a file system of total bytes.
// Auto is the larger of 5 % and 1 GiB, but never more than a quarter of the
// file system, so that a small volume can be used at all.
func (f Free) Of(total int64) int64 {
	switch {
	case f.Auto:
		return min(max(total/20, int64(GiB)), total/4)
	case f.Percent > 0:
		return int64(float64(total) * f.Percent / 100)
	}
	return int64(f.Bytes)
}

// Cache is the memory for records that were used lately.
type Cache struct {
	Auto  bool // a share of what there is
	Bytes Size
}

// What Auto is at least and at most.
const (
	cacheLeast = 64 * MiB
	cacheMost  = GiB
	cacheShare = 64 // the part of it: one of so many
)

// UnmarshalText accepts auto and a Size.
func (c *Cache) UnmarshalText(text []byte) error {
	if strings.ToLower(strings.TrimSpace(string(text))) == "auto" {
		*c = Cache{Auto: true}
		return nil
	}
	var s Size
	if err := s.UnmarshalText(text); err != nil {
		return fmt.Errorf("%q is no amount of memory; use e.g. 64MiB, 1GiB, 0 or auto", text)
	}
	*c = Cache{Bytes: s}
	return nil
}

// String is the form that UnmarshalText accepts.
func (c Cache) String() string {
	if c.Auto {
		return "auto"
	}
	return c.Bytes.String()
}

// Of returns the bytes to keep where a node may use so much memory; 0: it is not known how much. Auto is a sixty-fourth of it
// in whole MiB, from 64 MiB to 1 GiB.
func (c Cache) Of(memory uint64) Size {
	if !c.Auto {
		return c.Bytes
	}
	share := Size(min(memory/cacheShare, uint64(cacheMost))) / MiB * MiB
	return max(share, cacheLeast)
}

// Seed is a gossip address to start with, and the name of the node there when
// it is a founder.
type Seed struct {
	Name string // empty: any node, not a founder
	Addr string // host:port of gossip
}

// UnmarshalText accepts name@host:port and host:port.
func (s *Seed) UnmarshalText(text []byte) error {
	word := strings.TrimSpace(string(text))
	name, addr, named := strings.Cut(word, "@")
	if !named {
		name, addr = "", word
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" || !validPort(port, 1) {
		return fmt.Errorf("%q is no seed; use name@host:port or host:port with the gossip port of that node", word)
	}
	if named && checkName(name) != nil {
		return fmt.Errorf("%q is no seed: %w", word, checkName(name))
	}
	*s = Seed{Name: name, Addr: addr}
	return nil
}

// String is the form that UnmarshalText accepts.
func (s Seed) String() string {
	if s.Name == "" {
		return s.Addr
	}
	return s.Name + "@" + s.Addr
}
