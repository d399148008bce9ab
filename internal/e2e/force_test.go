package e2e

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// forcePlan is what a forced removal would lose.
type forcePlan struct {
	AtRisk []int `json:"partitions_at_risk"`
	Lost   []int `json:"partitions_lost"`
}

// dunlin runs the program's own command against a node.
func (f *flock) dunlin(args ...string) (string, error) {
	out, err := exec.CommandContext(f.t.Context(), binary, args...).CombinedOutput()
	return string(out), err
}

// saysNotReady waits until a node is not ready and says all of some words.
func (f *flock) saysNotReady(p *process, words ...string) {
	f.t.Helper()
	until(f.t, time.Minute, p.name+" says why it is out of service", func() error {
		status, body, err := try(f.t.Context(), "GET", p.url("/readyz"), "")
		if err != nil {
			return err
		}
		for _, w := range words {
			if status != 503 || !strings.Contains(body, w) {
				return fmt.Errorf("%d %s", status, body)
			}
		}
		return nil
	})
}

// Three of five nodes are lost with their disks. The two that are left cannot change the members, until they are told by
// force that the others are gone. What they held is served. One of the dead comes back with its disk: it is refused, and
// nothing that it held alone is mixed in.
func TestForcedRemoval(t *testing.T) {
	heavy(t)
	f := newFlock(t, 5)
	for _, p := range f.nodes {
		p.set("DUNLIN_PARTITIONS", "128")
	}
	f.start(f.nodes...)
	f.ready(f.nodes...)
	const keys = 120
	for i := range keys {
		expect(t, 204, "PUT", f.nodes[i%5].url(fmt.Sprintf("/kv/b/k%d?w=3&sloppy=false", i)), fmt.Sprint("v", i))
	}
	left, lost := f.nodes[:2], f.nodes[2:]
	for _, p := range lost {
		f.signal(p, syscall.SIGKILL)
	}
	url0 := left[0].url("")
	until(t, time.Minute, "the dead are seen to be dead", func() error {
		var doc struct {
			Members []struct {
				Name  string
				Alive bool
			}
		}
		for _, p := range left {
			if err := fetch(t, p.url("/cluster/members"), &doc); err != nil {
				return err
			}
			for _, m := range doc.Members {
				if m.Alive != (m.Name == "n1" || m.Name == "n2") {
					return fmt.Errorf("%s: %+v", p.name, m)
				}
			}
		}
		return nil
	})
	// Without a majority, nothing; and what to do.
	if body := expect(t, 503, "POST", left[0].url("/cluster/remove/n3?timeout=2s"), ""); !strings.Contains(body, "dunlin remove --force") {
		t.Errorf("no way out is named: %s", body)
	}
	if body := expect(t, 409, "POST", left[0].url("/cluster/remove/n3,n4?force=true&at_risk=0"), ""); !strings.Contains(body, "n5 does not answer either") {
		t.Errorf("one that is dead was not named: %s", body)
	}
	var plan forcePlan
	if err := fetch(t, left[1].url("/cluster/plan?force=true&action=remove&node="+url.QueryEscape("n3,n4,n5")), &plan); err != nil {
		t.Fatal(err)
	}
	var rg struct {
		Owners  [][]int
		Members []struct{ Name string }
	}
	if err := fetch(t, left[0].url("/cluster/ring"), &rg); err != nil {
		t.Fatal(err)
	}
	lostPartition := map[int]bool{}
	for _, p := range plan.Lost {
		lostPartition[p] = true
	}
	for p, owners := range rg.Owners {
		held := false
		for _, m := range owners {
			held = held || rg.Members[m].Name == "n1" || rg.Members[m].Name == "n2"
		}
		if held == lostPartition[p] {
			t.Errorf("partition %d has owners %v, and is said to be lost: %v", p, owners, lostPartition[p])
		}
	}
	if len(plan.Lost) == 0 || len(plan.AtRisk) <= len(plan.Lost) {
		t.Errorf("%d lost, %d at risk", len(plan.Lost), len(plan.AtRisk))
	}
	expect(t, 409, "POST", left[0].url("/cluster/remove/n3,n4,n5?force=true"), "") // who has not seen the plan
	out, err := f.dunlin("remove", "n3", "n4", "n5", "--force", "--url", url0)
	if err == nil || !strings.Contains(out, fmt.Sprintf("LOST: of %d partitions nothing is left: ", len(plan.Lost))) || !strings.Contains(out, "AT RISK") {
		t.Fatalf("without a yes: %v\n%s", err, out)
	}
	if out, err = f.dunlin("remove", "n3", "n4", "n5", "--force", "--yes", "--url", url0); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Log(out)
	f.settledAt(2, left...)
	f.ready(left...)

	// All that has survived is there, and whole: each read is by all owners that there are.
	read := func(i int) (status int, body, key string) {
		key = fmt.Sprint("k", i)
		status, body, err := try(t.Context(), "GET", left[i%2].url("/kv/b/"+key+"?r=all&sloppy=false"), "")
		if err != nil {
			t.Fatal(err)
		}
		return status, body, key
	}
	survived := 0
	for i := range keys {
		status, body, key := read(i)
		var where struct{ Partition int }
		if err := fetch(t, left[0].url("/cluster/ring/b/"+key), &where); err != nil {
			t.Fatal(err)
		}
		switch {
		case lostPartition[where.Partition] && status != 404:
			t.Errorf("%s of a lost partition: %d %s", key, status, body)
		case !lostPartition[where.Partition] && (status != 200 || body != fmt.Sprint("v", i)):
			t.Errorf("%s: %d %.80s", key, status, body)
		case status == 200:
			survived++
		}
	}
	if survived == 0 || survived == keys {
		t.Errorf("%d of %d keys have survived", survived, keys)
	}
	for i := range keys { // and they take writes, of all keys
		expect(t, 204, "PUT", left[i%2].url(fmt.Sprintf("/kv/b/new%d?w=2", i)), "new")
	}

	// One of the dead comes back with its old disk.
	back := lost[0]
	f.start(back)
	f.saysNotReady(back, "left behind", "empty directory") // a peer's refusal may come first
	if out, err := f.dunlin("health", "--url", back.url("")); err == nil {
		t.Errorf("it counts as healthy: %s", out)
	}
	if status, body, err := try(t.Context(), "GET", back.url("/kv/b/k1?r=1"), ""); err != nil || status != 503 {
		t.Errorf("it is read from: %d %s %v", status, body, err)
	}
	if !strings.Contains(f.text(), "left behind") {
		t.Error("its log does not say that it was left behind")
	}
	<-time.After(3 * time.Second) // exchanges, hints: what would mix it in
	for i := range keys {
		status, _, key := read(i)
		var where struct{ Partition int }
		if err := fetch(t, left[0].url("/cluster/ring/b/"+key), &where); err != nil {
			t.Fatal(err)
		}
		if lostPartition[where.Partition] && status != 404 {
			t.Errorf("%s came back with a node that was given up: %d", key, status)
		}
	}
	f.signal(back, syscall.SIGKILL)
	// With an empty directory it is a node like any other.
	if err := os.RemoveAll(back.dir); err != nil {
		t.Fatal(err)
	}
	f.start(back)
	f.settledAt(3, left[0], left[1], back)
	f.ready(back)
}

