package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// filled is a store on a disk with some MiB in each of two partitions, all of it in tables.
func filled(t *testing.T, each int, o Options) *Store {
	t.Helper()
	path := t.TempDir()
	o.Durability, o.Partitions = OS, 8
	s, d := openTest(t, path, o)
	const size = 256 << 10
	for p := 2; p <= 3; p++ {
		for i := range each << 20 / size {
			k := Key{p, "b", fmt.Sprintf("key-%05d", i)}
			if _, err := s.Merge(t.Context(), k, bigObject(1, 1, size), MergeOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	closeTest(t, s, d)
	s, _ = openTest(t, path, o)
	return s
}

// Tables are not rewritten for little.
func TestReclaimLeavesLittle(t *testing.T) {
	steps := 0
	s := filled(t, 4, Options{Logger: slog.New(stopAt{slog.DiscardHandler, &steps, func() {}})})
	if err := s.Drop(t.Context(), []int{2}); err != nil {
		t.Fatal(err)
	}
	if err := s.Reclaim(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(rawKeys(t, s, spaceFiller)); steps > 0 || n > 0 {
		t.Errorf("%d steps, %d fillers", steps, n)
	}
}

// stopAt is a logger's handler that calls stop at the first step of a Flatten.
type stopAt struct {
	slog.Handler
	steps *int
	stop  func()
}

func (h stopAt) Enabled(context.Context, slog.Level) bool { return true }

func (h stopAt) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, flattenStep) {
		*h.steps++
		h.stop()
	}
	return nil
}

func (h stopAt) WithAttrs([]slog.Attr) slog.Handler { return h }

// What a dropped partition took comes back, and the other partition is as it was. When its context ends before, Reclaim
// leaves badger's Flatten at its next step, and the store goes on.
func TestReclaim(t *testing.T) {
	steps := 0
	var s *Store
	ctx, cancel := context.WithCancel(t.Context())
	stop := func() {
		if steps == 1 {
			cancel()
			waitFor(t, "it is noticed", s.giveUp.Load)
		}
	}
	s = filled(t, 48, Options{Logger: slog.New(stopAt{slog.DiscardHandler, &steps, stop})})
	const all = 96 << 20
	waitFor(t, "badger's first compaction", func() bool { f := s.footprint(); return f.tables > f.level0 && f.tables < all*5/4 })
	kept := contents(t, s, 3)
	if err := s.Drop(t.Context(), []int{2}); err != nil {
		t.Fatal(err)
	}
	if err := s.Reclaim(ctx); !errors.Is(err, context.Canceled) || steps != 1 {
		t.Fatalf("%v after %d steps", err, steps)
	}
	if now := s.footprint().tables; now < all*9/10 {
		t.Fatalf("%d bytes of tables: the drop alone gave some back, and the test shows nothing", now)
	}
	put(t, s, Key{4, "b", "k"}, "the store goes on")

	if err := s.Reclaim(t.Context()); err != nil || steps < 2 {
		t.Fatalf("%v after %d steps", err, steps)
	}
	if now := s.footprint().tables; now > all*6/10 {
		t.Errorf("%d bytes of tables, were %d, of which a half was dropped", now, all)
	}
	if got := contents(t, s, 3); len(got) != len(kept) || len(got) == 0 {
		t.Errorf("the other partition has %d keys, had %d", len(got), len(kept))
	}
	for _, k := range kept {
		if st := get(t, s, Key{3, k.Bucket, k.Key}); st.Digest != k.Digest {
			t.Fatalf("%s changed", k.Key)
		}
	}
	checkGone(t, s, 2)
	if n := len(rawKeys(t, s, spaceFiller)); n > 0 {
		t.Errorf("%d fillers are left", n)
	}
	did := steps
	if err := s.Reclaim(t.Context()); err != nil || steps != did {
		t.Errorf("again, for nothing: %v, %d steps more", err, steps-did)
	}
}
