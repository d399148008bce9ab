package sim

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/datadriven"
)

// join starts a new node, called new from then on, which asks to become a member.
func (s *story) join(*datadriven.TestData) (string, error) {
	for _, m := range s.w.members {
		if !m.enlist() {
			continue
		}
		defer m.release()
		s.roles["new"] = m
		return "started", m.start(false)
	}
	return "", errors.New("there is no spare machine")
}

// wipe gives nodes an empty disk and starts them again, under the same name.
func (s *story) wipe(d *datadriven.TestData) (string, error) {
	for _, m := range s.members(d) {
		if err := m.crash(true); err != nil {
			return "", err
		}
		time.Sleep(30 * time.Second)
		m.wipe()
		if err := m.start(s.w.plan.Move); err != nil {
			return "", err
		}
	}
	time.Sleep(10 * time.Second)
	return "empty", nil
}

// lose stops nodes for good.
func (s *story) lose(d *datadriven.TestData) (string, error) {
	for _, m := range s.members(d) {
		if err := m.crash(true); err != nil {
			return "", err
		}
		m.set(func() { m.use = lost })
	}
	time.Sleep(30 * time.Second)
	// Two that are left of five take longer, now and then.
	return "gone", s.w.until(2*time.Minute, "noticed by all", func() error {
		for _, via := range s.w.present() {
			ms, err := s.w.membersBy(via)
			if err != nil {
				return err
			}
			for _, m := range s.w.members {
				if m.is(lost) && slices.ContainsFunc(ms, func(x memberDoc) bool { return x.ID == m.id() && x.Alive }) {
					return fmt.Errorf("%s holds %s for alive", via.name, m.name)
				}
			}
		}
		return nil
	})
}

// change asks the node at=… for a change of the members: what it is, and about whom.
func (s *story) change(d *datadriven.TestData) (string, error) {
	path := d.CmdArgs[0].Key
	if about := s.roles[arg(d, "of", "")]; about != nil {
		path += "/" + about.name
	}
	if weight := arg(d, "weight", ""); weight != "" {
		path += "?weight=" + weight
	}
	return s.post(s.roles[arg(d, "at", "p1")], path)
}

func (s *story) post(at *member, path string) (string, error) {
	resp, err := s.w.admin.Post(at.url()+"/cluster/"+path, "", nil)
	if err != nil {
		return "", err
	}
	body, err := readAll(resp)
	switch resp.StatusCode {
	case http.StatusAccepted:
		return "decided", err
	case http.StatusConflict:
		return "refused", err
	case http.StatusServiceUnavailable:
		return "not decided", err
	}
	return fmt.Sprint(resp.StatusCode, " ", body), err
}

// rivals has two nodes asked at the same time for different changes about a third one.
func (s *story) rivals(d *datadriven.TestData) (string, error) {
	about := s.roles[arg(d, "of", "p3")]
	outcomes, errs := make([]string, 2), make([]error, 2)
	var both sync.WaitGroup
	for i, m := range s.members(d) {
		both.Go(func() { outcomes[i], errs[i] = s.post(m, fmt.Sprintf("update/%s?weight=%d", about.name, 2+i)) })
	}
	both.Wait()
	slices.Sort(outcomes)
	return strings.Join(outcomes, ", "), cmp.Or(errs[0], errs[1])
}

// force has the node at=… give up all that are lost, though they are a majority.
func (s *story) force(d *datadriven.TestData) (string, error) {
	via := s.roles[arg(d, "at", "p1")]
	_, dead, err := s.w.newest(via)
	if err != nil {
		return "", err
	}
	if !s.w.force(via, dead) {
		return "refused", nil
	}
	return fmt.Sprintf("%d are given up", len(dead)), nil
}

// through waits until no change is under way, and tells how many members there are and what else happened meanwhile.
func (s *story) through(*datadriven.TestData) (string, error) {
	err := s.w.until(changeLimit, "through with the change", func() error {
		s.w.tend()
		return s.w.whole()
	})
	return fmt.Sprintf("%d members", len(s.w.present())), err
}

// left tells whether nodes have left, and were stopped.
func (s *story) left(d *datadriven.TestData) (string, error) {
	var out []string
	for _, m := range s.members(d) {
		what := "still there"
		if m.is(spare) {
			what = "left, and stopped"
		}
		out = append(out, what)
	}
	return strings.Join(out, ", "), nil
}
