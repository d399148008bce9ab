package storage

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func checkMarks(tb testing.TB, s *Store, want map[int]Mark) {
	tb.Helper()
	for p, m := range want {
		if got, _ := s.Marks(p); got != m {
			tb.Errorf("partition %d has marks %b, want %b", p, got, m)
		}
	}
}

func TestMarks(t *testing.T) {
	path := t.TempDir()
	s, d := openTest(t, path, Options{})
	if err := s.SetMark(t.Context(), []int{1, 2, 65535}, MarkBehind); err != nil {
		t.Fatal(err)
	}
	_, since := s.Marks(1)
	if err := s.SetMark(t.Context(), []int{2}, MarkDamaged); err != nil {
		t.Fatal(err)
	}
	want := map[int]Mark{0: 0, 1: MarkBehind, 2: MarkBehind | MarkDamaged, 65535: MarkBehind}
	checkMarks(t, s, want)
	closeTest(t, s, d)
	s, d = openTest(t, path, Options{})
	checkMarks(t, s, want)
	// Marked again meanwhile: what was begun before does not clear it.
	if err := s.SetMark(t.Context(), []int{1}, MarkBehind); err != nil {
		t.Fatal(err)
	}
	_, again := s.Marks(1)
	if again <= since {
		t.Errorf("since %d after %d", again, since)
	}
	if err := s.ClearMark(t.Context(), 1, MarkBehind, since); err != nil {
		t.Fatal(err)
	}
	checkMarks(t, s, want)
	_, two := s.Marks(2)
	for p, since := range map[int]uint64{1: again, 2: two} {
		if err := s.ClearMark(t.Context(), p, MarkBehind, since); err != nil {
			t.Fatal(err)
		}
	}
	want[1], want[2] = 0, MarkDamaged
	checkMarks(t, s, want)
	closeTest(t, s, d)
	s, _ = openTest(t, path, Options{})
	checkMarks(t, s, want)
	if err := s.SetMark(t.Context(), []int{1}, MarkBehind); err != nil {
		t.Fatal(err)
	}
	if _, now := s.Marks(1); now <= again {
		t.Errorf("since %d after %d, over a restart", now, again)
	}
	for _, ps := range [][]int{{-1}, {1 << 16}} {
		if err := s.SetMark(t.Context(), ps, MarkBehind); !errors.Is(err, ErrKey) {
			t.Errorf("partition %v: %v", ps, err)
		}
	}
	all := make([]int, 1<<16)
	for i := range all {
		all[i] = i
	}
	if err := s.SetMark(t.Context(), all, MarkBehind); err != nil {
		t.Errorf("marking all: %v", err)
	}
}

// A mark counts from the moment it was asked for; one that could not be cleared stays.
func TestMarksWhoseCommitFails(t *testing.T) {
	var f faults
	s := openMemory(t, Options{Commit: f.commit})
	f.set(func(func() error) error { return errDisk })
	if err := s.SetMark(t.Context(), []int{1}, MarkDamaged); !errors.Is(err, ErrCommit) {
		t.Fatal(err)
	}
	_, since := s.Marks(1)
	if err := s.ClearMark(t.Context(), 1, MarkDamaged, since); !errors.Is(err, ErrCommit) {
		t.Fatal(err)
	}
	checkMarks(t, s, map[int]Mark{1: MarkDamaged})
	f.set(nil)
	if err := s.ClearMark(t.Context(), 1, MarkDamaged, since); err != nil {
		t.Fatal(err)
	}
	checkMarks(t, s, map[int]Mark{1: 0})
}

// handlerFunc is a slog.Handler that is given the messages only.
type handlerFunc func(text string)

func (h handlerFunc) Enabled(context.Context, slog.Level) bool      { return true }
func (h handlerFunc) Handle(_ context.Context, r slog.Record) error { h(r.Message); return nil }
func (h handlerFunc) WithAttrs([]slog.Attr) slog.Handler            { return h }
func (h handlerFunc) WithGroup(string) slog.Handler                 { return h }

