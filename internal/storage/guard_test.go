package storage

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dunlindb/dunlin/vclock"
)

func TestGuardLevel(t *testing.T) {
	for _, c := range []struct {
		free uint64
		old  int32
		want int32
	}{
		{1000, 0, levelFree}, {999, 0, levelNoClient}, {500, 0, levelNoClient}, {499, 0, levelNoReplica},
		{250, 0, levelNoReplica}, {249, 0, levelNothing}, {0, 0, levelNothing},
		{1099, levelNoClient, levelNoClient}, {1100, levelNoClient, levelFree},
		{549, levelNoReplica, levelNoReplica}, {550, levelNoReplica, levelNoClient}, {1050, levelNoReplica, levelNoClient},
		{274, levelNothing, levelNothing}, {275, levelNothing, levelNoReplica}, {1100, levelNothing, levelFree},
	} {
		g := &guard{}
		g.minFree.Store(1000)
		g.free.Store(c.free)
		if got := g.levelNow(c.old); got != c.want {
			t.Errorf("%d free after level %d: %d, want %d", c.free, c.old, got, c.want)
		}
	}
}

func TestAutoMinFree(t *testing.T) {
	for total, want := range map[uint64]uint64{
		256 << 20: 64 << 20, 1 << 30: 128 << 20, 4 << 30: 512 << 20, 8 << 30: 1 << 30, 20 << 30: 1 << 30, 100 << 30: 5 << 30,
	} {
		if got := autoMinFree(total); got != want {
			t.Errorf("a disk of %d GiB keeps %d MiB free, want %d", total>>30, got>>20, want>>20)
		}
	}
}

func TestStatfs(t *testing.T) {
	free, total, err := statfs(t.TempDir())
	if err != nil || free == 0 || total < free {
		t.Errorf("%d of %d, %v", free, total, err)
	}
	if _, _, err := statfs("/does/not/exist"); err == nil {
		t.Error("no error for a path that is not there")
	}
}

func TestFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var free atomic.Uint64
		var broken atomic.Bool
		free.Store(10 << 30)
		s, _ := openTest(t, t.TempDir(), Options{MinFree: 1 << 30, Statfs: func(string) (uint64, uint64, error) {
			if broken.Load() {
				return 0, 0, errDisk
			}
			return free.Load(), 100 << 30, nil
		}})
		k := Key{1, "b", "k"}
		dead := peerObject(9, 1, "")
		dead.Siblings[0].Deleted = true
		n := uint64(0)
		writes := []struct {
			name string
			do   func() error
		}{
			{"client", func() error {
				_, _, err := s.Mint(context.Background(), k, vclock.Write{LastWriteWins: true}, nil)
				return err
			}},
			{"replica", func() error {
				n++
				_, err := s.Merge(context.Background(), k, peerObject(7, n, "x"), MergeOptions{})
				return err
			}},
			{"meta", func() error { return s.PutMeta("m", nil) }},
			{"delete", func() error {
				_, _, err := s.Mint(context.Background(), k, vclock.Write{Deleted: true, LastWriteWins: true}, nil)
				return err
			}},
			{"tombstone", func() error { _, err := s.Merge(context.Background(), k, dead, MergeOptions{}); return err }},
		}
		check := func(when string, allowed int) {
			t.Helper()
			for i, w := range writes {
				if err := w.do(); (i < len(writes)-allowed) != errors.Is(err, ErrFull) || err != nil && !errors.Is(err, ErrFull) {
					t.Errorf("%s: %s: %v", when, w.name, err)
				}
			}
		}
		check("free", 5)
		free.Store(1<<30 - 1)
		check("not measured again within a second", 5)
		time.Sleep(time.Second) // virtual
		check("below MinFree", 4)
		if st := s.Status(); !st.Full || st.FullReplica || st.Free >= 1<<30 || st.Free < 1<<30-64<<10 || st.MinFree != 1<<30 || st.Total != 100<<30 {
			t.Errorf("status %+v", st)
		}
		if !get(t, s, k).Found {
			t.Error("cannot read from a full disk")
		}
		free.Store(1<<29 - 1)
		time.Sleep(time.Second)
		check("below a half", 2)
		free.Store(1<<28 - 1)
		time.Sleep(time.Second)
		check("below a quarter", 0)
		broken.Store(true)
		time.Sleep(time.Second)
		check("measuring fails: as before", 0)
		broken.Store(false)
		free.Store(1<<30 + 1)
		if st := s.Status(); !st.Full || !st.FullReplica {
			t.Errorf("status %+v", st)
		}
		time.Sleep(time.Second)
		check("not enough to begin again", 4)
		free.Store(1<<30 + 1<<28)
		time.Sleep(time.Second)
		check("room again", 5)
		// Fast writers are measured by bytes, not only by time.
		free.Store(0)
		for range guardBytes>>20 + 1 {
			if _, err := s.Merge(context.Background(), k, bigObject(7, n+1, 1<<20), MergeOptions{}); errors.Is(err, ErrFull) {
				return
			}
			n++
		}
		t.Errorf("%d MiB written without measuring the disk", guardBytes>>20+1)
	})
}
