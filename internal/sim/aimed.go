package sim

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dunlindb/dunlin/internal/crowd"
	"github.com/dunlindb/dunlin/internal/referee"
)

// What is here aims. It looks at what the nodes know and do, writes keys of its own by one node, and strikes in the moment in
// which a single rule stands between what was acknowledged there and its loss. Most writes ask for one replica, so no disk
// may be lost in such a schedule, and nobody reads these keys with a strict quorum.

const (
	// sendsFor is longer than a node goes on to send a write whose client was answered.
	sendsFor = 11 * time.Second
	// tookOver is how long a change of the members has, if nothing holds it up. Most take half of that.
	tookOver = 20 * time.Second
)

// overtake has hints grow while they are delivered. One member is away, until another one takes it for dead; this one then
// reaches nobody else for a while, so that what its clients write to keys of the first waits there in hints, and nowhere else.
// When the first is back, with a disk that takes long, and these hints are under way to it, their holder hears nothing and
// takes in more writes of the same keys. Then it hears that what it had sent is stored.
func (s *strike) overtake() {
	c := s.corner(func(owners []string, by, gains, reach *member) bool { return owners[0] == by.id() && gains == reach })
	if c == nil || !c.by.hold() {
		return
	}
	defer c.by.release()
	away, holder := c.by, c.reach
	s.w.count(s.name, "%s is away, %s holds hints", away.name, holder.name)
	heal := s.w.cut(s.around(away, false)...)
	dead := s.w.soon(30*time.Second, func() bool { return s.w.takesForDead(holder, away) })
	n := 0
	if dead {
		hear := s.w.cutStreams(s.around(holder, false)...)
		n = s.w.writeAlone(holder, c.keys)
		hear()
	}
	away.set(func() { away.tail, away.stalls = 1, 4*time.Second })
	heal()
	if n > 0 && s.w.soon(40*time.Second, func() bool { return s.w.delivers(holder, away) }) {
		hear := s.w.cutStreams(s.w.between(s.w.members, holder, nil)...)
		more := s.w.writeAlone(holder, c.keys)
		hear()
		s.w.note("%s: %d and then %d of %d keys written, while hints were under way", s.name, n, more, len(c.keys))
	}
	away.set(func() { away.tail = 0 })
}

// hiccup has a commit of writes fail, and none before or after. Either nobody else gets these writes; or others get them, and
// more writes of the same keys follow at once.
func (s *strike) hiccup() {
	c := s.corner(func(owners []string, by, gains, reach *member) bool {
		return gains == reach && slices.Contains(owners, by.id())
	})
	if c == nil || !c.by.hold() {
		return
	}
	defer c.by.release()
	alone := s.coin(0)
	s.w.count(s.name, "%s, alone %v", c.by.name, alone)
	if alone {
		c.close()
		defer c.open()
	}
	for i := range 3 {
		c.by.set(func() { c.by.slips = true })
		c.write(2 * time.Second)
		if !alone {
			c.write(2 * time.Second)
		}
		s.wait(1+i, 0, time.Second)
	}
	c.by.set(func() { c.by.slips = false })
	// What failed may have been a reap round, not a write: then the store waits for who restarts the node.
	if strings.Contains(s.w.readiness(c.by), "failed commits") {
		s.w.note("%s: %s is restarted", s.name, c.by.name)
		s.w.breach(c.by.crash(false))
		s.w.breach(c.by.start(false))
	}
}

// belated holds up what one owner of a partition sends to another one: writes of keys that are then deleted by the first
// owner, and whose tombstones are reaped before the writes arrive.
func (s *strike) belated() {
	in := s.serving()
	if len(in) < 3 {
		return
	}
	t := s.w.base(in[0])
	if t == nil || len(t.live) > 1 {
		return
	}
	first, n := t.of(bucketSiblings)
	p := first + int(s.dice[0]*float64(n))
	var owners []*member
	for _, id := range t.ids(p) {
		for _, m := range in {
			if m.id() == id {
				owners = append(owners, m)
			}
		}
	}
	if len(owners) != 3 {
		return
	}
	var keys []string
	for range 6 {
		keys = append(keys, s.w.crowd.Guest().Key(bucketSiblings, func(key string) bool { return t.partition(bucketSiblings, key) == p }))
	}
	s.w.count(s.name, "%s to %s", owners[1].name, owners[2].name)
	heal := s.w.cutStreams(link{owners[1].name, owners[2].name})
	s.w.writeAll(crowd.Wish{At: owners[1].asNode(), W: s.w.plan.W, Strict: true, Timeout: time.Second}, keys)
	for _, key := range keys {
		s.w.crowd.Guest().Remove(crowd.Wish{At: owners[0].asNode(), Bucket: bucketSiblings, Key: key, Strict: true})
	}
	reaped := s.w.soon(9*time.Second, func() bool { return s.w.isReaped(owners[0], keys) })
	heal()
	s.w.note("%s: reaped before that %v", s.name, reaped)
}

