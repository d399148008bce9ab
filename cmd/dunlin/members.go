package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dunlindb/dunlin/client"
)

// changeFlags are those of every command that changes the members of a cluster.
type changeFlags struct {
	nodes  `embed:""`
	Yes    bool `short:"y" help:"Do it without asking."`
	NoWait bool `help:"Do not wait until the change is through."`
}

type leaveCmd struct {
	changeFlags `embed:""`
	Node        string `arg:"" help:"Name of the member that goes. It hands over what it holds first."`
}

type removeCmd struct {
	changeFlags `embed:""`
	Nodes       []string `arg:"" help:"Name of the member that is stopped for good. What only it holds is lost. With --force, of all that are lost."`
	Force       bool     `help:"A majority of the members is lost for good: those that are left go on alone. Names the partitions whose data is lost. Who was given up so is refused, should it come back, until its directory is empty."`
}

type replaceCmd struct {
	changeFlags `embed:""`
	Node        string `arg:"" help:"Name of the member whose disk is lost, and of the new node that takes its place."`
}

type updateCmd struct {
	changeFlags `embed:""`
	Node        string  `arg:"" help:"Name of the member."`
	Weight      int     `placeholder:"NUMBER" help:"Its share of the data relative to the other members."`
	Zone        *string `placeholder:"ZONE" help:"Its failure zone."`
}

type cancelCmd struct {
	changeFlags `embed:""`
}

type planCmd struct {
	nodes  `embed:""`
	Action string  `arg:"" enum:"join,leave,remove,replace,update,cancel,bucket" help:"join, leave, remove, replace, update, cancel or bucket."`
	Node   string  `arg:"" optional:"" name:"name" help:"Name of the node, or of the bucket, that it is about."`
	Weight int     `placeholder:"NUMBER" help:"For join and update."`
	Zone   *string `placeholder:"ZONE" help:"For join and update."`
	N      int     `placeholder:"NUMBER" help:"For bucket: how many replicas its keys get; the cluster's n if it is left out."`
}

// Run makes the change.
func (c *leaveCmd) Run(ctx context.Context, s *streams) error {
	return c.change(ctx, s, client.Change{Action: "leave", Node: c.Node})
}

// Run makes the change.
func (c *removeCmd) Run(ctx context.Context, s *streams) error {
	if len(c.Nodes) > 1 && !c.Force {
		return errors.New("remove one member after another; several at once only with --force, when a majority is lost for good")
	}
	return c.change(ctx, s, client.Change{Action: "remove", Node: strings.Join(c.Nodes, ","), Force: c.Force})
}

// Run makes the change.
func (c *replaceCmd) Run(ctx context.Context, s *streams) error {
	return c.change(ctx, s, client.Change{Action: "replace", Node: c.Node})
}

// Run makes the change.
func (c *updateCmd) Run(ctx context.Context, s *streams) error {
	return c.change(ctx, s, client.Change{Action: "update", Node: c.Node, Weight: c.Weight, Zone: c.Zone})
}

// Run makes the change.
func (c *cancelCmd) Run(ctx context.Context, s *streams) error {
	return c.change(ctx, s, client.Change{Action: "cancel"})
}

// Run prints what a change would do.
func (c *planCmd) Run(ctx context.Context, s *streams) error {
	if c.Node == "" && c.Action != "cancel" {
		return fmt.Errorf("plan %s: the name of what it is about is missing", c.Action)
	}
	ch := client.Change{Action: c.Action, Node: c.Node, Weight: c.Weight, Zone: c.Zone, N: c.N}
	if c.Action == "bucket" {
		ch.Node, ch.Bucket = "", c.Node
	}
	cluster, err := c.connect(ctx, client.Options{Tries: 2})
	if err != nil {
		return err
	}
	_, err = showPlan(ctx, s.out, cluster, ch)
	return err
}

// change shows what would happen, asks, makes the change, and waits until it is through.
func (c *changeFlags) change(ctx context.Context, s *streams, ch client.Change) error {
	cluster, err := c.connect(ctx, client.Options{Tries: 2})
	if err != nil {
		return err
	}
	plan, err := showPlan(ctx, s.out, cluster, ch)
	if err != nil {
		return err
	}
	ch.AtRisk = len(plan.AtRisk)
	if !c.Yes {
		if err := confirm(s); err != nil {
			return err
		}
	}
	epoch, err := cluster.Apply(ctx, ch)
	if err != nil {
		return plain(err)
	}
	fmt.Fprintf(s.out, "epoch %d is decided\n", epoch)
	if c.NoWait {
		return nil
	}
	return awaitChange(ctx, s, cluster, epoch)
}

