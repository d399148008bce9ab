package main

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// process is a dunlin command under test.
type process struct {
	*exec.Cmd
	in   io.WriteCloser
	done chan struct{}
	mu   sync.Mutex
	text bytes.Buffer // stdout and stderr
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(b)
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// launch starts dunlin; it is killed when the test ends.
func launch(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command("dunlin", args...), done: make(chan struct{})}
	p.Env = append(os.Environ(), env...)
	p.Stdout, p.Stderr = p, p
	var err error
	if p.in, err = p.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		_ = p.Process.Kill()
		<-p.done
	})
	return p
}

// eventually waits until ok says so.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited too long for %s", what)
		}
	}
}

// says waits for a text in the output.
func (p *process) says(t *testing.T, text string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%q", text), func() bool {
		select {
		case <-p.done:
			if !strings.Contains(p.output(), text) {
				t.Fatalf("ended without saying %q:\n%s", text, p.output())
			}
		default:
		}
		return strings.Contains(p.output(), text)
	})
}

func (p *process) exits(t *testing.T, code int) {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		t.Fatalf("does not end:\n%s", p.output())
	}
	if got := p.ProcessState.ExitCode(); got != code {
		t.Fatalf("exit code %d, want %d:\n%s", got, code, p.output())
	}
}

func freeBase(t *testing.T) string {
	t.Helper()
	for range 100 {
		base := 20000 + rand.IntN(1200)*10
		free := true
		for i := 1; i <= 3; i++ {
			free = free && newDevNode(i, base, "").busyPort() == nil
		}
		if free {
			return strconv.Itoa(base)
		}
	}
	t.Fatal("no free ports")
	return ""
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// pidOf reads the pid of a node from dev's table.
func pidOf(t *testing.T, p *process, name string) int {
	t.Helper()
	m := regexp.MustCompile(`(?m)^` + name + ` +http\S+ +(\d+) `).FindStringSubmatch(p.output())
	if m == nil {
		t.Fatalf("no pid of %s in:\n%s", name, p.output())
	}
	pid, _ := strconv.Atoi(m[1])
	return pid
}

func TestDevRunsRestartsAndStopsNodes(t *testing.T) {
	dir, base := filepath.Join(t.TempDir(), "flock"), freeBase(t)
	p := launch(t, []string{"DUNLIN_NAME=leaked", "DUNLIN_ODD=leaked"}, "dev", "--dir", dir, "--port-base", base)
	p.says(t, "Ctrl-C stops all")
	for i := 1; i <= 3; i++ {
		started := readFile(t, filepath.Join(dir, fmt.Sprintf("n%d", i), "starts"))
		if !strings.Contains(started, "variables []") || strings.Count(started, "@127.0.0.1:") != 3 {
			t.Errorf("n%d was started with: %s", i, started)
		}
	}
	first := "http://127.0.0.1:" + base[:len(base)-1] + "1"
	for _, want := range []string{"curl -i -X PUT -d 'hello' '" + first + "/kv/demo/greeting?w=3'", "greeting?r=1'", "greeting?r=2'"} {
		if !strings.Contains(p.output(), want) {
			t.Errorf("no %q in:\n%s", want, p.output())
		}
	}

	second := launch(t, nil, "dev", "--dir", dir, "--port-base", base)
	second.exits(t, 1)
	if out := second.output(); !strings.Contains(out, "a dunlin dev (pid "+strconv.Itoa(p.Process.Pid)+") runs in") || strings.Count(out, "\n") != 1 {
		t.Errorf("a second dev says: %s", out)
	}

	_ = syscall.Kill(pidOf(t, p, "n2"), syscall.SIGKILL)
	p.says(t, "n2 ended: signal: killed. Type n2 and Enter")
	fmt.Fprintln(p.in, "n2")
	p.says(t, "n2 is ready again")
	fmt.Fprintln(p.in, "n1")
	p.says(t, "n1 is running, pid")
	fmt.Fprintln(p.in, "n4")
	p.says(t, `no node is named "n4"; there are n1 to n3`)
	if n := strings.Count(readFile(t, filepath.Join(dir, "n2", "starts")), "\n"); n != 2 {
		t.Errorf("n2 was started %d times", n)
	}

	_ = p.Process.Signal(syscall.SIGINT)
	p.exits(t, 0)
	for i := 1; i <= 3; i++ {
		if !exists(filepath.Join(dir, fmt.Sprintf("n%d", i), "stopped")) {
			t.Errorf("n%d did not stop by itself", i)
		}
	}

	p = launch(t, nil, "dev", "--dir", dir, "--port-base", base, "--nodes", "2")
	p.exits(t, 1)
	if !strings.Contains(p.output(), "--nodes: the cluster in "+dir+" was founded with 3 nodes") {
		t.Errorf("with other --nodes it says: %s", p.output())
	}
	p = launch(t, nil, "dev", "--dir", dir, "--port-base", base, "--nodes", "2", "--fresh")
	p.says(t, "Ctrl-C stops all")
	if exists(filepath.Join(dir, "n3")) || strings.Count(readFile(t, filepath.Join(dir, "n2", "starts")), "\n") != 1 {
		t.Error("--fresh left the old data")
	}
	_ = p.Process.Signal(syscall.SIGTERM)
	p.exits(t, 0)
}

func TestNodesEndWhenDevIsKilled(t *testing.T) {
	dir, base := t.TempDir(), freeBase(t)
	p := launch(t, nil, "dev", "--dir", dir, "--port-base", base, "--nodes", "2")
	p.says(t, "Ctrl-C stops all")
	_ = p.Process.Kill()
	<-p.done
	for _, n := range []string{"n1", "n2"} {
		eventually(t, n+" to stop", func() bool { return exists(filepath.Join(dir, n, "stopped")) })
	}
	p = launch(t, nil, "dev", "--dir", dir, "--port-base", base, "--nodes", "2")
	p.says(t, "Ctrl-C stops all")
	_ = p.Process.Signal(syscall.SIGINT)
	p.exits(t, 0)
}

func TestDevRefusesABusyPortAndHarmsNothing(t *testing.T) {
	dir, base := t.TempDir(), freeBase(t)
	p := launch(t, nil, "dev", "--dir", dir, "--port-base", base, "--nodes", "2")
	p.says(t, "Ctrl-C stops all")
	_ = p.Process.Signal(syscall.SIGINT)
	p.exits(t, 0)

	n, _ := strconv.Atoi(base)
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(n+102)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p = launch(t, nil, "dev", "--dir", dir, "--port-base", base, "--nodes", "2", "--fresh")
	p.exits(t, 1)
	if out := p.output(); !strings.Contains(out, "(RPC of n2) cannot be used: address already in use; stop what listens there or give another --port-base") || strings.Count(out, "\n") != 1 {
		t.Errorf("it says: %s", out)
	}
	if !exists(filepath.Join(dir, "n1", "starts")) {
		t.Error("the data is gone")
	}
}

func TestDevRefusesDirectoriesThatAreNotItsOwn(t *testing.T) {
	dir := t.TempDir()
	mine := filepath.Join(dir, "precious")
	if err := os.WriteFile(mine, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	base := freeBase(t)
	for where, want := range map[string]string{
		dir:                      "was not made by dunlin dev",
		filepath.Join(mine, "x"): "--dir:",
	} {
		p := launch(t, nil, "dev", "--dir", where, "--fresh", "--port-base", base)
		p.exits(t, 1)
		if out := p.output(); !strings.Contains(out, want) || strings.Count(out, "\n") != 1 {
			t.Errorf("%s: it says: %s", where, out)
		}
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("the directory now holds %v", entries)
	}
}

func TestDevTellsWhyANodeDoesNotStartAndLeavesNone(t *testing.T) {
	dir := t.TempDir()
	d := &devDir{path: dir}
	if err := d.found(2, false); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "n2"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "n2", "fail"), []byte("of another cluster"), 0o644); err != nil {
		t.Fatal(err)
	}
	p := launch(t, nil, "dev", "--dir", dir, "--nodes", "2", "--port-base", freeBase(t))
	p.exits(t, 1)
	if !strings.Contains(p.output(), "n2 ended at its start: exit status 1: dunlin: --data (DUNLIN_DATA): of another cluster (log: "+dir) {
		t.Errorf("it says: %s", p.output())
	}
	if !strings.Contains(p.output(), "all nodes have stopped") {
		t.Errorf("n1 was not stopped: %s", p.output())
	}
}
