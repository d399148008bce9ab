package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dunlindb/dunlin/client"
)

type statusCmd struct {
	nodes   `embed:""`
	Output  string        `enum:"table,json" default:"table" short:"o" placeholder:"table|json" help:"How to print."`
	Timeout time.Duration `default:"5s" placeholder:"DURATION" help:"How long to wait for an answer."`

	Watch    bool          `short:"w" help:"Go on, and show transfers too: in place on a terminal, else what has changed, line by line. Ctrl-C ends."`
	Interval time.Duration `default:"1s" placeholder:"DURATION" help:"How often --watch looks, 100ms or more."`
}

// Help is shown below the flags of status.
func (statusCmd) Help() string {
	return `What is shown is what the node that answers knows; ask another with --url to compare.
The exit code is 1 only when no node answered. With --watch every live member is also asked how far it is filled while
members come and go; -o json then prints one document a line.`
}

// clusterStatus is what status prints as JSON.
type clusterStatus struct {
	URL      string          `json:"url"`
	Ready    bool            `json:"ready"`
	Reason   string          `json:"reason,omitempty"` // why the node is not ready
	NotAlive []string        `json:"not_alive"`        // names of members
	Members  []client.Member `json:"members"`

	// With --watch.
	Time      *time.Time        `json:"time,omitempty"`
	Change    *client.Transfers `json:"change,omitempty"`    // as the node that answers knows
	Transfers []memberTransfers `json:"transfers,omitempty"` // of each live member
	Failed    string            `json:"error,omitempty"`     // no node answered; the rest is as it was
}

// Run asks one node and prints.
func (c *statusCmd) Run(ctx context.Context, s *streams) error {
	if c.Watch {
		return c.watch(ctx, s)
	}
	cluster, err := c.connect(ctx, client.Options{Tries: 2})
	if err != nil {
		return err
	}
	st, err := c.look(ctx, cluster)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		enc := json.NewEncoder(s.out)
		enc.SetIndent("", "  ")
		return enc.Encode(st)
	}
	return st.table(s.out)
}

// look asks one node for the members.
func (c *statusCmd) look(ctx context.Context, cluster *client.Client) (clusterStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	st := clusterStatus{URL: cluster.Endpoints()[0], Ready: true, NotAlive: []string{}}
	if err := cluster.Ready(ctx); err != nil {
		st.Ready, st.Reason = false, err.Error()
	}
	var err error
	if st.Members, err = cluster.Members(ctx); err != nil {
		return st, plain(err)
	}
	for _, m := range st.Members {
		if !m.Alive {
			st.NotAlive = append(st.NotAlive, m.Name)
		}
	}
	return st, nil
}

func (st clusterStatus) table(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "NAME\tID\tZONE\tWEIGHT\tSTATE\tALIVE\tPARTITIONS\tEPOCH\tHTTP")
	for _, m := range st.Members {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%d\t%s\t%s\t%d\t%d\t%s\n", m.Name, short(m.ID), dash(m.Zone), m.Weight,
			dash(m.State), yesNo(m.Alive), m.Partitions, m.Epoch, dash(m.Addresses.HTTP))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	alive := len(st.Members) - len(st.NotAlive)
	fmt.Fprintf(w, "\n%d of %d members alive, as seen from %s\n", alive, len(st.Members), st.URL)
	if len(st.NotAlive) > 0 {
		fmt.Fprintf(w, "not alive: %s\n", strings.Join(st.NotAlive, ", "))
	}
	if !st.Ready {
		fmt.Fprintf(w, "not ready: %s\n", st.Reason)
	}
	return nil
}

// short is enough of an id to tell members apart. The end of it: ids made in
// the same millisecond begin alike.
func short(id string) string {
	const enough = 8
	if len(id) <= enough {
		return dash(id)
	}
	return "…" + id[len(id)-enough:]
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "NO"
}

// reason is the detail of a refusal, or the error itself.
func reason(err error) string {
	var p *client.Problem
	if errors.As(err, &p) && p.Detail != "" {
		return p.Detail
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return "does not listen"
	}
	return err.Error()
}
