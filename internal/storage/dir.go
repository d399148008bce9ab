package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/google/uuid"

	"github.com/dunlindb/dunlin/ring"
)

// Names in a data directory.
const (
	lockName     = "LOCK"
	markerName   = "dunlin.json"
	dataName     = "data"
	stateName    = "state"
	manifestName = "MANIFEST" // badger's, in dataName
)

// Identity is who the node of a data directory is, and how its last run ended.
type Identity struct {
	Node    ring.NodeID
	Cluster string
	// Fresh: no store was ever opened in the directory.
	Fresh bool
	// CleanStop: the last run closed its store, or there was none.
	CleanStop bool
	// MayHaveLost: what the last run acknowledged may be gone. It ended without closing its store and did not fsync,
	// so a power cut would have done that; or badger's manifest was cut short.
	MayHaveLost bool
}

// Dir is a data directory that this process holds the lock of. All methods are safe for concurrent use.
type Dir struct {
	path string // empty: in memory
	lock *os.File
	disk *MemoryDisk // where path is empty and the directory outlives this Dir
	turn int         // of disk

	mu     sync.Mutex
	marker marker
	ident  Identity
	state  map[string][]byte // of a directory in memory
	closed bool
	inUse  bool // by a Store
}

// OpenDir opens the data directory at path, and makes it one when it is missing or empty: it takes the lock, and
// finds or writes the marker with the node's id. cluster is the name of the cluster that the node belongs to;
// empty accepts any. Errors wrap ErrDirectory, ErrLocked, ErrOtherCluster, ErrFormat or ErrDamaged.
func OpenDir(path, cluster string) (*Dir, error) {
	if path == "" {
		return nil, fmt.Errorf("%w: its path is empty; set one", ErrDirectory)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, unusable(path, err)
	}
	if err := makeDir(path); err != nil {
		return nil, unusable(path, err)
	}
	lock, err := lockDir(path)
	if err != nil {
		return nil, err
	}
	d := &Dir{path: path, lock: lock}
	if err := d.identify(cluster); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return d, nil
}

// MemoryDir returns a directory that touches no disk, for tests and simulations: its small files live as long as
// the Dir, the keys of a Store opened in it only as long as the Store.
func MemoryDir(node ring.NodeID, cluster string) *Dir {
	return &Dir{
		ident: Identity{Node: node, Cluster: cluster, Fresh: true, CleanStop: true},
		state: make(map[string][]byte),
	}
}

func unusable(path string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: %s: uid %d may not read and write it; change its owner or use another directory (%w)",
			ErrDirectory, path, os.Getuid(), err)
	}
	return fmt.Errorf("%w: %s: %w; repair it or use another directory", ErrDirectory, path, err)
}

// damaged is for data that cannot be opened. badger's errors do not tell what the system refused from what the disk
// has lost, so the advice asks to look at the former first; where the error tells, it is no damage at all.
func damaged(path string, err error) error {
	var number syscall.Errno
	if errors.As(err, &number) && number != syscall.ENOENT {
		return unusable(path, err)
	}
	text := strings.Join(strings.Fields(err.Error()), " ") // badger's may have several lines
	return fmt.Errorf("%w: %s: %s; if free space, permissions and limits of open files are in order, move the directory aside and start empty, or restore it",
		ErrDamaged, path, text)
}

