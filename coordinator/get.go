package coordinator

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// Get reads one key from R replicas and merges what they hold. What was found to be behind is repaired in the
// background. Errors are a *QuorumError.
func (c *Coordinator) Get(ctx context.Context, req GetRequest) (GetResult, error) {
	c.load.begin()
	defer c.load.end()
	res, err := c.get(ctx, req)
	if q, ok := errors.AsType[*QuorumError](err); !ok || q.Kind != NotReady {
		c.metrics.done(opGet, err)
	}
	return res, err
}

// get is Get for this package. When too few replicas answer because they are at newer epochs, it reads by these.
func (c *Coordinator) get(ctx context.Context, req GetRequest) (GetResult, error) {
	for try := 1; ; try++ {
		e, err := c.epochs()
		if err != nil {
			return GetResult{}, err
		}
		res, err := c.read(ctx, e, req)
		if from, refused := refuser(err); !refused || try == epochTries || !c.newer(ctx, from, e) {
			return res, err
		}
	}
}

// nobody is no index of a replica.
const nobody = -1

// getShell carries one read: it sends what the core wants and feeds it what comes back.
type getShell struct {
	c       *Coordinator
	epochs  *ring.Epochs
	ring    *ring.Ring // that the read goes by
	key     Key
	core    *getCore
	answers chan getAnswer
	cancels []func() // of what was sent; that of an answered call does nothing
	two     [2]func()
	// full: a request for the whole object is out, so that others need to send only their digests. fullFrom is the
	// replica that it was sent to, or nobody.
	full     bool
	fullFrom int
	zone     string // of this node
	// local is this node's own copy, which other replicas are compared with; nil if there is none.
	local *vclock.Digest
	// fallbacks may be asked for hints when too few primaries are left; loose: they were.
	fallbacks []ring.NodeID
	loose     bool
	// mayDegrade: with all other primaries down, less than R replicas may answer.
	mayDegrade bool
	trace      *Trace
}

type getAnswer struct {
	replica int
	answer  answer
	err     error
}

func (c *Coordinator) read(ctx context.Context, e *ring.Epochs, req GetRequest) (GetResult, error) {
	r := e.Reading()
	k := Key{r.Partition(req.Bucket, req.Key), req.Bucket, req.Key}
	s := &getShell{c: c, epochs: e, ring: r, key: k, trace: req.Trace, zone: c.zone(e), fullFrom: nobody}
	s.cancels = s.two[:0] // most reads need no more
	candidates := c.nearest(e, r.Primaries(k.Partition))
	n := len(candidates)
	want, pr := count(req.R, n), count(req.PR, n)
	s.core = newGetCore(max(want, pr), candidates)
	s.core.pr = pr
	// Who asks for more than a majority, or for primaries, wants to be told when they are not there.
	s.mayDegrade = want <= n/2+1 && pr == 0
	if req.Sloppy && c.deps.Hints != nil {
		s.fallbacks = fallbacks(e, r, k.Partition)
	}
	s.answers = make(chan getAnswer, 2*(len(candidates)+len(s.fallbacks))) // each may answer twice: digest, then object
	for i, id := range candidates {
		if !c.up(e, id) {
			s.core.addFailure(i, failure{word: wordDown})
		}
	}
	s.addFallbacks()
	if s.core.impossible() && !s.loose {
		return GetResult{}, s.fail(Unavailable, "too few replicas of the key are alive")
	}
	err := s.run(ctx)
	for _, cancel := range s.cancels {
		cancel()
	}
	if err != nil {
		return GetResult{}, err
	}
	merged, round := s.core.merged()
	s.repair(merged, round)
	if s.trace != nil {
		s.trace.add("result", c.deps.Self, fmt.Sprintf("%d of %d heard", s.core.heard(), len(candidates)))
	}
	return GetResult{
		Object: merged, Acks: s.core.heard(), N: len(candidates), Replicas: s.core.outcomes(c.name(e)),
		Degraded: !s.core.enough(), round: round,
	}, nil
}

// addFallbacks lets the live fallbacks be asked for hints, once too few primaries are left.
func (s *getShell) addFallbacks() {
	if len(s.fallbacks) == 0 || !s.core.impossible() {
		return
	}
	var live []ring.NodeID
	for _, id := range s.fallbacks {
		if s.c.up(s.epochs, id) {
			live = append(live, id)
		}
	}
	s.fallbacks = nil
	s.loose = true
	s.core.addFallbacks(live)
	for i := range s.core.replicas {
		if r := &s.core.replicas[i]; r.fallback && r.node == s.c.deps.Self {
			s.readHints(i)
		}
	}
}

// degraded reports whether the read may answer with less than R replicas: the request allows fallbacks, all primaries
// that were not heard are down, and nobody is left to be asked.
func (s *getShell) degraded() bool {
	return s.loose && s.mayDegrade && s.core.onlyDown() && s.settled()
}

// settled reports whether nobody is left to ask, nor asked and unheard.
func (s *getShell) settled() bool {
	waiting, _ := s.core.waiting()
	return s.core.spare() < 0 && waiting == 0
}