// A stop that may have lost something marks all partitions, durably, also when the process dies before the marks are
// written; each is cleared by itself.
func TestMayHaveLostMarks(t *testing.T) {
	path, image, early := t.TempDir(), t.TempDir(), t.TempDir()
	o := Options{Durability: OS, Partitions: 8}
	s, d := openTest(t, path, o)
	put(t, s, Key{1, "b", "k"}, "x")
	if err := s.SetMark(t.Context(), []int{3}, MarkBehind); err != nil {
		t.Fatal(err)
	}
	if s.MayHaveLost() {
		t.Error("a fresh store may have lost something")
	}
	copyDir(t, path, image)
	copyDir(t, path, early)
	closeTest(t, s, d)
	s, d = openTest(t, path, o)
	if s.MayHaveLost() {
		t.Error("a clean stop lost something")
	}
	checkMarks(t, s, map[int]Mark{0: 0, 3: MarkBehind})
	closeTest(t, s, d)

	// The note of it outlives whatever showed it.
	d, err := OpenDir(early, "test")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.suspect(), d.mark(func(m *marker) { m.CleanStop = true }), d.Close()); err != nil {
		t.Fatal(err)
	}
	s, d = openTest(t, early, o)
	checkMarks(t, s, map[int]Mark{0: MarkDamaged})
	closeTest(t, s, d)

	// It is noted before badger opens, which may mend what showed it, and no longer once the marks are on the disk.
	noted := -1
	var mu sync.Mutex
	seen := o
	seen.Logger = slog.New(handlerFunc(func(text string) {
		mu.Lock()
		defer mu.Unlock()
		if noted < 0 && strings.HasPrefix(text, "badger: ") {
			m, _, err := readMarker(image)
			if noted = 0; err == nil && m.MayHaveLost {
				noted = 1
			}
		}
	}))
	s, d = openTest(t, image, seen)
	mu.Lock()
	got := noted
	mu.Unlock()
	if m, _, err := readMarker(image); got != 1 || err != nil || m.MayHaveLost || !s.MayHaveLost() {
		t.Errorf("noted while badger opened: %d, afterwards: %v, %v", got, m.MayHaveLost, err)
	}
	want := map[int]Mark{0: MarkDamaged, 1: MarkDamaged, 3: MarkBehind | MarkDamaged, 7: MarkDamaged}
	checkMarks(t, s, want)
	_, since := s.Marks(1)
	if err := s.ClearMark(t.Context(), 1, MarkDamaged, since); err != nil {
		t.Fatal(err)
	}
	want[1] = 0
	checkMarks(t, s, want)
	closeTest(t, s, d)
	s, d = openTest(t, image, o)
	if s.MayHaveLost() {
		t.Error("a clean stop lost something")
	}
	checkMarks(t, s, want)
	second := filepath.Join(t.TempDir(), "second")
	copyDir(t, image, second)
	closeTest(t, s, d)
	s, _ = openTest(t, second, o)
	want[1] = MarkDamaged
	checkMarks(t, s, want)
}

func TestUnreadableMarkIsTheWorst(t *testing.T) {
	path := t.TempDir()
	s, d := openTest(t, path, Options{})
	if err := s.SetMark(t.Context(), []int{1, 2}, MarkBehind); err != nil {
		t.Fatal(err)
	}
	edit(t, s, partitionKey(spaceMark, 1), func(b []byte) []byte { b[len(b)-1] ^= 1; return b })
	closeTest(t, s, d)
	s, d = openTest(t, path, Options{})
	checkMarks(t, s, map[int]Mark{0: 0, 1: MarkBehind | MarkDamaged, 2: MarkBehind})
	edit2 := s.db.NewTransaction(true)
	if err := edit2.Set([]byte{spaceMark}, []byte("nonsense")); err != nil || edit2.Commit() != nil {
		t.Fatal(err)
	}
	closeTest(t, s, d)
	s, _ = openTest(t, path, Options{})
	checkMarks(t, s, map[int]Mark{0: MarkDamaged, 2: MarkBehind | MarkDamaged})
}

func TestMarkAndRoundGolden(t *testing.T) {
	key := partitionKey(spaceMark, 513)
	mark := encodeMark(key, markState{MarkBehind | MarkDamaged, 0x0102030405060708})
	checkGolden(t, "mark.hex", append(key, mark...))
	key = partitionKey(spaceRound, 513)
	round := encodeRound(key, 0x0102030405060708)
	checkGolden(t, "round.hex", append(key, round...))
	if p, r, err := decodeRound(key, round); p != 513 || r != 0x0102030405060708 || err != nil {
		t.Errorf("round %d %x %v", p, r, err)
	}
}

func FuzzSmallRecords(f *testing.F) {
	key := partitionKey(spaceMark, 513)
	f.Add(encodeMark(key, markState{MarkDamaged, 9}))
	f.Add(encodeRound(partitionKey(spaceRound, 513), 9))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := decodeMark(key, b); err == nil && string(encodeMark(key, m)) != string(b) {
			t.Fatalf("mark %x", b)
		}
		key := partitionKey(spaceRound, 513)
		if _, r, err := decodeRound(key, b); err == nil && string(encodeRound(key, r)) != string(b) {
			t.Fatalf("round %x", b)
		}
	})
}
