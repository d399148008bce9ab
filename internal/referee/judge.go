package referee

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// Rule is a promise that a Violation broke.
type Rule string

// The rules. See the package comment.
const (
	Lost          Rule = "lost"           // an acknowledged write is gone and nothing covered it
	Vanished      Rule = "vanished"       // a value that was read is gone and nothing covered it
	Invented      Rule = "invented"       // a value was read that nobody wrote
	NotNone       Rule = "not none"       // a write that was said to have stored nothing was read
	Twice         Rule = "twice"          // one write became two siblings
	CameBack      Rule = "came back"      // an overwritten or deleted value is there in the end
	Beside        Rule = "beside"         // a value was shown beside the write that replaced it
	Unread        Rule = "unread"         // a strict read missed an acknowledged strict write
	Stale         Rule = "stale"          // a strict read showed what a strict write had replaced
	DotReused     Rule = "dot reused"     // one dot named two values
	Several       Rule = "several"        // an lww bucket showed more than one value
	Diverged      Rule = "diverged"       // replicas differ in the end
	HintLeft      Rule = "hint left"      // hints wait in the end
	TombstoneLeft Rule = "tombstone left" // a tombstone was not reaped
	Breach        Rule = "breach"         // a client was answered what no answer may be
)

// Violation is one broken promise.
type Violation struct {
	Rule Rule   `json:"rule"`
	Key  string `json:"key,omitempty"` // KeyName
	Text string `json:"text"`
}

func (v Violation) String() string {
	if v.Key == "" {
		return fmt.Sprintf("%s: %s", v.Rule, v.Text)
	}
	return fmt.Sprintf("%s: %s: %s", v.Key, v.Rule, v.Text)
}

// keyHistory is what happened to one key.
type keyHistory struct {
	name   string
	lww    bool
	puts   map[string]*Operation
	kills  map[string][]*Operation // by value: the writes whose context may cover it
	writes []*Operation
	blinds []*Operation
	reads  []*Operation
	final  []string
	open   bool // final is not known
	losses []Loss
	quiet  []Span
}

// Judge returns what is wrong, sorted. The history is not changed.
func (h *History) Judge() []Violation {
	h.mu.Lock()
	defer h.mu.Unlock()
	keys := map[string]*keyHistory{}
	of := func(name, bucket string) *keyHistory {
		k := keys[name]
		if k == nil {
			k = &keyHistory{
				name: name, lww: slices.Contains(h.Options.LWW, bucket),
				puts: map[string]*Operation{}, kills: map[string][]*Operation{}, final: h.Final.Keys[name].Values, open: h.Final.Keys[name].Unknown,
				losses: h.Losses, quiet: h.Quiet,
			}
			keys[name] = k
		}
		return k
	}
	for _, o := range h.Operations {
		of(o.name(), o.Bucket).add(o)
	}
	out := slices.Clone(h.Breaches)
	for name, f := range h.Final.Keys {
		of(name, "")
		out = append(out, f.judge(name, h.Options.Reaped)...)
	}
	for _, k := range keys {
		out = append(out, k.judge(h.Options)...)
	}
	if len(h.Final.Nodes) > 0 {
		if err := Settled(h.Final, h.Options.N); err != nil {
			out = append(out, Violation{Diverged, "", err.Error()})
		}
	}
	slices.SortFunc(out, func(a, b Violation) int { return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Text, b.Text)) })
	return slices.Compact(out)
}

func (k *keyHistory) add(o *Operation) {
	switch {
	case o.Kind == Get:
		if o.Outcome == Acked {
			k.reads = append(k.reads, o)
		}
		return
	case o.Kind == Put:
		k.puts[o.Value] = o
	case o.Blind:
		k.blinds = append(k.blinds, o)
	}
	k.writes = append(k.writes, o)
	for _, v := range slices.Concat(o.Sure, o.Maybe) {
		k.kills[v] = append(k.kills[v], o)
	}
}

