package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/dgraph-io/badger/v4"
)

const logExtension = ".mem"

// logSync commits and then syncs the log of badger's memtable. badger does so itself with SyncWrites, but syncs its
// value log, too, at each commit; that is empty here, and still costs a flush of the disk.
//
// badger writes to a log within commits only, and begins the next log, with the next number, before it writes a
// transaction, of which at least six fit into one. So who looks after each commit, before there is another, misses none.
type logSync struct {
	dir  string
	sync func(*os.File) error // fdatasync

	// mu is held until what was committed is on the disk, and shared by whoever begins a transaction, so that nobody
	// reads what a power cut could take back.
	mu sync.RWMutex
	id int      // of the log that badger writes to
	at *os.File // that log
}

// openLogs finds the log that badger writes to. Nothing may be committed meanwhile.
func openLogs(dir string) (*logSync, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	l := &logSync{dir: dir, sync: fdatasync}
	for _, f := range files {
		number, isLog := strings.CutSuffix(f.Name(), logExtension)
		if id, err := strconv.Atoi(number); isLog && err == nil {
			l.id = max(l.id, id)
		}
	}
	l.at, err = os.Open(l.path(l.id))
	return l, err
}

// path is what badger calls a log.
func (l *logSync) path(id int) string {
	return filepath.Join(l.dir, fmt.Sprintf("%05d%s", id, logExtension))
}

// commit returns when the transaction is on the disk.
func (l *logSync) commit(txn *badger.Txn) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := txn.Commit(); err != nil {
		return err
	}
	return l.flush()
}

// flush syncs what the last commit wrote. The lock is held.
func (l *logSync) flush() error {
	next, err := os.Open(l.path(l.id + 1))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return l.sync(l.at)
	case err != nil:
		return err
	}
	// It has the whole of the transaction; what the last log has was synced by the commits before.
	last := l.at
	l.at, l.id = next, l.id+1
	return errors.Join(last.Close(), l.sync(next), syncPath(l.dir))
}

// begin begins a transaction that shows nothing that is not on the disk.
func (l *logSync) begin(db *badger.DB, update bool) *badger.Txn {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return db.NewTransaction(update)
}

func (l *logSync) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.at.Close()
}
