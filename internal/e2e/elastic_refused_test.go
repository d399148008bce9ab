package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// reach is what a test does to the nodes and to the network between them.
type reach struct {
	mu    sync.Mutex
	side  map[string]int // while the network is split
	away  map[string]bool
	turns int // how often it has changed

	rounds *rounds // of the readers under way
	turned stretch // since the latest change
}

func (r *reach) change(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
	r.turns++
	if r.rounds != nil {
		r.turned = r.rounds.stretch()
	}
}

// count has the time of changes be told in rounds.
func (r *reach) count(rounds *rounds) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rounds, r.turned = rounds, rounds.stretch()
}

// set says that a node is away, being killed or frozen, or back.
func (r *reach) set(p *process, away bool) {
	if there := r.hears(p.name, p.name); there != away {
		return // as it is
	}
	r.change(func() {
		if r.away == nil {
			r.away = map[string]bool{}
		}
		r.away[p.name] = away
	})
}

func (r *reach) split(sides ...[]string) {
	r.change(func() {
		r.side = map[string]int{}
		for i, side := range sides {
			for _, name := range side {
				r.side[name] = i
			}
		}
	})
}

func (r *reach) heal() { r.change(func() { r.side = nil }) }

func (r *reach) whole() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	whole := r.side == nil
	for _, away := range r.away {
		whole = whole && !away
	}
	return whole
}

func (r *reach) latest() (turns int, turned stretch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.turns, r.turned
}

// hears reports whether two nodes can talk to each other.
func (r *reach) hears(a, b string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.away[a] && !r.away[b] && (r.side == nil || r.side[a] == r.side[b])
}

// demand is what a request needs: of the primaries of one epoch, or for a write of each that lives.
type demand struct {
	key   string
	write bool
	of    string // one, quorum or all
}

// fair reports whether a request could have been met by the node that was asked: it was there, and it could hear enough
// primaries of the key, in the epoch that it reads by or, for a write, in every live one. While members change during a
// split, both sides may lack a quorum for a write of some keys.
func (r *reach) fair(ctx context.Context, p *process, n demand) bool {
	if r.whole() {
		return true
	}
	if !r.hears(p.name, p.name) {
		return false
	}
	var doc struct {
		Preference []struct{ Node, Role string }
		Writes     []struct{ Primaries []string }
	}
	_, body, err := try(ctx, "GET", p.url("/cluster/ring/"+elasticBucket+"/"+n.key), "")
	if err != nil || json.Unmarshal([]byte(body), &doc) != nil {
		return true
	}
	var groups [][]string
	if n.write {
		for _, w := range doc.Writes {
			groups = append(groups, w.Primaries)
		}
	} else {
		var primaries []string
		for _, x := range doc.Preference {
			if x.Role == "primary" {
				primaries = append(primaries, x.Node)
			}
		}
		groups = append(groups, primaries)
	}
	return !slices.ContainsFunc(groups, func(primaries []string) bool {
		heard := 0
		for _, name := range primaries {
			if r.hears(p.name, name) {
				heard++
			}
		}
		return heard < map[string]int{"one": 1, "quorum": len(primaries)/2 + 1, "all": len(primaries)}[n.of]
	})
}

const clockFormat = "15:04:05.000"

// clock is the time as the nodes' logs have it.
func clock() string { return time.Now().UTC().Format(clockFormat) }

// roundTime is one round of a detector that asks all nodes whether they live.
const roundTime = 100 * time.Millisecond

// mostRounds is how many rounds requests may be refused in a row that could have been met: two seconds. Where they could not
// have been before, as after a cut, a dial that was under way then may take its second to fail.
const (
	mostRounds      = int64(2 * time.Second / roundTime)
	mostRoundsAfter = mostRounds + int64(time.Second/roundTime)
)

// rounds count the rounds in which each node that is there answered in time, and a file could be synced: only then is a
// refusal the cluster's own. A machine that is too busy for that makes stopwatches meaningless.
type rounds struct {
	good, all atomic.Int64
}