// confirm reads a yes from a person.
func confirm(s *streams) error {
	fmt.Fprint(s.err, "Go on? Type yes: ")
	line, err := bufio.NewReader(s.in).ReadString('\n')
	if strings.TrimSpace(line) == "yes" {
		return nil
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return errors.New("nothing was changed (give --yes to go on without being asked)")
}

func showPlan(ctx context.Context, w io.Writer, cluster *client.Client, ch client.Change) (client.Plan, error) {
	p, err := cluster.Plan(ctx, ch)
	if err != nil {
		return p, plain(err)
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "NAME\tZONE\tWEIGHT\tPARTITIONS\tTHEN\tGAINS\tLOSES")
	for _, n := range p.Nodes {
		fmt.Fprintf(tw, "%s\t%s\t%d\t%d\t%d\t%d\t%d\n", n.Name, dash(n.Zone), n.Weight, n.Before, n.After, n.Gains, n.Loses)
	}
	if err := tw.Flush(); err != nil {
		return p, err
	}
	fmt.Fprintf(w, "\nepoch %d: %d of %d replicas of partitions are copied, about %s, about %s\n", p.Epoch, p.Moved, p.Slots, size(p.Bytes),
		time.Duration(p.Seconds*float64(time.Second)).Round(time.Second))
	if p.SharedZone > 0 {
		fmt.Fprintf(w, "%d partitions will have two replicas in one zone\n", p.SharedZone)
	}
	if ch.Force {
		showLoss(w, p)
	} else if len(p.AtRisk) > 0 {
		fmt.Fprintf(w, "AT RISK: of %d partitions fewer old replicas answer than a quorum; what only the others acknowledged is lost: %s\n", len(p.AtRisk), partitions(p.AtRisk))
	}
	return p, nil
}

// showLoss prints what a forced removal loses, all of it.
func showLoss(w io.Writer, p client.Plan) {
	fmt.Fprintf(w, "\nLOST: of %d partitions nothing is left: %s\n", len(p.Lost), ranges(p.Lost))
	var some []int
	for _, q := range p.AtRisk {
		if !slices.Contains(p.Lost, q) {
			some = append(some, q)
		}
	}
	fmt.Fprintf(w, "AT RISK: of %d more partitions fewer replicas are left than a quorum; what only the lost ones acknowledged is lost: %s\n", len(some), ranges(some))
	fmt.Fprintln(w, "A node that was given up is refused when it comes back, until its directory is empty. Go on only if all of them are stopped for good.")
}

// ranges lists all of some ascending numbers: 1-3, 7.
func ranges(ps []int) string {
	if len(ps) == 0 {
		return "none"
	}
	var out []string
	for i := 0; i < len(ps); {
		j := i
		for j+1 < len(ps) && ps[j+1] == ps[j]+1 {
			j++
		}
		if text := strconv.Itoa(ps[i]); j > i {
			out = append(out, text+"-"+strconv.Itoa(ps[j]))
		} else {
			out = append(out, text)
		}
		i = j + 1
	}
	return strings.Join(out, ", ")
}

// partitions lists the first of many.
func partitions(ps []int) string {
	const most = 20
	text := strings.Trim(fmt.Sprint(ps[:min(len(ps), most)]), "[]")
	if len(ps) > most {
		text += fmt.Sprintf(" and %d more", len(ps)-most)
	}
	return text
}

func size(bytes int64) string {
	switch {
	case bytes >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30))
	case bytes >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20))
	}
	return fmt.Sprintf("%.1f KiB", float64(bytes)/(1<<10))
}

const changePause = 500 * time.Millisecond

// awaitChange prints how far the change is until no older epoch lives.
func awaitChange(ctx context.Context, s *streams, cluster *client.Client, epoch uint64) error {
	last := ""
	for {
		t, err := cluster.Transfers(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			return plain(err)
		case ctx.Err() != nil:
			return errors.New("not waited for; the change goes on, see /cluster/transfers")
		case t.Epoch >= epoch && !t.Changing:
			fmt.Fprintf(s.out, "done: epoch %d\n", t.Epoch)
			return nil
		}
		if line := "waiting for those " + strings.Join(t.WaitingFor, "; "); line != last && len(t.WaitingFor) > 0 {
			fmt.Fprintln(s.err, line)
			last = line
		}
		select {
		case <-time.After(changePause):
		case <-ctx.Done():
		}
	}
}
