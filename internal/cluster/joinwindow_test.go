package cluster

import (
	"fmt"
	"testing"
	"time"
)

// One node is not kept waiting for others for long; those that keep coming are one epoch, and nobody waits for ever for the
// last.
func TestHowLongJoinsAreGathered(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		_, nodes := w.abc()
		c := nodes[0]
		ask := func(i int, after time.Duration) {
			time.Sleep(after)
			cfg := w.config(fmt.Sprint("x", i), abc)
			j := joinRequest{member: cfg.self()}
			if _, err := c.serveJoin(t.Context(), j.member.ID, j.encode()); err != nil {
				t.Fatal(err)
			}
		}
		due := func(want time.Duration) {
			t.Helper()
			if joins, got := c.gathered(); got != want || len(joins) > 0 {
				t.Errorf("%d nodes are let in, and the others wait for %v, want %v", len(joins), got, want)
			}
		}
		ask(0, 0)
		due(joinPause)
		ask(0, joinPause/2) // the same again
		due(joinPause / 2)
		ask(1, joinPause/4)
		due(joinPause)
		ask(2, joinPause*3/4)
		due(joinPause)
		ask(3, joinPause*3/4)
		due(joinWindow - joinPause*9/4)
	})
}
