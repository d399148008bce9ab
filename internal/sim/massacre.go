package sim

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/dunlindb/dunlin/internal/referee"
	"github.com/dunlindb/dunlin/ring"
)

// massacre takes a majority of the members at once, with their disks, once in a run, and has those that are left go on alone.
func (s *strike) massacre() {
	ms, ids := s.doomed()
	if ms == nil {
		return
	}
	s.w.count(s.name, "%v", names(ms))
	for _, m := range ms {
		s.w.breach(m.died())
		s.w.breach(m.crash(s.coin(0)))
		m.set(func() { m.use = lost })
	}
	s.w.noteLoss(len(ms), s.w.ownedBy(ids))
	for _, m := range ms {
		m.wipe()
	}
	s.wait(1, 0, 20*time.Second)
	for i := range 30 {
		if s.w.bury() == nil {
			for _, m := range ms { // others may come under their names
				m.set(func() { m.use, m.busy = spare, false })
			}
			return
		}
		s.wait(i%8, time.Second, 5*time.Second)
	}
}

// doomed claims as many members as leave no majority, with their ids; none if that cannot be, or was before.
func (s *strike) doomed() (ms []*member, ids []string) {
	via := s.someone(nil)
	if via == nil || s.w.readiness(via) != "" {
		return nil, nil
	}
	all, err := s.w.membersBy(via)
	if err != nil {
		return nil, nil
	}
	in := map[string]bool{}
	for _, x := range all {
		if x.State == "member" || x.State == "joining" {
			in[x.ID] = true
		}
	}
	need := len(in) - len(in)/2
	for _, m := range s.order {
		if m != via && len(ms) < need && in[m.id()] && m.hold() {
			ms, ids = append(ms, m), append(ids, m.id())
		}
	}
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if s.w.fallen || len(ms) < need || len(in) < fewest {
		for _, m := range ms {
			m.release()
		}
		return nil, nil
	}
	s.w.fallen = true
	return ms, ids
}

// wisest is the machine that knows of the newest epoch, as who forces a removal has to find out: of members whom the others
// have never heard of these do not know that they are left.
func (w *world) wisest() (wisest *member, err error) {
	newest := uint64(0)
	for _, m := range w.present() {
		if !m.runs() {
			return nil, fmt.Errorf("%s is down", m.name)
		}
		var tr struct{ Epoch uint64 }
		body, err := get(w.observer, m.url()+"/cluster/transfers")
		if err != nil || json.Unmarshal([]byte(body), &tr) != nil || tr.Epoch <= newest {
			continue // it waits, and knows of none, or knows nothing more
		}
		newest = tr.Epoch
		if m, err := w.memberOf(m); err == nil {
			wisest = m
		}
	}
	if wisest == nil {
		return nil, errors.New("nobody knows a layout")
	}
	return wisest, nil
}

// memberOf is a machine that is a member of the newest layout that a node knows, that one if it is: who leaves forces nothing.
func (w *world) memberOf(m *member) (*member, error) {
	all, err := w.membersBy(m)
	if err != nil {
		return nil, err
	}
	in := map[string]bool{}
	for _, x := range all {
		in[x.ID] = x.State == "member" || x.State == "joining"
	}
	for _, o := range append([]*member{m}, w.present()...) {
		if in[o.id()] {
			return o, nil
		}
	}
	return nil, fmt.Errorf("no member that %s knows is left", m.name)
}

// forced reports whether members were given up by force. Of others, who have joined by an epoch of which nobody that is left
// had heard, those who are forced on cannot know.
func (w *world) forced() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.counts["force"] > 0
}

// countsIn says who counts a machine among the members that are or were.
func (w *world) countsIn(m *member) error {
	for _, o := range w.present() {
		if o == m || w.readiness(o) != "" { // it may be one of them itself
			continue
		}
		all, err := w.membersBy(o)
		if err != nil {
			continue
		}
		for _, x := range all {
			if x.ID == m.id() && (x.State == "member" || x.State == "joining" || x.State == "leaving") {
				return fmt.Errorf("%s was left behind, although %s counts it in (%s)", m.name, o.name, x.State)
			}
		}
	}
	return nil
}

// force has a node give up members that are lost, when the others are no majority, and reports whether it did.
func (w *world) force(via *member, dead []string) bool {
	nodes := url.PathEscape(strings.Join(dead, ","))
	var plan struct {
		AtRisk []int `json:"partitions_at_risk"`
	}
	body, err := get(w.observer, via.url()+"/cluster/plan?action=remove&force=true&node="+url.QueryEscape(strings.Join(dead, ",")))
	if err == nil {
		err = json.Unmarshal([]byte(body), &plan)
	}
	if err != nil {
		w.note("no plan of a forced removal: %v", err)
		return false
	}
	forced := w.ask(via, 10*time.Second, fmt.Sprintf("remove/%s?force=true&at_risk=%d", nodes, len(plan.AtRisk))) > 0
	if forced {
		w.count("force", "%v", dead)
	}
	return forced
}

