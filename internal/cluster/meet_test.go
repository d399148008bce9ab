package cluster

import (
	"testing"
	"time"
)

// A node that seems dead and has shaken hands is looked for at once: nobody waits for the next round.
func TestWhoConnectsIsMetAtOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		_, n := w.abcd()
		w.apart(n[:2], n[2:])
		w.await(time.Minute, "the cut is noticed", func() bool { return !n[0].Alive(n[2].cfg.Self) && !n[2].Alive(n[0].cfg.Self) })
		w.together()
		time.Sleep(10 * time.Millisecond)
		if n[0].Alive(n[2].cfg.Self) {
			t.Fatal("it is alive already, so this tests nothing")
		}
		if err := n[0].Verify(n[2].cfg.Self, n[2].Hello()); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		w.await(time.Minute, "they meet", func() bool { return n[0].Alive(n[2].cfg.Self) })
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("met after %v", took)
		}
	})
}
