package api

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/google/uuid"

	"github.com/dunlindb/dunlin/vclock"
)

const (
	headerIdempotency = "Idempotency-Key"
	maxIdempotencyKey = 255
)

// checkIdempotencyKey wants 1 to 255 printable ASCII characters.
func checkIdempotencyKey(s string) *problem {
	bad := len(s) < 1 || len(s) > maxIdempotencyKey
	for i := range len(s) {
		bad = bad || s[i] < ' ' || s[i] > '~'
	}
	if bad {
		p := badRequest(fmt.Sprintf("an Idempotency-Key has 1 to %d printable ASCII characters", maxIdempotencyKey))
		p.Parameter = headerIdempotency
		return p
	}
	return nil
}

func randomID() (id vclock.WriteID) {
	_, _ = rand.Read(id.Key[:]) // never fails
	return id
}

// clientID names a request by its Idempotency-Key and a hash of its parts.
func clientID(idempotencyKey string, request ...[]byte) vclock.WriteID {
	id := vclock.WriteID{Client: true}
	key := sha256.Sum256([]byte(idempotencyKey))
	copy(id.Key[:], key[:])
	h := sha256.New()
	for _, part := range request {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		h.Write(n[:])
		h.Write(part)
	}
	copy(id.Body[:], h.Sum(nil))
	return id
}

// freshKey is the key of a POST: in the order of time; but the same again for the same Idempotency-Key, so that a
// repeated request, through any node, meets the first one's key.
func freshKey(bucket, idempotencyKey string) string {
	if idempotencyKey == "" {
		return uuid.Must(uuid.NewV7()).String()
	}
	h := sha256.New()
	fmt.Fprintf(h, "post\x00%s\x00%s", bucket, idempotencyKey)
	return "idem-" + hex.EncodeToString(h.Sum(nil)[:16])
}
