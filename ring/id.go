package ring

import (
	"bytes"
	"encoding/hex"
	"fmt"
)

// NodeID names a node for its whole life. It is random, and a node that lost its disk comes back with another.
type NodeID [16]byte

// String returns the id as 32 lower-case hexadecimal digits.
func (id NodeID) String() string { return hex.EncodeToString(id[:]) }

// IsZero reports whether id is the zero value, which names no node.
func (id NodeID) IsZero() bool { return id == NodeID{} }

// Compare orders ids bytewise: -1, 0 or +1.
func (id NodeID) Compare(other NodeID) int { return bytes.Compare(id[:], other[:]) }

// ParseNodeID reads what String wrote: exactly 32 hexadecimal digits, in either case.
func ParseNodeID(s string) (NodeID, error) {
	var id NodeID
	if len(s) != hex.EncodedLen(len(id)) {
		return NodeID{}, fmt.Errorf("node id: %d characters, want 32 hexadecimal digits", len(s))
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return NodeID{}, fmt.Errorf("node id %q: %w", s, err)
	}
	return id, nil
}

// MarshalText writes the form of String.
func (id NodeID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads the form of String; id is unchanged when it fails.
func (id *NodeID) UnmarshalText(text []byte) error {
	parsed, err := ParseNodeID(string(text))
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}