// run asks replicas until enough have answered.
func (s *getShell) run(ctx context.Context) error {
	s.readLocal()
	var hedge <-chan time.Time
	for !s.core.enough() {
		if s.addFallbacks(); s.core.impossible() && s.settled() {
			if s.degraded() && s.found() {
				return nil
			}
			return s.tooFew(ctx)
		}
		if s.core.impossible() && !s.loose {
			return s.tooFew(ctx)
		}
		for i := s.core.next(); i >= 0; i = s.core.next() {
			s.ask(ctx, i)
		}
		if s.core.quiet() {
			s.fetch(ctx)
		}
		if hedge == nil {
			t := time.NewTimer(s.hedgeAfter())
			defer t.Stop()
			hedge = t.C
		}
		changed := s.c.health.change()
		if s.noteDown() {
			continue
		}
		select {
		case a := <-s.answers:
			s.take(a)
		case <-changed:
		case <-hedge:
			s.hedge(ctx)
			hedge = make(chan time.Time) // one hedge a read
		case <-ctx.Done():
			return s.late(ctx)
		}
	}
	return nil
}

// found reports whether what was heard holds a value to show. That there is none, too few replicas cannot say.
func (s *getShell) found() bool {
	merged, _ := s.core.merged()
	return merged.Answer(s.c.now().UnixMilli(), false).Found()
}

// noteDown gives up replicas that were asked and are judged down since. It reports whether there were any.
func (s *getShell) noteDown() (any bool) {
	for i := range s.core.replicas {
		if r := &s.core.replicas[i]; r.asked && r.state == pending && !s.c.up(s.epochs, r.node) {
			s.failed(i, failure{word: wordDown})
			any = true
		}
	}
	return any
}

func (s *getShell) take(a getAnswer) {
	if s.core.replicas[a.replica].state == failed {
		return // given up
	}
	if a.err != nil {
		f := classify(a.err)
		s.trace.add("answer", s.core.replicas[a.replica].node, f.word+": "+f.detail)
		s.failed(a.replica, f)
		return
	}
	s.traceAnswer(s.core.replicas[a.replica].node, a.answer)
	s.core.addAnswer(a.replica, a.answer)
}

// failed notes that a replica that was asked will not answer. If it was to send the object, the next one is asked for it.
func (s *getShell) failed(i int, f failure) {
	s.core.addFailure(i, f)
	if s.fullFrom == i {
		s.full, s.fullFrom = false, nobody
	}
}

// readLocal reads this node's own copy first, if it has one: the others then answer in a few bytes if theirs is
// the same.
func (s *getShell) readLocal() {
	if s.core.replicas[0].node != s.c.deps.Self {
		return
	}
	s.core.replicas[0].asked = true
	s.c.metrics.reads[atSelf].Inc()
	got, err := s.c.localCopy(s.ring, s.key)
	if err != nil {
		s.core.addFailure(0, classify(err))
		return
	}
	s.full, s.local = true, &got.Digest
	s.traceAnswer(s.c.deps.Self, got.answer())
	s.core.addAnswer(0, got.answer())
}

// localCopy reads this node's own copy as a primary in a ring. Once the ring's epoch has ended here it may be dropped,
// and nothing can be said of it.
func (c *Coordinator) localCopy(r *ring.Ring, k Key) (Copy, error) {
	got, err := c.deps.Local.Get(k)
	if err != nil {
		return got, err
	}
	return got, c.stillLive(r.Epoch())
}

func (s *getShell) traceAnswer(node ring.NodeID, a answer) {
	if s.trace == nil {
		return
	}
	detail := "digest " + hex.EncodeToString(a.digest[:8])
	switch {
	case a.digest == (vclock.Digest{}):
		detail = "nothing held"
	case a.incomplete:
		detail += ", damaged copy"
	case a.hasObject:
		detail += fmt.Sprintf(", %d siblings", len(a.object.Siblings))
	}
	s.trace.add("answer", node, detail)
}

func (c Copy) answer() answer {
	return answer{
		digest: c.Digest, object: c.Object, hasObject: true, incomplete: c.Incomplete, behind: c.Behind, round: c.Round,
	}
}

// readHints reads what this node holds for others, as a fallback of the key.
func (s *getShell) readHints(i int) {
	s.core.replicas[i].asked = true
	got, found, err := s.c.deps.Hints.Get(s.key)
	switch {
	case err != nil:
		s.core.addFailure(i, classify(err))
	case !found:
		s.core.addFailure(i, failure{word: wordNoHint})
	default:
		s.core.addAnswer(i, got.answer())
	}
}

// ask sends a replica read. The first that goes out asks for the object, the others for a digest; where this node
// has a copy, they send theirs only if it differs.
func (s *getShell) ask(ctx context.Context, i int) {
	m := readMessage{epoch: s.ring.Epoch(), bucket: s.key.Bucket, key: s.key.Key, mode: readDigest}
	switch {
	case s.core.replicas[i].fallback:
		m.mode = readFull
	case s.local != nil:
		m.mode, m.digest = readUnless, *s.local
	case !s.full:
		m.mode, s.full, s.fullFrom = readFull, true, i
	}
	s.call(ctx, i, m)
}

