package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestCommands runs the client commands against real nodes.
func TestCommands(t *testing.T) {
	f := running(t, 3)
	env := []string{"DUNLIN_URL=http://" + f.nodes[0].http, "PATH=" + os.Getenv("PATH")}
	ends := func(code int, args ...string) string {
		t.Helper()
		got, stdout, stderr := run(t, env, args...)
		if got != code {
			t.Fatalf("dunlin %q: %d, want %d\n%s%s", args, got, code, stdout, stderr)
		}
		return stdout
	}
	ends(1, "kv", "get", "b", "k")
	ends(0, "kv", "put", "b", "k", "one")
	ends(0, "kv", "put", "b", "k", "two")
	if got := ends(0, "kv", "get", "b", "k"); got != "two" {
		t.Errorf("get %q", got)
	}
	ends(0, "kv", "put", "b", "k", "three", "--blind", "--url", "http://"+f.nodes[1].http)
	if got := ends(3, "kv", "get", "b", "k", "--url", "http://"+f.nodes[2].http); !strings.Contains(got, "two") || !strings.Contains(got, "three") {
		t.Errorf("siblings: %s", got)
	}
	ends(0, "kv", "put", "b", "k", "four")
	if got := ends(0, "kv", "get", "b", "k"); got != "four" {
		t.Errorf("reconciled: %q", got)
	}
	ends(0, "kv", "put", "b", "a/b\n..", "odd")
	if got := ends(0, "kv", "ls", "b"); got != "\"a/b\\n..\"\nk\n" {
		t.Errorf("ls: %q", got)
	}
	ends(0, "kv", "rm", "b", "k")
	ends(1, "kv", "get", "b", "k")
	ends(1, "kv", "put", "b", "k", "x", "--w", "9")
	loadAndResume(t, f, env)
}

// loadAndResume interrupts a load and runs it again to its end.
func loadAndResume(t *testing.T, f *flock, env []string) {
	const records = 6_000
	file := filepath.Join(t.TempDir(), "records.ndjson")
	var text strings.Builder
	for i := range records {
		if i == 10 {
			text.WriteString("{broken\n")
		}
		fmt.Fprintf(&text, "{\"key\":\"%05d\",\"value\":\"v%d\"}\n", i, i)
	}
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "load", "--bucket", "load", file)
	var out output
	cmd.Env, cmd.Stdout, cmd.Stderr = env, &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, 30*time.Second, "some records are loaded", func() error {
		if status, body, err := try(t.Context(), "GET", f.nodes[1].url("/kv/load?limit=1"), ""); err != nil || !strings.Contains(body, `"0`) {
			return fmt.Errorf("%d %s %w", status, body, err)
		}
		return nil
	})
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it may have come to its end before
	if code, stdout, stderr := run(t, env, "load", "--bucket", "load", file); code != 1 || !strings.Contains(stderr, "1 records were refused") {
		t.Errorf("resumed: %d %s%s, after %s", code, stdout, stderr, out.String())
	}
	if got := keysOf(t, f.nodes[2], "load", "limit=10000"); len(got) != records {
		t.Errorf("%d keys of %d records", len(got), records)
	}
	if got := want(t, 200, "GET", f.nodes[2].url("/kv/load/00011"), ""); got.body != "v11" || got.header.Get("Dunlin-Siblings") != "" {
		t.Errorf("a record loaded: %v %q", got.header, got.body)
	}
}
