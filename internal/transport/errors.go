package transport

import (
	"errors"
	"fmt"

	"github.com/dunlindb/dunlin/ring"
)

// ErrClosed is wrapped by the error of a call that ended because this transport was closed or is not started.
var ErrClosed = errors.New("transport is closed")

// Kind says how a call failed.
type Kind uint8

// The kinds of failure.
const (
	KindUnreachable Kind = iota + 1 // no address is known, or no connection could be made
	KindRefused                     // the handshake was refused by one of the two sides
	KindOverloaded                  // a bound was reached, here or at the peer, or the peer is stopping; no handler ran
	KindLost                        // the connection was lost, or dropped by Disconnect, while the call was under way
	KindExpired                     // the context of the call ended
	KindRemote                      // the peer answered with an error
	KindInvalid                     // the request cannot be sent, or its answer cannot be read
	KindClosed                      // this transport is closed or not started
)

var kindNames = [...]string{"failed", "unreachable", "refused", "overloaded", "connection lost", "expired", "remote error", "invalid", "closed"}

// String returns a few words for people.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Codes that the transport itself puts in an answer. A handler's own codes are 1 to 0xfeff; an error without
// a code, or with one outside this range, travels as CodeUnspecified.
const (
	CodeReserved        uint16 = 0xff00 // the first reserved code
	CodeUnspecified     uint16 = 0xff01 // the handler failed without a code
	CodeUnknownEndpoint uint16 = 0xff02 // the peer serves no such endpoint
	CodePanic           uint16 = 0xff03 // the handler panicked
	CodeOverloaded      uint16 = 0xff04 // the peer has too much to do, or is stopping; no handler ran
	CodeTooLarge        uint16 = 0xff05 // the handler ran; its answer exceeds the largest frame
)

// Error is the error of every failed Call.
type Error struct {
	Peer     ring.NodeID
	Endpoint string
	Kind     Kind
	Text     string // for people; for KindRemote and KindRefused by the peer it is the peer's text

	code    uint16
	notSent bool
	err     error
}

// Error describes the failure in one line.
func (e *Error) Error() string {
	s := fmt.Sprintf("call %s at %s: %s", e.Endpoint, e.Peer, e.Kind)
	if e.Text != "" {
		s += ": " + e.Text
	}
	if e.err != nil {
		s += ": " + e.err.Error()
	}
	return s
}

// Unwrap returns the cause, which is the context's error for KindExpired and ErrClosed for KindClosed.
func (e *Error) Unwrap() error { return e.err }

// NotSent reports that not one byte of the request was written to a connection: the peer cannot have seen it,
// so it is safe to try elsewhere. False says nothing.
func (e *Error) NotSent() bool { return e.notSent }

// Remote reports that the peer answered with an error; Code and Text are its own.
func (e *Error) Remote() bool { return e.Kind == KindRemote }

// Overloaded reports that a bound was reached, here or at the peer, and that no handler ran.
func (e *Error) Overloaded() bool { return e.Kind == KindOverloaded }

// Unreachable reports that there is no connection to the peer: none could be made, the handshake was refused,
// or it was lost. After a loss the request may have been carried out; only NotSent excludes it.
func (e *Error) Unreachable() bool {
	return e.Kind == KindUnreachable || e.Kind == KindRefused || e.Kind == KindLost
}

// Code returns the code of the peer's answer, 0 if there was none.
func (e *Error) Code() uint16 { return e.code }

// codeOf returns the code with which a handler's error travels. The code of a failed call that the handler
// itself made belongs to another conversation and is not passed on.
func codeOf(err error) uint16 {
	var nested *Error
	var coded interface{ Code() uint16 }
	if !errors.As(err, &coded) {
		return CodeUnspecified
	}
	if errors.As(err, &nested) && any(nested) == any(coded) {
		return CodeUnspecified
	}
	if c := coded.Code(); c != 0 && c < CodeReserved {
		return c
	}
	return CodeUnspecified
}
