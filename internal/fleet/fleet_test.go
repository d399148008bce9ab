package fleet

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func shell(t *testing.T, script string) *Node {
	t.Helper()
	return &Node{Name: "n1", Log: filepath.Join(t.TempDir(), "log"), Program: "/bin/sh", Args: []string{"-c", script}, Env: os.Environ()}
}

func ended(t *testing.T, n *Node) {
	t.Helper()
	select {
	case <-n.Done():
	case <-time.After(time.Minute):
		t.Fatal("the process does not end")
	}
}

// A node runs again and again; how each process ended is known, and one that has ended takes signals.
func TestNodeProcesses(t *testing.T) {
	n := shell(t, "echo first; echo last words; exit 3")
	if n.Running() {
		t.Error("it runs before it was started")
	}
	for range 2 {
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
		ended(t, n)
		if n.Running() || n.Words() != "exit status 3: last words" {
			t.Errorf("running: %v, words: %s", n.Running(), n.Words())
		}
	}
	if err := n.Signal(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(n.Log); err != nil || strings.Count(string(b), "first") != 2 {
		t.Errorf("the log holds %q, %v", b, err)
	}

	n = shell(t, "read line") // until stdin ends
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	if !n.Running() || n.State() != nil {
		t.Error("it does not run")
	}
	first := n.Process
	if err := n.Signal(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	ended(t, n)
	if n.Words() != "signal: killed" {
		t.Error(n.Words())
	}
	n.Args[1] = "trap '' TERM; read line"
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	n.Terminate() // the signal is ignored, the end of stdin is not
	ended(t, n)
	if first == n.Process || first.Running() {
		t.Error("the first process became the second")
	}
}

func TestNodesThatCannotStart(t *testing.T) {
	n := shell(t, "")
	n.Program += ".missing"
	if err := n.Start(); err == nil || n.Running() {
		t.Error("a program that is missing was started")
	}
	n = shell(t, "")
	n.Log = filepath.Join(n.Log, "no directory")
	if err := n.Start(); err == nil || n.Running() {
		t.Error("a node without a log was started")
	}
}

func TestFreePorts(t *testing.T) {
	ports, err := FreePorts(Loopback(), 30)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(ports)
	if len(slices.Compact(slices.Clone(ports))) != 30 || ports[0] < lowestPort || ports[29] >= highestPort {
		t.Errorf("%v", ports)
	}
}

func TestWithoutSettings(t *testing.T) {
	if got := WithoutSettings([]string{"A=1", "DUNLIN_W=2", "DUNLIN=3"}); !slices.Equal(got, []string{"A=1", "DUNLIN=3"}) {
		t.Errorf("%q", got)
	}
}
