package loadgen

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Kind is what an operation does.
type Kind uint8

// The kinds of operations.
const (
	Put Kind = iota
	Get
	Delete
	kinds
)

var kindNames = [kinds]string{"put", "get", "delete"}

func (k Kind) String() string { return kindNames[k] }

// maxShare bounds a share of a Mix.
const maxShare = 1_000_000

// Mix is the share of each kind of operation, by Kind. Only their ratio counts.
type Mix [kinds]int

// UnmarshalText reads e.g. "put=50,get=50" or "get".
func (m *Mix) UnmarshalText(text []byte) error {
	var out Mix
	var seen [kinds]bool
	for part := range strings.SplitSeq(string(text), ",") {
		name, share, given := strings.Cut(strings.TrimSpace(part), "=")
		kind, ok := kindOf(name)
		if !ok {
			return fmt.Errorf("%q is no kind of operation; use put, get, delete, e.g. put=50,get=50", name)
		}
		if seen[kind] {
			return fmt.Errorf("%s is given twice", name)
		}
		seen[kind], out[kind] = true, 1
		if given {
			n, err := strconv.Atoi(share)
			if err != nil || n < 0 || n > maxShare {
				return fmt.Errorf("%q is no share of %s; use a whole number from 0 to %d, e.g. put=50,get=50", share, name, maxShare)
			}
			out[kind] = n
		}
	}
	if out.total() == 0 {
		return fmt.Errorf("%q gives no share to any operation; use e.g. put=50,get=50", text)
	}
	*m = out
	return nil
}

func kindOf(name string) (Kind, bool) {
	for k, n := range kindNames {
		if n == name {
			return Kind(k), true
		}
	}
	return 0, false
}

// String is the form that UnmarshalText reads.
func (m Mix) String() string {
	var parts []string
	for k, share := range m {
		if share > 0 {
			parts = append(parts, fmt.Sprintf("%s=%d", Kind(k), share))
		}
	}
	return strings.Join(parts, ",")
}

// MarshalJSON writes the form that UnmarshalText reads.
func (m Mix) MarshalJSON() ([]byte, error) { return json.Marshal(m.String()) }

// Writes tells whether any operation stores a value.
func (m Mix) Writes() bool { return m[Put] > 0 }

func (m Mix) total() int {
	n := 0
	for _, share := range m {
		n += share
	}
	return n
}

// at returns the kind at position n of [0, total).
func (m Mix) at(n int) Kind {
	for k, share := range m {
		if n < share {
			return Kind(k)
		}
		n -= share
	}
	panic("loadgen: a position beyond the mix")
}

// SizeRange is a size in bytes, from Min to Max, both included.
type SizeRange struct{ Min, Max int }

// UnmarshalText reads "1024", "1KiB", "100..2000".
func (s *SizeRange) UnmarshalText(text []byte) error {
	low, high, ranged := strings.Cut(string(text), "..")
	var out SizeRange
	var err error
	if out.Min, err = parseSize(low); err != nil {
		return err
	}
	out.Max = out.Min
	if ranged {
		if out.Max, err = parseSize(high); err != nil {
			return err
		}
	}
	if out.Max < out.Min {
		return fmt.Errorf("%s: the range is empty; the smaller size comes first", text)
	}
	*s = out
	return nil
}

func parseSize(s string) (int, error) {
	digits, unit := s, 1
	for suffix, size := range map[string]int{"KiB": 1 << 10, "MiB": 1 << 20} {
		if d, ok := strings.CutSuffix(s, suffix); ok {
			digits, unit = d, size
		}
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n < 0 || n > MaxValue/unit {
		return 0, fmt.Errorf("%q is no size of a value; use bytes up to %d, e.g. 1024, 1KiB or 100..2000", s, MaxValue)
	}
	return n * unit, nil
}

// String is the form that UnmarshalText reads.
func (s SizeRange) String() string {
	if s.Min == s.Max {
		return strconv.Itoa(s.Min)
	}
	return fmt.Sprintf("%d..%d", s.Min, s.Max)
}

// MarshalJSON writes the form that UnmarshalText reads.
func (s SizeRange) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }
