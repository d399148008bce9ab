package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/dunlindb/dunlin/internal/config"
)

func TestMain(m *testing.M) {
	// The race detector lets every process sleep a second at its end, and the
	// tests start many.
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	testscript.Main(m, map[string]func(){
		"dunlin": func() {
			runNode = runFakeNode
			if os.Getenv("SHOW_CONFIG") != "" {
				runNode = showConfig
			}
			main()
		},
	})
}

// showConfig stands for a node that only tells its settings.
func showConfig(_ context.Context, cfg config.Config, _ *slog.Logger) error {
	fmt.Printf("%+v\n", cfg)
	return nil
}

// TestScripts runs testdata/script: the commands as processes against a fake
// cluster in this process, whose URL is $URL.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			fake := newFakeCluster()
			server := httptest.NewServer(fake)
			e.Defer(server.Close)
			e.Setenv("URL", server.URL)
			e.Setenv("GORACE", os.Getenv("GORACE"))
			e.Values["fake"] = fake
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"fail":     func(ts *testscript.TestScript, _ bool, args []string) { set(ts, args, "fail") },
			"notready": func(ts *testscript.TestScript, _ bool, args []string) { set(ts, args, "notready") },
			"members":  func(ts *testscript.TestScript, _ bool, args []string) { set(ts, args, "members") },
			"has":      has,
			"asked":    asked,
			"exits":    exits,
		},
	})
}

func fakeOf(ts *testscript.TestScript) *fakeCluster { return ts.Value("fake").(*fakeCluster) }

// set changes how the fake behaves.
func set(ts *testscript.TestScript, args []string, what string) {
	f := fakeOf(ts)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch what {
	case "fail":
		n, err := strconv.Atoi(args[0])
		ts.Check(err)
		f.fail = n
	case "notready":
		f.notReady = args[0]
	case "members":
		f.members = ts.ReadFile(args[0])
	}
}

// exits runs a program that must end with an exit code: exits CODE PROGRAM ARG...
func exits(ts *testscript.TestScript, _ bool, args []string) {
	var ended *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); !errors.As(err, &ended) || strconv.Itoa(ended.ExitCode()) != args[0] {
		ts.Fatalf("ended with %v, want exit code %s", err, args[0])
	}
}

// has checks the values of a key: has bucket/key value...
func has(ts *testscript.TestScript, neg bool, args []string) {
	f := fakeOf(ts)
	f.mu.Lock()
	defer f.mu.Unlock()
	var got []string
	for _, v := range f.keys[args[0]] {
		got = append(got, v.text)
	}
	if same := fmt.Sprint(got) == fmt.Sprint(args[1:]); same == neg {
		ts.Fatalf("%s is %q", args[0], got)
	}
}

// asked checks that the last requests contain a text: asked TEXT.
func asked(ts *testscript.TestScript, neg bool, args []string) {
	f := fakeOf(ts)
	f.mu.Lock()
	defer f.mu.Unlock()
	if strings.Contains(strings.Join(f.requests, "\n"), args[0]) == neg {
		ts.Fatalf("requests: %s", strings.Join(f.requests, "\n"))
	}
	f.requests = nil
}
