package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/internal/torture"
)

// preload writes keys of about a kilobyte with W=2 through some nodes.
func (f *flock) preload(keys int, nodes ...*process) {
	f.t.Helper()
	for i := range keys {
		expect(f.t, 204, "PUT", nodes[i%len(nodes)].url(fmt.Sprintf("/kv/b/k%d?w=2", i)), preloaded(i))
	}
}

func preloaded(i int) string { return strings.Repeat(fmt.Sprint(i, " "), 200) }

// allThere reads what preload wrote, with strict quorums.
func (f *flock) allThere(keys int, nodes ...*process) {
	f.t.Helper()
	for i := range keys {
		p := nodes[i%len(nodes)]
		if got := expect(f.t, 200, "GET", p.url(fmt.Sprintf("/kv/b/k%d?r=2&sloppy=false", i)), ""); got != preloaded(i) {
			f.t.Fatalf("k%d at %s: %.50q", i, p.name, got)
		}
	}
}

// changing waits until a node knows of so many live epochs.
func (f *flock) changing(p *process, epochs int) {
	f.t.Helper()
	until(f.t, time.Minute, fmt.Sprintf("%s knows %d live epochs", p.name, epochs), func() error {
		var tr struct {
			Live []int `json:"live_epochs"`
		}
		if err := fetch(f.t, p.url("/cluster/transfers"), &tr); err != nil || len(tr.Live) < epochs {
			return fmt.Errorf("%v %w", tr.Live, err)
		}
		return nil
	})
}

// summary logs what the readers did, and fails for what they saw.
func (f *flock) summary(seed uint64, c *readers, begin time.Time) {
	f.t.Helper()
	c.finish()
	f.t.Log(c.story(seed, begin))
	report(f.t, seed, slices.Concat(c.broken, c.refusedTooLong(), torture.Deaths(f.text())))
}

// The network is split 2|3 while a node joins: the side without a majority decides nothing, both go on with the keys of
// which they hold a quorum, and no read misses a write. Healed, all changes go through by themselves.
func TestJoinDuringASplit(t *testing.T) {
	seed, begin := tortureSeed(t), time.Now()
	l := newLab(t, 5)
	var seeds []string
	for i := range 4 {
		seeds = append(seeds, fmt.Sprintf("n%d@%s:8200", i+1, l.net.Address(i)))
	}
	for _, p := range l.nodes {
		p.set("DUNLIN_SEEDS", strings.Join(seeds, ","))
	}
	founders, joiner := l.nodes[:4], l.nodes[4]
	l.start(founders...)
	l.ready(founders...)
	const keys = 1000
	l.preload(keys, founders...)
	c := l.newReaders(seed, founders)
	defer c.finish()
	l.start(joiner)
	l.changing(founders[0], 2)
	l.split([]int{0, 1}, []int{2, 3, 4})
	before := c.done()
	// n1 and n2 are no majority, neither of the old members nor of the new ones. n3, n4 and n5 are one of the new ones, if
	// they know of them already.
	if status, body, err := try(t.Context(), "POST", founders[0].url("/cluster/update/n1?weight=2&timeout=1s"), ""); err != nil || status != 503 {
		t.Errorf("n1 without a majority: %d %s %v", status, body, err)
	}
	status, body, err := try(t.Context(), "POST", founders[2].url("/cluster/update/n4?weight=2&timeout=1s"), "")
	t.Logf("the other side, asked for one more change: %d %s %v", status, strings.TrimSpace(body), err)
	<-time.After(4 * time.Second)
	if n := c.done() - before; n < 100 {
		t.Errorf("%d operations succeeded during the split", n)
	}
	l.heal()
	l.settledAt(5, l.nodes...)
	c.use(l.nodes...)
	l.allThere(keys, l.nodes...)
	l.summary(seed, c, begin)
}

// stubborn are clients that write through one node, each key once, and wait for whatever it answers.
type stubborn struct {
	mu    sync.Mutex
	acked map[string]bool
	other map[string]int // what else they were told
	stop  context.CancelFunc
	wg    sync.WaitGroup
}

