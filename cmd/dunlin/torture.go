package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dunlindb/dunlin/internal/referee"
	"github.com/dunlindb/dunlin/internal/torture"
)

type tortureCmd struct {
	Time       time.Duration `placeholder:"DURATION" help:"How long the faults last. Default: 60s, unless --kills is given."`
	Kills      int           `placeholder:"NUMBER" help:"End the faults after so many kills."`
	Nodes      int           `default:"5" placeholder:"3..9" help:"How many nodes."`
	Durability string        `default:"fsync" placeholder:"fsync|os" help:"Of the nodes. What was acknowledged must outlive a kill with both."`
	Network    string        `default:"auto" placeholder:"auto|yes|no" help:"Faults of the network: needs Linux, root, ip and nft. auto: where that is so."`
	Clients    int           `default:"16" placeholder:"NUMBER" help:"Clients at work, 1..256."`
	Seed       *uint64       `placeholder:"NUMBER" help:"The same seed makes the same choices, not at the same instants. Default: a new one."`
	Dir        string        `type:"path" placeholder:"DIR" help:"Make the run's own directory, for data and logs, in DIR. Default: where the system keeps temporary files."`
	History    string        `type:"path" placeholder:"FILE" help:"Write all that clients did and saw to FILE, as JSON lines."`

	Now   tortureNowCmd   `cmd:"" name:"run" default:"1" help:"Run a cluster of its own, ill-treat it, and judge whether it keeps its promises."`
	Check tortureCheckCmd `cmd:"" help:"Judge the history of an earlier run again, and start nothing."`
}

// tortureNowCmd is torture without a command behind it. Its flags are torture's.
type tortureNowCmd struct{}

// Help is shown below the flags of torture.
func (tortureCmd) Help() string {
	return `The nodes are processes of this program. They are killed (SIGKILL), one or all at once, also while they start, frozen
(SIGSTOP), and stopped and started cleanly; with root the network between them is cut in both directions or one. Clients
read, write, delete and retry over HTTP meanwhile. When the faults have ended every node must be ready by itself within a
minute and all replicas be equal within three, and then nothing that was acknowledged may be missing.

The directory of a run is deleted, unless a promise was broken: then it is kept, with the history. Ctrl-C ends the
faults early.

Exit code 1: it could not be judged. Exit code 2: a promise was broken.`
}

type tortureCheckCmd struct {
	File string `arg:"" type:"existingfile" help:"What --history has written."`
}

const (
	exitBroken     = 2
	tortureTime    = time.Minute
	maxShown       = 20
	tortureHistory = "history.jsonl"
)

// Run runs the torture.
func (tortureNowCmd) Run(ctx context.Context, c *tortureCmd, s *streams) (err error) {
	if c.Time == 0 && c.Kills == 0 {
		c.Time = tortureTime
	}
	if c.Seed == nil {
		seed := rand.Uint64()
		c.Seed = &seed
	}
	opt := torture.Options{
		Nodes: c.Nodes, Clients: c.Clients, Time: c.Time, Kills: c.Kills, Seed: *c.Seed, Durability: c.Durability, Network: c.Network,
		Say: func(format string, args ...any) { fmt.Fprintf(s.err, format+"\n", args...) },
	}
	if err := invalidTorture(opt.Validate()); err != nil {
		return err
	}
	if opt.Program, err = os.Executable(); err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	if opt.Dir, err = os.MkdirTemp(c.Dir, "dunlin-torture-"); err != nil {
		return fmt.Errorf("--dir: %w; give a directory that can be written", err)
	}
	keep := false
	defer func() {
		if !keep {
			err = errors.Join(err, os.RemoveAll(opt.Dir))
		}
	}()
	ctx, cancel := stopWithGoRun(ctx)
	defer cancel()
	res, err := torture.Run(ctx, opt)
	if err != nil {
		return invalidTorture(err)
	}
	fmt.Fprintf(s.out, "seed        %d\n", *c.Seed)
	describeHistory(s.out, res.History)
	fmt.Fprintf(s.out, "answers     %s\n", res.Answers)
	fmt.Fprintf(s.out, "kills       %d\nfreezes     %d\ncuts        %d\nfaults      %s\n", res.Kills, res.Freezes, res.Cuts, counts(res.Faults))
	fmt.Fprintf(s.out, "dots seen   %d\ntook        %.1fs\n", res.Dots, res.Took.Seconds())
	if c.History != "" {
		if err := writeHistory(c.History, res.History); err != nil {
			keep = true
			return fmt.Errorf("--history: %w; what the run left is in %s", err, opt.Dir)
		}
	}
	if len(res.Violations) > 0 {
		keep = true
		path := filepath.Join(opt.Dir, tortureHistory)
		if err := writeHistory(path, res.History); err != nil {
			return err
		}
		fmt.Fprintf(s.out, "kept        %s: data, logs, %s\n", opt.Dir, tortureHistory)
	}
	return verdict(s, res.Violations)
}

// invalidTorture names the flag that an option comes from.
func invalidTorture(err error) error {
	if bad := (*torture.Invalid)(nil); errors.As(err, &bad) {
		return fmt.Errorf("--%w", bad)
	}
	return err
}

// Run judges a file.
func (c *tortureCheckCmd) Run(s *streams) error {
	f, err := os.Open(c.File)
	if err != nil {
		return err
	}
	defer f.Close()
	h, err := referee.Read(f)
	if err != nil {
		return fmt.Errorf("%s: %w", c.File, err)
	}
	fmt.Fprintf(s.out, "%s\n", h.Title)
	describeHistory(s.out, h)
	return verdict(s, h.Judge())
}

// describeHistory counts what is judged.
func describeHistory(w io.Writer, h *referee.History) {
	acked, reads := 0, 0
	for _, o := range h.Operations {
		switch {
		case o.Outcome != referee.Acked:
		case o.Kind == referee.Get:
			reads++
		default:
			acked++
		}
	}
	fmt.Fprintf(w, "operations  %d on %d keys\nacked       %d writes, %d reads\n", len(h.Operations), len(h.Final.Keys), acked, reads)
}

// verdict prints the violations, and is the exit code.
func verdict(s *streams, violations []referee.Violation) error {
	fmt.Fprintf(s.out, "violations  %d\n", len(violations))
	for i, v := range violations {
		if i == maxShown {
			fmt.Fprintf(s.out, "… and %d more\n", len(violations)-i)
			break
		}
		fmt.Fprintf(s.out, "%v\n", v)
	}
	if len(violations) > 0 {
		return &exitCode{code: exitBroken, reason: fmt.Errorf("%d violations", len(violations))}
	}
	return nil
}

func counts(n map[string]int) string {
	var words []string
	for _, what := range slices.Sorted(maps.Keys(n)) {
		words = append(words, fmt.Sprintf("%s %d", what, n[what]))
	}
	return strings.Join(words, ", ")
}

func writeHistory(path string, h *referee.History) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(h.Write(f), f.Close())
}
