package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// putShell carries one write that this node coordinates: it mints, sends, and feeds the core what comes back.
type putShell struct {
	c   *Coordinator
	key Key
	req PutRequest
	// op is what the present round goes by, held by the shell; what follows is that round's. A write has one round, and
	// another when it was refused because of its epoch: the object is then sent to everybody again, since it must not
	// count where it may have been dropped since.
	op   *operation
	core *putCore
	// spare are the fallbacks that may still stand in, for each group in its ring's order; none with strict quorums.
	spare   [][]ring.NodeID
	answers chan putAnswer
	sent    []place
	rounds  int

	object vclock.Object
	// encoded is the message for the other primaries, which is the same for all; nil: nobody was sent it in this round.
	encoded []byte
	round   uint64 // the reap round in which the object was read
	hinted  bool   // it was minted into a hint
}

// putAnswer is what became of a write at a place.
type putAnswer struct {
	at      place
	fsynced bool
	err     error
}

// beginRound goes by the operation's snapshot from now on.
func (s *putShell) beginRound() {
	s.rounds++
	s.core = newCore(s.op.epochs, s.key.Partition, s.req)
	places := 0
	s.spare, s.encoded = nil, nil
	for _, r := range groupRings(s.op.epochs, s.key.Partition) {
		places += r.NOf(s.key.Partition)
		if s.req.Sloppy && s.c.deps.Hints != nil {
			spare := standIns(s.op.epochs, r, s.key.Partition)
			s.spare = append(s.spare, spare)
			places += len(spare)
		}
	}
	s.answers = make(chan putAnswer, places)
	s.sent = make([]place, 0, len(s.core.groups[0].slots)+1)
	s.noteDown()
}

// again begins another round, after a refusal because of the epoch, if this node knows newer epochs by now.
func (s *putShell) again(ctx context.Context) bool {
	from := s.core.refuser()
	if from == (ring.NodeID{}) || s.rounds == epochTries || !s.c.newer(ctx, from, s.op.epochs) {
		return false
	}
	next, err := s.c.begin()
	if err != nil {
		return false
	}
	s.req.Trace.add("send", from, "again, since the layout has changed")
	old := s.op
	s.op = next
	old.release()
	s.beginRound()
	return true
}

// inBackground runs what stores or sends the write on a goroutine that Close waits for, and that a change of members does.
func (s *putShell) inBackground(f func(ctx context.Context)) {
	op := s.op
	op.hold()
	ctx := s.c.background(op)
	s.c.work.Go(func() {
		defer op.release()
		f(ctx)
	})
}

// noteDown gives up the primaries that are judged down, and lets fallbacks stand in for them. Only who is judged
// down gets a stand-in: a primary that is slow but alive is anti-entropy's work, and a hint past it would let a
// quorum of writers and one of readers miss each other.
func (s *putShell) noteDown() {
	for g := range s.core.groups {
		for i := range s.core.groups[g].slots {
			if p := &s.core.groups[g].slots[i].primary; p.state == pending && !s.c.up(s.op.epochs, p.node) {
				s.core.addFailure(place{node: p.node}, failure{word: wordDown, certain: true})
			}
		}
	}
	for g := range s.spare {
		for _, i := range s.core.wantsStandIn(g) {
			for slot := &s.core.groups[g].slots[i]; slot.wantsStandIn(); {
				id, ok := s.nextSpare(g)
				if !ok {
					break
				}
				s.core.setStandIn(g, i, id)
			}
		}
	}
}

// nextSpare takes the next live fallback of a group; of the base's, this node first, if it is one, since it can mint.
func (s *putShell) nextSpare(g int) (ring.NodeID, bool) {
	pick := -1
	for i, id := range s.spare[g] {
		if g == 0 && id == s.c.deps.Self {
			pick = i
			break
		}
		if pick < 0 && s.c.up(s.op.epochs, id) {
			pick = i
		}
	}
	if pick < 0 {
		return ring.NodeID{}, false
	}
	id := s.spare[g][pick]
	s.spare[g] = slices.Concat(s.spare[g][:pick], s.spare[g][pick+1:])
	return id, true
}

