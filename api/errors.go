package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/dunlindb/dunlin/coordinator"
	"github.com/dunlindb/dunlin/vclock"
)

// The refusals of a write that were decided before anything was stored.
var refusals = []struct {
	err    error
	status int
	kind   string
	advice string
}{
	{vclock.ErrIDReused, http.StatusUnprocessableEntity, "idempotency-key-reused",
		"give every request an Idempotency-Key of its own, and repeat a request unchanged"},
	{vclock.ErrSiblings, http.StatusConflict, "too-many-siblings",
		"read the key, reconcile its siblings, and write the result with the Dunlin-Context of that read"},
	{vclock.ErrBytes, http.StatusConflict, "siblings-too-large",
		"read the key, reconcile its siblings, and write the result with the Dunlin-Context of that read"},
	{vclock.ErrClock, http.StatusConflict, "clock-too-long",
		"read the key and write with the Dunlin-Context of that read, through few nodes"},
	{vclock.ErrStampAhead, http.StatusServiceUnavailable, "stamp-ahead",
		"a node's clock ran far ahead when the present value was written; check the clocks of all nodes, " +
			"or delete the key with the bucket set to conflict=siblings"},
}

// failure turns an error of the coordinator into an answer.
func (a *api) failure(err error, write bool) *problem {
	for _, r := range refusals {
		if errors.Is(err, r.err) {
			p := newProblem(r.status, r.kind, err.Error()+"; "+r.advice)
			p.Retryable = false
			p.Outcome = coordinator.None
			return p
		}
	}
	var q *coordinator.QuorumError
	if errors.As(err, &q) {
		return a.quorumFailure(q, write)
	}
	p := a.plainFailure(err)
	if write {
		p.Outcome = coordinator.Indeterminate
	}
	return p
}

func (a *api) plainFailure(err error) *problem {
	switch {
	case errors.Is(err, coordinator.ErrCorrupt):
		return newProblem(http.StatusServiceUnavailable, "replica-corrupt", err.Error()+"; it heals from its peers")
	case errors.Is(err, context.DeadlineExceeded):
		return newProblem(http.StatusGatewayTimeout, "timeout", "the request's time ran out")
	case errors.Is(err, context.Canceled):
		p := newProblem(http.StatusServiceUnavailable, "cancelled", "the client closed the connection")
		p.gone = true
		return p
	}
	a.log.Error("request failed", "err", err)
	return newProblem(http.StatusInternalServerError, "internal", err.Error())
}

func (a *api) quorumFailure(q *coordinator.QuorumError, write bool) *problem {
	var p *problem
	switch q.Kind {
	case coordinator.Timeout:
		p = newProblem(http.StatusGatewayTimeout, "quorum-timeout", q.Error())
	case coordinator.Full:
		p = newProblem(http.StatusInsufficientStorage, "disk-full", q.Error())
	case coordinator.Overloaded:
		p = newProblem(http.StatusServiceUnavailable, "overloaded", q.Error())
	case coordinator.NotReady:
		p = newProblem(http.StatusServiceUnavailable, "not-ready", q.Error())
	case coordinator.Cancelled:
		p = newProblem(http.StatusServiceUnavailable, "cancelled", q.Error())
		p.gone = true
	default:
		p = newProblem(http.StatusServiceUnavailable, "quorum-unavailable", q.Error())
	}
	required, acked := q.Required, q.Acked
	p.Parameter, p.Required, p.Acked, p.n = q.Parameter, &required, &acked, q.N
	for _, r := range q.Replicas {
		name := r.Name
		if name == "" {
			name = a.nameOf(r.Node)
		}
		p.Replicas = append(p.Replicas, replicaProblem{Node: name, Role: r.Role, Outcome: r.Outcome, Detail: r.Detail})
	}
	if write {
		p.Outcome = q.Outcome
		if p.Outcome == "" {
			p.Outcome = coordinator.Indeterminate
		}
	}
	return p
}
