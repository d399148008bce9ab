package api

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/dunlindb/dunlin/coordinator"
)

const (
	ndjson = "application/x-ndjson"
	// batchWorkers is how many operations of one batch are worked on at once.
	batchWorkers = 16
)

// lineLimit bounds a line of a batch: a value with every other byte escaped, or in base64, and what is beside it.
func (a *api) lineLimit() int { return 2*a.opt.MaxValue + 64<<10 }

// batch does one operation a line, in any order, and answers one result a line, in the order of the operations. The
// results are sent while operations are still read.
func (a *api) batch(w http.ResponseWriter, r *http.Request) *problem {
	q, p := parseQuery(r.URL.RawQuery, batchParams)
	if p == nil {
		p = q.untraced()
	}
	if p != nil {
		return p
	}
	// What is wrong for every line is wrong for the batch; a bucket's properties are left to each line.
	if p := a.checkBatch(q, a.anyReplicas()); p != nil {
		return p
	}
	if p := readableBody(r); p != nil {
		return p
	}
	for _, name := range []string{headerContext, headerIdempotency, "If-Match", "If-None-Match"} {
		if _, given := r.Header[name]; given {
			p := badRequest("a batch takes no " + name + "; context and idempotency_key belong into its lines")
			p.Parameter = name
			return p
		}
	}
	rc := http.NewResponseController(w)
	_ = rc.EnableFullDuplex() // HTTP/1 only; others are
	w.Header().Set("Content-Type", ndjson)
	w.Header().Set("Cache-Control", "no-store")

	results := make(chan chan resultJSON, batchWorkers)
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	body := &timedBody{body: r.Body, rc: rc, most: a.opt.BodyTimeout}
	defer body.leave()
	in := &lines{body: bufio.NewReaderSize(body, 64<<10), limit: a.lineLimit(), next: body.next}
	go func() {
		defer close(done)
		if err := a.sendResults(w, rc, results); err != nil {
			in.stopped.Store(true) // nobody reads the rest: begin nothing more
			cancel()
		}
	}()
	a.runBatch(ctx, in, q, results)
	close(results)
	<-done
	return nil
}

// anyReplicas are the most that a key of any bucket has.
func (a *api) anyReplicas() (most replicas) {
	r := a.deps.Cluster.Ring()
	for g := range r.Partitions() / r.Q() {
		most.n = max(most.n, r.NOf(g*r.Q()))
	}
	most.next = most.n
	return most
}

func (a *api) checkBatch(q query, n replicas) *problem {
	var props = a.deps.Buckets.Get("") // there is no such bucket: none are set
	if _, p := a.reading(q, props, n); p != nil {
		return p
	}
	_, p := a.writing(q, props, n)
	return p
}

// runBatch reads lines and starts their operations, each of which puts its result in its turn's channel. Those of one
// key are done in their order. The batch has one place among the requests in flight; a further operation at once
// takes another, or waits its turn.
func (a *api) runBatch(ctx context.Context, in *lines, q query, results chan<- chan resultJSON) {
	slots := make(chan struct{}, batchWorkers)
	var order keyOrder
	for {
		line, err := in.read()
		if errors.Is(err, io.EOF) {
			return
		}
		var large *lineTooLong
		var o operation
		var p *problem
		switch {
		case errors.As(err, &large):
			p = newProblem(http.StatusRequestEntityTooLarge, "too-large", err.Error())
		case err != nil:
			p = a.lineFailure(err)
		case len(bytes.TrimSpace(line)) == 0:
			continue
		default:
			o, p = parseOperation(line)
		}
		turn := make(chan resultJSON, 1)
		if p != nil {
			turn <- a.counted("none", refused(p))
			results <- turn
			continue
		}
		before, finish := order.enter(o)
		if !a.deps.Admission.Enter() {
			<-before
			turn <- a.operate(ctx, o, q)
			finish()
			results <- turn
			continue
		}
		slots <- struct{}{}
		go func() {
			<-before
			res := a.operate(ctx, o, q)
			finish()
			a.deps.Admission.Leave()
			<-slots
			turn <- res // last: a batch has ended when its results are out, and holds no place then
		}()
		results <- turn
	}
}

// keyOrder makes the operations of one key wait for each other. The zero value is ready.
type keyOrder struct {
	mu   sync.Mutex
	last map[[2]string]chan struct{} // of each key under way: closed when its newest operation is done
}

// enter puts o behind the operations of its key: it may begin when before is closed, and calls finish at its end.
func (k *keyOrder) enter(o operation) (before <-chan struct{}, finish func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	key := [2]string{o.bucket, o.key}
	done := make(chan struct{})
	if k.last == nil {
		k.last = map[[2]string]chan struct{}{}
	}
	prev := k.last[key]
	if prev == nil {
		prev = make(chan struct{})
		close(prev)
	}
	k.last[key] = done
	return prev, func() {
		close(done)
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.last[key] == done {
			delete(k.last, key)
		}
	}
}

