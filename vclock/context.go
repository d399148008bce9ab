package vclock

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash/crc32"

	"github.com/dunlindb/dunlin/internal/wire"
)

// Context is what a client has seen of a key: it replaces exactly that when it writes with it.
type Context struct {
	Vector VersionVector
	Stamp  Stamp     // the highest stamp it covers
	IDs    []WriteID // the client write ids it covers, sorted; the write retires them
}

// IsZero reports whether the client has seen nothing.
func (c Context) IsZero() bool { return len(c.Vector) == 0 && len(c.IDs) == 0 }

// Scope is where a context holds: one key of one cluster. Elsewhere it would cover dots that its client never saw.
type Scope struct {
	Cluster     [16]byte
	Bucket, Key string
}

// Errors of ParseToken.
var (
	// ErrToken: the text is no context that a node gave out.
	ErrToken = errors.New("not a context")
	// ErrTokenScope: the context was given out for another key or by another cluster.
	ErrTokenScope = errors.New("context of another key or cluster")
)

const (
	tokenVersion = 1
	// MaxToken is the length of the longest token that ParseToken looks at, in bytes.
	MaxToken      = 48 << 10
	maxTokenClock = 4096
	maxTokenIDs   = 1024
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (s Scope) hash() [16]byte {
	b := make([]byte, 0, 256) // enough for most
	b = append(b, s.Cluster[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(len(s.Bucket)))
	b = append(b, s.Bucket...)
	b = append(b, s.Key...)
	sum := sha256.Sum256(b)
	return [16]byte(sum[:16])
}

// Token renders the context as the opaque text that clients carry.
func (c Context) Token(s Scope) string {
	e := wire.NewEncoder()
	defer e.Free()
	scope := s.hash()
	e.Array(4)
	e.Raw(scope[:])
	encodeVector(e, c.Vector)
	e.Uint(uint64(c.Stamp))
	e.Array(2 * len(c.IDs))
	for i := range c.IDs {
		e.Raw(c.IDs[i].Key[:])
		e.Raw(c.IDs[i].Body[:])
	}
	out, text := make([]byte, 5, 256), make([]byte, 0, 384) // enough for most
	out[0] = tokenVersion
	out = append(out, e.Bytes()...)
	binary.BigEndian.PutUint32(out[1:5], crc32.Checksum(out[5:], castagnoli))
	return string(base64.RawURLEncoding.AppendEncode(text, out))
}

// ParseToken reads a token that was given out for the same key of the same cluster.
func ParseToken(token string, s Scope) (Context, error) {
	if len(token) > MaxToken {
		return Context{}, ErrToken
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(b) < 5 || b[0] != tokenVersion ||
		binary.BigEndian.Uint32(b[1:5]) != crc32.Checksum(b[5:], castagnoli) {
		return Context{}, ErrToken
	}
	d := wire.NewDecoder(b[5:])
	var scope [16]byte
	var c Context
	d.ArrayOf(4)
	d.Fixed(scope[:])
	c.Vector = decodeVector(d, maxTokenClock, nil)
	c.Stamp = Stamp(d.Uint())
	n := d.Array(2 * maxTokenIDs)
	for i := 0; i+1 < n; i += 2 {
		id := WriteID{Client: true}
		d.Fixed(id.Key[:])
		d.Fixed(id.Body[:])
		if len(c.IDs) > 0 && c.IDs[len(c.IDs)-1].Compare(id) >= 0 {
			d.Fail("write ids out of order")
		}
		c.IDs = append(c.IDs, id)
	}
	if n%2 != 0 || d.Done() != nil {
		return Context{}, ErrToken
	}
	if scope != s.hash() {
		return Context{}, ErrTokenScope
	}
	return c, nil
}
