package torture

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A cluster that does not start is no verdict, and none of its processes is left.
func TestNodesThatDoNotStart(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	script := "#!/bin/sh\necho $$ >>" + dir + "/pids\ncase \"$*\" in *'--name n2 '*) echo 'dunlin: no luck'; exit 1;; esac\nread line\n"
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	opt := Options{Program: program, Dir: dir, Nodes: 3, Clients: 1, Kills: 1, Durability: "os", Network: NetworkNo}
	// The first node never answers, so it is the start's limit that would end this, were the second not noticed.
	res, err := Run(t.Context(), opt)
	if res != nil || err == nil || !strings.Contains(err.Error(), "at the start: n2 ended by itself: exit status 1: dunlin: no luck") {
		t.Errorf("%v %v", res, err)
	}
	pids, err := os.ReadFile(filepath.Join(dir, "pids"))
	if err != nil {
		t.Fatal(err)
	}
	for pid := range strings.FieldsSeq(string(pids)) {
		if _, err := os.Stat(filepath.Join("/proc", pid)); err == nil {
			t.Errorf("process %s is left", pid)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, opt); !errors.Is(err, context.Canceled) && !strings.Contains(err.Error(), "no luck") {
		t.Errorf("interrupted: %v", err)
	}
}
