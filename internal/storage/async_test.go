package storage

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dunlindb/dunlin/vclock"
)

// What nobody waits for is answered once: when it is committed, when the commit fails, or when it is refused.
func TestAsyncWritesAreAnsweredOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f faults
		s := openMemory(t, Options{Commit: f.commit, Shards: 1, QueueLen: 4})
		held, release := hold(&f)
		var mu sync.Mutex
		got := map[string][]error{}
		answer := func(key string) func(error) {
			return func(err error) {
				mu.Lock()
				defer mu.Unlock()
				got[key] = append(got[key], err)
			}
		}
		merge := func(key string, left time.Duration) {
			tell := answer(key)
			s.MergeAsync(Key{1, "b", key}, peerObject(7, 1, key), MergeOptions{}, left, func(ack Ack, err error) {
				if err == nil && (!ack.Fsynced || !ack.Changed) {
					t.Errorf("%s: %+v", key, ack)
				}
				tell(err)
			})
		}
		mint := func(ctx context.Context, key string) (applied *atomic.Bool, abandon func() bool) {
			applied = new(atomic.Bool)
			tell := answer(key)
			return applied, s.MintAsync(ctx, Key{1, "b", key}, vclock.Write{Value: []byte(key)}, func(vclock.Minted, uint64) { applied.Store(true) },
				func(m vclock.Minted, ack Ack, err error) {
					if err == nil && (!ack.Fsynced || m.Record.IsZero()) {
						t.Errorf("%s: %+v, %+v", key, m, ack)
					}
					tell(err)
				})
		}
		ctx, cancel := context.WithCancel(t.Context())
		applied, tooLate := mint(t.Context(), "applied")
		<-held // its commit
		merge("merged", time.Minute)
		merge("overdue", time.Second)
		gone, _ := mint(ctx, "gone")
		taken, abandon := mint(t.Context(), "taken back")
		merge("too many", time.Minute)
		if !applied.Load() || tooLate() {
			t.Error("what was applied was taken back, or not applied")
		}
		if !abandon() || abandon() {
			t.Error("what was queued could not be taken back, or twice")
		}
		cancel()
		time.Sleep(2 * time.Second) // virtual
		mu.Lock()
		if len(got) != 1 || !errors.Is(got["too many"][0], ErrOverloaded) {
			t.Errorf("before the commit: %v", got)
		}
		mu.Unlock()
		release()
		synctest.Wait()
		f.set(nil)
		put(t, s, Key{1, "b", "barrier"}, "")
		for key, want := range map[string]error{
			"applied": nil, "merged": nil, "overdue": context.DeadlineExceeded, "gone": context.Canceled, "too many": ErrOverloaded,
		} {
			if len(got[key]) != 1 || !errors.Is(got[key][0], want) {
				t.Errorf("%s: %v, want once %v", key, got[key], want)
			}
			if found := get(t, s, Key{1, "b", key}).Found; found != (want == nil) {
				t.Errorf("%s: found %v", key, found)
			}
		}
		if len(got["taken back"]) > 0 || taken.Load() || gone.Load() || get(t, s, Key{1, "b", "taken back"}).Found {
			t.Errorf("what was taken back was answered %v, or applied", got["taken back"])
		}
		if st := s.Status(); st.QueueOps != 0 || st.QueueBytes != 0 {
			t.Errorf("the queue afterwards: %+v", st)
		}

		f.set(func(func() error) error { return errDisk })
		mint(t.Context(), "failed")
		synctest.Wait()
		if err := got["failed"]; len(err) != 1 || !errors.Is(err[0], ErrCommit) {
			t.Errorf("a failed commit: %v", err)
		}
		f.set(nil)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		mint(t.Context(), "closed")
		merge("closed too", time.Minute)
		if len(got["closed"]) != 1 || len(got["closed too"]) != 1 || got["closed"][0] == nil || got["closed too"][0] == nil {
			t.Errorf("after Close: %v, %v", got["closed"], got["closed too"])
		}
	})
}

// Recent shows what Get shows, or nothing.
func TestRecent(t *testing.T) {
	s, _ := openTest(t, t.TempDir(), Options{Durability: OS, CacheBytes: 256 << 10, Partitions: 4})
	found := 0
	for i := range 200 {
		k := Key{i % 4, "b", fmt.Sprint("key", i%90)}
		switch i % 5 {
		case 3:
			_ = get(t, s, k)
		default:
			put(t, s, k, fmt.Sprint("value", i))
		}
		for j := range 90 {
			k := Key{j % 4, "b", fmt.Sprint("key", j)}
			r, ok := s.Recent(k)
			if !ok {
				continue
			}
			found++
			if p, err := s.Peek(k); err != nil || !p.Found || p.Digest != r.Digest || p.Round != r.Round || !p.Record.Object.Equal(r.Record.Object) {
				t.Fatalf("%v: in memory %+v, on the disk %+v, %v", k, r, p, err)
			}
		}
	}
	if found == 0 {
		t.Error("nothing was in memory")
	}
	if _, ok := s.Recent(Key{0, "b", "never written"}); ok {
		t.Error("found what was never written")
	}
	if _, ok := s.Recent(Key{9, "b", "key1"}); ok {
		t.Error("found a key of no partition")
	}
	k := Key{1, "b", "key1"}
	put(t, s, k, "value")
	if err := s.Drop(t.Context(), []int{1}); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Recent(k); ok {
		t.Error("found what was dropped")
	}
}