func (a *api) lineFailure(err error) *problem {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return newProblem(http.StatusRequestTimeout, "slow-body", fmt.Sprintf("no line came within %s; the batch ends here", a.opt.BodyTimeout))
	}
	return badRequest("the batch ends here: " + err.Error())
}

// sendResults writes the results in their order, and after an error drops the rest.
func (a *api) sendResults(w http.ResponseWriter, rc *http.ResponseController, results <-chan chan resultJSON) error {
	out := bufio.NewWriterSize(w, 64<<10)
	var failed error
	for turn := range results {
		res := <-turn
		if failed != nil {
			continue
		}
		_ = rc.SetWriteDeadline(time.Now().Add(MaxTimeout + a.opt.WriteTimeout))
		_, failed = out.Write(append(encodeJSON(res), '\n'))
		// What is waited for by nobody yet is sent together.
		if failed == nil && len(results) == 0 {
			if failed = out.Flush(); failed == nil {
				failed = rc.Flush()
			}
		}
	}
	if failed == nil {
		failed = out.Flush()
	}
	return failed
}

func refused(p *problem) resultJSON {
	p.nothingStored()
	return resultJSON{Status: p.Status, Problem: p}
}

// counted notes what an operation came to.
func (a *api) counted(op string, res resultJSON) resultJSON {
	a.metrics.batch.WithLabelValues(op, strconv.Itoa(res.Status)).Inc()
	return res
}

// operate does one operation. A panic ends here: a batch's operations run outside of the handler's goroutine.
func (a *api) operate(ctx context.Context, o operation, q query) (res resultJSON) {
	defer func() {
		if v := recover(); v != nil {
			a.log.Error("an operation of a batch panicked", "op", o.op, "err", v, "stack", string(debug.Stack()))
			p := newProblem(http.StatusInternalServerError, "internal", "this node failed; its log says how")
			p.Outcome = coordinator.Indeterminate
			res = resultJSON{Status: p.Status, Problem: p}
		}
		a.counted(o.op, res)
	}()
	t, p := a.target(o.bucket, o.key)
	if p != nil {
		return refused(p)
	}
	if o.op == "get" {
		if o.value != nil {
			p := badParameter("value", "a get has no value")
			return resultJSON{Status: p.Status, Problem: p}
		}
		return a.operateGet(ctx, t, q)
	}
	wr, p := a.writeOfOperation(o, t, q)
	if p != nil {
		return refused(p)
	}
	return a.operateWrite(ctx, wr)
}

func (a *api) operateGet(ctx context.Context, t target, q query) resultJSON {
	c, p := a.reading(q, t.props, t.replicas)
	if p != nil {
		return resultJSON{Status: p.Status, Problem: p}
	}
	ctx, cancel := a.working(ctx, c.timeout)
	defer cancel()
	s, p := a.read(ctx, t, c)
	if p != nil {
		return resultJSON{Status: p.Status, Problem: p}
	}
	res := s.json()
	switch len(s.Live) {
	case 0:
		res.Problem = absent(s)
		res.Status = res.Problem.Status
	case 1:
		res.Status = http.StatusOK
	default:
		res.Status = http.StatusMultipleChoices
	}
	return res
}

func (a *api) operateWrite(ctx context.Context, wr write) resultJSON {
	out, p := a.write(ctx, wr)
	if p != nil {
		res := resultJSON{Status: p.Status, Problem: p}
		if p.siblings > 1 {
			res.SiblingCount = p.siblings
		}
		return res
	}
	res := out.bare()
	res.Status = http.StatusNoContent
	if wr.returnBody && !wr.deleted && out.Found() {
		res = out.json()
		res.Status = http.StatusOK
		if len(out.Live) > 1 {
			res.Status = http.StatusMultipleChoices
		}
	}
	res.Repeated = out.repeated
	return res
}

// writeOfOperation makes a checked write of a line.
func (a *api) writeOfOperation(o operation, t target, q query) (wr write, p *problem) {
	wr.target, wr.deleted = t, o.op == "delete"
	if wr.writing, p = a.writing(q, t.props, t.replicas); p != nil {
		return wr, p
	}
	if o.idempotency != nil {
		wr.idempotency = *o.idempotency
		if p := checkIdempotencyKey(wr.idempotency); p != nil {
			return wr, p
		}
	}
	if o.context != nil {
		if p := wr.takeContext(*o.context); p != nil {
			return wr, p
		}
	}
	if wr.deleted {
		if o.value != nil {
			return wr, badParameter("value", "a delete has no value")
		}
		return wr, nil
	}
	if o.value == nil {
		return wr, badParameter("value", "a put has a value, which may be empty")
	}
	value, p := decodeText("value", *o.value, o.encoding)
	if p != nil {
		return wr, p
	}
	if len(value) > a.opt.MaxValue {
		return wr, newProblem(http.StatusRequestEntityTooLarge, "too-large", fmt.Sprintf("a value may have up to %d bytes", a.opt.MaxValue))
	}
	wr.value = value
	wr.contentType, p = contentType(o.contentType, value)
	return wr, p
}
