package sim

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/dunlindb/dunlin/internal/crowd"
	"github.com/dunlindb/dunlin/internal/referee"
)

// Result is what came of a schedule.
type Result struct {
	Plan       Plan
	History    *referee.History
	Violations []referee.Violation
	Operations map[string]int // of the clients, by what came of them
	Faults     map[string]int
	Simulated  time.Duration // virtual time of the whole run
	Settled    time.Duration // from the healing to equal replicas
}

// Run runs one schedule. It must be called in a bubble of testing/synctest.
func Run(p Plan, log *slog.Logger) *Result {
	w := newWorld(p, log)
	res := &Result{Plan: p, History: w.history}
	w.breach(w.play(res))
	w.breach(w.close())
	res.Faults = w.counted()
	res.Violations = w.history.Judge()
	res.Simulated = w.since()
	return res
}

func (w *world) play(res *Result) error {
	if err := errors.Join(w.startAll(), w.ready(), w.makeBuckets()); err != nil {
		return err
	}
	if w.plan.OS {
		stop := make(chan struct{})
		defer close(stop)
		w.ghosts.Go(func() { w.sync(stop) })
	}
	o := w.crowdOptions()
	c := crowd.Start(o, w.history)
	w.crowd = c
	w.change(w.strike)
	w.clear()
	w.note("healed")
	healed := time.Now()
	if err := w.settled(c, o); err != nil {
		c.Abandon()
		res.Operations = c.Counts()
		return err
	}
	res.Operations = c.Counts()
	res.Settled = time.Since(healed)
	w.note("settled")
	if w.plan.Reap > 0 && !w.plan.Retries { // a key remembers what may be repeated for an hour, and is not reaped before
		w.history.Options.Reaped = true
		if err := w.until(reapLimit, "reaped", func() error { return w.reaped(c) }); err != nil {
			c.Abandon()
			return err
		}
	}
	c.Conclude(w.observer)
	return nil
}

// settled ends the clients' work when all are ready, and waits until the replicas are equal.
func (w *world) settled(c *crowd.Crowd, o crowd.Options) error {
	err := w.allReady()
	c.Finish()
	if err != nil {
		return err
	}
	w.history.Options.N = min(w.history.Options.N, len(w.present()))
	return w.settle(o)
}

// reaped says which key still has a tombstone.
func (w *world) reaped(c *crowd.Crowd) error {
	time.Sleep(5 * time.Second)
	present := w.present()
	for i, at := range c.Places() {
		k, err := crowd.Inspect(w.observer, present[i%len(present)].url(), at[0], at[1])
		if err != nil {
			return err
		}
		for _, r := range k.Replicas {
			if r.Dead {
				return fmt.Errorf("%s holds a tombstone of %s", r.Node, referee.KeyName(at[0], at[1]))
			}
		}
	}
	return nil
}

func readAll(resp *http.Response) (string, error) {
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}
