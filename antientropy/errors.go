package antientropy

import (
	"errors"
	"fmt"
)

// Code is the number under which a handler's refusal travels. Append only.
type Code uint16

// The codes of refusals.
const (
	CodeEpoch      Code = 1 // another epoch of the layout, or no layout yet
	CodeNotOurs    Code = 2 // one of the two nodes is no primary of a partition
	CodeBadRequest Code = 3 // the message cannot be read
	CodeBusy       Code = 4 // the node's budget is spent; try later
	CodeFailed     Code = 5 // the local store failed
)

// refusal is a handler's error with its code.
type refusal struct {
	code Code
	text string
	err  error
}

func (r *refusal) Error() string {
	if r.err != nil {
		return fmt.Sprintf("%s: %v", r.text, r.err)
	}
	return r.text
}

func (r *refusal) Unwrap() error { return r.err }

// Code is what the transport sends along.
func (r *refusal) Code() uint16 { return uint16(r.code) }

func refuse(code Code, text string) error { return &refusal{code: code, text: text} }

func badRequest(err error) error { return &refusal{CodeBadRequest, "bad request", err} }

func storeFailed(err error) error { return &refusal{CodeFailed, "the store failed", err} }

// refused reports whether err is the peer's refusal rather than its silence.
func refused(err error) bool {
	var c interface{ Code() uint16 }
	return errors.As(err, &c) && c.Code() != 0
}

// ErrRepairRunning is returned by Repair while another one, with another filter, is unfinished.
var ErrRepairRunning = errors.New("another repair is running")

// ErrNoLayout: this node does not know the cluster's layout yet.
var ErrNoLayout = errors.New("this node does not know the cluster's layout yet")

// errTurnOver ends an exchange whose turn is over with work left.
var errTurnOver = errors.New("the turn is over")
