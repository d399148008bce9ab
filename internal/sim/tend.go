package sim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"
)

// ask has a node make a change, and returns its epoch if it was made, notNeeded if there is nothing to do, or 0. That two are told that they
// made the same epoch is a breach.
func (w *world) ask(via *member, patience time.Duration, path string) (epoch uint64) {
	if via == nil {
		return 0
	}
	sep := "?"
	if strings.Contains(path, "?") {
		sep = "&"
	}
	resp, err := w.admin.Post(via.url()+"/cluster/"+path+sep+"timeout="+patience.String(), "", nil)
	if err != nil {
		w.note("%s asked for %s: %v", via.name, path, err)
		return 0
	}
	body, err := readAll(resp)
	w.note("%s asked for %s: %d %.300s %v", via.name, path, resp.StatusCode, strings.TrimSpace(body), err)
	switch resp.StatusCode {
	case http.StatusAccepted:
		return w.told(path, body)
	case http.StatusConflict:
		if strings.Contains(body, "no member is called") {
			return notNeeded
		}
	case http.StatusBadRequest, http.StatusServiceUnavailable:
	default:
		w.breach(fmt.Errorf("%s was asked for %s: %d %s", via.name, path, resp.StatusCode, body))
	}
	return 0
}

// told takes the epoch from the answer to who made a change.
func (w *world) told(change, body string) (epoch uint64) {
	var doc struct{ Epoch uint64 }
	if err := json.Unmarshal([]byte(body), &doc); err != nil || doc.Epoch == 0 {
		return 0 // cut short, or no change
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if strings.Contains(change, "force=true") { // what those that were lost decided by themselves is gone with them
		maps.DeleteFunc(w.won, func(epoch uint64, _ string) bool { return epoch >= doc.Epoch })
	}
	if other := w.won[doc.Epoch]; other != "" && !sameChange(other, change) {
		w.breach(fmt.Errorf("epoch %d was told to be %s, and %s", doc.Epoch, change, other))
	}
	w.won[doc.Epoch] = change
	return doc.Epoch
}

// sameChange reports whether two changes may make the same layout: then both made it. Updates of two members do when the
// members are so already.
func sameChange(a, b string) bool {
	nodeA, _, _ := strings.Cut(a, "?")
	nodeB, _, _ := strings.Cut(b, "?")
	return a == b || nodeA != nodeB && strings.HasPrefix(a, "update/") && strings.HasPrefix(b, "update/")
}

// notNeeded is what ask returns where there is nothing to do.
const notNeeded = math.MaxUint64

// memberDoc is one line of /cluster/members.
type memberDoc struct {
	ID, Name, State string
	Alive           bool
	Weight          int
}

func (w *world) membersBy(m *member) ([]memberDoc, error) {
	var doc struct{ Members []memberDoc }
	body, err := get(w.observer, m.url()+"/cluster/members")
	if err == nil {
		err = json.Unmarshal([]byte(body), &doc)
	}
	return doc.Members, err
}

// maySpare reports whether one of the members that a node knows may leave, or be lost: enough must stay, and those that
// are not lost must be a majority, without which nothing can be changed any more.
func (w *world) maySpare(via *member, leaves bool) bool {
	if via == nil {
		return false
	}
	all, dead, err := w.newest(via)
	after := all
	if leaves {
		after--
	}
	return err == nil && all > fewest && 2*(all-len(dead)-1) > after
}

// newest counts the members that a node knows of in the newest layout, and names those of them that are lost.
func (w *world) newest(via *member) (all int, dead []string, err error) {
	ids := map[string]bool{}
	for _, m := range w.present() {
		ids[m.id()] = true
	}
	ms, err := w.membersBy(via)
	for _, x := range ms {
		if x.State == "member" || x.State == "joining" {
			all++
			if !ids[x.ID] {
				dead = append(dead, x.ID)
			}
		}
	}
	return all, dead, err
}

// tending looks after the machines while members change, until stop is closed.
func (w *world) tending(stop <-chan struct{}) {
	var q quiet
	for {
		select {
		case <-time.After(tendEvery):
			w.tend()
			w.watch(&q)
		case <-stop:
			return
		}
	}
}

// tend does what an operator does later: it stops nodes that have left, and starts again what gave up to wait.
func (w *world) tend() {
	for _, m := range w.members {
		if !m.hold() {
			continue
		}
		switch text := w.readiness(m); {
		case text == "":
			m.set(func() { m.waits = false })
			w.breach(w.wentBack(m))
		case strings.Contains(text, "this node has left the cluster"):
			w.note("%s has left and is stopped", m.name)
			if w.plan.Seed%2 == 0 {
				w.breach(m.stop())
			} else {
				w.breach(m.crash(true))
			}
			m.clear()
		case w.forced() && (strings.Contains(text, "left behind") || strings.Contains(text, "given up by force")):
			w.note("%s was left behind: %s", m.name, text)
			w.breach(w.countsIn(m))
			w.breach(m.crash(false))
			w.noteLoss(1, nil)
			m.clear()
		case strings.Contains(text, "was removed from the cluster"):
			w.breach(fmt.Errorf("%s runs, and was removed: %s", m.name, text))
		}
		if m.gaveUp() {
			w.note("%s gave up, and is started again", m.name)
			w.breach(m.crash(false))
			w.breach(m.start(false))
		}
		m.release()
	}
}

// clear makes a machine that does not run a spare one.
func (m *member) clear() {
	m.wipe()
	m.set(func() { m.use, m.waits, m.adopt = spare, false, false })
}

// gaveUp reports whether a node that waits ended by itself.
func (m *member) gaveUp() bool {
	m.mu.Lock()
	n, waits := m.node, m.waits
	m.mu.Unlock()
	if n == nil || !waits {
		return false
	}
	select {
	case <-n.Failed():
		return true
	default:
		return false
	}
}

// readiness is why a node is not ready; empty: it is.
func (w *world) readiness(m *member) string {
	resp, err := w.observer.Get(m.url() + "/readyz")
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	if resp.StatusCode == http.StatusOK {
		return ""
	}
	return string(body)
}

// present are the machines that serve.
func (w *world) present() []*member {
	return slices.DeleteFunc(slices.Clone(w.members), func(m *member) bool { return !m.is(serving) })
}

// finishChanges brings all changes of the members to their end: what was lost is removed or replaced, what has left is
// stopped, and all that are left go by one epoch, and hold nothing else.
func (w *world) finishChanges() error {
	return w.until(changeLimit, "through with the changes of the members", func() error {
		w.tend()
		if err := w.bury(); err != nil {
			return err
		}
		return w.whole()
	})
}

// bury removes the members whose machines are lost, or replaces them.
func (w *world) bury() error {
	present := w.present()
	ids, waiting := map[string]bool{}, map[string]bool{}
	for _, m := range present {
		ids[m.id()] = true
		waiting[m.name] = m.isWaiting()
	}
	wisest, err := w.wisest()
	if err != nil {
		return err
	}
	if all, dead, err := w.newest(wisest); err == nil && 2*(all-len(dead)) <= all {
		w.force(wisest, dead)
		return fmt.Errorf("a majority is lost: %q", dead)
	}
	for i, via := range present {
		if w.readiness(via) != "" {
			continue
		}
		all, err := w.membersBy(via)
		if err != nil {
			return err
		}
		for _, x := range all {
			if ids[x.ID] || x.State != "member" && x.State != "joining" && x.State != "leaving" {
				continue
			}
			if waiting[x.Name] && x.State != "leaving" && i%2 == 0 {
				w.ask(via, 10*time.Second, "replace/"+x.Name)
			} else {
				w.ask(via, 10*time.Second, "remove/"+x.ID)
			}
			return fmt.Errorf("%s (%s) is still a member", x.Name, x.ID)
		}
		return nil
	}
	var errs []error
	for _, m := range present {
		errs = append(errs, fmt.Errorf("%s: %s", m.name, w.readiness(m)))
	}
	return fmt.Errorf("nobody is ready: %w", errors.Join(errs...))
}

// whole says what is left of changes of the members.
func (w *world) whole() error {
	present := w.present()
	var errs []error
	for _, m := range present {
		text := w.readiness(m)
		if text == "" {
			if err := w.through(m); err != nil { // others may be waiting for that
				return err
			}
			continue
		}
		errs = append(errs, fmt.Errorf("%s is not ready: %s", m.name, text))
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	for _, m := range present {
		all, err := w.membersBy(m)
		if err != nil {
			return err
		}
		in := 0
		for _, x := range all {
			if x.State != "member" {
				continue
			}
			in++
			if !slices.ContainsFunc(present, func(m *member) bool { return m.id() == x.ID }) {
				return fmt.Errorf("%s counts %s (%s), which is gone", m.name, x.Name, x.ID)
			}
		}
		if in != len(present) {
			return fmt.Errorf("%s counts %d members, of %d nodes", m.name, in, len(present))
		}
	}
	return w.sameRings(present)
}

// wentBack says whether a node goes by an epoch that was a cancelling, and did not bring back what was before.
func (w *world) wentBack(m *member) error {
	w.mu.Lock()
	some := len(w.back) > 0
	w.mu.Unlock()
	if !some {
		return nil
	}
	now := w.base(m)
	if now == nil {
		return nil
	}
	w.mu.Lock()
	was := w.back[now.Epoch]
	w.mu.Unlock()
	if was == nil {
		return nil
	}
	if before, after := was.owners(len(now.Owners)), now.owners(len(now.Owners)); before != after {
		return fmt.Errorf("epoch %d was to bring epoch %d back, with owners %s, and has %s", now.Epoch, was.Epoch, before, after)
	}
	return nil
}

// through says what a node knows of changes that go on, or has still to drop.
func (w *world) through(m *member) error {
	var tr struct {
		Epoch    uint64
		Changing bool
		Waiting  []string `json:"waiting_for"`
		ToDrop   int      `json:"partitions_to_drop"`
	}
	body, err := get(w.observer, m.url()+"/cluster/transfers")
	if err == nil {
		err = json.Unmarshal([]byte(body), &tr)
	}
	switch {
	case err != nil:
		return err
	case tr.Changing:
		return fmt.Errorf("%s: epoch %d waits for %q", m.name, tr.Epoch, tr.Waiting)
	case tr.ToDrop > 0:
		return fmt.Errorf("%s still holds %d partitions of others", m.name, tr.ToDrop)
	}
	return nil
}

// sameRings says whose table of primaries differs.
func (w *world) sameRings(present []*member) error {
	first := ""
	for _, m := range present {
		body, err := get(w.observer, m.url()+"/cluster/ring")
		if err != nil {
			return err
		}
		if first == "" {
			first = body
		}
		if body != first {
			return fmt.Errorf("%s and %s have different rings: %s %s", present[0].name, m.name, first, body)
		}
	}
	return nil
}

// table is who owns what in an epoch.
type table struct {
	Epoch      uint64
	Partitions int
	Members    []struct{ ID string }
	Owners     [][]int
	Buckets    []struct {
		Bucket string
		First  int `json:"first_partition"`
	}
	live []uint64
}

func (t *table) same(o *table) bool { return t != nil && o != nil && t.Epoch == o.Epoch }

// owners are the ids of the primaries of the first n partitions, in order. A bucket that gets partitions of its own keeps
// them for ever; before, it had the owners that all had.
func (t *table) owners(n int) string {
	var all [][]string
	for p := range n {
		if p >= len(t.Owners) {
			p %= t.Partitions
		}
		var ids []string
		for _, i := range t.Owners[p] {
			ids = append(ids, t.Members[i].ID)
		}
		slices.Sort(ids)
		all = append(all, ids)
	}
	return fmt.Sprint(all)
}

// base is the oldest live epoch of a node, nil if it does not tell, or reads by another one.
func (w *world) base(m *member) *table {
	var tr struct {
		Live []uint64 `json:"live_epochs"`
	}
	var t table
	body, err := get(w.observer, m.url()+"/cluster/transfers")
	if err == nil {
		err = json.Unmarshal([]byte(body), &tr)
	}
	if err == nil {
		body, err = get(w.observer, m.url()+"/cluster/ring")
	}
	if err == nil {
		err = json.Unmarshal([]byte(body), &t)
	}
	if err != nil || len(tr.Live) == 0 || t.Epoch != tr.Live[0] {
		return nil
	}
	t.live = tr.Live
	return &t
}
