package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dunlindb/dunlin/internal/storage"
	"github.com/dunlindb/dunlin/internal/torture"
)

const (
	diskSize      = 256 << 20
	diskMinFree   = 64 << 20
	diskBallast   = 64 << 20 // somebody else's files
	diskWriters   = 64
	diskValueSize = 1000 << 10
)

// smallDisk puts a node's data on a disk of its own, on which somebody else's file lies.
func smallDisk(t *testing.T, p *process) (ballast string) {
	t.Helper()
	if os.Geteuid() != 0 {
		need(t, "mount", errors.New("mounting a small disk needs root"))
	}
	disk := p.dir + ".disk"
	if err := os.Mkdir(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	need(t, "mount", unix.Mount("tmpfs", disk, "tmpfs", 0, fmt.Sprintf("size=%d", diskSize)))
	t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) }) // before the nodes are killed: the last registered runs first
	p.dir = filepath.Join(disk, "data")
	p.env = append(p.env, "DUNLIN_DATA="+p.dir, fmt.Sprintf("DUNLIN_MIN_FREE=%d", diskMinFree))
	ballast = filepath.Join(disk, "ballast")
	if err := os.WriteFile(ballast, make([]byte, diskBallast), 0o600); err != nil {
		t.Fatal(err)
	}
	return ballast
}

// Two of three disks fill up. The nodes refuse writes with 507 before their disks are full, live, and go on to serve
// reads and deletes; when space is freed they take writes again, and nothing acknowledged is missing.
func TestDiskFull(t *testing.T) {
	heavy(t)
	f := newFlock(t, 3)
	ballasts := []string{smallDisk(t, f.nodes[0]), smallDisk(t, f.nodes[1])}
	f.start(f.nodes...)
	f.ready(f.nodes...)
	stored := fillDisks(t, f)
	if len(stored) < 30 {
		t.Fatalf("only %d writes were taken", len(stored))
	}
	t.Logf("full after %d writes of %d KiB", len(stored), diskValueSize>>10)

	for i, p := range f.nodes {
		want(t, 507, "PUT", p.url("/kv/disk/refused?timeout=20s"), diskValue("refused"))
		want(t, 200, "GET", p.url("/livez"), "")
		if got := want(t, 200, "GET", p.url("/metrics"), "").body; strings.Contains(got, "\ndunlin_storage_full 1\n") != (i < 2) {
			t.Errorf("%s does not say rightly whether it is full", p.name)
		}
		ready := want(t, 200, "GET", p.url("/readyz"), "").body // reads are served, and writes by who has room
		if full := strings.Contains(ready, "degraded: disk full: ") && strings.Contains(ready, " MiB free at "+p.dir); full != (i < 2) {
			t.Errorf("/readyz of %s does not say rightly whether its disk is full: %s", p.name, ready)
		}
	}
	for i, key := range stored {
		if got := want(t, 200, "GET", f.nodes[i%3].url("/kv/disk/"+key+"?timeout=20s"), "").body; got != diskValue(key) {
			t.Errorf("%s is damaged", key)
		}
	}
	deleted := stored[:30]
	for i, key := range deleted {
		want(t, 204, "DELETE", f.nodes[i%3].url("/kv/disk/"+key+"?timeout=20s"), "")
		want(t, 404, "GET", f.nodes[(i+1)%3].url("/kv/disk/"+key+"?timeout=20s"), "")
	}

	// Make room, as an operator would: fewer files, a larger disk. The third node holds refused writes, too, which are as many
	// as it happens. The others are to store them, and a byte may come to need three of the disk, as the guard counts.
	room := max(2*diskSize, 3*diskUse(t, f.nodes[2].dir))
	for _, ballast := range ballasts {
		disk := filepath.Dir(ballast)
		need(t, "mount", unix.Mount("", disk, "", unix.MS_REMOUNT, fmt.Sprintf("size=%d", room)))
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range f.nodes {
		until(t, 60e9, p.name+" takes writes again", func() error {
			if a := send(t, "PUT", p.url("/kv/disk/again-"+p.name+"?w=3&timeout=20s"), "v"); a.status != 204 {
				return fmt.Errorf("%d %s", a.status, a.body)
			}
			return nil
		})
	}
	settled(t, f, 60e9)
	for i, key := range stored[len(deleted):] {
		if got := want(t, 200, "GET", f.nodes[i%3].url("/kv/disk/"+key+"?r=all&timeout=20s"), "").body; got != diskValue(key) {
			t.Errorf("%s is damaged", key)
		}
	}
	for i, key := range deleted {
		want(t, 404, "GET", f.nodes[i%3].url("/kv/disk/"+key+"?r=all&timeout=20s"), "")
	}
	for _, line := range torture.Deaths(f.text()) {
		t.Error(line)
	}
	for _, p := range f.nodes {
		f.signal(p, syscall.SIGTERM)
	}
}

// diskUse is how many bytes of the disk the files below a directory take.
func diskUse(t *testing.T, dir string) (n int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		var st syscall.Stat_t
		if err == nil {
			err = syscall.Stat(path, &st)
		}
		if errors.Is(err, os.ErrNotExist) {
			return nil // a compaction removed it
		}
		n += st.Blocks * 512
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func diskValue(key string) string { return strings.Repeat(key+" ", diskValueSize/(len(key)+1)) }

// fillDisks writes from many clients at once, and returns the keys that the cluster took. Each goes on until it has been
// refused many times in a row: what was under way when the first was refused must find its room, too.
func fillDisks(t *testing.T, f *flock) (stored []string) {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for w := range diskWriters {
		wg.Go(func() {
			for i, refused := 0, 0; refused < 20; i++ {
				key := fmt.Sprintf("w%d-%d", w, i)
				status, body, err := try(t.Context(), "PUT", f.nodes[i%3].url("/kv/disk/"+key+"?timeout=8s"), diskValue(key))
				switch {
				case err == nil && status == 204:
					mu.Lock()
					stored = append(stored, key)
					tooMany := len(stored) > diskSize/diskValueSize
					mu.Unlock()
					if refused = 0; tooMany {
						t.Errorf("more fits on a disk of %d MiB than there is room for", diskSize>>20)
						return
					}
				case err != nil || status >= 503 && strings.Contains(body, `"outcome":`): // also what a slow machine does not get done
					refused++
					<-time.After(100 * time.Millisecond)
				default:
					t.Errorf("%s: %d %s %v", key, status, body, err)
					return
				}
			}
		})
	}
	wg.Wait()
	return stored
}

// The data directory of a loaded node is copied at one instant, as a power cut or a snapshot of its disk leaves it.
// The copy holds every write that was acknowledged by then, by itself, and the node lives on with it.
func TestCrashImage(t *testing.T) {
	heavy(t)
	f := running(t, 3)
	p := f.nodes[0]
	load := newLoad(t, f)
	until(t, 60e9, "loaded", func() error {
		if n := len(load.acked()); n < 1500 {
			return fmt.Errorf("%d writes", n)
		}
		return nil
	})
	before := load.acked()
	// Frozen, so that all files are of one instant.
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	image := p.dir + ".image"
	copyDir(t, p.dir, image)
	if err := p.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	until(t, 60e9, "loaded further", func() error {
		if n := len(load.acked()); n < len(before)+200 {
			return fmt.Errorf("%d writes", n)
		}
		return nil
	})
	load.end()
	f.signal(p, syscall.SIGKILL)

	copyDir(t, image, image+".opened")
	checkImage(t, f.nodes[1], image+".opened", before)

	if err := errors.Join(os.Rename(p.dir, p.dir+".gone"), os.Rename(image, p.dir)); err != nil {
		t.Fatal(err)
	}
	f.start(p)
	f.ready(p)
	settled(t, f, 60e9)
	for i, key := range load.acked() {
		if got := want(t, 200, "GET", f.nodes[i%3].url("/kv/image/"+key+"?r=all&timeout=20s"), "").body; got != key {
			t.Errorf("%s holds %q", key, got)
		}
	}
	t.Logf("%d writes acknowledged before the copy, %d in all", len(before), len(load.acked()))
	for _, p := range f.nodes {
		f.signal(p, syscall.SIGTERM)
	}
}

func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", "--sparse=always", from, to).CombinedOutput(); err != nil {
		t.Fatalf("copying %s: %v\n%s", from, err, out)
	}
}

