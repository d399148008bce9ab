package storage

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/dgraph-io/badger/v4"

	"github.com/dunlindb/dunlin/ring"
)

// ErrPowerCut is what everything that would change a MemoryDisk gets after PowerCut, from who had it open.
var ErrPowerCut = errors.New("the power was cut")

// MemoryDisk is a data directory in memory that outlives the stores that are opened in it, for simulations. Badger is
// the real one. A power cut loses what was committed and not synced: with Fsync what was being committed, with OS all
// since the last Sync. All methods are safe for concurrent use.
type MemoryDisk struct {
	node    ring.NodeID
	cluster string

	mu      sync.RWMutex
	opened  int // how often; who opened it earlier can change nothing any more
	marker  marker
	state   map[string][]byte
	db      *badger.DB
	synced  []kept // what badger held at the last sync, when dirty
	dirty   bool   // badger holds more than what is synced
	retired []*badger.DB
}

// kept is a key and its value.
type kept struct{ key, value []byte }

// NewMemoryDisk returns an empty disk for a node.
func NewMemoryDisk(node ring.NodeID, cluster string) *MemoryDisk {
	return &MemoryDisk{node: node, cluster: cluster, marker: marker{Node: node, Cluster: cluster}, state: map[string][]byte{}}
}

// Node is the id of the node whose disk it is.
func (m *MemoryDisk) Node() ring.NodeID { return m.node }

// Open returns the disk as a directory, with the identity that its last use left, as OpenDir would. Whoever opened it
// before can change nothing any more.
func (m *MemoryDisk) Open() *Dir {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.opened++
	return &Dir{disk: m, turn: m.opened, marker: m.marker, ident: m.marker.identity()}
}

// PowerCut loses what is not synced. The Dir and the Store that are open get ErrPowerCut from now on for whatever they
// write; the Store can still read, and is to be closed.
func (m *MemoryDisk) PowerCut() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.opened++
	if !m.dirty {
		return nil
	}
	db, err := openVolatile(slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	w := db.NewWriteBatch()
	defer w.Cancel()
	for _, x := range m.synced {
		if err := w.Set(x.key, x.value); err != nil {
			return errors.Join(err, db.Close())
		}
	}
	if err := w.Flush(); err != nil {
		return errors.Join(err, db.Close())
	}
	m.retired = append(m.retired, m.db)
	m.db = db
	m.clean()
	return nil
}

// Sync makes all that was written durable, as an operating system does now and then.
func (m *MemoryDisk) Sync() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clean()
}

// clean notes that all is synced. The lock is held.
func (m *MemoryDisk) clean() { m.synced, m.dirty = nil, false }

// remember notes what is there before something is written that is not synced. The lock is held.
func (m *MemoryDisk) remember() error {
	m.dirty = true
	return m.db.View(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.DefaultIteratorOptions)
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			value, err := it.Item().ValueCopy(nil)
			if err != nil {
				return err
			}
			m.synced = append(m.synced, kept{it.Item().KeyCopy(nil), value})
		}
		return nil
	})
}

// Close frees what the disk holds. No Store may be open in it.
func (m *MemoryDisk) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var err error
	if m.db != nil {
		err = m.db.Close()
	}
	for _, db := range m.retired {
		err = errors.Join(err, db.Close())
	}
	m.db, m.retired = nil, nil
	return err
}

func openVolatile(log *slog.Logger) (*badger.DB, error) {
	opt := badgerOptions("", Options{Logger: log}).
		// Nothing is compacted: a simulation writes less than a memtable, and two tickers a node would cost more than all
		// the rest of an idle one.
		WithNumCompactors(0).WithIndexCacheSize(0).WithMemTableSize(memTableSize).WithNumMemtables(2)
	return openBadger(opt, log)
}

// badger returns the keys, for the Dir of a turn.
func (m *MemoryDisk) badger(turn int, log *slog.Logger) (*badger.DB, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if turn != m.opened {
		return nil, ErrPowerCut
	}
	if m.db == nil {
		db, err := openVolatile(log)
		if err != nil {
			return nil, err
		}
		m.db = db
	}
	return m.db, nil
}

// commit commits a transaction of the Dir of a turn; sync says whether badger was told to sync it.
func (m *MemoryDisk) commit(turn int, txn *badger.Txn, sync bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if turn != m.opened {
		return ErrPowerCut
	}
	switch {
	case sync:
		m.clean() // one log: what was written before is synced with it
	case !m.dirty:
		if err := m.remember(); err != nil {
			return fmt.Errorf("remember what is synced: %w", err)
		}
	}
	return txn.Commit()
}

// change changes the small files, for the Dir of a turn.
func (m *MemoryDisk) change(turn int, f func()) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if turn != m.opened {
		return ErrPowerCut
	}
	f()
	return nil
}
