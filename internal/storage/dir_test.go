package storage

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestDirIdentity(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "dir")
	d, err := OpenDir(path, "birds")
	if err != nil {
		t.Fatal(err)
	}
	first := d.Identity()
	if !first.Fresh || !first.CleanStop || first.MayHaveLost || first.Node.IsZero() || first.Cluster != "birds" {
		t.Errorf("fresh: %+v", first)
	}
	if first.Node[6]>>4 != 7 {
		t.Errorf("node id %v is no UUIDv7", first.Node)
	}
	steps := []struct {
		name               string
		durability         Durability
		clean              bool
		fresh, stopped, os bool // what the next OpenDir says
	}{
		{"a clean stop", OS, true, false, true, false},
		{"a kill with os", OS, false, false, false, true},
		{"a kill with fsync", Fsync, false, false, false, false},
		{"a clean stop again", Fsync, true, false, true, false},
	}
	for _, step := range steps {
		s, err := Open(d, Options{Durability: step.durability})
		if err != nil {
			t.Fatal(err)
		}
		if m, _, err := readMarker(path); err != nil || m.CleanStop || !m.Store {
			t.Errorf("%s: the mark of a clean stop outlives Open: %+v, %v", step.name, m, err)
		}
		if _, err := Open(d, Options{}); !errors.Is(err, ErrDirectory) {
			t.Errorf("%s: a second store in one directory: %v", step.name, err)
		}
		killed := t.TempDir()
		copyDir(t, path, killed)
		closeTest(t, s, d)
		if !step.clean {
			path = killed
		}
		if d, err = OpenDir(path, ""); err != nil {
			t.Fatal(err)
		}
		id := d.Identity()
		if id.Node != first.Node || id.Fresh != step.fresh || id.CleanStop != step.stopped || id.MayHaveLost != step.os {
			t.Errorf("after %s: %+v", step.name, id)
		}
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if err := d.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// A store that could not commit was not stopped cleanly, even if it was closed.
func TestUnhealthyIsNoCleanStop(t *testing.T) {
	var f faults
	path := t.TempDir()
	s, d := openTest(t, path, Options{Commit: f.commit, Logger: slog.New(slog.DiscardHandler)})
	f.set(func(func() error) error { return errDisk })
	for range maxFailures {
		if _, err := s.Merge(t.Context(), Key{1, "b", "k"}, peerObject(7, 1, ""), MergeOptions{}); !errors.Is(err, ErrCommit) {
			t.Fatal(err)
		}
	}
	closeTest(t, s, d)
	if m, _, err := readMarker(path); err != nil || m.CleanStop {
		t.Errorf("marker %+v, %v", m, err)
	}
}

// A refusal of the system is no damage: nobody should move a directory aside for it.
func TestDamagedOrRefused(t *testing.T) {
	refused := damaged("/d", fmt.Errorf("open: %w", &os.PathError{Op: "open", Path: "/d/x", Err: syscall.EMFILE}))
	if !errors.Is(refused, ErrDirectory) || errors.Is(refused, ErrDamaged) {
		t.Errorf("too many open files: %v", refused)
	}
	if err := damaged("/d", errors.New("two\n lines")); !errors.Is(err, ErrDamaged) || strings.Contains(err.Error(), "\n") {
		t.Errorf("damage: %q", err)
	}
}

// A crash between the first OpenDir and the end of the first Open leaves a directory that still can be used.
func TestCrashBeforeTheFirstStore(t *testing.T) {
	path := t.TempDir()
	d, err := OpenDir(path, "test")
	if err != nil {
		t.Fatal(err)
	}
	id := d.Identity()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(path, dataName), 0o700); err != nil { // and a part of badger's start
		t.Fatal(err)
	}
	_, d = openTest(t, path, Options{})
	if d.Identity() != id {
		t.Errorf("identity %+v, want %+v", d.Identity(), id)
	}
}

func TestDirErrors(t *testing.T) {
	used := t.TempDir()
	s, d := openTest(t, used, Options{})
	put(t, s, Key{1, "b", "k"}, "x")
	if err := d.Save("votes", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenDir(used, "test"); !errors.Is(err, ErrLocked) {
		t.Errorf("locked: %v", err)
	}
	closeTest(t, s, d)

	remove := func(name string) func(string) error {
		return func(dir string) error { return os.RemoveAll(filepath.Join(dir, name)) }
	}
	marker := func(change func(map[string]any)) func(string) error {
		return func(dir string) error {
			path := filepath.Join(dir, markerName)
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			m := make(map[string]any)
			if err := json.Unmarshal(b, &m); err != nil {
				return err
			}
			change(m)
			if b, err = json.Marshal(m); err != nil {
				return err
			}
			return os.WriteFile(path, b, 0o600)
		}
	}
	for name, c := range map[string]struct {
		damage  func(dir string) error
		cluster string
		want    error
		says    string
	}{
		"another cluster": {func(string) error { return nil }, "other", ErrOtherCluster, `"other"`},
		"newer format":    {marker(func(m map[string]any) { m["format"] = 2; m["node"] = 5 }), "test", ErrFormat, "newer release"},
		"no node":         {marker(func(m map[string]any) { delete(m, "node") }), "test", ErrDamaged, "dunlin.json"},
		"marker is text":  {func(dir string) error { return os.WriteFile(filepath.Join(dir, markerName), []byte("x"), 0o600) }, "test", ErrDamaged, "dunlin.json"},
		"marker is huge":  {func(dir string) error { return os.Truncate(filepath.Join(dir, markerName), 1<<20) }, "test", ErrDamaged, "dunlin.json"},
		"no manifest":     {remove(dataName + "/" + manifestName), "test", ErrDamaged, "move the directory aside"},
		"no data":         {remove(dataName), "test", ErrDamaged, "move the directory aside"},
		"no marker":       {remove(markerName), "test", ErrDamaged, "move the directory aside"},
		"a file":          {func(dir string) error { return errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600)) }, "test", ErrDirectory, "another directory"},
	} {
		dir := filepath.Join(t.TempDir(), "dir")
		copyDir(t, used, dir)
		if err := c.damage(dir); err != nil {
			t.Fatal(err)
		}
		_, err := OpenDir(dir, c.cluster)
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %q has several lines", name, err)
		}
		if c.want == ErrDirectory {
			continue
		}
		// A refusal lets go of the lock.
		f, err := lockDir(dir)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		f.Close()
	}
	if _, err := OpenDir("", "c"); !errors.Is(err, ErrDirectory) {
		t.Errorf("no path: %v", err)
	}
	if _, err := Open(nil, Options{}); !errors.Is(err, ErrDirectory) {
		t.Errorf("no directory: %v", err)
	}
}

