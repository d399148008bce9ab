package api

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/dunlindb/dunlin/coordinator"
	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// write is one write of one key, every part of it checked.
type write struct {
	target
	writing
	value       []byte
	contentType string
	deleted     bool
	context     vclock.Context
	hasContext  bool
	idempotency string // the client's key; "" when it gave none
	conditions  conditions
}

// written is a write that was acknowledged.
type written struct {
	shown
	repeated bool
}

// preconditionChecked is said of every conditional write.
const preconditionChecked = "checked, not atomic"

func (a *api) put(w http.ResponseWriter, r *http.Request) *problem {
	wr, p := a.writeOf(r, putParams)
	if p != nil {
		return p
	}
	if p := a.takeValue(w, r, &wr); p != nil {
		return p
	}
	return a.finish(w, r, wr, func(res written) {
		if wr.returnBody && res.Found() {
			res.write(w, r, http.StatusOK)
			return
		}
		if res.Found() && res.etag != "" {
			w.Header().Set("ETag", `"`+res.etag+`"`)
		}
		w.WriteHeader(http.StatusNoContent)
	})
}

func (a *api) remove(w http.ResponseWriter, r *http.Request) *problem {
	wr, p := a.writeOf(r, deleteParams)
	if p != nil {
		return p
	}
	wr.deleted = true
	return a.finish(w, r, wr, func(written) { w.WriteHeader(http.StatusNoContent) })
}

// create answers POST of a bucket: a PUT of a fresh key.
func (a *api) create(w http.ResponseWriter, r *http.Request) *problem {
	wr, p := a.writeOf(r, putParams)
	if p != nil {
		return p
	}
	if p := a.takeValue(w, r, &wr); p != nil {
		return p
	}
	return a.finish(w, r, wr, func(res written) {
		w.Header().Set("Location", "/kv/"+wr.bucket+"/"+url.PathEscape(wr.key))
		if wr.returnBody && res.Found() {
			res.write(w, r, http.StatusCreated)
			return
		}
		w.WriteHeader(http.StatusCreated)
	})
}

// writeOf reads all of a write but its value.
func (a *api) writeOf(r *http.Request, allowed []string) (wr write, p *problem) {
	if wr.idempotency, p = idempotencyOf(r.Header); p != nil {
		return wr, p
	}
	if r.Method == http.MethodPost {
		bucket, p := bucketOf(r)
		if p != nil {
			return wr, p
		}
		if wr.target, p = a.target(bucket, freshKey(bucket, wr.idempotency)); p != nil {
			return wr, p
		}
	} else if wr.target, p = a.targetOf(r); p != nil {
		return wr, p
	}
	q, p := parseQuery(r.URL.RawQuery, allowed)
	if p != nil {
		return wr, p
	}
	if wr.writing, p = a.writing(q, wr.props, wr.replicas); p != nil {
		return wr, p
	}
	if wr.conditions, p = conditionsOf(r.Header); p != nil {
		return wr, p
	}
	token, given, p := oneHeader(r.Header, headerContext)
	if p != nil || !given {
		return wr, p
	}
	if r.Method == http.MethodPost {
		p := badRequest("a POST makes a new key, of which nobody has seen anything: send no " + headerContext)
		p.Parameter = headerContext
		return wr, p
	}
	return wr, wr.takeContext(token)
}

func idempotencyOf(h http.Header) (string, *problem) {
	key, given, p := oneHeader(h, headerIdempotency)
	if p != nil || !given {
		return "", p
	}
	return key, checkIdempotencyKey(key)
}

// takeContext reads the context that a client sent back.
func (wr *write) takeContext(token string) *problem {
	var err error
	wr.context, err = vclock.ParseToken(token, vclock.Scope{
		Cluster: wr.ring.Layout().ClusterID, Bucket: wr.bucket, Key: wr.key,
	})
	if err == nil {
		wr.hasContext = true
		return nil
	}
	p := badRequest("the context is not one: send back the " + headerContext + " of an answer as it came, whole")
	if errors.Is(err, vclock.ErrTokenScope) {
		p = badRequest("the context belongs to another key or cluster: it says what was seen of the key that it was read with, " +
			"and nothing about this one")
	}
	p.Type = "urn:dunlin:problem:context"
	p.Parameter = headerContext
	return p
}

// takeValue reads the body and its type.
func (a *api) takeValue(w http.ResponseWriter, r *http.Request, wr *write) (p *problem) {
	given, _, p := oneHeader(r.Header, "Content-Type")
	if p != nil {
		return p
	}
	if wr.value, p = a.readBody(w, r, a.opt.MaxValue); p != nil {
		return p
	}
	wr.contentType, p = contentType(given, wr.value)
	return p
}