// fetch asks for the objects whose digests are all that is known of them.
func (s *getShell) fetch(ctx context.Context) {
	for _, i := range s.core.unfetched() {
		s.core.replicas[i].fetching = true
		s.c.metrics.fetches.Inc()
		s.call(ctx, i, readMessage{epoch: s.ring.Epoch(), bucket: s.key.Bucket, key: s.key.Key, mode: readFull})
	}
}

// hedge asks one more replica when those that were asked are slow.
func (s *getShell) hedge(ctx context.Context) {
	s.c.metrics.hedges.Inc()
	s.trace.add("hedge", s.c.deps.Self, "a replica is slow")
	s.fetch(ctx)
	if i := s.core.spare(); i >= 0 {
		s.full = false // the slow one may be the one that has the object
		s.ask(ctx, i)
	}
}

func (s *getShell) call(ctx context.Context, i int, m readMessage) {
	s.core.replicas[i].asked = true
	to := s.core.replicas[i].node
	m.hint = s.core.replicas[i].fallback
	where := localityOf(s.epochs, s.zone, to)
	s.c.metrics.reads[where].Inc()
	if s.trace != nil {
		s.trace.add("ask", to, s.asking(m.mode, where, to))
	}
	start, limit := time.Now(), s.c.opt.ReplicaTimeout
	if deadline, ok := ctx.Deadline(); ok {
		limit = deadline.Sub(start)
	}
	s.cancels = append(s.cancels, s.c.callAsync(to, EndpointRead, m.encode(), limit, func(b []byte, err error) {
		a := getAnswer{replica: i, err: err}
		if err == nil {
			a.answer, a.err = decodeAnswer(b)
			s.c.latency.add(to, time.Since(start))
		} else if word := classify(err).word; word == wordTimeout {
			s.c.latency.atLeast(to, time.Since(start))
		}
		s.answers <- a
	}))
}

// asking says what a replica is asked for, and why it and not another.
func (s *getShell) asking(mode readMode, where locality, to ring.NodeID) string {
	text := mode.String()
	if where != atNoZone {
		text += ", " + string(where) + " zone"
	}
	if lately := s.c.latency.of(to); lately > 0 {
		text += fmt.Sprintf(", %v lately", lately.Round(time.Microsecond))
	}
	return text
}

func (s *getShell) hedgeAfter() time.Duration {
	after := s.c.opt.HedgeAfter
	for i := range s.core.replicas {
		if r := &s.core.replicas[i]; r.asked && r.state == pending {
			after = max(after, min(4*s.c.latency.of(r.node), time.Second))
		}
	}
	return after
}

func (s *getShell) failures() []failure {
	var out []failure
	for i := range s.core.replicas {
		if s.core.replicas[i].state == failed {
			out = append(out, s.core.replicas[i].failure)
		}
	}
	return out
}

// tooFew is the error of a read that cannot be answered any more.
func (s *getShell) tooFew(ctx context.Context) error {
	// The calls end when the read's time does, and may tell so before its context does.
	if deadline, ok := ctx.Deadline(); ctx.Err() != nil || ok && !time.Now().Before(deadline) {
		return s.late(ctx)
	}
	return s.fail(kindOf(s.failures()), "too few replicas could answer")
}

func (s *getShell) late(ctx context.Context) error {
	return s.fail(ctxKind(ctx), "the time was over before enough replicas had answered")
}

func (s *getShell) fail(kind Kind, reason string) *QuorumError {
	parameter, required, got := s.core.missing()
	return &QuorumError{
		Kind: kind, Parameter: parameter, Required: required, Acked: got, N: s.ring.NOf(s.key.Partition),
		Replicas: s.core.outcomes(s.c.name(s.epochs)), Reason: reason,
	}
}

// repair hands what the read found to be behind to the repair workers.
func (s *getShell) repair(merged vclock.Object, round uint64) {
	if len(s.core.objects) == 1 && len(s.failures()) == 0 {
		only := true
		for i := range s.core.replicas {
			only = only && !s.core.replicas[i].answer.incomplete && !s.core.replicas[i].fallback
		}
		if only {
			return // all that answered hold the same
		}
	}
	digest := vclock.Digest{}
	if !merged.IsZero() {
		digest = merged.Digest(s.key.Bucket, s.key.Key)
	}
	if todo := s.core.finalAction(digest); len(todo.stale)+len(todo.damaged) > 0 {
		for _, id := range todo.stale {
			s.trace.add("repair", id, "stale")
		}
		for _, id := range todo.damaged {
			s.trace.add("repair", id, "damaged")
		}
		if !s.c.repairs.add(repairJob{key: s.key, object: merged, round: round, repair: todo}) {
			s.c.metrics.dropped.Inc()
		}
	}
}
