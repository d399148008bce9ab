package node

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/internal/config"
	"github.com/dunlindb/dunlin/vclock"
)

// skewed is a wall clock that can be set.
type skewed struct{ by atomic.Int64 }

func (c *skewed) now() time.Time           { return time.Now().Add(time.Duration(c.by.Load())) }
func (c *skewed) set(d time.Duration)      { c.by.Store(int64(d)) }
func (c *skewed) about() (s time.Duration) { return time.Duration(c.by.Load()) }

func startAt(t *testing.T, c config.Config, clock *skewed) *Node {
	t.Helper()
	n, err := Start(t.Context(), c, slog.New(slog.DiscardHandler), Deps{Now: clock.now, ReapAfter: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Stop() })
	return n
}

// Clocks that are set forth and back by an hour, also over a restart, lose nothing, use no dot or birth twice, and let a
// later write win where the last writer wins. An expired value is expired by the clock of the node that answers. The
// nodes speak real HTTP and have real disks; the clock is theirs alone.
func TestClocksSetForthAndBack(t *testing.T) {
	cfg := settings(t, 3)
	clocks := []*skewed{{}, {}, {}}
	var nodes []*Node
	for i, c := range cfg {
		nodes = append(nodes, startAt(t, c, clocks[i]))
	}
	ready(t, nodes...)
	url := func(i int, path string) string { return "http://" + nodes[i].Addr().String() + path }
	want := func(status int, method, url, body string) []byte {
		t.Helper()
		got, b := do(t, method, url, []byte(body))
		if got != status {
			t.Fatalf("%s %s: %d %s, want %d", method, url, got, b, status)
		}
		return b
	}
	want(200, "PUT", url(0, "/buckets/last"), `{"conflict":"lww"}`)
	l := &ledger{t: t, acked: map[string][]string{}, dots: map[vclock.Dot]string{}}
	births := map[vclock.Actor]string{}
	step := 0
	write := func(when string) {
		t.Helper()
		for round := range 3 {
			for i := range nodes {
				step++
				l.mustPut(nodes[i], fmt.Sprintf("k%d", step%4), fmt.Sprintf("v%d", step))
				value := fmt.Sprintf("%s-%d-%d", when, round, i)
				want(204, "PUT", url(i, "/kv/last/winner?w=3"), value)
				for j := range nodes { // the last writer wins, wherever clocks stand
					if got := want(200, "GET", url(j, "/kv/last/winner?r=2"), ""); string(got) != value {
						t.Errorf("%s: %q won over the later %q, read through n%d", when, got, value, j+1)
					}
				}
			}
		}
		l.look(nodes...)
		for dot, is := range l.dots {
			key := is[:2]
			if was, ok := births[dot.Actor]; ok && was != key {
				t.Errorf("%v was born for %s and for %s", dot.Actor, was, key)
			}
			births[dot.Actor] = key
		}
	}
	write("together")
	clocks[0].set(time.Hour)
	write("n1 an hour ahead")
	// It expires in half an hour by the clock of n1. For the others it has an hour and a half.
	want(204, "PUT", url(0, "/kv/b/brief?w=3&ttl=30m"), "x")
	clocks[0].set(0)
	write("n1 set back")
	for i := range nodes {
		want(200, "GET", url(i, "/kv/b/brief?r=3"), "")
	}
	clocks[1].set(2 * time.Hour)
	want(404, "GET", url(1, "/kv/b/brief?r=3"), "")
	want(200, "GET", url(0, "/kv/b/brief?r=3"), "") // n2 says so of its own answer; nobody has dropped the value
	clocks[1].set(-time.Hour)
	write("n2 an hour behind")
	for i := range nodes { // each restarts with its clock set back
		if err := nodes[i].Stop(); err != nil {
			t.Fatal(err)
		}
		clocks[i].set(clocks[i].about() - time.Hour)
		nodes[i] = startAt(t, cfg[i], clocks[i])
		ready(t, nodes[i])
		for j := range nodes { // not each of them has heard of it yet
			wait(t, "all nodes serve together again", func() error {
				if status, b := do(t, "PUT", url(j, "/kv/last/probe?w=3"), []byte("x")); status != 204 {
					return fmt.Errorf("%d %s", status, b)
				}
				return nil
			})
		}
		write(fmt.Sprintf("n%d restarted an hour earlier", i+1))
	}
	for i := range clocks {
		clocks[i].set(0)
	}
	write("all right again")
	tooFarAhead(t, clocks[2], url, want)
	wait(t, "nothing acknowledged is missing", func() error { return l.missing(nodes...) })

	// Hints wait for nobody's clock, and a tombstone is removed.
	if err := nodes[2].Stop(); err != nil {
		t.Fatal(err)
	}
	clocks[0].set(-time.Hour)
	if status, b := l.put(nodes[0], "k0", "while n3 is down", "?w=2"); status != 204 {
		t.Fatalf("%d %s", status, b)
	}
	want(204, "DELETE", url(0, "/kv/b/brief?w=2"), "")
	nodes[2] = startAt(t, cfg[2], clocks[2])
	ready(t, nodes[2])
	wait(t, "n3 caught up", func() error { return l.missing(nodes...) })
	// The value was stamped an hour ahead, and so is what replaced it: its tombstone is old enough an hour later.
	for i := range clocks {
		clocks[i].set(2 * time.Hour)
	}
	wait(t, "the tombstone is removed", func() error {
		for _, n := range nodes {
			if held := l.on(n, "brief"); len(held) > 0 {
				return fmt.Errorf("%s holds %d", n.cfg.Name, len(held))
			}
		}
		return nil
	})
	l.look(nodes...)
	t.Logf("%d dots of %d births, each of one value", len(l.dots), len(births))
}

// A stamp more than a day ahead is refused when it would have to be outdone, and only then: replicas take it.
func tooFarAhead(t *testing.T, clock *skewed, url func(int, string) string, want func(int, string, string, string) []byte) {
	t.Helper()
	clock.set(30 * time.Hour)
	want(204, "PUT", url(2, "/kv/last/far?w=3"), "by a clock 30 h ahead")
	clock.set(0)
	b := want(503, "PUT", url(0, "/kv/last/far?w=1"), "now")
	var p struct{ Type, Outcome string }
	if err := json.Unmarshal(b, &p); err != nil || p.Type != "urn:dunlin:problem:stamp-ahead" || p.Outcome != "none" {
		t.Errorf("a stamp too far ahead: %s", b)
	}
	want(200, "GET", url(1, "/kv/last/far?r=3"), "")
	want(204, "PUT", url(0, "/kv/b/siblings?w=3"), "a bucket that keeps siblings needs no stamp to win")
}

func (l *ledger) mustPut(n *Node, key, value string) {
	l.t.Helper()
	if status, b := l.put(n, key, value, "?w=3"); status != 204 {
		l.t.Fatalf("%s=%s: %d %s", key, value, status, b)
	}
}