func (k *keyHistory) judge(opt Options) (out []Violation) {
	end := &Operation{Kind: Get, Key: k.name, Node: "all replicas, in the end", Got: k.final, Outcome: Acked}
	for _, r := range append(slices.Clone(k.reads), end) {
		out = append(out, k.shown(r, opt)...)
	}
	out = append(out, k.dots()...)
	if opt.Lossy {
		return out
	}
	if k.lww {
		return append(out, k.winner()...)
	}
	if !k.open {
		out = append(out, k.kept(opt)...)
	}
	for _, v := range k.final {
		if p := k.puts[v]; p != nil {
			if by := k.superseded(p, nil); by != nil {
				out = append(out, k.bad(CameBack, "came back: %v after %v", p, by))
			}
		}
	}
	for _, r := range k.reads {
		if r.Strict {
			out = append(out, k.strictRead(r)...)
		}
	}
	return out
}

func (k *keyHistory) bad(rule Rule, format string, args ...any) Violation {
	return Violation{rule, k.name, fmt.Sprintf(format, args...)}
}

// shown checks one answer by itself.
func (k *keyHistory) shown(r *Operation, opt Options) (out []Violation) {
	for i, v := range r.Got {
		switch p := k.puts[v]; {
		case p == nil:
			out = append(out, k.bad(Invented, "%q was never written, but read: %v", v, r))
		case p.Outcome == None:
			out = append(out, k.bad(NotNone, "a put that was said to have stored nothing was read: %v by %v", p, r))
		case slices.Contains(r.Got[:i], v):
			out = append(out, k.bad(Twice, "one put became two siblings: %v in %v", p, r))
		}
	}
	if k.lww && len(r.Got) > 1 && !opt.Lossy { // the bucket's policy may be lost, too
		out = append(out, k.bad(Several, "an lww bucket showed several values: %v", r))
	}
	for _, v := range r.Got {
		before := k.covered(v)
		for _, s := range r.Got {
			if before[s] && s != v {
				out = append(out, k.bad(Beside, "%q was shown beside %v, which replaced it: %v", s, k.puts[v], r))
			}
		}
	}
	return out
}

// covered lists the values that the write of v covered for certain, and what those had covered.
func (k *keyHistory) covered(v string) map[string]bool {
	out := map[string]bool{}
	for next := []string{v}; len(next) > 0; {
		p := k.puts[next[0]]
		next = next[1:]
		if p == nil {
			continue
		}
		for _, s := range p.Sure {
			if !out[s] {
				out[s] = true
				next = append(next, s)
			}
		}
	}
	return out
}

// dots checks that a dot always names the same value.
func (k *keyHistory) dots() (out []Violation) {
	names := map[string]string{}
	for _, r := range k.reads {
		for i, dot := range r.Dots {
			if i >= len(r.Got) || dot == "" {
				continue
			}
			if was, ok := names[dot]; ok && was != r.Got[i] {
				out = append(out, k.bad(DotReused, "dot %s named %q and names %q: %v", dot, was, r.Got[i], r))
			}
			names[dot] = r.Got[i]
		}
	}
	return out
}

// kept checks that what was acknowledged or read is still there, if nothing may have covered it.
func (k *keyHistory) kept(opt Options) (out []Violation) {
	read := map[string]*Operation{}
	for _, r := range k.reads {
		for _, v := range r.Got {
			if !opt.Wiped || k.handedOn(k.puts[v], r) {
				read[v] = r
			}
		}
	}
	for _, v := range slices.Sorted(maps.Keys(k.puts)) {
		p := k.puts[v]
		if slices.Contains(k.final, v) || k.maySupersede(p, nil) {
			continue
		}
		switch r := read[v]; {
		case p.Outcome == Acked && !k.mayBeLost(p, nil):
			out = append(out, k.bad(Lost, "lost: %v; left: %q", p, k.final))
		case r != nil && p.Outcome == Unknown:
			out = append(out, k.bad(Vanished, "vanished: %v, read by %v; left: %q", p, r, k.final))
		}
	}
	return out
}