func (c *readers) countRounds(ctx context.Context, t *testing.T) {
	client := &http.Client{Transport: labTransport(), Timeout: roundTime}
	file, err := os.Create(filepath.Join(t.TempDir(), "synced"))
	if err != nil {
		t.Fatal(err)
	}
	c.wg.Go(func() {
		defer file.Close()
		defer client.CloseIdleConnections()
		tick := time.NewTicker(roundTime)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			began := time.Now()
			_, err := file.WriteAt([]byte{1}, 0)
			if err == nil {
				err = file.Sync()
			}
			late := atomic.Bool{}
			var wg sync.WaitGroup
			for _, p := range c.all() {
				if !c.reach.hears(p.name, p.name) {
					continue
				}
				wg.Go(func() {
					resp, err := client.Get(p.url("/livez"))
					if err == nil {
						_ = resp.Body.Close()
					}
					if timedOut, ok := err.(interface{ Timeout() bool }); ok && timedOut.Timeout() && c.reach.hears(p.name, p.name) {
						late.Store(true)
					}
				})
			}
			wg.Wait()
			c.rounds.all.Add(1)
			if err == nil && !late.Load() && time.Since(began) < roundTime {
				c.rounds.good.Add(1)
			}
		}
	})
}

// stretch is how long a client has had no success.
type stretch struct {
	since  time.Time
	rounds int64
	could  bool // it begins with a success
}

func (r *rounds) stretch() stretch { return stretch{since: time.Now(), rounds: r.good.Load()} }

// refusals are the longest stretches of refusals of all clients.
type refusals struct {
	fair   time.Duration // that could have been met
	rounds int64
	after  int64         // rounds of those that could not have been met just before
	what   string        // the longest of all these, in rounds
	any    time.Duration // those without a quorum on their side included
}

// judge notes what became of a client's latest step. Where nodes went or came back during it, only the time since then is
// as it is now.
func (c *readers) judge(ctx context.Context, p *asker, ok bool, fair, all *stretch) {
	now := c.rounds.stretch()
	turns, turned := c.reach.latest()
	if turned.since.After(fair.since) {
		*fair = turned
	}
	could := ok // so far as is known, and that is enough for short
	if !ok || now.rounds-fair.rounds > 2 {
		could = c.reach.fair(ctx, p.node, p.need)
		if again, _ := c.reach.latest(); again != turns {
			could = false
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if rounds := now.rounds - fair.rounds; could {
		c.refused.fair = max(c.refused.fair, now.since.Sub(fair.since))
		if rounds > max(c.refused.rounds, c.refused.after) {
			c.refused.what = fmt.Sprintf("%+v through %s from %s to %s, then: %s", p.need, p.node.name, fair.since.Format(clockFormat), now.since.Format(clockFormat), p.told)
		}
		if fair.could {
			c.refused.rounds = max(c.refused.rounds, rounds)
		} else {
			c.refused.after = max(c.refused.after, rounds)
		}
	}
	now.could = ok
	c.refused.any = max(c.refused.any, now.since.Sub(all.since))
	if ok || !could {
		*fair = now
	}
	if ok {
		*all = now
	}
}

// refusedTooLong says, or is empty, which requests were refused in a row for longer than two seconds in which they could have
// been met.
func (c *readers) refusedTooLong() []string {
	if c.refused.rounds <= mostRounds && c.refused.after <= mostRoundsAfter {
		return nil
	}
	return []string{fmt.Sprintf("requests were refused in a row for %d rounds of %v, or %d after a cut, in which a quorum was there and every node answered: %s", c.refused.rounds, roundTime, c.refused.after, c.refused.what)}
}

// story is what the readers did, in a line.
func (c *readers) story(seed uint64, begin time.Time) string {
	counts, _ := json.Marshal(c.counts)
	return fmt.Sprintf("seed %d: %s; refused in a row, with a quorum there: %.1f s, %d of at most %d rounds of %v, after a cut %d of %d (%d of %d rounds were in time); any: %.1f s; %d violations; in %.1f s; the longest: %s",
		seed, counts, c.refused.fair.Seconds(), c.refused.rounds, mostRounds, roundTime, c.refused.after, mostRoundsAfter, c.rounds.good.Load(), c.rounds.all.Load(), c.refused.any.Seconds(), len(c.broken), time.Since(begin).Seconds(), c.refused.what)
}
