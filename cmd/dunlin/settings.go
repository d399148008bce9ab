package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/dunlindb/dunlin/internal/config"
)

// stopAfterStdin bounds a stop that the end of stdin began.
const stopAfterStdin = 30 * time.Second

type serveCmd struct {
	Settings config.Config `embed:""`
	File     settingsFile  `name:"config" env:"DUNLIN_CONFIG" placeholder:"FILE" help:"YAML file with settings, keys as the flags without dashes. A flag beats a variable beats the file."`

	StopWithStdin bool `hidden:"" help:"Stop when stdin ends. For a parent process that must not leave nodes behind."`
}

// Help is shown below the flags of serve.
func (serveCmd) Help() string {
	return `Every flag can be given as an environment variable too. A first cluster of three:

  dunlin serve --name n1 --seeds n1@10.0.0.1:8200,n2@10.0.0.2:8200,n3@10.0.0.3:8200

on the first machine, and the same with --name n2 and n3 on the others. SIGTERM stops cleanly.`
}

// Run runs the node until a signal.
func (c *serveCmd) Run(ctx context.Context, s *streams) error {
	cfg := c.Settings
	if err := cfg.Validate(); err != nil {
		return err
	}
	log := logger(cfg, s.err)
	limitMemory(log.With("node", cfg.Name))
	cfg.Cache = config.Cache{Bytes: cfg.Cache.Of(memory())}
	log.Info("records used lately are kept in memory", "op", "memory", "node", cfg.Name, "bytes", int64(cfg.Cache.Bytes))
	for _, name := range strangeVariables(os.Environ()) {
		log.Warn("environment variable is no setting; see dunlin serve --help", "node", cfg.Name, "variable", name)
	}
	if c.StopWithStdin {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		go stopWithStdin(s.in, cancel)
	}
	return runNode(ctx, cfg, log)
}

// stopWithStdin cancels when in ends, and ends the process when that is not
// followed by its end in time. It lives as long as the process.
func stopWithStdin(in io.Reader, cancel context.CancelFunc) {
	_, _ = io.Copy(io.Discard, in) // an error is an end, too
	cancel()
	time.Sleep(stopAfterStdin)
	os.Exit(1)
}

func logger(cfg config.Config, w io.Writer) *slog.Logger {
	opt := &slog.HandlerOptions{Level: cfg.LogLevel}
	if cfg.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, opt))
	}
	return slog.New(slog.NewTextHandler(w, opt))
}

// strangeVariables are the DUNLIN_ variables that no setting reads: mistyped
// ones, most likely.
func strangeVariables(environ []string) []string {
	known := append(config.Variables(), "DUNLIN_CONFIG", "DUNLIN_URL")
	var out []string
	for _, e := range environ {
		name, _, _ := strings.Cut(e, "=")
		if strings.HasPrefix(name, "DUNLIN_") && !slices.Contains(known, name) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// settingsFile is the path of a YAML file whose values rank below flags and
// variables.
type settingsFile string

// BeforeResolve reads the file and offers its values to the parser.
func (settingsFile) BeforeResolve(ctx *kong.Context, trace *kong.Path) error {
	path, ok := ctx.FlagValue(trace.Flag).(settingsFile)
	if !ok || path == "" {
		return nil
	}
	values, err := config.LoadFile(string(path))
	if err != nil {
		return fmt.Errorf("--config (DUNLIN_CONFIG): %w", err)
	}
	ctx.AddResolver(kong.ResolverFunc(func(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
		text, ok := values[flag.Name]
		if !ok || envGiven(flag.Envs) {
			return nil, nil // what a resolver returns would beat the variable
		}
		return text, nil
	}))
	return nil
}

func envGiven(names []string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		_, ok := os.LookupEnv(name)
		return ok
	})
}
