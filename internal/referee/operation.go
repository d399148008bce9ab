package referee

import (
	"fmt"
	"hash/fnv"
	"strings"
	"time"
)

// Kind is what an operation does to its key.
type Kind string

// The kinds of operations.
const (
	Put    Kind = "put"
	Delete Kind = "delete"
	Get    Kind = "get"
)

// Outcome is what a client was told of an operation.
type Outcome string

// The outcomes. A read that failed is Unknown.
const (
	Acked   Outcome = "acked"
	None    Outcome = "none"          // certainly nothing was stored
	Unknown Outcome = "indeterminate" // it may have been stored, or still become visible
)

// Operation is one operation of one client on one key, all its attempts together.
type Operation struct {
	Client int    `json:"client"`
	Kind   Kind   `json:"op"`
	Bucket string `json:"bucket,omitempty"`
	Key    string `json:"key"`
	Node   string `json:"node,omitempty"`  // that was asked last
	Value  string `json:"value,omitempty"` // name of what a put wrote; no other put of the run has it

	// What the context that was sent covers. Sure was read together with it. Maybe are values that this client wrote
	// itself and whose answer gave the context: an answer without the values may leave them uncovered.
	Sure    []string `json:"sure,omitempty"`
	Maybe   []string `json:"maybe,omitempty"`
	Blind   bool     `json:"blind,omitempty"`   // a delete without a context: it covers what its coordinator saw
	Strict  bool     `json:"strict,omitempty"`  // sloppy=false with R+W > N
	W       int      `json:"w,omitempty"`       // how many replicas a write asked for, at least
	Context string   `json:"context,omitempty"` // the token that was sent

	Outcome    Outcome       `json:"outcome"`
	Start      time.Duration `json:"start"`
	End        time.Duration `json:"end"`
	Attempts   int           `json:"attempts,omitempty"`
	Idempotent string        `json:"idempotency,omitempty"` // the Idempotency-Key
	Answer     string        `json:"answer,omitempty"`      // the token that was answered
	Got        []string      `json:"got,omitempty"`         // by a get: the live values
	Dots       []string      `json:"dots,omitempty"`        // of Got, in its order, where known
}

func (o *Operation) String() string {
	return fmt.Sprintf("%s %s %q via %s (%v..%v, %s, sure %q, maybe %q, got %q, strict %v, blind %v)",
		o.Kind, o.name(), o.Value, o.Node, o.Start.Round(time.Millisecond), o.End.Round(time.Millisecond), o.Outcome,
		o.Sure, o.Maybe, o.Got, o.Strict, o.Blind)
}

// name is the key with its bucket.
func (o *Operation) name() string { return KeyName(o.Bucket, o.Key) }

// KeyName is how Final.Keys names a key.
func KeyName(bucket, key string) string { return bucket + "/" + key }

// Value makes a value that is its name over and over, at most about extra bytes long, so that a damaged one is told
// from a whole one. The name has no blank in it.
func Value(name string, extra int) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name)) // a hash takes everything
	return strings.Repeat(name+" ", 1+int(h.Sum32()%uint32(max(1, extra/(len(name)+1))))) + "."
}

// Name returns the name in a value, or the value itself, called damaged, which names nothing.
func Name(value string) string {
	name, _, _ := strings.Cut(value, " ")
	body, ok := strings.CutSuffix(value, ".")
	if ok && name != "" && len(body)%(len(name)+1) == 0 && body == strings.Repeat(name+" ", len(body)/(len(name)+1)) {
		return name
	}
	return fmt.Sprintf("damaged: %.60q", value)
}
