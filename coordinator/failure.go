package coordinator

import (
	"context"
	"errors"
)

// The words of ReplicaOutcome.Outcome for a replica that did not do its part.
const (
	wordDown       = "down"
	wordTimeout    = "timeout"
	wordOverloaded = "overloaded"
	wordFull       = "full"
	wordCorrupt    = "corrupt"
	wordEpoch      = "other epoch"
	wordStale      = "stale round"
	wordNoHint     = "no hint"
	wordFailed     = "failed"
)

// failure is why a replica did not do its part.
type failure struct {
	word   string
	detail string
	// certain: the replica certainly did nothing.
	certain bool
}

// Code is the kind of an error that a handler returns to another node. The numbers travel: append only.
type Code uint16

// The codes of this package's handlers.
const (
	CodeEpoch      Code = 1 // this node goes by other epochs, or owns no copy of the key in any; nothing was acknowledged
	CodeFull       Code = 2
	CodeOverloaded Code = 3
	CodeCorrupt    Code = 4
	CodeUncertain  Code = 5
	CodeBadRequest Code = 6
	CodeFailed     Code = 7
	CodeStaleRound Code = 8
	CodeNoHint     Code = 9 // this node is no primary of the key and holds no hint for one
)

// codedError is a handler's error with its code.
type codedError struct {
	code Code
	text string
}

func (e *codedError) Error() string { return e.text }
func (e *codedError) Code() uint16  { return uint16(e.code) }

// coded gives a local error the code under which another node understands it.
func coded(err error) error {
	if _, ok := errors.AsType[*codedError](err); ok {
		return err
	}
	code := CodeFailed
	switch {
	case errors.Is(err, ErrFull):
		code = CodeFull
	case errors.Is(err, ErrOverloaded):
		code = CodeOverloaded
	case errors.Is(err, ErrCorrupt):
		code = CodeCorrupt
	case errors.Is(err, ErrUncertain):
		code = CodeUncertain
	case errors.Is(err, ErrStaleRound):
		code = CodeStaleRound
	}
	return &codedError{code, err.Error()}
}

// What a Caller's error may tell.
type (
	notSent    interface{ NotSent() bool }
	overloaded interface{ Overloaded() bool }
	hasCode    interface{ Code() uint16 }
)

func isNotSent(err error) bool {
	e, ok := errors.AsType[notSentError](err)
	return ok && e.NotSent()
}

type notSentError interface {
	error
	notSent
}

type overloadedError interface {
	error
	overloaded
}

type codeError interface {
	error
	hasCode
}

// classify turns the error of a local or remote replica request into a failure.
func classify(err error) failure {
	f := failure{word: wordFailed, detail: err.Error()}
	code := Code(0)
	if e, ok := errors.AsType[codeError](err); ok {
		code = Code(e.Code())
	}
	over := false
	if e, ok := errors.AsType[overloadedError](err); ok {
		over = e.Overloaded()
	}
	switch {
	case code == CodeEpoch:
		f.word, f.certain = wordEpoch, true
	case code == CodeFull || errors.Is(err, ErrFull):
		f.word, f.certain = wordFull, true
	case code == CodeOverloaded || errors.Is(err, ErrOverloaded):
		f.word, f.certain = wordOverloaded, true
	case code == CodeCorrupt || errors.Is(err, ErrCorrupt):
		f.word, f.certain = wordCorrupt, true
	case code == CodeStaleRound || errors.Is(err, ErrStaleRound):
		f.word, f.certain = wordStale, true
	case code == CodeNoHint:
		f.word, f.certain = wordNoHint, true
	case code == CodeBadRequest:
		f.certain = true
	case errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled):
		f.word, f.certain = wordTimeout, isNotSent(err)
	case over:
		f.word, f.certain = wordOverloaded, isNotSent(err)
	case isNotSent(err):
		f.word, f.certain = wordDown, true
	case code != 0 || errors.Is(err, ErrUncertain):
	default:
		f.word = wordDown
	}
	return f
}

// kindOf names the reason that weighs most among the failures of a request: what the client can do differs.
func kindOf(failures []failure) Kind {
	kind := Unavailable
	for _, f := range failures {
		switch f.word {
		case wordFull:
			return Full
		case wordOverloaded:
			kind = Overloaded
		}
	}
	return kind
}