// A network is split into two halves, neither of them a majority, and both are forced. Each goes on for itself, also when
// the network is whole again: neither reads of the other, and both say that there are two.
func TestTwoForcedSides(t *testing.T) {
	l := newLab(t, 4)
	for _, p := range l.nodes {
		p.set("DUNLIN_PARTITIONS", "64")
	}
	l.start(l.nodes...)
	l.ready(l.nodes...)
	const keys = 30
	for i := range keys {
		expect(t, 204, "PUT", l.nodes[i%4].url(fmt.Sprintf("/kv/b/k%d?w=all", i)), fmt.Sprint("v", i))
	}
	l.split([]int{0, 1}, []int{2, 3})
	sides := [][]*process{l.nodes[:2], l.nodes[2:]}
	names := []string{"n3,n4", "n1,n2"} // that each gives up
	for i, side := range sides {
		var plan forcePlan
		until(t, time.Minute, "the other side is seen as down", func() error {
			return fetch(t, side[0].url("/cluster/plan?force=true&action=remove&node="+url.QueryEscape(names[i])), &plan)
		})
		expect(t, 202, "POST", side[0].url(fmt.Sprintf("/cluster/remove/%s?force=true&at_risk=%d", names[i], len(plan.AtRisk))), "")
	}
	for i, side := range sides {
		l.settledAt(2, side...)
		expect(t, 204, "PUT", side[1].url("/kv/b/whose?w=2"), fmt.Sprint("side ", i))
	}
	l.heal()
	for i, side := range sides {
		for _, p := range side {
			until(t, time.Minute, p.name+" says that there are two sides", func() error {
				status, body, err := try(t.Context(), "GET", p.url("/readyz"), "")
				if err == nil && (status != 200 || !strings.Contains(body, "two sides were forced apart")) {
					err = fmt.Errorf("%d %s", status, body)
				}
				return err
			})
			if got := expect(t, 200, "GET", p.url("/kv/b/whose?r=2"), ""); got != fmt.Sprint("side ", i) {
				t.Errorf("%s reads %q", p.name, got)
			}
			for i := range keys {
				expect(t, 200, "GET", p.url(fmt.Sprintf("/kv/b/k%d?r=2", i)), "")
			}
		}
	}
}
