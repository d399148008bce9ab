package hinted

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/dunlindb/dunlin/ring"
)

// Code is the kind of an error that a handler returns to another node. The numbers travel: append only.
type Code uint16

// The codes of this package's handlers.
const (
	CodeEpoch      Code = 1 // this node is at another epoch, or does not know the sender as a member
	CodeOverloaded Code = 2 // too many batches are being received
	CodeBadRequest Code = 3
	CodeFailed     Code = 4 // the marks could not be stored
)

type codedError struct {
	code Code
	text string
}

func (e *codedError) Error() string { return e.text }
func (e *codedError) Code() uint16  { return uint16(e.code) }

// abreast is how many hints of one batch are merged, or deleted, at once: enough to share the store's fsyncs.
const abreast = 64

// Handler answers another node's call.
type Handler = func(ctx context.Context, from ring.NodeID, body []byte) ([]byte, error)

// Handlers returns what answers the endpoints of this package. They work from New on, also without Start, and after
// Close.
func (w *Worker) Handlers() map[string]Handler {
	return map[string]Handler{EndpointBatch: w.serveBatch, EndpointDropped: w.serveDropped}
}

// meet brings this node to the sender's epoch and returns the live ones. It refuses what is older than the epoch that
// has settled here: by then nobody writes by it.
func (w *Worker) meet(ctx context.Context, from ring.NodeID, epoch uint64) (*ring.Epochs, error) {
	e := w.deps.View.Epochs()
	if e == nil || e.Newest().Epoch() < epoch {
		if err := w.deps.View.Learn(ctx, from, epoch); err != nil {
			return nil, &codedError{CodeEpoch, fmt.Sprintf("epoch %d is not known here: %v", epoch, err)}
		}
		e = w.deps.View.Epochs()
	}
	if e == nil {
		return nil, &codedError{CodeEpoch, "no layout is known here yet"}
	}
	if epoch < e.Settled() {
		return nil, &codedError{CodeEpoch, fmt.Sprintf("epoch %d has settled here, the sender is at %d", e.Settled(), epoch)}
	}
	if !isMember(e, from) {
		return nil, &codedError{CodeEpoch, "the sender is no member"}
	}
	return e, nil
}

func (w *Worker) serveBatch(ctx context.Context, from ring.NodeID, body []byte) ([]byte, error) {
	select {
	case w.serving <- struct{}{}:
		defer func() { <-w.serving }()
	default:
		w.met.refused.Inc()
		return nil, &codedError{CodeOverloaded, "too many batches of hints at once"}
	}
	m, err := decodeBatch(body)
	if err != nil {
		return nil, &codedError{CodeBadRequest, err.Error()}
	}
	e, err := w.meet(ctx, from, m.epoch)
	if err != nil {
		return nil, err
	}
	answer := answerMessage{statuses: make([]status, len(m.items))}
	texts := make([]string, len(m.items))
	parallel(len(m.items), func(i int) {
		answer.statuses[i], texts[i] = w.receive(ctx, e, &m.items[i])
	})
	for i, s := range answer.statuses {
		w.met.received.WithLabelValues(statusNames[s]).Inc()
		if answer.text == "" {
			answer.text = texts[i]
		}
	}
	if slices.Contains(answer.statuses, stale) {
		for i := range m.items {
			answer.rounds = append(answer.rounds, w.deps.Receiver.Round(e.Partition(m.items[i].bucket, m.items[i].key)))
		}
	}
	return answer.encode(), nil
}

// receive stores one hint, if this node holds its key: elsewhere the write would be a leftover that no
// quorum reads, and the sender would forget it.
func (w *Worker) receive(ctx context.Context, e *ring.Epochs, it *item) (status, string) {
	p := e.Partition(it.bucket, it.key)
	if !e.Holds(p, w.deps.Self) {
		return refused, fmt.Sprintf("no replica of partition %d", p)
	}
	if err := ctx.Err(); err != nil {
		return failed, err.Error()
	}
	err := w.deps.Receiver.Merge(ctx, p, it.bucket, it.key, it.object, it.round)
	switch {
	case err == nil:
		return stored, ""
	case errors.Is(err, ErrStaleRound):
		return stale, ""
	}
	return failed, err.Error()
}

func (w *Worker) serveDropped(ctx context.Context, from ring.NodeID, body []byte) ([]byte, error) {
	m, err := decodeDropped(body)
	if err != nil {
		return nil, &codedError{CodeBadRequest, err.Error()}
	}
	e, err := w.meet(ctx, from, m.epoch)
	if err != nil {
		return nil, err
	}
	for _, p := range m.partitions {
		if p >= e.Partitions() {
			return nil, &codedError{CodeBadRequest, fmt.Sprintf("partition %d of %d", p, e.Partitions())}
		}
	}
	if err := w.deps.Receiver.MarkBehind(ctx, m.partitions); err != nil {
		return nil, &codedError{CodeFailed, err.Error()}
	}
	w.deps.Log.Warn("hints for this node were dropped; it is behind until an exchange", "peer", from, "partitions", len(m.partitions))
	return encodeMarked(len(m.partitions)), nil
}

// parallel calls do for 0..n-1, a bounded number at once, and returns when all have returned.
func parallel(n int, do func(i int)) {
	var wg sync.WaitGroup
	next := make(chan int)
	for range min(n, abreast) {
		wg.Go(func() {
			for i := range next {
				do(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

// isMember reports whether a node is a member of some live epoch and not stopped for good.
func isMember(e *ring.Epochs, id ring.NodeID) bool {
	_, found := e.Member(id)
	return found && !e.Removed(id)
}
