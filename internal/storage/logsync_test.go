package storage

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dunlindb/dunlin/vclock"
)

// spyLogs calls f for each log that is to be synced, in place of the sync.
func spyLogs(s *Store, f func(*os.File) error) {
	s.logs.mu.Lock()
	defer s.logs.mu.Unlock()
	s.logs.sync = f
}

// What is acknowledged is on the disk, also when badger has gone on to another log: none holds a byte that was not synced.
func TestLogsAreSynced(t *testing.T) {
	path := t.TempDir()
	s, _ := openTest(t, path, Options{tune: smallMemTables})
	synced := map[string][]byte{} // logs, as a power cut would leave them
	spyLogs(s, func(f *os.File) error {
		b, err := os.ReadFile(f.Name())
		if errors.Is(err, fs.ErrNotExist) {
			return nil // all of it is in a table
		}
		synced[f.Name()] = b
		return err
	})
	logs := map[string]bool{}
	value := strings.Repeat("v", 30<<10)
	for i := range 80 {
		put(t, s, Key{i % 7, "b", "k"}, value)
		now, err := filepath.Glob(filepath.Join(path, dataName, "*"+logExtension))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range now {
			b, err := os.ReadFile(name)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.HasPrefix(synced[name], b) { // badger empties a log before it removes it
				t.Fatalf("after write %d, %s holds what is not synced (synced: %d logs)", i, filepath.Base(name), len(synced))
			}
			logs[name] = true
		}
	}
	if len(logs) < 3 {
		t.Errorf("only %d logs were seen: %v", len(logs), maps.Keys(logs))
	}
}

// A log that cannot be synced fails the write, and all later ones: nobody knows what of it is on the disk.
func TestLogThatIsNotSynced(t *testing.T) {
	s, _ := openTest(t, t.TempDir(), Options{})
	k := Key{1, "b", "k"}
	put(t, s, k, "1")
	broken := errors.New("broken")
	spyLogs(s, func(*os.File) error { return broken })
	if _, _, err := s.Mint(t.Context(), k, vclock.Write{Value: []byte("2")}, nil); !errors.Is(err, ErrCommit) || !errors.Is(err, broken) {
		t.Errorf("the write: %v", err)
	}
	if err := s.Healthy(); !errors.Is(err, ErrUnhealthy) {
		t.Errorf("healthy: %v", err)
	}
	spyLogs(s, fdatasync)
	if _, _, err := s.Mint(t.Context(), k, vclock.Write{Value: []byte("3")}, nil); !errors.Is(err, ErrUnhealthy) {
		t.Errorf("a later write: %v", err)
	}
}

// Nobody reads what a power cut could take back.
func TestReadsWaitForTheSync(t *testing.T) {
	s, _ := openTest(t, t.TempDir(), Options{})
	k := Key{1, "b", "k"}
	first, _ := put(t, s, k, "1")
	syncing, release := make(chan struct{}), make(chan struct{})
	spyLogs(s, func(f *os.File) error {
		close(syncing)
		<-release
		return fdatasync(f)
	})
	second := vclock.Dot{Actor: first.Dot.Actor, Counter: first.Dot.Counter + 1}
	written := make(chan error, 1)
	go func() {
		m, _, err := s.Mint(t.Context(), k, vclock.Write{Value: []byte("2")}, nil)
		if m.Dot != second {
			err = errors.Join(err, fmt.Errorf("minted %v, want %v", m.Dot, second))
		}
		written <- err
	}()
	<-syncing
	if st, err := s.Peek(k); err != nil || !st.Record.Context.Covers(first.Dot) || st.Record.Context.Covers(second) {
		t.Errorf("while the write is synced: %+v, %v", st.Record, err)
	}
	if s.logs.mu.TryRLock() {
		s.logs.mu.RUnlock()
		t.Error("a transaction that begins now would show the write")
	}
	close(release)
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	if st, err := s.Peek(k); err != nil || !st.Record.Context.Covers(second) {
		t.Errorf("after the write: %+v, %v", st.Record, err)
	}
}
