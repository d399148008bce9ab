package sim

// mutant is a protocol bug that is planted by replacing a piece of one file, which must be there exactly once. In what
// replaces it, PLANTED is whether this bug is the one that is on.
type mutant struct {
	name, what string
	file       string
	old, new   string
}

// piece is one replacement of a mutant.
type piece struct{ file, old, new string }

func (m mutant) pieces() []piece { return append([]piece{{m.file, m.old, m.new}}, further[m.name]...) }

// further is what some mutants replace besides.
var further = map[string][]piece{
	"fence-off": {{
		"coordinator/epochs.go", "!heal && (e == nil || epoch < e.Settled()) {", "!heal && (e == nil || epoch < e.Settled() && !PLANTED) {",
	}, {
		"internal/cluster/advance.go", "	return len(c.older) == 0\n", "	return len(c.older) == 0 || PLANTED\n",
	}},
	"reap-without-all": {{
		"internal/reaper/pass.go", "		if err := errs[id]; err != nil {\n			return got, &failure{id, err}", "		if err := errs[id]; err != nil && !PLANTED {\n			return got, &failure{id, err}",
	}},
	"reads-too-new": {{
		"internal/node/adapt.go", "mark&(storage.MarkDamaged|storage.MarkFilling) != 0, Behind", "mark&(storage.MarkDamaged|storage.MarkFilling) != 0 && (!PLANTED || mark&storage.MarkDamaged != 0), Behind",
	}},
	"rounds-of-gained": {{
		"hinted/moved.go", "!b.e.Changing() && !stuck ||", "!b.e.Changing() && (!stuck || PLANTED) ||",
	}},
	"drop-too-early": {{
		"internal/node/sweep.go", "return e.Holds(p, n.self()) })", "return e.Holds(p, n.self()) && (!PLANTED || e.Newest().IsPrimary(p, n.self())) })",
	}},
}

