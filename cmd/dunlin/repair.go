package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/dunlindb/dunlin/client"
)

type repairCmd struct {
	nodes     `embed:""`
	Partition int  `default:"-1" placeholder:"NUMBER" help:"Only this partition; -1 is all of them."`
	NoWait    bool `help:"Start it and do not wait for the end."`
}

// Help is shown below the flags of repair.
func (repairCmd) Help() string {
	return `Makes every live member compare all keys that it owns with their other replicas and mend what differs, whatever
the digests say. Replicas do this by themselves for what differs; use it after a disk was damaged. Interrupting the
command does not stop the repair.`
}

const repairPause = 500 * time.Millisecond

// repairing is one node's repair.
type repairing struct {
	name   string
	client *client.Client
	bar    *mpb.Bar
	now    client.Repair
	err    error
}

// Run starts the repair of every live member and shows how far each is.
func (c *repairCmd) Run(ctx context.Context, s *streams) error {
	all, err := c.start(ctx)
	if err != nil || c.NoWait {
		return err
	}
	show := func() {}
	if n, _ := columns(s.err); n >= leastColumns {
		bars := mpb.New(mpb.WithOutput(s.err), mpb.WithWidth(40), mpb.WithRefreshRate(barPause))
		for _, r := range all {
			r.addBar(bars)
		}
		defer bars.Wait()
	} else {
		last := time.Time{}
		show = func() {
			if time.Since(last) > linePause {
				last = time.Now()
				for _, r := range all {
					fmt.Fprintf(s.err, "%s: %s\n", r.name, r.line())
				}
			}
		}
	}
	tick := time.NewTicker(repairPause)
	defer tick.Stop()
	for running := true; running; {
		running = false
		for _, r := range all {
			running = r.look(ctx) || running
		}
		show()
		if !running {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			for _, r := range all {
				r.stopBar()
			}
			return errors.New("not waited for; the repair goes on, see /cluster/repair of each node")
		}
	}
	return report(s, all)
}

// start begins the repair at every member that is alive.
func (c *repairCmd) start(ctx context.Context) ([]*repairing, error) {
	cluster, err := c.connect(ctx, client.Options{Tries: 2})
	if err != nil {
		return nil, err
	}
	members, err := cluster.Members(ctx)
	if err != nil {
		return nil, plain(err)
	}
	var all []*repairing
	for _, m := range members {
		if !m.Alive || m.Partitions == 0 {
			continue
		}
		node, err := client.New([]string{m.BaseURL()}, client.Options{UserAgent: "dunlin-cli"})
		if err != nil {
			return nil, err
		}
		if err := node.StartRepair(ctx, c.Partition); err != nil {
			if p := (*client.Problem)(nil); c.Partition >= 0 && errors.As(err, &p) && strings.Contains(p.Detail, "no primary") {
				continue // the partition is not this member's
			}
			return nil, fmt.Errorf("%s: %w", m.Name, plain(err))
		}
		all = append(all, &repairing{name: m.Name, client: node})
	}
	if len(all) == 0 {
		return nil, errors.New("no member is alive that owns partitions")
	}
	return all, nil
}

// look asks how far the repair is, and reports whether it still runs.
func (r *repairing) look(ctx context.Context) bool {
	now, err := r.client.RepairProgress(ctx)
	if err != nil {
		r.err = err
		r.stopBar()
		return false
	}
	r.now, r.err = now, nil
	if r.bar != nil {
		r.bar.SetTotal(int64(now.Total), false)
		r.bar.SetCurrent(int64(now.Done))
	}
	if now.State == "running" {
		return true
	}
	r.stopBar()
	return false
}

func (r *repairing) addBar(bars *mpb.Progress) {
	r.bar = bars.AddBar(1,
		mpb.PrependDecorators(decor.Name(r.name+" ")),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return " " + r.line() })))
}

func (r *repairing) stopBar() {
	if r.bar != nil {
		r.bar.SetTotal(-1, true)
		r.bar.Abort(false)
	}
}

func (r *repairing) line() string {
	n := r.now
	text := fmt.Sprintf("%d of %d partitions, %d keys compared, %d received, %d sent", n.Done, n.Total, n.KeysCompared, n.KeysReceived, n.KeysSent)
	if len(n.WaitingFor) > 0 {
		return text + ", waits for " + strings.Join(n.WaitingFor, ", ")
	}
	if n.RemainingSeconds > 0 {
		text += fmt.Sprintf(", %s left", time.Duration(n.RemainingSeconds*float64(time.Second)).Round(time.Second))
	}
	return text
}

// report prints what each node did; a repair that did not get through is a failure.
func report(s *streams, all []*repairing) error {
	var failed []string
	for _, r := range all {
		switch {
		case r.err != nil:
			failed = append(failed, fmt.Sprintf("%s: %v", r.name, plain(r.err)))
		case r.now.State != "done" || r.now.Unrepaired > 0:
			failed = append(failed, fmt.Sprintf("%s: %s, %d given up: %s", r.name, r.now.State, r.now.Unrepaired, r.now.LastError))
		}
		fmt.Fprintf(s.out, "%s: %s\n", r.name, r.line())
	}
	if len(failed) > 0 {
		return errors.New("not everything could be repaired: " + strings.Join(failed, "; "))
	}
	return nil
}
