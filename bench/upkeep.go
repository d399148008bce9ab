package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/dunlindb/dunlin/client"
	"github.com/dunlindb/dunlin/internal/loadgen"
)

const (
	churnConnections = 4
	churnValue       = 32 << 10
)

// upkeep is what clients of all nodes feel while these do other work.
type upkeep struct {
	Quiet   felt    `json:"quiet"`
	Compare felt    `json:"compare"` // all replicas compare all keys, again and again
	Compact felt    `json:"compact"` // beside a writer of large values, so that tables are written and compacted
	Repairs int     `json:"repairs"` // of single nodes, that ended
	Written float64 `json:"written_bytes"`
}

// upkeep measures the same load without and with other work. No node is frozen.
func (w *ward) upkeep(ctx context.Context) (u upkeep, err error) {
	spec := w.spec()
	if u.Quiet, err = w.feel(ctx, spec); err != nil {
		return u, err
	}
	if u.Compare, err = w.beside(ctx, spec, func(ctx context.Context) (err error) {
		u.Repairs, err = w.repairs(ctx)
		return err
	}); err != nil {
		return u, err
	}
	u.Compact, err = w.beside(ctx, spec, func(ctx context.Context) error {
		churn := spec
		churn.Rate, churn.Arrivals, churn.Connections, churn.Mix = 0, "", churnConnections, loadgen.Mix{loadgen.Put: 1}
		churn.ValueSize = loadgen.SizeRange{Min: churnValue, Max: churnValue}
		churn.Seed, churn.Duration = 2, healTime
		r, err := loadgen.Run(ctx, churn, w.server.loads[0].dial, loadgen.Options{})
		if err == nil {
			u.Written = float64(r.Kinds["put"].Latency.Count) * churnValue
		}
		return err
	})
	return u, err
}

// beside measures the load while other work is done, which is ended with it.
func (w *ward) beside(ctx context.Context, spec loadgen.Spec, work func(context.Context) error) (felt, error) {
	wctx, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- work(wctx) }()
	f, err := w.feel(ctx, spec)
	stop()
	return f, errors.Join(err, <-ended)
}

// repairs lets every node compare all its keys, again and again until ctx ends.
func (w *ward) repairs(ctx context.Context) (done int, err error) {
	for {
		for _, u := range w.server.urls {
			if err := repair(ctx, u); ctx.Err() != nil {
				return done, nil
			} else if err != nil {
				return done, err
			}
			done++
		}
	}
}

func repair(ctx context.Context, at string) error {
	c, err := client.New([]string{at}, client.Options{Tries: 1})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.StartRepair(ctx, -1); err != nil {
		return err
	}
	return until(ctx, func() error {
		r, err := c.RepairProgress(ctx)
		if err == nil && r.State == "running" {
			err = errors.New("the repair runs")
		}
		return err
	})
}

func upkeepTable(of []upkeep) string {
	var b strings.Builder
	b.WriteString("\n| ms | nothing else | all keys are compared | tables are written and compacted |\n| --- | --- | --- | --- |\n")
	for _, k := range kindsFelt {
		for _, p := range percentiles {
			column := func(in func(upkeep) felt) string {
				return spread(over(of, func(u upkeep) float64 { return p.of(k.of(in(u))) / 1e3 }))
			}
			fmt.Fprintf(&b, "| %s, %s | %s | %s | %s |\n", k.name, p.name, column(func(u upkeep) felt { return u.Quiet }),
				column(func(u upkeep) felt { return u.Compare }), column(func(u upkeep) felt { return u.Compact }))
		}
	}
	failed := int64(0)
	for _, u := range of {
		failed += u.Quiet.Errors + u.Compare.Errors + u.Compact.Errors
	}
	fmt.Fprintf(&b, "\nOperations that failed: %d. Repairs of one node that ended meanwhile: %s. Written beside it, to each node: %s MB.\n", failed,
		spread(over(of, func(u upkeep) float64 { return float64(u.Repairs) })), spread(over(of, func(u upkeep) float64 { return u.Written / 1e6 })))
	return b.String()
}
