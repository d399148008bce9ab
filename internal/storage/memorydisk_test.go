package storage

import (
	"errors"
	"testing"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// openDisk opens a store in a disk in memory.
func openDisk(t *testing.T, m *MemoryDisk, o Options) (*Store, *Dir) {
	t.Helper()
	d := m.Open()
	o.Statfs = func(string) (free, total uint64, err error) { return 1 << 40, 1 << 40, nil }
	s, err := Open(d, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, d
}

func newDisk(t *testing.T) *MemoryDisk {
	t.Helper()
	m := NewMemoryDisk(ring.NodeID{1}, "c")
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// What was synced survives a power cut, what was not is lost, and whoever had the disk open changes nothing any more.
func TestMemoryDiskLosesWhatWasNotSynced(t *testing.T) {
	for _, durability := range []Durability{Fsync, OS} {
		t.Run(durability.String(), func(t *testing.T) {
			m := newDisk(t)
			s, d := openDisk(t, m, Options{Durability: durability})
			if id := d.Identity(); !id.Fresh || !id.CleanStop {
				t.Errorf("a new disk: %+v", id)
			}
			a, b := Key{1, "b", "a"}, Key{1, "b", "b"}
			put(t, s, a, "1")
			m.Sync()
			put(t, s, b, "1")
			if err := errors.Join(d.Save("x", []byte("1")), m.PowerCut()); err != nil {
				t.Fatal(err)
			}
			if _, _, err := s.Mint(t.Context(), a, vclock.Write{Value: []byte("2")}, nil); !errors.Is(err, ErrCommit) {
				t.Errorf("a write after the cut: %v", err)
			}
			if err := d.Save("x", []byte("2")); !errors.Is(err, ErrPowerCut) {
				t.Errorf("a file after the cut: %v", err)
			}
			next, d := openDisk(t, m, Options{Durability: durability})
			if id := d.Identity(); id.Fresh || id.CleanStop || id.MayHaveLost != (durability == OS) {
				t.Errorf("after the cut: %+v", id)
			}
			if got := get(t, next, a).Record; len(got.Siblings) != 1 || string(got.Siblings[0].Value) != "1" {
				t.Errorf("what was synced: %+v", got)
			}
			if got := get(t, next, b).Record; got.IsZero() != (durability == OS) {
				t.Errorf("what was not synced apart: %+v", got)
			}
			if x, err := d.Load("x"); err != nil || string(x) != "1" {
				t.Errorf("the small file: %q, %v", x, err)
			}
			closeTest(t, next, d)
			if id := m.Open().Identity(); !id.CleanStop || id.MayHaveLost {
				t.Errorf("after a clean stop: %+v", id)
			}
		})
	}
}
