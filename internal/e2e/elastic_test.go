package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/internal/torture"
)

// founders makes the first n nodes found the cluster; the others have them as seeds, and join.
func (f *flock) founders(n int) {
	var seeds []string
	for _, p := range f.nodes[:n] {
		seeds = append(seeds, p.name+"@"+p.setting("DUNLIN_GOSSIP"))
	}
	for _, p := range f.nodes {
		p.set("DUNLIN_SEEDS", strings.Join(seeds, ","))
	}
}

func (p *process) setting(name string) string {
	for _, e := range p.env {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			return v
		}
	}
	return ""
}

func (p *process) set(name, value string) {
	for i, e := range p.env {
		if strings.HasPrefix(e, name+"=") {
			p.env[i] = name + "=" + value
			return
		}
	}
	p.env = append(p.env, name+"="+value)
}

// transfers is the answer of /cluster/transfers.
type transfers struct {
	Epoch    int
	Changing bool
	Waiting  []string `json:"waiting_for"`
	ToFill   int      `json:"partitions_to_fill"`
	Bytes    int64
	ToDrop   int `json:"partitions_to_drop"`
}

// settledAt waits until the nodes go by one epoch alone, with so many members.
func (f *flock) settledAt(members int, nodes ...*process) {
	f.t.Helper()
	until(f.t, 2*time.Minute, fmt.Sprintf("%d members and no change under way", members), func() error {
		for _, p := range nodes {
			var tr transfers
			if err := fetch(f.t, p.url("/cluster/transfers"), &tr); err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			if tr.Changing {
				return fmt.Errorf("%s: epoch %d waits: %q", p.name, tr.Epoch, tr.Waiting)
			}
			var doc struct{ Members []struct{ State string } }
			if err := fetch(f.t, p.url("/cluster/members"), &doc); err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			n := 0
			for _, m := range doc.Members {
				if m.State == "member" {
					n++
				}
			}
			if n != members {
				return fmt.Errorf("%s knows %d members", p.name, n)
			}
		}
		return nil
	})
}

// strikes kills random nodes of some, and starts each again at once, until the change is through.
func (f *flock) strikes(rnd *rand.Rand, nodes []*process, through func() error) (kills int) {
	f.t.Helper()
	return f.strikesAtMost(rnd, 3, nodes, through)
}

func (f *flock) strikesAtMost(rnd *rand.Rand, most int, nodes []*process, through func() error) (kills int) {
	f.t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		<-time.After(time.Duration(100+rnd.IntN(900)) * time.Millisecond)
		if through() == nil {
			return kills
		}
		if kills < most {
			p := nodes[rnd.IntN(len(nodes))]
			f.signal(p, syscall.SIGKILL)
			<-time.After(time.Duration(rnd.IntN(300)) * time.Millisecond)
			f.start(p)
			f.ready(p)
			kills++
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("the change does not end: %v", through())
		}
	}
}