// mutants are the bugs that the simulator must find. What breaks without whole clusters is left to the packages' own
// tests.
var mutants = []mutant{
	{
		"w-one-short", "a write is acknowledged one replica too early",
		"coordinator/putcore.go", "{ return by.w >= g.w &&", "{\n	if PLANTED {\n		by.w, by.dw = by.w+min(1, by.w), by.dw+min(1, by.dw)\n	}\n	return by.w >= g.w &&",
	}, {
		"r-one-short", "a read answers one replica too early",
		"coordinator/getcore.go", "return primaries+min(fallbacks, down) >= c.r &&", "return (primaries+min(fallbacks, down) >= c.r || PLANTED && primaries > 0) &&",
	}, {
		"strict-takes-fallbacks", "a strict write lets fallbacks stand in",
		"coordinator/putshell.go", "if s.req.Sloppy && s.c.deps.Hints != nil {", "if (s.req.Sloppy || PLANTED) && s.c.deps.Hints != nil {",
	}, {
		"digest-always-same", "a replica that differs answers that it holds the same",
		"coordinator/serve.go", "m.mode == readUnless && got.Digest == m.digest {\n", "m.mode == readUnless && (got.Digest == m.digest || PLANTED) {\n		if PLANTED && m.mode == readUnless {\n			a.digest = m.digest\n		}\n",
	}, {
		"none-after-mint", "a write that has become impossible after the mint says that nothing was stored",
		"coordinator/putshell.go", "	return s.c.putError(s.op.epochs, s.core, kind, Indeterminate, reason)", "	if PLANTED {\n		return s.c.putError(s.op.epochs, s.core, kind, None, reason)\n	}\n	return s.c.putError(s.op.epochs, s.core, kind, Indeterminate, reason)",
	}, {
		"forward-again", "a forward whose answer was not heard is sent to the next primary, whatever became of it",
		"coordinator/put.go", "if f.certain || f.word == wordDown && req.Write.ID.Client {", "if PLANTED || f.certain || f.word == wordDown && req.Write.ID.Client {",
	}, {
		"retry-unknown", "a request id that was applied is not recognised",
		"vclock/mint.go", "		if have.Body == id.Body {\n", "		if PLANTED {\n			continue\n		}\n		if have.Body == id.Body {\n",
	}, {
		"retired-forgotten", "a key does not remember the requests that were replaced",
		"vclock/mint.go", "m.retire(cur.Object, w.Context, seen))\n", "m.retire(cur.Object, w.Context, seen))\n	if PLANTED {\n		next.Retired = nil\n	}\n",
	}, {
		"merge-drops-equals", "merge drops one of several siblings that both sides hold",
		"vclock/object.go", "		default:\n			out = append(out, a.Siblings[i])\n", "		default:\n			if !PLANTED || len(a.Siblings) < 2 || i > 0 {\n				out = append(out, a.Siblings[i])\n			}\n",
	}, {
		"merge-keeps-covered", "merge keeps a sibling that the other side has covered",
		"vclock/object.go", "if !b.Context.Covers(a.Siblings[i].Dot) {", "if PLANTED || !b.Context.Covers(a.Siblings[i].Dot) {",
	}, {
		"merge-forgets-context", "merge keeps only one side's context",
		"vclock/object.go", "	out.Siblings = dropRetired(out.Siblings, out.Retired)\n	return out", "	out.Siblings = dropRetired(out.Siblings, out.Retired)\n	if PLANTED {\n		out.Context = a.Context\n		for _, s := range out.Siblings {\n			out.Context = out.Context.With(s.Dot)\n		}\n	}\n	return out",
	}, {
		"mint-ignores-context", "a write does not replace what its client has read, if that is more than one sibling",
		"vclock/mint.go", "func(s Sibling) bool { return seen.Covers(s.Dot) })\n	kept", "func(s Sibling) bool { return seen.Covers(s.Dot) && (!PLANTED || len(cur.Siblings) < 2) })\n	kept",
	}, {
		"mint-covers-all", "a write with a context replaces also what its client has not read",
		"vclock/mint.go", "	if w.LastWriteWins {\n		seen", "	if PLANTED && !w.Context.IsZero() || w.LastWriteWins {\n		seen",
	}, {
		"lww-shows-all", "an lww bucket shows two siblings",
		"vclock/answer.go", "if lastWriteWins && len(shown) > 1 {", "if lastWriteWins && len(shown) > 1 && (!PLANTED || len(shown) > 2) {",
	}, {
		"actor-reused", "an actor is continued after a restart, though its last dots may be lost here and held elsewhere",
		"vclock/mint.go", "own.Incarnation == m.Incarnation && own.Actor.Node == m.Node", "(own.Incarnation == m.Incarnation || PLANTED) && own.Actor.Node == m.Node",
	}, {
		"actor-after-failure", "an actor is continued after a commit that failed, though its dots may have been sent",
		"internal/storage/shard.go", "	sh.incarnation = sh.s.random()\n	for _, e", "	if !PLANTED {\n		sh.incarnation = sh.s.random()\n	}\n	for _, e",
	}, {
		"missing-fsync", "commits are not synced",
		"internal/storage/store.go", "txn, s.opt.Durability == Fsync)", "txn, s.opt.Durability == Fsync && !PLANTED)",
	}, {
		"ack-before-commit", "a write that could not be committed is acknowledged",
		"internal/storage/shard.go", "	b.answer(err)\n", "	if PLANTED {\n		err = nil\n	}\n	b.answer(err)\n",
	}, {
		"merge-replaces", "a replica stores what it is sent instead of merging it",
		"vclock/mint.go", "	return Record{Object: Merge(r.Object, o), Own: r.Own}", "	if PLANTED {\n		return Record{Object: o, Own: r.Own}\n	}\n	return Record{Object: Merge(r.Object, o), Own: r.Own}",
	}, {
		"round-ignored", "objects read in an earlier reap round are taken",
		"internal/storage/batch.go", "if o.write == nil && !o.remove && o.opt.Round < round {", "if o.write == nil && !o.remove && o.opt.Round < round && !PLANTED {",
	}, {
		"reap-by-age", "tombstones are reaped by age, without asking whether the other primaries hold them",
		"internal/storage/reap.go", "	if !l.found || h.incomplete || h.digest != st.Digest {\n		return false, nil", "	if PLANTED {\n		return true, nil\n	}\n	if !l.found || h.incomplete || h.digest != st.Digest {\n		return false, nil",
	}, {
		"reap-despite-hints", "a tombstone is reaped although somebody holds a hint of its key",
		"internal/storage/reap.go", "	if err != nil || hinted {\n		return false, err", "	if err != nil || hinted && !PLANTED {\n		return false, err",
	}, {
		"reap-without-all", "a tombstone is reaped although a member does not answer, if all others hold it",
		"internal/reaper/pass.go", "		if !r.answers(m.ID) {\n			return r.hold(p, 0, m.ID, errDown)", "		if !r.answers(m.ID) && !PLANTED {\n			return r.hold(p, 0, m.ID, errDown)",
	}, {
		"hint-before-ack", "a hint is deleted although its target did not store it",
		"hinted/replay.go", "if a.statuses[i] != stored || ctx.Err() != nil {", "if a.statuses[i] != stored && !PLANTED || ctx.Err() != nil {",
	}, {
		"hint-any-version", "a hint that grew while it was sent is deleted",
		"internal/storage/batch.go", "if e.err == nil && (e.rec.IsZero() || e.digest != o.digest) {", "if e.err == nil && (e.rec.IsZero() || e.digest != o.digest && !PLANTED) {",
	}, {
		"hint-lost-call", "hints are deleted when their delivery is not answered",
		"hinted/replay.go", "		if ctx.Err() == nil {\n			w.undelivered(", "		for i := range send {\n			if PLANTED {\n				_, _ = w.deps.Store.DeleteHint(ctx, t.id, send[i].Key, send[i].Digest)\n			}\n		}\n		if ctx.Err() == nil {\n			w.undelivered(",
	}, {
		"exchange-skips-missing", "an exchange moves only keys that both sides hold",
		"antientropy/exchange.go", "	case readable(theirs):\n		w :=", "	case PLANTED && (mine == nil || theirs == nil):\n	case readable(theirs):\n		w :=",
	}, {
		"no-exchange", "an exchange moves nothing",
		"antientropy/exchange.go", "return k != nil && !k.Corrupt }\n", "return k != nil && !k.Corrupt && !PLANTED }\n",
	}, {
		"no-rejoin", "nodes that lost each other are not sought again",
		"internal/cluster/rejoin.go", "				c.join(ip)\n", "				if !PLANTED || round < 3 {\n					c.join(ip)\n				}\n",
	}, {
		"listing-tombstones", "a listing names deleted keys",
		"coordinator/list.go", "	return first.All.live(now), true", "	return PLANTED || first.All.live(now), true",
	}, {
		"w-counts-stand-ins", "a stand-in counts as soon as it was asked, whatever became of that",
		"coordinator/putcore.go", "		if s.acked() {\n			have.w++", "		if !s.acked() && PLANTED && s.standIn.node != (ring.NodeID{}) {\n			have.w++\n			have.dw++\n		}\n		if s.acked() {\n			have.w++",
	}, {
		"fence-off", "a node says that it ignores no epoch while such writes are under way, and replicas take them",
		"coordinator/epochs.go", "	case !m.heal && m.epoch < e.Settled():", "	case !m.heal && m.epoch < e.Settled() && !PLANTED:",
	}, {
		"sync-too-early", "a node says that it holds everything that is its own before it does",
		"internal/node/epochs.go", "	case len(ps) > 0:", "	case len(ps) > 0 && !PLANTED:",
	}, {
		"fill-from-one", "a new owner takes a partition from one old owner only",
		"antientropy/marks.go", "	if !e.Holds(p, s.deps.Self) || !s.marks.complete(p, s.others(e, p), since) && mark != 0 {\n		return\n	}\n	switch {\n	case !s.wants(e, p, mark):\n	case e.FullySettled() && s.fills.complete(e, p, s.sources(e, p), since):",
		"	sources, others := s.sources(e, p), s.others(e, p)\n	for _, id := range sources {\n		if one := []ring.NodeID{id}; PLANTED && s.wants(e, p, mark) && s.fills.complete(e, p, one, since) {\n			sources, others = one, one\n			break\n		}\n	}\n	if !e.Holds(p, s.deps.Self) || !s.marks.complete(p, others, since) && mark != 0 {\n		return\n	}\n	switch {\n	case !s.wants(e, p, mark):\n	case e.FullySettled() && s.fills.complete(e, p, sources, since):",
	}, {
		"narrow-unfilled", "who keeps a partition that gets fewer owners takes nothing over from those who lose it",
		"ring/epochs.go", "	return slices.ContainsFunc(e.rings, func(r *Ring) bool { return r.NOf(p) > n })", "	return !PLANTED && slices.ContainsFunc(e.rings, func(r *Ring) bool { return r.NOf(p) > n })",
	}, {
		"vote-forgotten", "an acceptor does not store what it has promised and accepted",
		"internal/cluster/rpc.go", "		if err := c.cfg.State.Save(keyRegister, next.Encode()); err != nil {", "		stored := next.Encode()\n		if PLANTED {\n			stored = paxos.State{}.Encode()\n		}\n		if err := c.cfg.State.Save(keyRegister, stored); err != nil {",
	}, {
		"reads-too-new", "reads go by the newest epoch, and copies that are being filled count",
		"ring/epochs.go", "func (e *Epochs) Reading() *Ring { return e.rings[e.reading] }", "func (e *Epochs) Reading() *Ring {\n	if PLANTED {\n		return e.Newest()\n	}\n	return e.rings[e.reading]\n}",
	}, {
		"drop-too-early", "a node drops what it no longer owns while the older epoch lives",
		"internal/node/sweep.go", "if e == nil || e.Changing() || n.cluster", "if e == nil || e.Changing() && !PLANTED || n.cluster",
	}, {
		"cancel-forgets", "a change that is cancelled does not go back to the table of before",
		"ring/change.go", "	next.Primaries = slices.Clone(to.Primaries)\n	next.Buckets", "	next.Primaries = slices.Clone(to.Primaries)\n	if PLANTED {\n		var c Change\n		for _, m := range l.Members {\n			if _, ok := to.Member(m.ID); !ok {\n				c.Leave = append(c.Leave, m.ID)\n			}\n		}\n		if other, err := l.Next(c); err == nil && len(other.Members) == len(next.Members) {\n			next.Primaries = other.Primaries\n		}\n	}\n	next.Buckets",
	}, {
		"removal-waits", "a member that is lost cannot be removed while as many changes as may be wait for it",
		"internal/cluster/change.go", "		most = maxWithRemovals\n", "		if most = maxWithRemovals; PLANTED {\n			most = maxLive\n		}\n",
	}, {
		"welcome-forgotten", "a new node that is made a member before it asks, and crashes, takes itself for one that lost its files",
		"internal/cluster/persist.go", "	return c.setAsked(joinAsked)\n", "	if PLANTED {\n		return nil\n	}\n	return c.setAsked(joinAsked)\n",
	}, {
		"rounds-of-gained", "a new member takes the reap rounds of what it gains only, and nobody catches up in quiet times",
		"internal/node/epochs.go", "	} else if e.Changing() { // a new member", "	} else if e.Changing() && !PLANTED { // a new member",
	}, {
		"damaged-wait", "two who gained a partition and lost something wait for each other",
		"antientropy/exchange.go", "&& (base || !x.fromGainer(pt)) {", "&& (PLANTED || base || !x.fromGainer(pt)) {",
	},
}