// isReaped reports whether nobody holds anything of some keys.
func (w *world) isReaped(via *member, keys []string) bool {
	return !slices.ContainsFunc(keys, func(key string) bool {
		k, err := crowd.Inspect(w.observer, via.url(), bucketSiblings, key)
		return err != nil || slices.ContainsFunc(k.Replicas, func(r referee.Replica) bool { return r.Digest != "" })
	})
}

// linger keeps writes under way from before the members change. Their node reaches only who gains partitions of it, and its
// disk takes as long as the change does, so that what the new owner copies from it lacks them.
func (s *strike) linger() {
	c := s.corner(func(owners []string, by, gains, reach *member) bool {
		return gains == reach && slices.Contains(owners, by.id())
	})
	if c == nil {
		return
	}
	s.w.count(s.name, "%s reaches %s alone, which gains", c.by.name, c.reach.name)
	c.close()
	// What others write meanwhile would be handed to the one whose disk takes nothing, which holds up the change.
	resume := s.w.crowd.Rest()
	time.Sleep(s.w.plan.Patience)
	release := c.by.holdCommit()
	var puts sync.WaitGroup
	puts.Go(func() { c.write(2 * tookOver) })
	time.Sleep(500 * time.Millisecond)
	c.change(func() { s.w.gains(c.reach, c.gains) })
	release()
	puts.Wait()
	resume()
	c.open()
}

// scant has a member gain partitions of which one old owner alone holds what was acknowledged, and cannot be reached by any
// other owner, old or new.
func (s *strike) scant() {
	c := s.corner(func(owners []string, by, gains, reach *member) bool {
		return gains != reach && slices.Contains(owners, by.id())
	})
	if c == nil {
		return
	}
	s.w.count(s.name, "%s reaches %s alone, and %s gains", c.by.name, c.reach.name, c.gains.name)
	c.close()
	c.write(5 * time.Second)
	c.change(func() { s.w.gains(c.reach, c.gains) })
	c.open()
}

// narrow takes the last owner away from partitions of which it alone holds what was acknowledged, while the others cannot
// reach it.
func (s *strike) narrow() {
	c := s.corner(func(owners []string, by, gains, reach *member) bool {
		return gains == reach && owners[len(owners)-1] == by.id() && len(owners) > 2
	})
	if c == nil {
		if via := s.someone(nil); via != nil {
			s.w.renumber(via, s.patience(), bucketSiblings, 3)
		}
		return
	}
	s.w.count(s.name, "%s reaches %s alone, and is one of %d", c.by.name, c.reach.name, c.owners)
	c.close()
	c.write(5 * time.Second)
	c.change(func() { s.w.renumber(c.reach, 10*time.Second, bucketSiblings, c.owners-1) })
	c.open()
}

// corner is a member with keys that it owns, which reaches only one other member, that does not own them. gains does not
// either.
type corner struct {
	w                *world
	by, gains, reach *member
	keys             []string
	owners           int // of each key
	wrote            time.Time
	heal             func()
}

// corner finds the members that suit for the most partitions; nil: none.
func (s *strike) corner(suits func(owners []string, by, gains, reach *member) bool) *corner {
	in := s.serving()
	if len(in) < 4 {
		return nil
	}
	t := s.w.base(in[0])
	if t == nil || len(t.live) > 1 {
		return nil
	}
	var best *corner
	var found []int
	first, n := t.of(bucketSiblings)
	for _, by := range in {
		for _, gains := range in {
			for _, reach := range in {
				var ps []int
				for p := first; p < first+n; p++ {
					owners := t.ids(p)
					if by != gains && by != reach && !slices.Contains(owners, gains.id()) && !slices.Contains(owners, reach.id()) &&
						suits(owners, by, gains, reach) {
						ps = append(ps, p)
					}
				}
				if len(ps) > len(found) {
					found, best = ps, &corner{w: s.w, by: by, gains: gains, reach: reach, owners: len(t.ids(ps[0]))}
				}
			}
		}
	}
	for range 3 * len(found) {
		best.keys = append(best.keys, s.w.crowd.Guest().Key(bucketSiblings, func(key string) bool {
			return slices.Contains(found, t.partition(bucketSiblings, key))
		}))
	}
	return best
}