func newStubborn(p *process, clients int, name string) *stubborn {
	ctx, stop := context.WithCancel(context.Background())
	s := &stubborn{acked: map[string]bool{}, other: map[string]int{}, stop: stop}
	client := &http.Client{Transport: labTransport()}
	for i := range clients {
		s.wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				key := fmt.Sprintf("%s-%d-%d", name, i, n)
				req, err := http.NewRequest(http.MethodPut, p.url("/kv/stubborn/"+key+"?w=2&sloppy=false&timeout=10s"), strings.NewReader(key))
				if err != nil {
					panic(err) // the URL is ours
				}
				told := "no answer"
				if resp, err := client.Do(req); err == nil {
					told = resp.Status
					_ = resp.Body.Close()
				}
				s.mu.Lock()
				if strings.HasPrefix(told, "204") {
					s.acked[key] = true
				} else {
					s.other[told]++
				}
				s.mu.Unlock()
				if told[0] != '2' {
					<-time.After(50 * time.Millisecond)
				}
			}
		})
	}
	return s
}

func (s *stubborn) finish() {
	s.stop()
	s.wg.Wait()
}

// check reads every write that was acknowledged.
func (s *stubborn) check(t *testing.T, nodes ...*process) {
	t.Helper()
	i := 0
	for key := range s.acked {
		p := nodes[i%len(nodes)]
		if got := expect(t, 200, "GET", p.url("/kv/stubborn/"+key+"?r=2&sloppy=false"), ""); got != key {
			t.Fatalf("%s at %s: %q", key, p.name, got)
		}
		i++
	}
	t.Logf("%d writes through the frozen node were acknowledged and are there; others: %v", len(s.acked), s.other)
}

// freeze stops a node as it is, with its clients' requests in it.
func (f *flock) freeze(p *process) {
	f.t.Helper()
	f.reach.set(p, true)
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		f.t.Fatal(err)
	}
}

func (f *flock) thaw(p *process) {
	f.t.Helper()
	f.reach.set(p, false) // before it can answer
	if err := p.Signal(syscall.SIGCONT); err != nil {
		f.t.Fatal(err)
	}
}

// A coordinator is frozen, with writes in it, while two epochs are decided without it. It goes on: first as a member that
// the changes have waited for, then as one that was removed meanwhile. What it acknowledges is there, and no read misses
// an acknowledged write.
func TestFrozenAcrossEpochs(t *testing.T) {
	heavy(t)
	seed, begin := tortureSeed(t), time.Now()
	f := newFlock(t, 5)
	f.founders(4)
	f.start(f.nodes[:4]...)
	f.ready(f.nodes[:4]...)
	const keys = 500
	f.preload(keys, f.nodes[:4]...)
	frozen, joiner, first := f.nodes[2], f.nodes[4], f.nodes[0]
	step := func(what string) { t.Logf("%s after %.1f s", what, time.Since(begin).Seconds()) }

	c := f.newReaders(seed, f.nodes[:4])
	defer func() { c.finish() }()
	in := newStubborn(frozen, 8, "member")
	<-time.After(500 * time.Millisecond)
	f.freeze(frozen)
	f.start(joiner)
	f.changing(first, 2)
	expect(t, 202, "POST", first.url("/cluster/update/n2?weight=2"), "")
	f.changing(first, 3)
	step("two epochs were decided without it")
	f.thaw(frozen)
	f.settledAt(5, f.nodes...)
	step("both are through")
	in.finish()
	in.check(t, f.nodes...)
	f.summary(seed, c, begin)

	// A removed node's own copy may answer r=1 until it hears: R=2 is what is promised here.
	staying := []*process{f.nodes[0], f.nodes[1], f.nodes[3], f.nodes[4]}
	c = f.newReadersOf(seed+1, f.nodes, false)
	in = newStubborn(frozen, 8, "removed")
	<-time.After(500 * time.Millisecond)
	f.freeze(frozen)
	until(t, time.Minute, "it can be removed", func() error {
		status, body, err := try(t.Context(), "POST", first.url("/cluster/remove/n3"), "")
		if err == nil && status != 202 {
			err = errors.New(body)
		}
		return err
	})
	expect(t, 202, "POST", first.url("/cluster/update/n2?weight=1"), "")
	f.settledAt(4, staying...)
	step("it was removed, and another epoch is through")
	f.thaw(frozen)
	until(t, time.Minute, "it knows that it was removed", func() error {
		_, body, err := try(t.Context(), "GET", frozen.url("/readyz"), "")
		if err == nil && !strings.Contains(body, "removed from the cluster") {
			err = errors.New(body)
		}
		return err
	})
	c.use(staying...)
	in.finish()
	in.check(t, staying...)
	f.allThere(keys, staying...)
	f.summary(seed+1, c, begin)
}
