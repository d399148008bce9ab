package storage

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/dunlindb/dunlin/vclock"
)

// When badger itself can no longer write, here because it cannot make files, the store refuses writes, goes on to read,
// and can be closed. A later start has all that was acknowledged.
func TestDiskThatMakesNoFiles(t *testing.T) {
	path := t.TempDir()
	s, d := openTest(t, path, Options{})
	data := filepath.Join(path, dataName)
	if err := os.Rename(data, data+".gone"); err != nil {
		t.Fatal(err)
	}
	value := make([]byte, 256<<10)
	acked := map[Key]vclock.Dot{}
	write := func(k Key) error {
		m, _, err := s.Mint(t.Context(), k, vclock.Write{Value: value}, nil)
		if err == nil {
			acked[k] = m.Dot
		}
		return err
	}
	var failed error
	for i := 0; failed == nil && i < 4*memTableSize/len(value); i++ {
		failed = write(Key{i, "b", "k"})
	}
	if !errors.Is(failed, ErrCommit) || len(acked) == 0 {
		t.Fatalf("after %d writes: %v, want %v", len(acked), failed, ErrCommit)
	}
	if err := s.Healthy(); !errors.Is(err, ErrUnhealthy) {
		t.Errorf("healthy: %v", err)
	}
	if err := write(Key{0, "b", "later"}); !errors.Is(err, ErrUnhealthy) {
		t.Errorf("a later write: %v", err)
	}
	if err := s.update(func(txn *badger.Txn) error { return txn.Set(metaKey("m"), []byte("x")) }); !errors.Is(err, ErrUnhealthy) {
		t.Errorf("a write of the store's own: %v", err)
	}
	for k := range acked {
		if st, err := s.Get(k); !errors.Is(err, ErrRead) && (err != nil || !st.Found) {
			t.Errorf("%v is neither read nor unreadable: %v", k, err)
			break
		}
	}
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * brokenLimit):
		t.Fatal("a store whose disk is broken cannot be closed")
	}
	image := t.TempDir() // since the process lives on here, and its badger with it
	copyDir(t, path, image)
	err := errors.Join(os.Rename(filepath.Join(image, dataName+".gone"), filepath.Join(image, dataName)), os.Rename(data+".gone", data))
	if err != nil {
		t.Fatal(err)
	}
	<-s.dbClosed
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	again, d := openTest(t, image, Options{})
	if id := d.Identity(); id.CleanStop {
		t.Error("that was no clean stop")
	}
	for k, dot := range acked {
		if st := get(t, again, k); !st.Record.Context.Covers(dot) {
			t.Errorf("%v: acknowledged %v is gone", k, dot)
		}
		if m, _ := put(t, again, k, "again"); m.Dot.Actor == dot.Actor {
			t.Errorf("%v: actor %v is continued", k, dot.Actor)
		}
	}
}
