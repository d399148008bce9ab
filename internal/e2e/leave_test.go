package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// With DUNLIN_LEAVE_ON_STOP a SIGTERM makes the node leave, and exit code 0 says that its disk is not needed any more. A
// second signal ends it at once, whatever is still waited for.
func TestLeaveOnStop(t *testing.T) {
	f := newFlock(t, 4)
	for _, p := range f.nodes {
		p.set("DUNLIN_LEAVE_ON_STOP", "true")
		p.set("DUNLIN_N", "2")
		p.set("DUNLIN_PARTITIONS", "64")
	}
	f.start(f.nodes...)
	f.ready(f.nodes...)
	for i := range 40 {
		expect(t, 204, "PUT", f.nodes[i%4].url(fmt.Sprintf("/kv/b/k%d?w=2", i)), fmt.Sprint("v", i))
	}
	f.signal(f.nodes[3], syscall.SIGTERM) // which checks the exit code
	f.settledAt(3, f.nodes[:3]...)
	for i := range 40 {
		if got := expect(t, 200, "GET", f.nodes[i%3].url(fmt.Sprintf("/kv/b/k%d?r=2&sloppy=false", i)), ""); got != fmt.Sprint("v", i) {
			t.Fatalf("k%d: %q", i, got)
		}
	}

	f.signal(f.nodes[0], syscall.SIGKILL)
	f.signal(f.nodes[1], syscall.SIGKILL)
	last := f.nodes[2]
	if err := last.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	until(t, 30*time.Second, "it says what it does", func() error {
		b, err := os.ReadFile(f.log.Name())
		if err == nil && !strings.Contains(string(b), "a second signal ends at once\" node=n3") {
			err = errors.New("nothing in the log")
		}
		return err
	})
	if err := last.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-last.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("a second signal did not end it")
	}
	if code := last.State().ExitCode(); code != 130 {
		t.Errorf("exit code %d", code)
	}
	last.Process = nil
}