// lookFirst reads R replicas before a write that depends on what is there: a request with a client's write id must
// make no second write, and a delete without a context deletes what it sees. done: no write is needed.
func (s *putShell) lookFirst(ctx context.Context) (res PutResult, done bool, err error) {
	req := &s.req
	req.Trace.add("look", s.c.deps.Self, "the write depends on what is there")
	got, err := s.c.get(ctx, GetRequest{
		Bucket: s.key.Bucket, Key: s.key.Key, R: req.R, Sloppy: req.Sloppy, Trace: req.Trace,
	})
	if err != nil {
		if q := (*QuorumError)(nil); errors.As(err, &q) {
			q.Outcome = None
		}
		return PutResult{}, false, err
	}
	known, err := got.Object.Applied(req.Write.ID)
	if err != nil {
		return PutResult{}, false, err
	}
	if !req.HasContext && req.Write.Deleted && !known {
		req.Write.Context, req.HasContext = got.Object.Answer(0, false).Context, true
		if got.Object.IsZero() && !req.Write.ID.Client {
			return PutResult{Coordinator: s.c.deps.Self, Acks: got.Acks, N: got.N, Replicas: got.Replicas}, true, nil
		}
		known = !req.Write.ID.Client && allDeleted(got.Object)
	}
	if !known {
		return PutResult{}, false, nil
	}
	// The write is there already, but perhaps on fewer replicas than this request asks for.
	s.object, s.round, s.hinted = got.Object, got.round, s.hintTarget() != (ring.NodeID{})
	res, err = s.await(ctx)
	res.Repeated = err == nil
	return res, true, err
}

// storeHere merges the object into this node's own copy or its hint for a target.
func (s *putShell) storeHere(target ring.NodeID) {
	at := place{s.c.deps.Self, target}
	s.sent = append(s.sent, at)
	answers, o, round, hinted := s.answers, s.object, s.round, s.hinted
	s.inBackground(func(ctx context.Context) {
		var fsynced bool
		var err error
		for try := 1; ; try++ {
			if target == (ring.NodeID{}) {
				fsynced, err = s.c.deps.Local.Merge(ctx, s.key, o, Merging{Round: round})
			} else {
				fsynced, err = s.c.deps.Hints.Put(ctx, target, s.key, o, round)
			}
			if !errors.Is(err, ErrStaleRound) || try == staleTries {
				break
			}
			own, readErr := s.c.ownCopy(s.key, hinted)
			if readErr != nil || !saw(own.Object, o) {
				break
			}
			o, round = own.Object, own.Round
		}
		answers <- putAnswer{at, fsynced, err}
	})
}

// hintTarget is the primary of the base ring that this node stands in for; zero if it is a primary itself.
func (s *putShell) hintTarget() ring.NodeID {
	base := &s.core.groups[0]
	for i := range base.slots {
		if base.slots[i].standIn.node == s.c.deps.Self {
			return base.slots[i].primary.node
		}
	}
	return ring.NodeID{}
}

// mint applies the write to the local copy, or to a hint, and sends the outcome to the others as soon as it is
// applied in memory, so that their commits and this node's run at the same time.
func (s *putShell) mint(ctx context.Context) (PutResult, error) {
	type outcome struct {
		applied Applied
		err     error // nothing was applied
	}
	first := make(chan outcome, 1)
	at := place{s.c.deps.Self, s.hintTarget()}
	s.sent = append(s.sent, at)
	answers, op := s.answers, s.op
	applied := false // owned by who calls note and done
	note := func(a Applied) {
		applied = true
		first <- outcome{applied: a}
	}
	done := func(a Applied, err error) {
		if err != nil && !applied {
			first <- outcome{err: err}
		} else {
			answers <- putAnswer{at, a.Fsynced, err}
		}
		op.release()
	}
	op.hold()
	abandon := func() bool { return false } // a hint's mint heeds the context
	if at.target == (ring.NodeID{}) {
		abandon = s.c.deps.Local.MintAsync(ctx, s.key, s.req.Write, note, done)
	} else {
		s.c.work.Go(func() { done(s.c.deps.Hints.Mint(ctx, at.target, s.key, s.req.Write, note)) })
	}
	var o outcome
	select {
	case o = <-first:
	case <-ctx.Done():
		if abandon() {
			op.release()
			return PutResult{}, s.refusal(ctx, ctx.Err())
		}
		o = <-first
	}
	if o.err != nil {
		return PutResult{}, s.refusal(ctx, o.err)
	}
	s.object, s.round, s.hinted = o.applied.Object, o.applied.Round, at.target != (ring.NodeID{})
	s.traceMint(at.target, o.applied)
	res, err := s.await(ctx)
	res.Repeated = err == nil && o.applied.Existing
	return res, err
}

