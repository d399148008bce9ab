package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/internal/fleet"
)

// memoryGroup makes a control group whose processes may have so much memory, as those of a container, and returns the
// file that takes their ids.
func memoryGroup(t *testing.T, name string, limit int64) (procs string, err error) {
	t.Helper()
	const root = "/sys/fs/cgroup"
	parent, file := root, "memory.max"
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err != nil { // version 1
		parent, file = filepath.Join(root, "memory"), "memory.limit_in_bytes"
	} else if err := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+memory"), 0o644); err != nil {
		return "", fmt.Errorf("groups with a memory of their own: %w", err)
	}
	group := filepath.Join(parent, fmt.Sprintf("dunlin-e2e-%d-%s", os.Getpid(), name))
	if err := os.Mkdir(group, 0o755); err != nil {
		return "", fmt.Errorf("a control group: %w", err)
	}
	t.Cleanup(func() { // when its processes have been reaped
		until(t, 30*time.Second, "removed the control group", func() error { return os.Remove(group) })
	})
	if err := os.WriteFile(filepath.Join(group, file), []byte(strconv.FormatInt(limit, 10)), 0o644); err != nil {
		return "", fmt.Errorf("a limit of its memory: %w", err)
	}
	return filepath.Join(group, "cgroup.procs"), nil
}

// Nodes in containers with less memory than they would take stay alive under a load of writes that is more than fits into
// it: they notice what they have, and collect garbage accordingly.
func TestSmallContainers(t *testing.T) {
	heavy(t)
	var groups []string
	for _, name := range []string{"n1", "n2", "n3"} {
		procs, err := memoryGroup(t, name, 192<<20)
		need(t, "cgroup", err)
		groups = append(groups, procs)
	}
	f := newFlock(t, 3)
	var urls []string
	for i, p := range f.nodes {
		n := fleet.Node{
			Name: p.name, Log: f.log.Name(), Program: "/bin/sh", Env: p.env,
			Args: []string{"-c", `echo $$ >"$0" && exec "$@"`, groups[i], binary, "serve", "--stop-with-stdin"},
		}
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
		p.Process = n.Process
		urls = append(urls, p.url(""))
	}
	f.ready(f.nodes...)
	code, out, errs := run(t, f.nodes[0].env, "bench", "--url", strings.Join(urls, ","), "--mix", "put=100", "--w", "2",
		"--keys", "20000", "--value-size", "1KiB", "--ops", "60000", "--warmup", "0s")
	for _, p := range f.nodes {
		if !p.Running() {
			t.Errorf("%s has ended: %s", p.name, p.Words())
		}
	}
	if code != 0 {
		t.Errorf("exit code %d: %s\n%s", code, out, errs)
	}
}
