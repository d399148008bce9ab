package buckets

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// Limits of properties.
const (
	// MaxBuckets is how many buckets may have properties. Buckets without any cost nothing and have no limit.
	MaxBuckets = 10_000
	// MaxName is the length of a bucket's name in bytes.
	MaxName = 128
	// MaxTTL is the longest time to live.
	MaxTTL = 10 * 365 * 24 * time.Hour
	// MinTTL is the shortest one: expiry is kept in milliseconds.
	MinTTL = time.Millisecond
)

// The conflict policies.
const (
	Siblings = "siblings" // every concurrent write is kept and shown
	LWW      = "lww"      // the write with the highest hybrid-clock stamp is shown
)

// Errors of Set: nothing was changed.
var (
	// ErrInvalid: a property, or the bucket's name, is not one.
	ErrInvalid = errors.New("invalid bucket property")
	// ErrTooMany: MaxBuckets have properties already.
	ErrTooMany = errors.New("too many buckets with properties")
)

// InvalidError names the property at fault. It wraps ErrInvalid.
type InvalidError struct{ Property, Reason string }

// Error gives property and reason.
func (e *InvalidError) Error() string { return e.Property + ": " + e.Reason }

// Unwrap makes errors.Is match ErrInvalid.
func (e *InvalidError) Unwrap() error { return ErrInvalid }

// Version orders the changes of one bucket's properties: the higher stamp, then the higher node id, is newer.
type Version struct {
	Stamp vclock.Stamp
	Node  ring.NodeID
}

// Compare returns -1, 0 or +1.
func (v Version) Compare(w Version) int {
	return cmp.Or(cmp.Compare(v.Stamp, w.Stamp), bytes.Compare(v.Node[:], w.Node[:]))
}

// Properties of a bucket. The zero value is a bucket for which nothing was set.
type Properties struct {
	R, W          string        // a number, one, quorum or all; "": the node's default
	LastWriteWins bool          // the conflict policy
	TTL           time.Duration // of writes that give none; 0: they never expire
	Version       Version       // zero: nothing was ever set
}

// Conflict names the conflict policy.
func (p Properties) Conflict() string {
	if p.LastWriteWins {
		return LWW
	}
	return Siblings
}

// Patch changes some properties and leaves those that are nil as they are. A pointer to "" (or to 0) sets a property
// back to its default.
type Patch struct {
	R, W     *string
	Conflict *string
	TTL      *time.Duration
}

// apply returns p changed by the patch, or an *InvalidError.
func (c Patch) apply(p Properties) (Properties, error) {
	var err error
	if c.R != nil {
		if p.R, err = quorum("r", *c.R); err != nil {
			return p, err
		}
	}
	if c.W != nil {
		if p.W, err = quorum("w", *c.W); err != nil {
			return p, err
		}
	}
	if c.Conflict != nil {
		switch *c.Conflict {
		case "", Siblings:
			p.LastWriteWins = false
		case LWW:
			p.LastWriteWins = true
		default:
			return p, &InvalidError{"conflict", fmt.Sprintf("%q is no policy; use %s or %s", *c.Conflict, Siblings, LWW)}
		}
	}
	if c.TTL != nil {
		if t := *c.TTL; t != 0 && (t < MinTTL || t > MaxTTL) {
			return p, &InvalidError{"ttl", fmt.Sprintf("%s is out of range; use %s to %s", t, MinTTL, MaxTTL)}
		}
		p.TTL = c.TTL.Truncate(time.Millisecond)
	}
	return p, nil
}

// quorum checks and normalises a number of replicas. Whether it fits N is for the caller: N belongs to the layout.
func quorum(name, s string) (string, error) {
	switch word := strings.ToLower(s); word {
	case "", "one", "quorum", "all":
		return word, nil
	}
	n, err := strconv.ParseUint(s, 10, 8)
	if err != nil || n < 1 || n > ring.MaxN {
		return "", &InvalidError{name, fmt.Sprintf("%q is no number of replicas; use 1 to %d, one, quorum or all", s, ring.MaxN)}
	}
	return strconv.FormatUint(n, 10), nil
}

// CheckName returns an *InvalidError unless s can be a bucket's name: 1 to MaxName bytes of A-Z a-z 0-9 . _ -
func CheckName(s string) error {
	if len(s) < 1 || len(s) > MaxName {
		return &InvalidError{"bucket", fmt.Sprintf("%d bytes long; use 1 to %d", len(s), MaxName)}
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return &InvalidError{"bucket", fmt.Sprintf("%q has other characters than A-Z a-z 0-9 . _ -", s)}
		}
	}
	return nil
}