// Members come and go, and some are killed meanwhile: no read misses a write that was acknowledged before it began.
func TestElastic(t *testing.T) {
	heavy(t)
	seed := tortureSeed(t)
	rnd := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	f := newFlock(t, 5)
	f.founders(3)
	f.start(f.nodes[:3]...)
	f.ready(f.nodes[:3]...)
	for i := range 3000 {
		expect(t, 204, "PUT", f.nodes[i%3].url(fmt.Sprintf("/kv/b/k%d?w=2", i)), strings.Repeat(fmt.Sprint(i, " "), 50))
	}
	c := f.newReaders(seed, f.nodes[:3])
	defer c.finish()
	begin, kills := time.Now(), 0
	step := func(what string, members int, staying []*process, killed []*process) {
		t.Helper()
		kills += f.strikes(rnd, killed, func() error {
			for _, p := range staying {
				var tr transfers
				if err := fetch(t, p.url("/cluster/transfers"), &tr); err != nil || tr.Changing {
					return fmt.Errorf("%s: %+v %v", p.name, tr, err)
				}
				var doc struct{ Members []struct{ State string } }
				if err := fetch(t, p.url("/cluster/members"), &doc); err != nil || len(doc.Members) < members {
					return fmt.Errorf("%s: %v %v", p.name, doc, err)
				}
			}
			return nil
		})
		f.settledAt(members, staying...)
		t.Logf("%s: through after %.1f s, %d kills so far", what, time.Since(begin).Seconds(), kills)
	}
	for i := 3; i < 5; i++ {
		f.start(f.nodes[i])
		f.ready(f.nodes[i])
		step(f.nodes[i].name+" joins", i+1, f.nodes[:i+1], f.nodes[:i+1])
		c.use(f.nodes[:i+1]...)
	}
	for i := 4; i >= 3; i-- {
		c.use(f.nodes[:i]...)
		expect(t, 202, "POST", f.nodes[0].url("/cluster/leave/"+f.nodes[i].name), "")
		step(f.nodes[i].name+" leaves", i, f.nodes[:i], f.nodes[:i+1])
		until(t, time.Minute, "it knows that it has left", func() error {
			_, body, err := try(t.Context(), "GET", f.nodes[i].url("/readyz"), "")
			if err == nil && !strings.Contains(body, "has left the cluster") {
				err = errors.New(body)
			}
			return err
		})
		f.signal(f.nodes[i], syscall.SIGTERM)
	}
	c.finish()
	for i := range 3000 {
		if got := expect(t, 200, "GET", f.nodes[i%3].url(fmt.Sprintf("/kv/b/k%d?r=2&sloppy=false", i)), ""); got != strings.Repeat(fmt.Sprint(i, " "), 50) {
			t.Fatalf("k%d: %.50q", i, got)
		}
	}
	t.Logf("%s; %d kills", c.story(seed, begin), kills)
	report(t, seed, slices.Concat(c.broken, c.refusedTooLong(), torture.Deaths(f.text())))
}

// A disk is lost: a node of the same name with an empty directory takes the member's place and is filled.
func TestWipedNodeIsReplaced(t *testing.T) {
	f := newFlock(t, 3)
	f.start(f.nodes...)
	f.ready(f.nodes...)
	const keys = 300
	for i := range keys {
		expect(t, 204, "PUT", f.nodes[i%3].url(fmt.Sprintf("/kv/b/k%d?w=3", i)), fmt.Sprint("v", i))
	}
	wiped := f.nodes[1]
	f.signal(wiped, syscall.SIGKILL)
	for i := range keys { // while it is away, too
		expect(t, 204, "PUT", f.nodes[0].url(fmt.Sprintf("/kv/b/late%d?w=2", i)), fmt.Sprint("w", i))
	}
	wiped.dir += "-new"
	wiped.set("DUNLIN_DATA", wiped.dir)
	f.start(wiped)
	until(t, time.Minute, "the new node says what to do", func() error {
		_, body, err := try(t.Context(), "GET", wiped.url("/readyz"), "")
		if err == nil && !strings.Contains(body, "dunlin replace n2") {
			err = errors.New(body)
		}
		return err
	})
	var plan struct{ Bytes int64 }
	if err := json.Unmarshal([]byte(expect(t, 200, "GET", f.nodes[2].url("/cluster/plan?action=replace&node=n2"), "")), &plan); err != nil || plan.Bytes == 0 {
		t.Fatalf("%v; a plan that moves %d bytes", err, plan.Bytes)
	}
	expect(t, 202, "POST", f.nodes[2].url("/cluster/replace/n2"), "")
	f.settledAt(3, f.nodes...)
	f.ready(f.nodes...)
	until(t, time.Minute, "every replica holds the same", func() error { return quiet(f) })
	for i := range keys {
		for _, kv := range []string{fmt.Sprint("k", i, " v", i), fmt.Sprint("late", i, " w", i)} {
			key, value, _ := strings.Cut(kv, " ")
			if got := expect(t, 200, "GET", wiped.url("/kv/b/"+key+"?r=1"), ""); got != value {
				t.Fatalf("%s: %q", key, got)
			}
		}
	}
}
