package e2e

import (
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// dev is a running "dunlin dev".
type dev struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout output
	done   chan error
}

func startDev(t *testing.T, dir string, base int, args ...string) *dev {
	t.Helper()
	d := &dev{t: t, done: make(chan error, 1)}
	d.cmd = exec.Command(binary, append([]string{"dev", "--dir", dir, "--port-base", strconv.Itoa(base)}, args...)...)
	d.cmd.Stdout, d.cmd.Stderr = &d.stdout, &d.stdout
	var err error
	if d.stdin, err = d.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { d.done <- d.cmd.Wait() }()
	t.Cleanup(func() { _ = d.cmd.Process.Signal(syscall.SIGTERM) })
	until(t, 60*time.Second, "dev says how to stop", func() error {
		select {
		case err := <-d.done:
			t.Fatalf("dev ended: %v\n%s", err, d.stdout.String())
		default:
		}
		if !strings.Contains(d.stdout.String(), "Ctrl-C") {
			return errors.New(d.stdout.String())
		}
		return nil
	})
	return d
}

func (d *dev) interrupt() {
	d.t.Helper()
	if err := d.cmd.Process.Signal(syscall.SIGINT); err != nil {
		d.t.Fatal(err)
	}
	select {
	case err := <-d.done:
		if err != nil {
			d.t.Fatalf("dev after Ctrl-C: %v\n%s", err, d.stdout.String())
		}
	case <-time.After(40 * time.Second):
		d.t.Fatalf("dev does not stop\n%s", d.stdout.String())
	}
}

// freeBase finds a port base of which dev's ports are free.
func freeBase(t *testing.T) int {
	t.Helper()
	for base := 21000; base < 29000; base += 400 {
		free := true
		for _, block := range []int{0, 100, 200} {
			for i := 1; i <= 5; i++ {
				_, _, err := try(t.Context(), "GET", fmt.Sprintf("http://127.0.0.1:%d/", base+block+i), "")
				free = free && errors.Is(err, syscall.ECONNREFUSED)
			}
		}
		if free {
			return base
		}
	}
	t.Fatal("no free ports")
	return 0
}

// TestDevTour starts a cluster with one command, pastes the curl lines that it prints, kills a node and brings it back
// from dev's terminal, stops with Ctrl-C and goes on with the data.
func TestDevTour(t *testing.T) {
	need(t, "curl", installed("curl"))
	dir, base := filepath.Join(t.TempDir(), "cluster"), freeBase(t)
	d := startDev(t, dir, base)
	lines := regexp.MustCompile(`(?m)^\s*(curl .*)$`).FindAllStringSubmatch(d.stdout.String(), -1)
	if len(lines) < 3 {
		t.Fatalf("dev prints no curl lines:\n%s", d.stdout.String())
	}
	for _, line := range lines {
		out, err := exec.CommandContext(t.Context(), "sh", "-c", line[1]+" -sS --fail").CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", line[1], err, out)
		}
	}
	n3 := fmt.Sprintf("http://127.0.0.1:%d", base+3)
	pid := regexp.MustCompile(`(?m)^n3\s+\S+\s+(\d+)\s`).FindStringSubmatch(d.stdout.String())
	if pid == nil {
		t.Fatalf("no pid of n3:\n%s", d.stdout.String())
	}
	id, _ := strconv.Atoi(pid[1])
	if err := syscall.Kill(id, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, 10*time.Second, "dev tells that n3 ended", func() error {
		if out := d.stdout.String(); !strings.Contains(out[strings.Index(out, "Ctrl-C"):], "n3") {
			return errors.New(out)
		}
		return nil
	})
	expect(t, 200, "GET", fmt.Sprintf("http://127.0.0.1:%d/kv/demo/greeting?r=2", base+1), "")
	if _, err := io.WriteString(d.stdin, "n3\n"); err != nil {
		t.Fatal(err)
	}
	until(t, 30*time.Second, "n3 is back", func() error {
		status, body, err := try(t.Context(), "GET", n3+"/readyz", "")
		if err == nil && status != 200 {
			err = errors.New(body)
		}
		return err
	})

	// A second dev on the same directory, and one on the same ports, harm nothing.
	for name, args := range map[string][]string{
		"same directory": {"dev", "--dir", dir, "--port-base", strconv.Itoa(base + 50)},
		"same ports":     {"dev", "--dir", filepath.Join(t.TempDir(), "other"), "--port-base", strconv.Itoa(base)},
		"no directory":   {"dev", "--dir", "/proc/none", "--port-base", strconv.Itoa(base + 50)},
	} {
		if code, _, stderr := run(t, nil, args...); code != 1 || strings.Count(strings.TrimSpace(stderr), "\n") != 0 {
			t.Errorf("%s: exit code %d, want 1 and one line: %s", name, code, stderr)
		}
	}
	expect(t, 200, "GET", n3+"/kv/demo/greeting?r=2", "")
	d.interrupt()
	if _, _, err := try(t.Context(), "GET", n3+"/livez", ""); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("a node outlived dev: %v", err)
	}

	d = startDev(t, dir, base)
	if got := expect(t, 200, "GET", n3+"/kv/demo/greeting?r=2", ""); got != "hello" {
		t.Fatalf("after a restart: %q", got)
	}
	d.interrupt()
	d = startDev(t, dir, base, "--fresh", "--nodes", "5")
	expect(t, 404, "GET", n3+"/kv/demo/greeting?r=3", "")
	d.interrupt()
}
