package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// The repair command compares all replicas of all keys, through every node, and says what it did.
func TestRepairCommand(t *testing.T) {
	f := newFlock(t, 3)
	f.start(f.nodes...)
	f.ready(f.nodes...)
	for i := range 30 {
		expect(t, 204, "PUT", f.nodes[i%3].url(fmt.Sprintf("/kv/b/k%d?w=3", i)), "v")
	}
	code, stdout, stderr := run(t, nil, "repair", "--url", f.nodes[1].url(""))
	if code != 0 || strings.Count(stdout, "1024 of 1024 partitions") != 3 {
		t.Fatalf("exit code %d\n%s\n%s", code, stdout, stderr)
	}
	a := expect(t, 200, "GET", f.nodes[0].url("/cluster/digest"), "")
	for _, p := range f.nodes[1:] {
		if b := expect(t, 200, "GET", p.url("/cluster/digest"), ""); a != b {
			t.Error("three nodes with three replicas each must have the same digests")
		}
	}
	if code, _, stderr := run(t, nil, "repair", "--url", f.nodes[1].url(""), "--partition", "5000"); code != 1 || !strings.Contains(stderr, "partition") {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
}

// One partition is repaired by its primaries, whichever node is asked.
func TestRepairOfOnePartition(t *testing.T) {
	f := newFlock(t, 5)
	f.start(f.nodes...)
	f.ready(f.nodes...)
	expect(t, 204, "PUT", f.nodes[0].url("/kv/b/k?w=3"), "v")
	code, stdout, stderr := run(t, nil, "repair", "--url", f.nodes[4].url(""), "--partition", "25")
	if code != 0 || strings.Count(stdout, "1 of 1 partitions") != 3 {
		t.Fatalf("exit code %d\n%s\n%s", code, stdout, stderr)
	}
}