func (s *putShell) traceMint(target ring.NodeID, a Applied) {
	if s.req.Trace == nil {
		return
	}
	detail := "applied to the local copy"
	if target != (ring.NodeID{}) {
		detail = "applied to a hint for " + s.name(target)
	}
	if a.Existing {
		detail = "the same request had been applied before"
	}
	s.req.Trace.add("mint", s.c.deps.Self, detail)
}

func (s *putShell) name(id ring.NodeID) string { return s.c.name(s.op.epochs)(id) }

// refusal turns the error of a mint that stored nothing into the write's error.
func (s *putShell) refusal(ctx context.Context, err error) error {
	for _, m := range mintErrors {
		if errors.Is(err, m) {
			return err
		}
	}
	f := classify(err)
	kind, outcome, reason := Unavailable, None, err.Error()
	switch {
	case errors.Is(err, ErrUncertain):
		outcome = Indeterminate
	case ctx.Err() != nil:
		kind, reason = ctxKind(ctx), "the time was over before the write began"
	case f.word == wordOverloaded:
		// Sending the load on to the next primary would only spread the overload.
		kind = Overloaded
	default:
		return &attemptError{f}
	}
	s.core.addFailure(place{s.c.deps.Self, s.hintTarget()}, f)
	return s.c.putError(s.op.epochs, s.core, kind, outcome, reason)
}

// await sends the object to who has not got it, and collects answers until the write is done, cannot be done any
// more, or its time is over. The write may be on some replicas in every case. What is still out when the client is
// answered goes on in the background.
func (s *putShell) await(ctx context.Context) (PutResult, error) {
	var err error
	for s.send(); !s.core.enough() && err == nil; s.send() {
		if s.core.impossible() {
			if s.again(ctx) {
				continue
			}
			err = s.tooFew(ctx)
			break
		}
		changed := s.c.health.change()
		if s.noteDown(); s.unsent() {
			continue
		}
		select {
		case a := <-s.answers:
			s.take(a)
		case <-changed:
			s.noteDown()
		case <-ctx.Done():
			err = s.c.putError(s.op.epochs, s.core, ctxKind(ctx), Indeterminate, "the time was over before enough replicas had answered")
		}
	}
	acks, n := s.core.acks()
	res := PutResult{
		Coordinator: s.c.deps.Self, Acks: acks, N: n, Replicas: s.core.outcomes(s.c.name(s.op.epochs)),
		Object: bare(s.object, s.req.ReturnBody),
	}
	if s.req.Trace != nil {
		s.req.Trace.add("result", s.c.deps.Self, fmt.Sprintf("%d of %d hold it", res.Acks, res.N))
	}
	if s.core.anyPending() {
		op := s.op
		op.hold()
		s.c.work.Go(func() {
			defer op.release()
			s.finish()
		})
	}
	if err != nil {
		return PutResult{}, err
	}
	return res, nil
}

// tooFew is the error of a write that cannot be done any more.
func (s *putShell) tooFew(ctx context.Context) error {
	kind, reason := kindOf(s.core.failures()), "too few replicas could store the write"
	switch {
	case ctx.Err() != nil:
		kind, reason = ctxKind(ctx), "the time was over before enough replicas had answered"
	case s.core.refuser() != (ring.NodeID{}):
		reason = "the members have changed, and this node does not know the new layout yet: " + reason
	}
	return s.c.putError(s.op.epochs, s.core, kind, Indeterminate, reason)
}