// handedOn reports whether what a read shows of a put goes to whoever owns the key later: see [History.Quiet].
func (k *keyHistory) handedOn(p, r *Operation) bool {
	return p != nil && slices.ContainsFunc(k.quiet, func(s Span) bool { return s.From <= r.Start && r.End <= s.To }) &&
		!slices.ContainsFunc(k.losses, func(l Loss) bool { return l.At >= p.Start })
}

// mayBeLost reports whether all who had acknowledged a write may have lost it before an operation ended: nil is the end.
func (k *keyHistory) mayBeLost(w, before *Operation) bool {
	lost := 0
	for _, l := range k.losses {
		if l.At >= w.Start && (before == nil || l.At <= before.End) {
			lost += l.of(w)
		}
	}
	return lost > 0 && w.W <= lost
}

// winner checks an lww bucket: a later stamp may rightly have won over any value, but somebody must have won, and
// nothing that a write covered for certain.
func (k *keyHistory) winner() (out []Violation) {
	for _, v := range k.final {
		for _, w := range k.kills[v] {
			if w.Outcome == Acked && slices.Contains(w.Sure, v) && !k.mayBeLost(w, nil) {
				out = append(out, k.bad(CameBack, "came back: %v after %v", k.puts[v], w))
			}
		}
	}
	if len(k.final) > 0 || k.open {
		return out
	}
	var kept *Operation
	for _, w := range k.writes {
		switch {
		case w.Kind == Delete && w.Outcome != None:
			return out // may have won
		case w.Outcome == Acked && !k.mayBeLost(w, nil):
			kept = w
		}
	}
	if kept != nil {
		out = append(out, k.bad(Lost, "lost: no value won, though nothing was deleted: %v", kept))
	}
	return out
}

// strictRead checks a read against the writes that were acknowledged before it began, where both quorums were
// strict and met in a replica.
func (k *keyHistory) strictRead(r *Operation) (out []Violation) {
	for _, p := range k.puts {
		before := p.Outcome == Acked && p.Strict && p.End < r.Start && !k.mayBeLost(p, r)
		if before && !slices.Contains(r.Got, p.Value) && !k.maySupersede(p, r) {
			out = append(out, k.bad(Unread, "unread: %v by %v", p, r))
		}
	}
	for _, v := range r.Got {
		if p := k.puts[v]; p != nil {
			if by := k.superseded(p, r); by != nil {
				out = append(out, k.bad(Stale, "read though replaced: %v after %v by %v", p, by, r))
			}
		}
	}
	return out
}

// maySupersede reports whether some write could have replaced p rightly, as a reader saw it: nil is the end.
func (k *keyHistory) maySupersede(p, reader *Operation) bool {
	could := func(w *Operation) bool { return w.Outcome != None && (reader == nil || w.Start <= reader.End) } // in virtual time, much is at once
	return slices.ContainsFunc(k.kills[p.Value], could) || slices.ContainsFunc(k.blinds, func(w *Operation) bool {
		return could(w) && (w.Outcome != Acked || p.Start < w.End)
	})
}

// superseded returns a write that has replaced p for certain, as a strict reader must see it: nil is the end.
func (k *keyHistory) superseded(p, reader *Operation) *Operation {
	seen := func(w *Operation) bool {
		return w.Outcome == Acked && !k.mayBeLost(w, reader) && (reader == nil || w.Strict && w.End < reader.Start)
	}
	for _, w := range k.kills[p.Value] {
		if seen(w) && slices.Contains(w.Sure, p.Value) {
			return w
		}
	}
	for _, w := range k.blinds {
		if seen(w) && w.Strict && p.Strict && p.Outcome == Acked && !k.mayBeLost(p, w) && p.End < w.Start {
			return w
		}
	}
	return nil
}
