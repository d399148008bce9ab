package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// What a dropped partition took comes back to the disk when badger merges the tables that have its records with those
// that have their deletions. badger does so as it is written to; on a node that is idle it never does.

const (
	// Tables are rewritten for what was dropped when that is reclaimLeast bytes and one part of reclaimShare of all: so
	// much more than what comes back is not written for it.
	reclaimLeast = 16 << 20
	reclaimShare = 10

	fillerBytes = 1_000_000        // of one record that fills a memtable: badger keeps it out of its value log
	flushLimit  = 10 * time.Second // for badger to write a full memtable
	flushPause  = 20 * time.Millisecond
)

var fillerKey = []byte{spaceFiller}

// errGivenUp ends a Flatten, see badgerLog.Infof.
var errGivenUp = errors.New("rewriting of tables was given up")

// Reclaim gives back to the disk what partitions took that were dropped since the start, when it is worth rewriting the
// tables for it and the disk is not full; else it does nothing. Reads and writes go on, a little slower. It needs room
// for what badger's own compactions need room for. When the context ends, or Close is called, it returns within the time
// of one compaction; what it has done stays done.
//
// Errors: ErrCommit, ErrUnhealthy, ErrClosed, the context's, and badger's when it could not do it, after which it is not
// tried again for the same partitions. One caller at a time.
func (s *Store) Reclaim(ctx context.Context) error {
	dropped := s.drops.bytes.Load()
	before := s.footprint()
	switch {
	case s.db.Opts().InMemory, dropped < reclaimLeast, uint64(dropped) < before.tables/reclaimShare, s.Status().FullReplica:
		return nil
	case before.tables == before.level0:
		return nil // a few tables only, which Flatten does not touch
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if !s.join() {
		return ErrClosed
	}
	defer s.wg.Done()
	begin := time.Now()
	err := s.flushMemtable(ctx)
	if err == nil {
		err = s.flatten(ctx)
	}
	if s.stopping() {
		return ErrClosed
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s.drops.bytes.Add(-dropped)
	if err != nil {
		return err
	}
	after := s.footprint()
	if after.tables < before.tables {
		s.metrics.reclaimed.Add(float64(before.tables - after.tables))
	}
	s.log.Info("rewrote the tables for what was dropped", "op", "reclaim", "dropped", dropped, "before", before.tables, "after", after.tables, "took", time.Since(begin))
	return nil
}

// flushMemtable has badger write its memtable to a table. The latest deletions are in it, and badger writes it only when
// it is full: so it is filled.
func (s *Store) flushMemtable(ctx context.Context) error {
	filler := make([]byte, fillerBytes)
	for written := int64(0); written <= s.db.Opts().MemTableSize; written += fillerBytes {
		if s.stopping() {
			return ErrClosed
		}
		if err := errors.Join(ctx.Err(), s.Healthy()); err != nil {
			return err
		}
		if err := s.update(func(txn *badger.Txn) error { return txn.Set(fillerKey, filler) }); err != nil {
			return fmt.Errorf("%w: %w", ErrCommit, err)
		}
	}
	if err := s.update(func(txn *badger.Txn) error { return txn.Delete(fillerKey) }); err != nil {
		return fmt.Errorf("%w: %w", ErrCommit, err)
	}
	for deadline := time.Now().Add(flushLimit); s.memtables() > 1; {
		select {
		case <-time.After(flushPause):
		case <-s.stop:
			return ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		}
		if time.Now().After(deadline) {
			return nil // others write more than badger flushes: it compacts by itself
		}
	}
	return nil
}

// memtables counts the logs of memtables: with one, all others have been written to tables.
func (s *Store) memtables() (n int) {
	files, err := os.ReadDir(s.db.Opts().Dir)
	if err != nil {
		return 0
	}
	for _, file := range files {
		if filepath.Ext(file.Name()) == ".mem" {
			n++
		}
	}
	return n
}

// flatten merges all tables into one level, step by step.
func (s *Store) flatten(ctx context.Context) (err error) {
	done, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-ctx.Done():
			s.giveUp.Store(true)
		case <-s.stop:
			s.giveUp.Store(true)
		case <-done:
		}
	}()
	defer func() {
		close(done)
		<-watched
		s.giveUp.Store(false)
		if r := recover(); r == errGivenUp {
			err = errGivenUp
		} else if r != nil {
			panic(r)
		}
	}()
	if err := s.db.Flatten(1); err != nil {
		return fmt.Errorf("badger rewrites its tables: %w", err)
	}
	return nil
}

// flattenStep begins the line that Flatten logs, on its caller's goroutine and without a lock, before each compaction.
const flattenStep = "Attempting to compact"

// Infof implements badger.Logger. Flatten takes no context and may go on for minutes; the line before each of its steps
// is where it can be left. What it has deferred runs then as after an error.
func (l badgerLog) Infof(format string, args ...any) {
	l.line(levelOfInfo, format, args)
	if l.giveUp != nil && l.giveUp.Load() && strings.HasPrefix(format, flattenStep) {
		panic(errGivenUp)
	}
}