// badger must neither die of a damaged file nor open without it.
func TestDamagedDataIsAnErrorOfOpen(t *testing.T) {
	path := t.TempDir()
	s, d := openTest(t, path, Options{})
	put(t, s, Key{1, "b", "k"}, "x")
	closeTest(t, s, d) // flushes to a table
	tables, err := filepath.Glob(filepath.Join(path, dataName, "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatal(tables, err)
	}
	flip := func(at int) func([]byte) []byte {
		return func(b []byte) []byte { b[(len(b)+at)%len(b)] ^= 0x81; return b }
	}
	manifest := filepath.Join(path, dataName, manifestName)
	for name, c := range map[string]struct {
		file   string
		change func([]byte) []byte
	}{
		"data of a table":      {tables[0], flip(20)},
		"footer of a table":    {tables[0], flip(-4)},
		"index of a table":     {tables[0], flip(-30)},
		"table cut":            {tables[0], func(b []byte) []byte { return b[:len(b)/2] }},
		"table cut to nothing": {tables[0], func([]byte) []byte { return nil }},
		"manifest bit":         {manifest, flip(-3)},
		"manifest magic":       {manifest, flip(1)},
		"manifest empty":       {manifest, func([]byte) []byte { return nil }},
	} {
		good, err := os.ReadFile(c.file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(c.file, c.change(bytes.Clone(good)), 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := OpenDir(path, "test")
		if err == nil {
			_, err = Open(d, Options{})
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v, want ErrDamaged", name, err)
		}
		if err := os.WriteFile(c.file, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(tables[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenDir(path, "test"); !errors.Is(err, ErrDamaged) {
		t.Errorf("missing table: %v", err)
	}
}

func TestCutManifestMayHaveLost(t *testing.T) {
	path := t.TempDir()
	s, d := openTest(t, path, Options{})
	put(t, s, Key{1, "b", "k"}, "x")
	closeTest(t, s, d)
	manifest := filepath.Join(path, dataName, manifestName)
	info, err := os.Stat(manifest)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(manifest, info.Size()-3); err != nil {
		t.Fatal(err)
	}
	d, err = OpenDir(path, "test")
	if err != nil || !d.Identity().MayHaveLost {
		t.Fatalf("%+v, %v, want MayHaveLost", d.Identity(), err)
	}
	d.Close()
}

func TestState(t *testing.T) {
	path := t.TempDir()
	d, err := OpenDir(path, "c")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	memory := MemoryDir(d.Identity().Node, "c")
	for name, d := range map[string]*Dir{"disk": d, "memory": memory} {
		if b, err := d.Load("layout"); b != nil || err != nil {
			t.Errorf("%s: absent: %q, %v", name, b, err)
		}
		for _, want := range [][]byte{[]byte("one"), {}, bytes.Repeat([]byte("three"), 10_000)} {
			if err := d.Save("layout", want); err != nil {
				t.Fatal(err)
			}
			if got, err := d.Load("layout"); err != nil || !bytes.Equal(got, want) || got == nil {
				t.Errorf("%s: Load = %.20q (nil: %v), %v, want %.20q", name, got, got == nil, err, want)
			}
		}
		for _, bad := range []string{"", "..", "a/b", ".hidden", "x.tmp", "UPPER", strings.Repeat("a", 65)} {
			if d.Save(bad, nil) == nil {
				t.Errorf("%s: saved under %q", name, bad)
			}
			if _, err := d.Load(bad); err == nil {
				t.Errorf("%s: loaded %q", name, bad)
			}
		}
		if err := d.Save("layout", make([]byte, MaxState+1)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: too large: %v", name, err)
		}
	}
	file := filepath.Join(path, stateName, "layout")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{
		"empty": {}, "cut": good[:len(good)-1], "bit": append(bytes.Clone(good[:50]), append([]byte{good[50] ^ 1}, good[51:]...)...),
		"of another name": seal(stateMagic, "votes", []byte("x")),
		"newer":           append([]byte(stateMagic+"\x02"), good[5:]...),
	} {
		if err := os.WriteFile(file, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if b, err := d.Load("layout"); !errors.Is(err, ErrDamaged) || b != nil {
			t.Errorf("%s: %.20q, %v, want ErrDamaged", name, b, err)
		}
	}
	if leftovers, _ := filepath.Glob(filepath.Join(path, "*", "*.tmp")); len(leftovers) != 0 {
		t.Errorf("left over: %q", leftovers)
	}
}

func TestReadOnlyDirectory(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may write everywhere")
	}
	path := t.TempDir()
	if err := os.Chmod(path, 0o500); err != nil {
		t.Fatal(err)
	}
	_, err := OpenDir(path, "c")
	if !errors.Is(err, ErrDirectory) || !strings.Contains(err.Error(), "change its owner") {
		t.Errorf("read-only: %v", err)
	}
}
