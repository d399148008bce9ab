package loadgen

import "context"

// Op is one operation. Key and Value belong to the caller of Do and are used
// again afterwards.
type Op struct {
	Kind  Kind
	Index int // of the key, in [0, Spec.Keys)
	Key   []byte
	Value []byte // of a Put
}

// Class is how an operation ended.
type Class uint8

// Classes of answers.
const (
	OK       Class = iota
	Missing        // a read of an absent key: no error
	Siblings       // a read of several values: no error
	Failed         // the server said so; the connection can be used on
	Broken         // no answer; the connection must be dialled again
)

// Answer is the outcome of an operation.
type Answer struct {
	Class  Class
	Reason string // a short constant that answers are counted by, e.g. "204" or "timeout"
	Detail string // of a failure, what was said
	Value  []byte // of a Get that is OK; valid until the next Do
	Close  bool   // the server ends the connection after this answer
}

// Conn is one connection to a server. It does one operation at a time and
// bounds its time itself.
type Conn interface {
	Do(op *Op) Answer
	Close()
}

// Dialer makes the i-th connection of a load.
type Dialer func(ctx context.Context, i int) (Conn, error)

// Reasons of failures without an answer.
const (
	ReasonTimeout    = "timeout"
	ReasonConnection = "connection"
	ReasonWrongValue = "wrong value"
)
