package storage

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/dgraph-io/badger/v4"

	"github.com/dunlindb/dunlin/vclock"
)

// copyDir makes a crash image: what a process that is killed now leaves. Holes stay holes.
func copyDir(tb testing.TB, from, to string) {
	tb.Helper()
	err := tryCopy(from, to)
	for tries := 1; errors.Is(err, fs.ErrNotExist) && tries < 20; tries++ {
		// badger has replaced a file meanwhile. What would be copied is of no one moment.
		if err = os.RemoveAll(to); err == nil {
			err = tryCopy(from, to)
		}
	}
	if err != nil {
		tb.Fatal(err)
	}
}

func tryCopy(from, to string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if e.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		return copySparse(path, filepath.Join(to, rel))
	})
}

func copySparse(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	buf, zero := make([]byte, 256<<10), make([]byte, 256<<10)
	for at := int64(0); ; {
		n, err := io.ReadFull(in, buf)
		if n > 0 && !bytes.Equal(buf[:n], zero[:n]) {
			if _, err := out.WriteAt(buf[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return out.Truncate(at)
		}
		if err != nil {
			return err
		}
	}
}

// Killed at any moment, a store comes back with every write that it acknowledged, and never mints a dot again.
func TestCrashKeepsWhatWasAcknowledged(t *testing.T) {
	for _, durability := range []Durability{Fsync, OS} {
		t.Run(durability.String(), func(t *testing.T) {
			path := t.TempDir()
			s, _ := openTest(t, path, Options{Durability: durability, Shards: 2})
			var mu sync.Mutex
			acked := make(map[Key]vclock.Minted)
			image := t.TempDir()
			want := make(map[Key]vclock.Minted)
			var wg sync.WaitGroup
			stop := make(chan struct{})
			half := make(chan struct{})
			for w := range 8 {
				wg.Go(func() {
					for i := 0; ; i++ {
						select {
						case <-stop:
							return
						default:
						}
						k := Key{i % 7, fmt.Sprintf("b%d", w%3), fmt.Sprintf("k%d-%d", w, i%50)}
						m, _ := put(t, s, k, fmt.Sprintf("%d", i))
						mu.Lock()
						acked[k] = m
						if len(acked) == 300 {
							select {
							case <-half:
							default:
								close(half)
							}
						}
						mu.Unlock()
					}
				})
			}
			<-half
			mu.Lock()
			for k, m := range acked {
				want[k] = m
			}
			mu.Unlock()
			copyDir(t, path, image) // while the writers go on
			close(stop)
			wg.Wait()

			crashed, d := openTest(t, image, Options{Durability: durability, Shards: 2})
			if id := d.Identity(); id.CleanStop || id.Fresh || id.MayHaveLost != (durability == OS) {
				t.Errorf("identity after a crash: %+v", id)
			}
			incarnations := make(map[uint64]bool)
			for _, sh := range s.shards {
				incarnations[sh.incarnation] = true
			}
			for _, sh := range crashed.shards {
				if incarnations[sh.incarnation] {
					t.Error("an incarnation came back")
				}
			}
			for k, m := range want {
				st := get(t, crashed, k)
				if !st.Record.Context.Covers(m.Dot) {
					t.Errorf("%v: acknowledged %v is gone: %v", k, m.Dot, st.Record.Context)
				}
				again, _ := put(t, crashed, k, "again")
				if again.Dot.Actor == m.Dot.Actor {
					t.Errorf("%v: actor %v continued after a crash", k, again.Dot.Actor)
				}
			}
			if got := crashed.Buckets(); len(got) != 3 {
				t.Errorf("buckets %q", got)
			}
		})
	}
}

// The old process's dots and those of its crash image are all different, key by key.
func TestDotsAreNeverReused(t *testing.T) {
	path, image := t.TempDir(), t.TempDir()
	s, _ := openTest(t, path, Options{})
	dots := make(map[vclock.Dot]bool)
	mint := func(s *Store, k Key) {
		t.Helper()
		m, _ := put(t, s, k, "x")
		if dots[m.Dot] {
			t.Errorf("%v minted twice", m.Dot)
		}
		dots[m.Dot] = true
	}
	keys := []Key{{1, "b", "k"}, {2, "b", "l"}}
	for range 3 {
		mint(s, keys[0])
		mint(s, keys[1])
	}
	copyDir(t, path, image)
	mint(s, keys[0]) // lost to the image, seen by peers
	mint(s, keys[1])
	crashed, d := openTest(t, image, Options{})
	for range 3 {
		mint(crashed, keys[0])
	}
	closeTest(t, crashed, d)
	clean, d := openTest(t, image, Options{}) // and after a clean stop
	if id := d.Identity(); !id.CleanStop {
		t.Errorf("identity %+v, want a clean stop", id)
	}
	for range 3 {
		mint(clean, keys[0])
		mint(clean, keys[1])
	}
}

// Killed while badger makes its logs, a store leaves one without a byte. It opens all the same, with all that it had.
func TestKilledWhileMakingLogs(t *testing.T) {
	for _, stubs := range [][]string{{"00099.mem"}, {"000099.vlog"}, {"00099.mem", "000098.vlog", "000099.vlog"}} {
		path, image := t.TempDir(), t.TempDir()
		s, _ := openTest(t, path, Options{})
		k := Key{1, "b", "k"}
		m, _ := put(t, s, k, "x")
		copyDir(t, path, image)
		for _, name := range stubs {
			if err := os.WriteFile(filepath.Join(image, dataName, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			again, d := openTest(t, image, Options{})
			if st := get(t, again, k); !st.Record.Context.Covers(m.Dot) {
				t.Errorf("%q: acknowledged %v is gone", stubs, m.Dot)
			}
			closeTest(t, again, d)
		}
	}
}

// A killed process may have had larger memtables than the next one: drawn so, or of an earlier version. badger makes room
// for a log by the size that memtables have now, and panics when that is too little.
func TestLogsOfLargerMemtables(t *testing.T) {
	for name, size := range map[string]int{"large values": 100 << 10, "small values": 10} {
		t.Run(name, func(t *testing.T) {
			path, killed := t.TempDir(), filepath.Join(t.TempDir(), "killed")
			s, _ := openTest(t, path, Options{Durability: OS, tune: func(o badger.Options) badger.Options {
				return o.WithMemTableSize(24 << 20)
			}})
			value := bytes.Repeat([]byte("v"), size)
			n := 23 << 20 / (size + 300) // not as many as it takes to have the memtable written
			var wg sync.WaitGroup
			for w := range 50 {
				wg.Go(func() {
					for i := w; i < n; i += 50 {
						put(t, s, Key{i % 4, "b", fmt.Sprint(i)}, string(value))
					}
				})
			}
			wg.Wait()
			if got := s.memtables(); got != 1 {
				t.Fatalf("%d memtables", got)
			}
			copyDir(t, path, killed)
			s, _ = openTest(t, killed, Options{})
			for i := range n {
				if o := get(t, s, Key{i % 4, "b", fmt.Sprint(i)}); !o.Found || !bytes.Equal(o.Record.Siblings[0].Value, value) {
					t.Fatalf("key %d of %d: found %v", i, n, o.Found)
				}
			}
		})
	}
}

// A log that claims to be huge is damaged, and must not have as much memory made ready for it.
func TestSizeForDamagedLogs(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "00001"+logExtension))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(1<<40), f.Close()); err != nil {
		t.Fatal(err)
	}
	opt, err := sizeForLogs(badgerOptions(dir, Options{}))
	if err != nil || opt.MemTableSize != memTableLimit {
		t.Errorf("memtables of %d bytes, %v", opt.MemTableSize, err)
	}
}
