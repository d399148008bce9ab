package e2e

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/internal/torture"
)

// onOwnersAlone checks that a key is on n primaries, the same on all, and on nobody else.
func (f *flock) onOwnersAlone(bucket, key string, n int) error {
	var doc struct {
		Agree    bool
		Replicas []struct {
			Node, Role, Error string
			Copy              *struct{ Found bool }
			Hint              *struct{ Found bool }
		}
	}
	if err := fetch(f.t, f.nodes[0].url("/cluster/explain/"+bucket+"/"+key), &doc); err != nil {
		return err
	}
	primaries := 0
	for _, r := range doc.Replicas {
		held := r.Copy != nil && r.Copy.Found
		if r.Role == "primary" {
			primaries++
		}
		if r.Error != "" || held != (r.Role == "primary") || r.Hint != nil && r.Hint.Found {
			return fmt.Errorf("%s/%s with n=%d: %+v", bucket, key, n, doc.Replicas)
		}
	}
	if primaries != n || !doc.Agree {
		return fmt.Errorf("%s/%s has %d primaries, want %d; they agree: %v", bucket, key, primaries, n, doc.Agree)
	}
	return nil
}

// A bucket's n is raised and lowered while it is written and read, and nodes are killed: no read misses a write that was
// acknowledged before it began, and in the end each key is on its n owners and nowhere else.
func TestBucketNChanges(t *testing.T) {
	heavy(t)
	seed := tortureSeed(t)
	rnd := rand.New(rand.NewPCG(seed, 5))
	t.Logf("seed %d", seed)
	f := newFlock(t, 5)
	for _, p := range f.nodes {
		p.set("DUNLIN_PARTITIONS", "256")
	}
	f.start(f.nodes...)
	f.ready(f.nodes...)
	const keys = 1000
	for _, bucket := range []string{elasticBucket, "other"} {
		for i := range keys {
			expect(t, 204, "PUT", f.nodes[i%5].url(fmt.Sprintf("/kv/%s/k%d?w=2", bucket, i)), strings.Repeat(fmt.Sprint(i, " "), 50))
		}
	}
	c := f.newReaders(seed, f.nodes)
	defer c.finish()
	begin, kills := time.Now(), 0
	for _, n := range []int{5, 2, 3} {
		expect(t, 202, "PUT", f.nodes[rnd.IntN(5)].url("/buckets/"+elasticBucket), fmt.Sprintf(`{"n":%d}`, n))
		kills += f.strikesAtMost(rnd, 1, f.nodes, func() error {
			for _, p := range f.nodes {
				var tr transfers
				if err := fetch(t, p.url("/cluster/transfers"), &tr); err != nil || tr.Changing {
					return fmt.Errorf("%s: %+v %v", p.name, tr, err)
				}
			}
			return nil
		})
		f.settledAt(5, f.nodes...)
		t.Logf("n=%d: through after %.1f s, %d kills so far", n, time.Since(begin).Seconds(), kills)
		var props struct{ N int }
		if err := fetch(t, f.nodes[0].url("/buckets/"+elasticBucket), &props); err != nil || props.N != n {
			t.Errorf("n is shown as %d, want %d (%v)", props.N, n, err)
		}
		for i := range 200 {
			if got := expect(t, 200, "GET", f.nodes[i%5].url(fmt.Sprintf("/kv/%s/k%d?r=one&sloppy=false", elasticBucket, i)), ""); got != strings.Repeat(fmt.Sprint(i, " "), 50) {
				t.Fatalf("k%d: %.50q", i, got)
			}
		}
	}
	c.finish()
	var all []string
	for i := range elasticRegisters {
		all = append(all, fmt.Sprint("register-", i))
	}
	for i := range elasticSets {
		all = append(all, fmt.Sprint("set-", i))
	}
	for i := range 100 {
		all = append(all, fmt.Sprint("k", i*keys/100))
	}
	until(t, 2*time.Minute, "each key is on its owners alone", func() error {
		for len(all) > 0 {
			if err := f.onOwnersAlone(elasticBucket, all[0], 3); err != nil {
				return err
			}
			all = all[1:]
		}
		return f.onOwnersAlone("other", "k7", 3)
	})
	var page struct{ Keys []string }
	if err := fetch(t, f.nodes[2].url("/kv/"+elasticBucket+"?limit=10000&prefix=k"), &page); err != nil || len(page.Keys) != keys || !slices.IsSorted(page.Keys) {
		t.Errorf("%d keys are listed, want %d (%v)", len(page.Keys), keys, err)
	}
	t.Logf("%s; %d kills", c.story(seed, begin), kills)
	report(t, seed, slices.Concat(c.broken, c.refusedTooLong(), torture.Deaths(f.text())))
}
