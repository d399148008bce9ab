package storage

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

const (
	// memTableSize is the least, see drawMemTableSize. badger's transactions may have 15 % of it, more than batchBytes and a record.
	memTableSize = 10 << 20
	memTableMost = 12 << 20
	// memTableAfterKill is the most where a log was left that may be of memTableMost, see sizeForLogs.
	memTableAfterKill = 13 << 20
	// memTableLimit is more than any version had: a log that claims more is damaged, and must not cost as much memory.
	memTableLimit = 64 << 20
	// level0Tables is with how many tables in level 0 badger begins to compact them, and level0Most with how many it stops
	// writes. A merge of them reads all of the base level, so they should be much together.
	level0Tables = 8
	level0Most   = 24
	// valueThreshold is badger's highest: all of our values are below it, so the value log stays empty. Its
	// damage reports are the worst and its space comes back only by a garbage collection of its own.
	valueThreshold = 1 << 20
)

// badgerOptions: no compression and no block cache, because only with them and OnTableRead a damaged table is an
// error when it is opened instead of keys that are silently not found.
func badgerOptions(path string, o Options) badger.Options {
	opt := badger.DefaultOptions(path).
		WithDetectConflicts(false).
		WithCompression(options.None).
		WithBlockCacheSize(0).
		WithChecksumVerificationMode(options.OnTableRead).
		WithMemTableSize(drawMemTableSize(memTableSize, memTableMost)).
		WithNumMemtables(3).
		WithNumLevelZeroTables(level0Tables).
		WithNumLevelZeroTablesStall(level0Most).
		WithNumCompactors(2).
		WithBaseLevelSize(128 << 20). // levels of 10 MiB rewrite a value once more on its way down
		WithBlockSize(16 << 10).
		WithValueThreshold(valueThreshold).
		WithValueLogFileSize(64 << 20).
		WithMetricsEnabled(false).
		WithLogger(badgerLog{log: o.Logger})
	if path == "" {
		opt = opt.WithInMemory(true)
	}
	if o.tune != nil {
		opt = o.tune(opt)
	}
	return opt
}

// drawMemTableSize draws what this process fills its memtables with. Replicas get the same writes; with the same size they
// would all write their tables at the same moments, and no quorum would be left that does not wait for one.
func drawMemTableSize(least, most int64) int64 { return least + rand.N(most-least) }

// sizeForLogs changes the size of memtables, if need be, so that badger takes the logs that a killed process left. It reads
// each into a memtable of today's size, and ends the process when one does not fit.
func sizeForLogs(opt badger.Options) (badger.Options, error) {
	files, err := os.ReadDir(opt.Dir)
	if err != nil {
		return opt, fmt.Errorf("look for logs: %w", err)
	}
	need := int64(0)
	for _, file := range files {
		if filepath.Ext(file.Name()) != logExtension {
			continue
		}
		info, err := file.Info()
		if err != nil {
			return opt, fmt.Errorf("look at a log: %w", err)
		}
		// badger makes a log twice as large as its memtable may become, and when it reads it cuts it to what it holds. What a
		// memtable had in excess, by one batch, there is room for.
		need = max(need, info.Size()/2)
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			need = max(need, st.Blocks*512)
		}
	}
	if need == 0 {
		return opt, nil
	}
	need = min(need, memTableLimit)
	return opt.WithMemTableSize(max(need, drawMemTableSize(memTableMost, memTableAfterKill))), nil
}

// openBadger turns badger's panics, its answer to some damaged files, into errors.
func openBadger(opt badger.Options, log *slog.Logger) (db *badger.DB, err error) {
	defer func() {
		if r := recover(); r != nil {
			log.Error("badger panicked while opening", "op", "open", "panic", r, "stack", string(debug.Stack()))
			db, err = nil, fmt.Errorf("badger panicked: %v", r)
		}
	}()
	return badger.Open(opt)
}

// badgerLog passes badger's log lines on. What it calls info is detail to us.
type badgerLog struct {
	log    *slog.Logger
	giveUp *atomic.Bool // a Flatten is to be left; nil: never
	pace   *pace        // nil: compactions do not pause
}

const levelOfInfo = slog.LevelDebug

func (l badgerLog) line(level slog.Level, format string, args []any) {
	if l.log.Enabled(context.Background(), level) {
		l.log.Log(context.Background(), level, "badger: "+strings.TrimSpace(fmt.Sprintf(format, args...)))
	}
}

func (l badgerLog) Errorf(format string, args ...any)   { l.line(slog.LevelError, format, args) }
func (l badgerLog) Warningf(format string, args ...any) { l.line(slog.LevelWarn, format, args) }

// footprint measures what badger has on the disk. It must also work while badger is being closed.
func (s *Store) footprint() footprint {
	f := footprint{logs: diskBytes(s.db.Opts().Dir, logExtension)}
	for _, l := range s.db.Levels() {
		f.tables += uint64(l.Size)
		if l.Level == 0 {
			f.level0 = uint64(l.Size)
		}
		if l.IsBaseLevel {
			f.base = uint64(l.Size)
		}
	}
	return f
}

// diskBytes is what files with one of these extensions take: the logs of badger's memtables (.mem) and its value log
// (.vlog) are sparse.
func diskBytes(dir string, extensions ...string) (n uint64) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return 0
	}
	for _, file := range files {
		if !slices.Contains(extensions, filepath.Ext(file.Name())) {
			continue
		}
		info, err := file.Info()
		if err != nil {
			continue // flushed meanwhile
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			n += uint64(st.Blocks) * 512
		}
	}
	return n
}

// removeStubs removes logs without a byte: a process that is killed between making a log and giving it its size leaves
// one, and badger refuses to open it.
func removeStubs(dir string) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, file := range files {
		if ext := filepath.Ext(file.Name()); ext != logExtension && ext != ".vlog" {
			continue
		}
		info, err := file.Info()
		if err != nil {
			return err
		}
		if info.Mode().IsRegular() && info.Size() == 0 {
			if err := os.Remove(filepath.Join(dir, file.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
