package storage

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/dunlindb/dunlin/vclock"
)

// space is the answer of Statfs in a test.
type space struct{ free, total atomic.Uint64 }

func newSpace(free, total uint64) *space {
	d := &space{}
	d.free.Store(free)
	d.total.Store(total)
	return d
}

func (d *space) statfs(string) (uint64, uint64, error) { return d.free.Load(), d.total.Load(), nil }

// Many writes that arrive at once each find room, but together they must not take more than there is.
func TestGuardCountsWritesUnderWay(t *testing.T) {
	const minFree, room = 256 << 20, 40 << 20
	d := newSpace(minFree+room, 1<<30)
	begun, release := make(chan struct{}, 64), make(chan struct{})
	s, _ := openTest(t, t.TempDir(), Options{MinFree: minFree, Statfs: d.statfs, Commit: func(commit func() error) error {
		begun <- struct{}{}
		<-release
		return commit()
	}})
	value := make([]byte, 1<<20)
	var wg sync.WaitGroup
	var stored, full atomic.Int64
	refused := make(chan struct{}, 64)
	for i := range 64 {
		wg.Go(func() {
			_, _, err := s.Mint(context.Background(), Key{1, "b", string(rune('A' + i))}, vclock.Write{Value: value}, nil)
			switch {
			case err == nil:
				stored.Add(1)
			case errors.Is(err, ErrFull):
				full.Add(1)
				refused <- struct{}{}
			default:
				t.Error(err)
			}
		})
		if i == 0 {
			<-begun // the mark that the others pass is asked once more of what is not yet in a commit
		}
	}
	for range 64 - room/(writeCopies<<20) { // the rest waits for the commit
		<-refused
	}
	close(release)
	wg.Wait()
	if n := stored.Load(); n == 0 || n*writeCopies<<20 > room {
		t.Errorf("%d MiB were taken at once with room for %d MiB in %d copies", n, room>>20, writeCopies)
	}
	if left := s.guard.inFlight.Load(); left != 0 {
		t.Errorf("%d bytes are still counted", left)
	}
}

// A small write to a large key writes all of the key.
func TestGuardCountsTheWholeObject(t *testing.T) {
	const minFree = 256 << 20
	d := newSpace(10<<30, 10<<30)
	s, _ := openTest(t, t.TempDir(), Options{MinFree: minFree, Statfs: d.statfs})
	k := Key{1, "b", "k"}
	if _, err := s.Merge(t.Context(), k, bigObject(7, 1, 4<<20), MergeOptions{}); err != nil {
		t.Fatal(err)
	}
	d.free.Store(minFree + 4<<20)
	s.guard.measure()
	_, _, err := s.Mint(t.Context(), k, vclock.Write{Value: []byte("x")}, nil)
	if !errors.Is(err, ErrFull) {
		t.Errorf("4 MiB were rewritten where 4 MiB are left: %v", err)
	}
	if _, _, err := s.Mint(t.Context(), Key{1, "b", "small"}, vclock.Write{Value: []byte("x")}, nil); !errors.Is(err, ErrFull) {
		t.Errorf("the mark that was passed does not hold: %v", err)
	}
	if left := s.guard.inFlight.Load(); left != 0 {
		t.Errorf("%d bytes are still counted", left)
	}
}

// Whatever comes of a write, it is not counted any more once it is answered.
func TestGuardForgetsAnsweredWrites(t *testing.T) {
	hold, fail := make(chan struct{}), errDisk
	begun := make(chan struct{}, 1)
	d := newSpace(10<<30, 10<<30)
	s, _ := openTest(t, t.TempDir(), Options{QueueBytes: 4 << 10, Statfs: d.statfs, Commit: func(func() error) error {
		begun <- struct{}{}
		<-hold
		return fail
	}})
	write := func(ctx context.Context, key string, n int) error {
		_, _, err := s.Mint(ctx, Key{1, "b", key}, vclock.Write{Value: make([]byte, n)}, nil)
		return err
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := write(context.Background(), "failed", 100); !errors.Is(err, ErrCommit) {
			t.Error(err)
		}
	})
	<-begun
	ctx, cancel := context.WithCancel(context.Background())
	wg.Go(func() {
		if err := write(ctx, "abandoned", 100); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	for len(s.shards[0].queue) == 0 {
		runtime.Gosched()
	}
	if err := write(context.Background(), "overloaded", 8<<10); !errors.Is(err, ErrOverloaded) {
		t.Error(err)
	}
	cancel()
	close(hold)
	wg.Wait()
	if err := s.exclusive(t.Context(), func() error { return nil }); err != nil { // the queue is worked off
		t.Fatal(err)
	}
	if left := s.guard.inFlight.Load(); left != 0 {
		t.Errorf("%d bytes are still counted", left)
	}
}

func TestReserve(t *testing.T) {
	for _, c := range []struct {
		f    footprint
		want uint64
	}{
		{footprint{}, 0},
		{footprint{logs: 10}, 20},
		{footprint{logs: 10, level0: 100, base: 50, tables: 150}, 170}, // all of a small store may be compacted at once
		{footprint{logs: 10, level0: 100, base: 50, tables: 1 << 40}, 170 + deepCompaction},
	} {
		if got := c.f.reserve(); got != c.want {
			t.Errorf("%+v: %d, want %d", c.f, got, c.want)
		}
	}
	g := &guard{floor: 400}
	g.minFree.Store(1000)
	g.reserve.Store(300)
	if a, b, c := g.mark(levelNoClient), g.mark(levelNoReplica), g.mark(levelNothing); a != 1000 || b != 500 || c != 400 {
		t.Errorf("marks %d, %d, %d", a, b, c)
	}
}

// The logs and tables of a real store are counted.
func TestFootprint(t *testing.T) {
	s, _ := openTest(t, t.TempDir(), Options{})
	before := s.footprint()
	for i := range 40 {
		if _, err := s.Merge(t.Context(), Key{i, "b", "k"}, bigObject(7, 1, 1<<20), MergeOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	f := s.footprint()
	if total := f.logs - before.logs + f.tables - before.tables; total < 40<<20 || total > 100<<20 || f.logs == 0 {
		t.Errorf("40 MiB were written, but logs and tables are %+v", f)
	}
}

func TestMinFreeAtOpening(t *testing.T) {
	open := func(o Options) (string, error) {
		var log strings.Builder
		o.Logger = slog.New(slog.NewTextHandler(&log, nil))
		d, err := OpenDir(t.TempDir(), "test")
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		s, err := Open(d, o)
		if err == nil {
			err = s.Close()
		}
		return log.String(), err
	}
	if _, err := open(Options{MinFree: 2 << 30, Statfs: newSpace(1<<30, 1<<30).statfs}); !errors.Is(err, ErrMinFree) {
		t.Errorf("more is to stay free than the disk has: %v", err)
	}
	if log, err := open(Options{MinFree: 1 << 20, Statfs: newSpace(1<<30, 1<<30).statfs}); err != nil || !strings.Contains(log, "min-free is too small") {
		t.Errorf("a mark that is not safe: %v, %q", err, log)
	}
	if log, err := open(Options{MinFree: 64 << 20, Statfs: newSpace(1<<30, 1<<30).statfs}); err != nil || strings.Contains(log, "min-free") {
		t.Errorf("a mark that is safe: %v, %q", err, log)
	}
	if _, err := open(Options{Statfs: newSpace(1<<20, 1<<30).statfs}); !errors.Is(err, ErrFull) {
		t.Errorf("no room to open: %v", err)
	}
}