// close keeps what the member sends from all others but one. Gossip passes.
func (c *corner) close() {
	c.heal = c.w.cutStreams(c.w.between([]*member{c.by}, nil, c.reach)...)
}

// write writes all keys by the member, which is enough for an acknowledgement.
func (c *corner) write(timeout time.Duration) {
	n := c.w.writeAll(crowd.Wish{At: c.by.asNode(), W: 1, Strict: true, Timeout: timeout}, c.keys)
	c.wrote = time.Now()
	c.w.note("%s: %d of %d keys written", c.by.name, n, len(c.keys))
}

// change changes the layout, and waits for its end, which must not come before the member was heard.
func (c *corner) change(ask func()) {
	before := c.w.base(c.by)
	ask()
	ended := before != nil && c.w.soon(tookOver, func() bool {
		now := c.w.base(c.by)
		return now != nil && now.Epoch > before.Epoch
	})
	c.w.note("%s: the change has ended %v", c.by.name, ended)
}

// open lets the others hear the member again, but for what it has sent since.
func (c *corner) open() {
	time.Sleep(time.Until(c.wrote.Add(sendsFor)))
	for _, o := range c.w.members {
		c.w.fabric.reset(c.by.name, o.name)
	}
	c.heal()
}

// between lists the directions from some members to one, or to all, but for one.
func (w *world) between(from []*member, to, but *member) (out []link) {
	for _, a := range from {
		for _, b := range w.members {
			if a != b && (to == nil || b == to) && b != but {
				out = append(out, link{a.name, b.name})
			}
		}
	}
	return out
}

// gains has a member get more partitions than before.
func (w *world) gains(via, m *member) {
	all, _ := w.membersBy(via)
	for _, x := range all {
		if x.ID == m.id() {
			w.ask(via, 10*time.Second, fmt.Sprintf("update/%s?weight=%d", m.name, x.Weight+4))
		}
	}
}

// writeAll has a guest write keys, all at once, and counts what was acknowledged.
func (w *world) writeAll(x crowd.Wish, keys []string) int {
	var all sync.WaitGroup
	var n atomic.Int32
	for _, key := range keys {
		one := x
		one.Bucket, one.Key = bucketSiblings, key
		all.Go(func() {
			if w.crowd.Guest().Put(one) {
				n.Add(1)
			}
		})
	}
	all.Wait()
	return int(n.Load())
}

// writeAlone is writeAll by a node that nobody answers. It has to notice that first, by reads.
func (w *world) writeAlone(by *member, keys []string) (n int) {
	for i := 0; i < 4 && n == 0; i++ {
		var all sync.WaitGroup
		for _, key := range keys {
			all.Go(func() { _, _ = get(w.observer, by.url()+"/kv/"+bucketSiblings+"/"+key+"?r=all&timeout=1s") })
		}
		all.Wait()
		n = w.writeAll(crowd.Wish{At: by.asNode(), W: 1, Timeout: time.Second}, keys)
	}
	return n
}

func (m *member) asNode() crowd.Node { return crowd.Node{Name: m.name, URL: m.url} }

// soon waits until something holds, and reports whether it came to that.
func (w *world) soon(limit time.Duration, holds func() bool) bool {
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if holds() {
			return true
		}
	}
	return false
}

// takesForDead reports whether a node takes another one for dead.
func (w *world) takesForDead(by, m *member) bool {
	all, err := w.membersBy(by)
	return err == nil && slices.ContainsFunc(all, func(x memberDoc) bool { return x.ID == m.id() && !x.Alive })
}

// delivers reports whether hints of a node are under way to another one.
func (w *world) delivers(by, to *member) bool {
	type target struct{ ID, State string }
	var doc struct{ Targets []target }
	body, err := get(w.observer, by.url()+"/cluster/handoff")
	if err == nil {
		err = json.Unmarshal([]byte(body), &doc)
	}
	return err == nil && slices.Contains(doc.Targets, target{to.id(), "replaying"})
}

// ids are the owners of a partition, in order.
func (t *table) ids(p int) (out []string) {
	for _, i := range t.Owners[p] {
		out = append(out, t.Members[i].ID)
	}
	return out
}

// of are the partitions of a bucket: the first, and how many.
func (t *table) of(bucket string) (first, n int) {
	for _, b := range t.Buckets {
		if b.Bucket == bucket {
			return b.First, t.Partitions
		}
	}
	return 0, t.Partitions
}
