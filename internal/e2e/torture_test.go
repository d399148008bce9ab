package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/internal/fleet"
	"github.com/dunlindb/dunlin/internal/referee"
)

// tortureSeed is DUNLIN_SEED, to have the same choices once more, or a new one.
func tortureSeed(t *testing.T) uint64 {
	t.Helper()
	s := os.Getenv("DUNLIN_SEED")
	if s == "" {
		return rand.Uint64()
	}
	seed, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("DUNLIN_SEED=%s is no number", s)
	}
	return seed
}

// tortured runs dunlin torture, which must find nothing, and returns what it printed.
func tortured(t *testing.T, args ...string) string {
	t.Helper()
	args = append([]string{"torture", "--dir", t.TempDir(), "--seed", fmt.Sprint(tortureSeed(t))}, args...)
	var out, said output
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		t.Fatalf("dunlin %s: %v\n%s\n%s", strings.Join(args, " "), err, said.String(), out.String())
	}
	t.Logf("dunlin %s:\n%s%s", strings.Join(args, " "), said.String(), out.String())
	return out.String()
}

// number finds one of the counts that dunlin torture prints.
func number(t *testing.T, out, what string) int {
	t.Helper()
	m := regexp.MustCompile(`(?m)^` + what + ` +([0-9]+)`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("no number of %s in:\n%s", what, out)
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Processes are killed, frozen and restarted, and the network is cut where that can be done, with every promise kept.
func TestTorture(t *testing.T) {
	heavy(t)
	lab, err := fleet.NewLab(1)
	network := "yes"
	if err != nil {
		need(t, "netns", err)
	}
	lab.Close()
	out := tortured(t, "--time", "60s", "--network", network)
	if number(t, out, "kills") == 0 || number(t, out, "freezes") == 0 || number(t, out, "cuts") == 0 || number(t, out, "acked") == 0 {
		t.Error("some kind of fault was not met")
	}
}

// What was acknowledged without fsync outlives kills, too.
func TestTortureWithoutFsync(t *testing.T) {
	heavy(t)
	var out string
	for range 3 { // Nodes live for up to a minute, so that now and then none dies; such a run says nothing.
		if out = tortured(t, "--time", "40s", "--network", "no", "--nodes", "3", "--durability", "os"); number(t, out, "kills") > 0 {
			break
		}
	}
	if number(t, out, "kills") == 0 || number(t, out, "acked") == 0 || regexp.MustCompile(`writes, \d{1,2} reads`).MatchString(out) {
		t.Error("not much was tried: nodes that were killed must have the time to count again")
	}
}

// The command does what it is for, tells what it did, leaves nothing behind, and its history can be judged again.
func TestTortureCommand(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "history.jsonl")
	out := tortured(t, "--kills", "6", "--nodes", "3", "--network", "no", "--seed", "7", "--dir", dir, "--history", file)
	if number(t, out, "seed") != 7 || number(t, out, "kills") < 6 || number(t, out, "acked") == 0 || number(t, out, "violations") != 0 {
		t.Errorf("it printed:\n%s", out)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("it left %v %v", left, err)
	}
	code, again, stderr := run(t, nil, "torture", "check", file)
	if code != 0 || number(t, again, "operations") != number(t, out, "operations") || number(t, again, "acked") != number(t, out, "acked") {
		t.Errorf("check: exit code %d, %s\n%s\nthe run printed:\n%s", code, stderr, again, out)
	}

	h := readHistory(t, file)
	h.Record(&referee.Operation{Kind: referee.Put, Bucket: "torture", Key: "k001", Value: "planted", Outcome: referee.Acked, Start: 1, End: 2})
	writeHistory(t, file, h)
	if code, again, _ := run(t, nil, "torture", "check", file); code != 2 || number(t, again, "violations") != 1 || !strings.Contains(again, "torture/k001: lost: lost: put torture/k001 \"planted\"") {
		t.Errorf("a lost write: exit code %d\n%s", code, again)
	}
	if err := os.Truncate(file, 1000); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := run(t, nil, "torture", "check", file); code != 1 || !strings.Contains(stderr, "read a history: line") {
		t.Errorf("half a history: exit code %d, %s", code, stderr)
	}
}

// nodesIn are the processes of nodes whose data is below dir.
func nodesIn(t *testing.T, dir string) (pids []int) {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range lines {
		text, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(text), "\x00--data\x00"+dir) {
			continue // it has ended, or is none of ours
		}
		pid, err := strconv.Atoi(strings.Split(path, "/")[2])
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// A node that ends without having been told to is a broken promise, whatever the clients saw. Interrupted, the run is
// judged all the same; what it leaves is its directory, and no process.
func TestTortureNoticesWhatItDidNotDo(t *testing.T) {
	heavy(t)
	if runtime.GOOS != "linux" {
		t.Skip("finds processes in /proc")
	}
	dir := t.TempDir()
	var out, said output
	cmd := exec.CommandContext(t.Context(), binary, "torture", "--dir", dir, "--time", "10m", "--nodes", "3", "--network", "no")
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	until(t, 60*time.Second, "a node's end noticed", func() error {
		if !strings.Contains(said.String(), "kills") { // in a line that shows progress: it has begun
			return errors.New("not begun")
		}
		if strings.Contains(said.String(), "! n") {
			return nil
		}
		for _, pid := range nodesIn(t, dir) {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone already
		}
		return errors.New(said.String())
	})
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	<-done
	if code := cmd.ProcessState.ExitCode(); code != 2 || !strings.Contains(out.String(), "ended by itself: signal: killed") {
		t.Errorf("exit code %d\n%s\n%s", code, said.String(), out.String())
	}
	if pids := nodesIn(t, dir); len(pids) > 0 {
		t.Errorf("processes are left: %v", pids)
	}
	kept, err := filepath.Glob(filepath.Join(dir, "*", "history.jsonl"))
	if err != nil || len(kept) != 1 || !strings.Contains(out.String(), "kept        "+filepath.Dir(kept[0])) {
		t.Fatalf("kept: %q, %v\n%s", kept, err, out.String())
	}
	if code, again, _ := run(t, nil, "torture", "check", kept[0]); code != 2 || !strings.Contains(again, "ended by itself: signal: killed") {
		t.Errorf("check: exit code %d\n%s", code, again)
	}
}

func readHistory(t *testing.T, path string) *referee.History {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, err := referee.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func writeHistory(t *testing.T, path string, h *referee.History) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(h.Write(f), f.Close()); err != nil {
		t.Fatal(err)
	}
}