func lockDir(path string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(path, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, unusable(path, err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK):
		err = fmt.Errorf("%w: %s; stop that process or use another directory", ErrLocked, path)
	case err != nil:
		err = unusable(path, err)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// identify reads the marker, or writes the first one.
func (d *Dir) identify(cluster string) error {
	m, found, err := readMarker(d.path)
	if err != nil {
		return err
	}
	if !found {
		if err := d.checkEmpty(); err != nil {
			return err
		}
		if m, err = newMarker(cluster); err != nil {
			return err
		}
		if err := m.write(d.path); err != nil {
			return unusable(d.path, err)
		}
	}
	if cluster != "" && m.Cluster != cluster {
		return fmt.Errorf("%w: %s belongs to cluster %q, this node is configured for %q; correct the cluster's name or use another directory",
			ErrOtherCluster, d.path, m.Cluster, cluster)
	}
	if err := makeDir(filepath.Join(d.path, stateName)); err != nil {
		return unusable(d.path, err)
	}
	d.marker, d.ident = m, m.identity()
	if !m.Store {
		return nil
	}
	return d.checkData()
}

// checkData refuses what badger would open by erasing it, or die of.
func (d *Dir) checkData() error {
	data := filepath.Join(d.path, dataName)
	if _, err := os.Stat(filepath.Join(data, manifestName)); err != nil {
		return fmt.Errorf("%w: %s has lost %s (%w), opening it would erase what is left; move the directory aside and start empty, or restore the file",
			ErrDamaged, d.path, filepath.Join(dataName, manifestName), err)
	}
	cut, err := checkTables(data)
	if err != nil {
		return damaged(d.path, err)
	}
	d.ident.MayHaveLost = d.ident.MayHaveLost || cut
	return nil
}

// checkEmpty refuses to give a new identity to a directory that has held a node.
func (d *Dir) checkEmpty() error {
	for _, name := range []string{dataName, stateName} {
		entries, err := os.ReadDir(filepath.Join(d.path, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return unusable(d.path, err)
		}
		if len(entries) > 0 {
			return fmt.Errorf("%w: %s has no %s but holds data in %s/; move the directory aside and start empty, or restore the file",
				ErrDamaged, d.path, markerName, name)
		}
	}
	return nil
}

// newNodeID makes an id that no other node has; it sorts by the time it was made.
func newNodeID() (ring.NodeID, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return ring.NodeID{}, fmt.Errorf("make a node id: %w", err)
	}
	return ring.NodeID(id), nil
}

// Identity returns who the node is and how the last run ended.
func (d *Dir) Identity() Identity {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ident
}

// Path returns the directory's absolute path, empty for one in memory.
func (d *Dir) Path() string { return d.path }

// Close releases the lock. Close the Store first.
func (d *Dir) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	if d.lock == nil {
		return nil
	}
	return d.lock.Close()
}

// begin reserves the directory for one Store.
func (d *Dir) begin() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || d.inUse {
		return fmt.Errorf("%w: %s: closed, or a store is open in it", ErrDirectory, d.path)
	}
	d.inUse = true
	return nil
}

// suspect notes durably that the last run may have lost something: what showed that may be gone once badger opened.
func (d *Dir) suspect() error {
	return d.mark(func(m *marker) { m.MayHaveLost = true })
}

// opened notes durably that a store runs, which also consumes the mark of a clean stop.
func (d *Dir) opened(durability Durability) error {
	return d.mark(func(m *marker) {
		m.Store, m.CleanStop, m.Durability, m.MayHaveLost = true, false, durability.String(), false
	})
}

// stopped notes durably that the store was closed with everything on the disk.
func (d *Dir) stopped() error {
	return d.mark(func(m *marker) { m.CleanStop = true })
}

// end gives the directory back.
func (d *Dir) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inUse = false
	if d.persistent() {
		d.ident = d.marker.identity()
	}
}

func (d *Dir) mark(change func(*marker)) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.persistent() {
		return nil
	}
	next := d.marker
	change(&next)
	if d.disk != nil {
		if err := d.disk.change(d.turn, func() { d.disk.marker = next }); err != nil {
			return err
		}
	} else if err := next.write(d.path); err != nil {
		return unusable(d.path, err)
	}
	d.marker = next
	return nil
}

// persistent reports whether what a Store writes is there for the next one.
func (d *Dir) persistent() bool { return d.path != "" || d.disk != nil }

// syncData fsyncs badger's files.
func (d *Dir) syncData() error {
	if d.disk != nil {
		return d.disk.change(d.turn, d.disk.clean)
	}
	if d.path == "" {
		return nil
	}
	return syncFiles(filepath.Join(d.path, dataName))
}
