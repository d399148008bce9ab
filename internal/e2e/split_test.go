package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// weather is a fault of the network, as seen by clients of two nodes: those keep writing through it.
type weather struct {
	name   string
	begins func(l *lab) error
	a, b   int
}

func weathers() []weather {
	rest := func(without int) (out []int) {
		for i := range 5 {
			if i != without {
				out = append(out, i)
			}
		}
		return out
	}
	return []weather{
		{"split", func(l *lab) error { return l.net.Split([]int{0, 1}, []int{2, 3, 4}) }, 0, 2},
		{"one-way", func(l *lab) error { // node 1 hears nobody, and all hear it
			var errs []error
			for _, i := range rest(1) {
				errs = append(errs, l.net.CutOneWay(i, 1))
			}
			return errors.Join(errs...)
		}, 1, 3},
		{"isolated", func(l *lab) error { return l.net.Split([]int{2}, rest(2)) }, 2, 4},
		{"loss", func(l *lab) error { return l.net.Lose(5) }, 3, 0},
		{"delay", func(l *lab) error { return l.net.Delay(100 * time.Millisecond) }, 4, 1},
		{"flapping", func(l *lab) error {
			for i := range 6 {
				if err := l.net.Split([]int{0}, rest(0)); err != nil {
					return err
				}
				time.Sleep(time.Duration(300+150*i) * time.Millisecond)
				if err := l.net.Heal(); err != nil {
					return err
				}
				time.Sleep(time.Duration(700-100*i) * time.Millisecond)
			}
			return l.net.Split([]int{0}, rest(0))
		}, 0, 4},
	}
}

// Five nodes meet each fault of the network in turn. Clients of two nodes go on with w=1: they replace values with and
// without their contexts, and delete. When the network is healed, all replicas hold the same within a minute, without a
// client's read: what was concurrent is there as siblings, what was replaced or deleted is not.
func TestNetworkFaults(t *testing.T) {
	l := newLab(t, 5)
	l.start(l.nodes...)
	l.ready(l.nodes...)
	for _, w := range weathers() {
		l.weather(t, w)
		if t.Failed() {
			return
		}
	}
}

const weatherKeys = 8 // of each kind

// kinds of keys: what the clients of both sides do to a key that holds "old" everywhere, and which values are left.
var weatherKinds = []struct {
	name string
	do   func(l *lab, w weather, key, context string) error
	left []string // values, in order
}{
	{"replaced", func(l *lab, w weather, key, context string) error {
		return l.insist("PUT", w.a, key, "new", context)
	}, []string{"new"}},
	{"blind", func(l *lab, w weather, key, context string) error {
		return errors.Join(l.insist("PUT", w.a, key, "a", ""), l.insist("PUT", w.b, key, "b", ""))
	}, []string{"a", "b", "old"}},
	{"both", func(l *lab, w weather, key, context string) error {
		return errors.Join(l.insist("PUT", w.a, key, "a", context), l.insist("PUT", w.b, key, "b", context))
	}, []string{"a", "b"}},
	{"deleted", func(l *lab, w weather, key, context string) error {
		return l.insist("DELETE", w.a, key, "", context)
	}, nil},
	{"deleted and written", func(l *lab, w weather, key, context string) error {
		return errors.Join(l.insist("DELETE", w.a, key, "", context), l.insist("PUT", w.b, key, "b", context))
	}, []string{"b"}},
	{"deleted on both", func(l *lab, w weather, key, context string) error {
		return errors.Join(l.insist("DELETE", w.a, key, "", context), l.insist("DELETE", w.b, key, "", context))
	}, nil},
}

func (l *lab) weather(t *testing.T, w weather) {
	t.Helper()
	path := func(kind, i int) string {
		return "/kv/weather/" + strings.ReplaceAll(fmt.Sprintf("%s-%s-%d", w.name, weatherKinds[kind].name, i), " ", "-")
	}
	contexts := map[string]string{}
	for kind := range weatherKinds {
		for i := range weatherKeys {
			key := path(kind, i)
			expect(t, 204, "PUT", l.nodes[i%5].url(key+"?w=3"), "old")
			contexts[key] = send(t, "GET", l.nodes[w.a].url(key+"?r=2"), "").context()
		}
	}
	if err := w.begins(l); err != nil {
		t.Fatalf("%s: %v", w.name, err)
	}
	began := time.Now()
	var clients sync.WaitGroup
	for kind, k := range weatherKinds {
		for i := range weatherKeys {
			clients.Go(func() {
				if err := k.do(l, w, path(kind, i), contexts[path(kind, i)]); err != nil {
					t.Errorf("%s: %s: %v", w.name, path(kind, i), err)
				}
			})
		}
	}
	clients.Wait()
	l.heal()
	healed := time.Now()
	settled(t, l.flock, time.Minute) // as told by each replica's own copies, which no client has read
	t.Logf("%s: writes took %.1f s, all was equal %.1f s after the healing", w.name, healed.Sub(began).Seconds(), time.Since(healed).Seconds())
	for kind, k := range weatherKinds {
		for i := range weatherKeys {
			if err := l.holds(path(kind, i), i%5, k.left); err != nil {
				t.Errorf("%s: %v", w.name, err)
			}
		}
	}
}

// insist asks a node again until it has done it. A repeated write may have been done before.
func (l *lab) insist(method string, node int, key, value, context string) (err error) {
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) {
		var a answer
		if a, err = attempt(method, l.nodes[node].url(key+"?w=1&timeout=5s"), value, context); err == nil {
			if a.status == 204 {
				return nil
			}
			err = fmt.Errorf("%d %s", a.status, a.body)
		}
	}
	return fmt.Errorf("%s through node %d: %w", method, node+1, err)
}

// holds compares the values of a key, whose replicas are equal, with those that must be there.
func (l *lab) holds(key string, node int, want []string) error {
	a := send(l.t, "GET", l.nodes[node].url(key+"?r=1"), "", "Accept", "application/json")
	values := map[string]bool{}
	switch a.status {
	case 404:
	case 200:
		values[a.body] = true
	case 300:
		var doc struct {
			Siblings []struct {
				Value   string
				Deleted bool
			}
		}
		if err := json.Unmarshal([]byte(a.body), &doc); err != nil {
			return fmt.Errorf("%s: %w: %s", key, err, a.body)
		}
		for _, s := range doc.Siblings { // the same value twice, where a write was tried again
			if !s.Deleted {
				values[s.Value] = true
			}
		}
	default:
		return fmt.Errorf("%s: %d %s", key, a.status, a.body)
	}
	if got := slices.Sorted(maps.Keys(values)); !slices.Equal(got, want) {
		return fmt.Errorf("%s: %q, want %q", key, got, want)
	}
	return nil
}
