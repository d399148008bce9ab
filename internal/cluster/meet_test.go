package cluster

import (
	"testing"
	"testing/synctest"
	"time"
)

// A node that seems dead and has shaken hands is looked for at once, not in the next round; one that is alive is not.
func TestWhoConnectsIsLookedForAtOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		_, n := w.abcd()
		w.kill(n[2])
		w.await(time.Minute, "its death is noticed", func() bool { return !n[0].Alive(n[2].cfg.Self) })
		for _, x := range []struct {
			who  *Cluster
			more uint64
		}{{n[1], 0}, {n[2], 1}} {
			synctest.Wait()
			before := n[0].counts.rejoins.Load()
			if err := n[0].Verify(x.who.cfg.Self, x.who.Hello()); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if more := n[0].counts.rejoins.Load() - before; more != x.more {
				t.Errorf("%d attempts to reach %s, want %d", more, x.who.cfg.Name, x.more)
			}
		}
	})
}