// finish does the write and answers: done is called when it was acknowledged and the headers are set.
func (a *api) finish(w http.ResponseWriter, r *http.Request, wr write, done func(written)) *problem {
	if wr.conditions.given() {
		w.Header().Set(headerPrecondition, preconditionChecked)
	}
	res, p := a.write(r.Context(), wr)
	if p != nil {
		return p
	}
	res.headers(w.Header())
	if res.repeated {
		w.Header().Set(headerRepeated, "true")
	}
	done(res)
	return nil
}

// write does a checked write.
func (a *api) write(ctx context.Context, wr write) (written, *problem) {
	ctx, cancel := a.working(ctx, wr.timeout)
	defer cancel()
	id := wr.id()
	if p := a.precondition(ctx, &wr, id); p != nil {
		return written{}, wr.ofThisAttempt(p)
	}
	req := coordinator.PutRequest{
		Bucket: wr.bucket, Key: wr.key,
		Write: vclock.Write{
			Value: wr.value, ContentType: wr.contentType, Deleted: wr.deleted, ID: id,
			Context: wr.context, LastWriteWins: wr.props.LastWriteWins,
		},
		HasContext: wr.hasContext,
		W:          wr.w.word, DW: wr.dw, PW: wr.pw, R: wr.r.word, Sloppy: wr.sloppy,
		ReturnBody: wr.returnBody,
		Trace:      traceOf(ctx),
	}
	if wr.ttl > 0 && !wr.deleted {
		req.Write.Expiry = a.deps.Now().Add(wr.ttl).UnixMilli()
	}
	res, err := a.deps.KV.Put(ctx, req)
	if err != nil {
		p := wr.ofThisAttempt(a.failure(err, true))
		if p.Status == http.StatusConflict || p.Status == http.StatusUnprocessableEntity {
			a.lookAgain(ctx, wr, p)
		}
		return written{}, p
	}
	// A delete that finds nothing to delete is no repeated request.
	out := written{repeated: res.Repeated && wr.idempotency != ""}
	if wr.returnBody && !wr.deleted {
		out.shown = a.show(wr.target, res.Object, res.Acks, res.N)
	} else {
		out.shown = a.showWithoutToken(wr.target, res.Object, res.Acks, res.N)
		out.unshown(wr, id)
	}
	out.node = cmp.Or(a.nameOf(res.Coordinator), out.node)
	return out, nil
}

// lookAgain notes on the refusal of a write how many siblings the key has, if that can be read.
func (a *api) lookAgain(ctx context.Context, wr write, p *problem) {
	res, err := a.deps.KV.Get(ctx, coordinator.GetRequest{Bucket: wr.bucket, Key: wr.key, R: wr.r.word, Sloppy: wr.sloppy})
	if err == nil {
		p.siblings = len(a.show(wr.target, res.Object, res.Acks, res.N).Live)
	}
}

// id names the write: by its Idempotency-Key and a hash of all that makes it this write, or at random.
func (wr *write) id() vclock.WriteID {
	if wr.idempotency == "" {
		return randomID()
	}
	op := "put"
	if wr.deleted {
		op = "delete"
	}
	return clientID(wr.idempotency, []byte(op), []byte(wr.bucket), []byte(wr.key), []byte(wr.contentType), wr.value)
}

// ofThisAttempt marks a problem of a write, and says where it speaks of one attempt of several.
func (wr write) ofThisAttempt(p *problem) *problem {
	p.nothingStored()
	if p.Outcome == coordinator.None && wr.idempotency != "" && !strings.HasSuffix(p.Type, "idempotency-key-reused") {
		p.Detail += "; nothing was stored by this attempt, which says nothing about an earlier one with the same Idempotency-Key"
	}
	return p
}

// precondition checks the write's conditions against a read of R replicas.
func (a *api) precondition(ctx context.Context, wr *write, id vclock.WriteID) *problem {
	c := wr.conditions
	if !c.given() {
		return nil
	}
	res, err := a.deps.KV.Get(ctx, coordinator.GetRequest{Bucket: wr.bucket, Key: wr.key, R: wr.r.word, Sloppy: wr.sloppy})
	if err != nil {
		return a.failure(err, false)
	}
	if applied, err := res.Object.Applied(id); err != nil {
		return a.failure(err, true)
	} else if applied {
		return nil // the condition held when this request came first
	}
	s := a.show(wr.target, res.Object, res.Acks, res.N)
	if !c.matchHolds(s) || !c.noneMatchHolds(s) {
		return c.failed().of(s)
	}
	if !c.match.any && c.match.given() && !wr.hasContext {
		// Who names the version has seen it: the write replaces it.
		wr.context, wr.hasContext = s.Context, true
	}
	return nil
}

// nameOf returns a node's name, or its id where the name is not known; "" for no node.
func (a *api) nameOf(id ring.NodeID) string {
	switch {
	case id.IsZero():
		return ""
	case id == a.deps.Self:
		return a.deps.Name
	}
	return cmp.Or(a.deps.Cluster.Name(id), id.String())
}
