package e2e

import (
	"fmt"
	"syscall"
	"testing"
	"time"
)

// With --durability os a node that was killed may have lost what it acknowledged, as far as it can tell. It counts in
// no quorum until it has compared itself with every other replica, and then serves again by itself; also when all
// nodes were killed at once.
func TestKilledWithoutFsyncCountsAgainAfterExchanges(t *testing.T) {
	f := newFlock(t, 3)
	for _, p := range f.nodes {
		p.env = append(p.env, "DUNLIN_DURABILITY=os")
	}
	f.start(f.nodes...)
	f.ready(f.nodes...)
	expect(t, 400, "PUT", f.nodes[0].url("/kv/b/k?dw=1"), "x")
	for i := range 50 {
		expect(t, 204, "PUT", f.nodes[i%3].url(fmt.Sprintf("/kv/b/k%d?w=3", i)), fmt.Sprint("v", i))
	}
	whole := func(killed ...*process) {
		t.Helper()
		for _, p := range killed {
			f.signal(p, syscall.SIGKILL)
		}
		f.start(killed...)
		f.ready(f.nodes...)
		start := time.Now()
		until(t, 90*time.Second, "every replica counts again", func() error {
			for i := range 50 {
				status, body, err := try(t.Context(), "GET", f.nodes[i%3].url(fmt.Sprintf("/kv/b/k%d?r=3", i)), "")
				if err == nil && (status != 200 || body != fmt.Sprint("v", i)) {
					err = fmt.Errorf("k%d: %d %s", i, status, body)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
		t.Logf("%d killed: all replicas count again %.1f s after they were ready", len(killed), time.Since(start).Seconds())
	}
	whole(f.nodes[1])
	whole(f.nodes...)
}