// noteLoss tells the referee of lost disks. owners is of how many of them a key was one's own, nil: nobody knows.
func (w *world) noteLoss(nodes int, owners map[string]int) {
	w.history.Lose(referee.Loss{At: w.crowd.Since(), Nodes: nodes, Owners: owners})
}

// ownedBy counts for every key how many of its primaries were nodes that do not run any more. nil: those who run do not all
// go by one layout, so it cannot be told.
func (w *world) ownedBy(ids []string) map[string]int {
	var first *table
	for _, m := range w.present() {
		if !m.runs() || m.isWaiting() {
			continue
		}
		t := w.base(m)
		if t == nil || len(t.live) > 1 || first != nil && t.Epoch != first.Epoch {
			return nil
		}
		first = t
	}
	if first == nil {
		return nil
	}
	gone := map[string]bool{}
	for _, id := range ids {
		gone[id] = true
	}
	owners := map[string]int{}
	for _, at := range w.crowd.Places() {
		n := 0
		for _, i := range first.Owners[first.partition(at[0], at[1])] {
			if gone[first.Members[i].ID] {
				n++
			}
		}
		owners[referee.KeyName(at[0], at[1])] = n
	}
	return owners
}

// partition is where a key lies: in partitions of its bucket's own, or among the first, which all others share.
func (t *table) partition(bucket, key string) int {
	p := ring.PartitionOf(t.Partitions, bucket, key)
	for _, b := range t.Buckets {
		if b.Bucket == bucket {
			p += b.First
		}
	}
	return p
}

// number gives a bucket another number of replicas.
func (s *strike) number() {
	via := s.someone(nil)
	if via == nil {
		return
	}
	bucket, n := bucketSiblings, max(2+int(4*s.dice[0]), s.w.plan.LeastW)
	if s.w.plan.LWW && s.coin(1) {
		bucket = bucketLWW
	}
	s.w.count(s.name, "%s gets %d, by %s", bucket, n, via.name)
	s.during(func() { s.w.renumber(via, s.patience(), bucket, n) }, via)
}

// renumber has a node give a bucket another number of replicas.
func (w *world) renumber(via *member, patience time.Duration, bucket string, n int) {
	path := fmt.Sprintf("/buckets/%s?timeout=%v", bucket, patience)
	status, body, err := exchange(w.admin, "PUT", via.url()+path, fmt.Sprintf(`{"n":%d}`, n))
	w.note("%s asked for n=%d of %s: %d %.300s %v", via.name, n, bucket, status, strings.TrimSpace(body), err)
	switch {
	case err != nil || status == 200 || status == 409 || status == 503 || status == 504 || status == 507:
	case status == 500 && strings.Contains(body, errDisk.Error()): // "a fault of the node", as documented
	case status == 202:
		w.told(fmt.Sprintf("n=%d of %s", n, bucket), body)
	default:
		w.breach(fmt.Errorf("%s was asked for n=%d of %s: %d %s", via.name, n, bucket, status, body))
	}
}

// numbered are the partitions of buckets that have a number of replicas of their own, and that number.
func (w *world) numbered() (map[string]int, error) {
	var t table
	body, err := get(w.observer, w.present()[0].url()+"/cluster/ring")
	if err == nil {
		err = json.Unmarshal([]byte(body), &t)
	}
	if err != nil || len(t.Buckets) == 0 {
		return nil, err
	}
	out := map[string]int{}
	for p := t.Partitions; p < len(t.Owners); p++ {
		out[fmt.Sprint(p)] = len(t.Owners[p])
	}
	return out, nil
}

func (m *member) runs() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.node != nil
}

// quiet is what was last seen of the layouts: which one was in force, alone, and since when.
type quiet struct {
	epoch uint64
	since time.Duration
}

// watch looks whether one layout was in force since it looked last, and tells the referee. A node that reads by one alone
// proves that all have agreed to do so, and that no later one has been agreed upon.
func (w *world) watch(q *quiet) {
	at, epoch, heard := w.crowd.Since(), uint64(0), 0
	for _, m := range w.present() {
		var tr struct {
			Live []uint64 `json:"live_epochs"`
		}
		if !m.runs() {
			continue
		}
		body, err := get(w.observer, m.url()+"/cluster/transfers")
		if err != nil || json.Unmarshal([]byte(body), &tr) != nil || len(tr.Live) == 0 {
			continue // it starts, or waits
		}
		if len(tr.Live) > 1 || heard > 0 && tr.Live[0] != epoch {
			*q = quiet{}
			return
		}
		epoch, heard = tr.Live[0], heard+1
	}
	switch {
	case heard < 2:
		*q = quiet{}
	case epoch != q.epoch:
		*q = quiet{epoch, w.crowd.Since()}
	default:
		w.history.WasQuiet(referee.Span{From: q.since, To: at})
	}
}