// finish waits for the answers that are still out, so that a primary which goes down meanwhile gets a hint. All of what is out
// ends by itself.
func (s *putShell) finish() {
	for s.core.anyPending() {
		changed := s.c.health.change()
		s.noteDown()
		s.send()
		select {
		case a := <-s.answers:
			s.take(a)
			s.send()
		case <-changed:
		case <-s.c.closing.Done():
			return
		}
	}
}

func (s *putShell) take(a putAnswer) {
	if a.err == nil {
		detail := "acked"
		if a.fsynced {
			detail = "fsynced"
		}
		s.req.Trace.add("answer", a.at.node, detail)
		s.core.addAck(a.at, a.fsynced)
		s.noteRoom(a.at, "")
		return
	}
	f := classify(a.err)
	s.req.Trace.add("answer", a.at.node, f.word+": "+f.detail)
	s.core.addFailure(a.at, f)
	s.noteRoom(a.at, f.word)
	s.noteDown()
}

// unsent reports whether a part of the write waits to be sent.
func (s *putShell) unsent() bool {
	_, some := s.nextUnsent()
	return some
}

// nextUnsent finds a place that the write was not sent to yet. In several groups, it is one place still.
func (s *putShell) nextUnsent() (at place, some bool) {
	for g := range s.core.groups {
		for i := range s.core.groups[g].slots {
			slot := &s.core.groups[g].slots[i]
			if at = (place{node: slot.primary.node}); slot.primary.state == pending && !slices.Contains(s.sent, at) {
				return at, true
			}
			at = place{slot.standIn.node, slot.primary.node}
			if at.node != (ring.NodeID{}) && slot.standIn.state == pending && !slices.Contains(s.sent, at) {
				return at, true
			}
		}
	}
	return place{}, false
}

// send starts what has not been sent yet: the object to primaries, hints to who stands in. Each goes on with its own
// deadline when the client was answered.
func (s *putShell) send() {
	for at, some := s.nextUnsent(); some; at, some = s.nextUnsent() {
		s.sendOne(at)
	}
}

func (s *putShell) sendOne(at place) {
	if at.node == s.c.deps.Self {
		s.storeHere(at.target)
		return
	}
	s.sent = append(s.sent, at)
	if at.target == (ring.NodeID{}) {
		s.req.Trace.add("send", at.node, "")
	} else if s.req.Trace != nil {
		s.req.Trace.add("hint", at.node, "for "+s.name(at.target))
	}
	m := mergeMessage{epoch: s.op.epochs.Newest().Epoch(), target: at.target, round: s.round, object: s.object}
	if at.target == (ring.NodeID{}) {
		if s.encoded == nil {
			m.bucket, m.key = s.key.Bucket, s.key.Key
			s.encoded = m.encode()
		}
		m.encoded = s.encoded
	}
	s.transmit(at, m)
}

// transmit sends a part of the write. Its answer comes without a goroutine that waits for it, but for an object that must be
// read again first.
func (s *putShell) transmit(at place, m mergeMessage) {
	c, k, op, answers, hinted := s.c, s.key, s.op, s.answers, s.hinted
	op.hold()
	c.callAsync(at.node, m.endpoint(), m.body(k), c.opt.ReplicaTimeout, func(b []byte, err error) {
		if err != nil && classify(err).word == wordStale && c.closing.Err() == nil {
			c.work.Go(func() {
				defer op.release()
				ctx, cancel := context.WithTimeout(c.closing, c.opt.ReplicaTimeout)
				defer cancel()
				fsynced, err := c.callMerge(ctx, at.node, k, m, hinted)
				answers <- putAnswer{at, fsynced, err}
			})
			return
		}
		fsynced := false
		if err == nil {
			fsynced, err = decodeFsynced(b)
		}
		answers <- putAnswer{at, fsynced, err}
		op.release()
	})
}
