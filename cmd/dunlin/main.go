// Command dunlin runs and uses a Dunlin cluster: serve is one node, dev a
// cluster on this machine, the others talk to a cluster over HTTP.
//
// It parses, prints and watches over signals and child processes; what a node
// does is not its business. A failure is one line on stderr and exit code 1.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/dunlindb/dunlin/internal/config"
)

type cli struct {
	Serve   serveCmd   `cmd:"" help:"Run one node."`
	Dev     devCmd     `cmd:"" help:"Run a whole cluster on this machine, each node its own process."`
	Status  statusCmd  `cmd:"" help:"Show the members of a cluster and how they are."`
	Kv      kvCmd      `cmd:"" help:"Read and write keys."`
	Load    loadCmd    `cmd:"" help:"Write the records of an NDJSON file, resumably."`
	Bench   benchCmd   `cmd:"" help:"Measure rate, latency and cost of a cluster under a load."`
	Repair  repairCmd  `cmd:"" help:"Compare all replicas of all keys and mend what differs."`
	Torture tortureCmd `cmd:"" help:"Ill-treat a cluster of its own, and judge whether it keeps its promises."`
	Plan    planCmd    `cmd:"" help:"Show what a change of the members would move, and change nothing."`
	Leave   leaveCmd   `cmd:"" help:"Let a member go: it hands over what it holds first."`
	Remove  removeCmd  `cmd:"" help:"Give up a member that is stopped for good."`
	Replace replaceCmd `cmd:"" help:"Let a new node take the place of a member whose disk is lost."`
	Update  updateCmd  `cmd:"" help:"Give a member another weight or zone."`
	Cancel  cancelCmd  `cmd:"" help:"Take back the change of the members that is under way."`
	Health  healthCmd  `cmd:"" help:"Tell by exit code whether the node on this machine is ready (for container health checks)."`
	Version versionCmd `cmd:"" help:"Print the version."`
}

// streams are where a command reads and writes.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		tuneRuntime()
	}
	ctx, stop := signals()
	code := run(ctx, os.Args[1:], &streams{in: os.Stdin, out: os.Stdout, err: os.Stderr})
	stop()
	os.Exit(code)
}

// signals returns a context that ends with the first SIGINT or SIGTERM. The
// second one ends the process at once.
func signals() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	got := make(chan os.Signal, 2)
	signal.Notify(got, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-got
		cancel()
		<-got
		os.Exit(130)
	}()
	return ctx, cancel
}

// exitCode is an error that carries its own exit code. With a nil reason
// nothing more is printed.
type exitCode struct {
	code   int
	reason error
}

func (e *exitCode) Error() string {
	if e.reason == nil {
		return ""
	}
	return e.reason.Error()
}

func run(ctx context.Context, args []string, io *streams) int {
	forgetEmptyVariables()
	var c cli
	parser, err := kong.New(&c,
		kong.Name("dunlin"),
		kong.Description("Dunlin is a leaderless key-value store. Try it: dunlin dev"),
		kong.Vars{"hostname": config.Hostname()},
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 110}),
		kong.ValueFormatter(describe),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(io),
		kong.Writers(io.out, io.err),
	)
	if err != nil {
		return fail(io, err)
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	call, err := parser.Parse(args)
	if err != nil {
		return fail(io, err)
	}
	return fail(io, call.Run())
}

// fail prints err as one line and returns the exit code.
func fail(io *streams, err error) int {
	if err == nil {
		return 0
	}
	code := 1
	if e := (*exitCode)(nil); errors.As(err, &e) { // the parser wraps what a command returns
		code = e.code
	}
	if e := (*config.Error)(nil); errors.As(err, &e) {
		err = e // without the name of the command that the parser puts before it
	}
	if text := oneLine(err.Error()); text != "" {
		fmt.Fprintln(io.err, "dunlin: "+text)
	}
	return code
}

func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

// describe is the help of a flag with its default, which kong leaves out where
// a placeholder is given.
func describe(v *kong.Value) string {
	help := kong.DefaultHelpValueFormatter(v)
	if v.HasDefault && v.Default != "" && !v.IsBool() && v.Flag != nil && v.Flag.PlaceHolder != "" {
		help += " Default: " + v.Default + "."
	}
	return help
}

// forgetEmptyVariables makes an empty DUNLIN_ variable the same as an absent
// one: compose files write VAR: ${VAR:-} for "if it is set".
func forgetEmptyVariables() {
	for _, e := range os.Environ() {
		if name, value, _ := strings.Cut(e, "="); value == "" && strings.HasPrefix(name, "DUNLIN_") {
			_ = os.Unsetenv(name) // cannot fail for a name that exists
		}
	}
}