// checkImage opens a data directory without a node and wants the keys in it. other is a node that knows the ring.
func checkImage(t *testing.T, other *process, image string, keys []string) {
	t.Helper()
	dir, err := storage.OpenDir(image, "e2e")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	store, err := storage.Open(dir, storage.Options{MinFree: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for _, key := range keys {
		var doc struct{ Partition int }
		decode(t, want(t, 200, "GET", other.url("/cluster/ring/image/"+key), "").body, &doc)
		got, err := store.Get(storage.Key{Partition: doc.Partition, Bucket: "image", Key: key})
		if s := got.Record.Siblings; err != nil || got.Incomplete || len(s) != 1 || string(s[0].Value) != key {
			t.Errorf("%s, acknowledged by all replicas, in the image: %+v %v", key, got, err)
		}
	}
}

// load writes new keys to all three replicas of a cluster until it is ended.
type load struct {
	mu   sync.Mutex
	keys []string // acknowledged by all replicas
	end  func()
}

func newLoad(t *testing.T, f *flock) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	l := &load{end: func() { cancel(); wg.Wait() }}
	t.Cleanup(l.end)
	for w := range 16 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				key := fmt.Sprintf("w%d-%d", w, i)
				status, _, err := try(ctx, "PUT", f.nodes[(w+i)%3].url("/kv/image/"+key+"?w=3&sloppy=false"), key)
				if err == nil && status == 204 {
					l.mu.Lock()
					l.keys = append(l.keys, key)
					l.mu.Unlock()
				}
			}
		})
	}
	return l
}

// acked returns the keys so far.
func (l *load) acked() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.keys...)
}
