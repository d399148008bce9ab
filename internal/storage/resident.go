package storage

import (
	"reflect"
	"sync"
	"time"
	"unsafe"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/table"
)

// badger maps its tables into memory, writes them through the mapping, and reads them through it. Each page that was
// touched counts as the process's memory until its table goes: of a table that was just written, and after a compaction of
// all that it read, those are all pages, though hardly one is needed again. The kernel has them in its cache of files
// anyway. So when there are many, the store lets go of those of level 0 and of young tables; who needs one again pays for a
// fault, and gets sixteen with it. What cold reads map of older tables stays: to map it again and again took a third more CPU.
const (
	residentEvery = 100 * time.Millisecond
	// residentRest is how long the store waits at most where letting go of those is little use, since most of what is mapped
	// are others.
	residentRest  = 5 * time.Second
	residentMost  = 48 << 20 // bytes of files that may be mapped: the program, logs and tables
	residentYoung = 5 * time.Second
)

// tableLevel is where badger has the tables of a level.
type tableLevel struct {
	mu     *sync.RWMutex
	tables *[]*table.Table
}

// boundResident does so until the store stops: now and then, and whenever a compaction has merged a table.
func (s *Store) boundResident() {
	levels := tableLevels(s.db)
	if levels == nil {
		s.log.Warn("this badger keeps its tables elsewhere, so more of them counts as this process's memory", "op", "open")
		return
	}
	files, err := openMappedFiles()
	if err != nil {
		return // no such system: nothing is known
	}
	defer files.close()
	timer := time.NewTimer(residentEvery)
	defer timer.Stop()
	for rest := residentEvery; ; timer.Reset(rest) {
		var merged <-chan struct{}
		if rest == residentEvery {
			merged = s.pace.merged
		}
		select {
		case <-s.stop:
			return
		case <-merged:
		case <-timer.C:
		}
		before := files.resident()
		if before <= residentMost {
			rest = residentEvery
			continue
		}
		letGo(levels, time.Now().Add(-residentYoung))
		rest = nextRest(rest, before, files.resident())
	}
}

// nextRest is how long the store waits after it has let go, with so many bytes of files mapped before and after. Up to twice
// residentMost stay mapped for the program, logs, and the tables of a small store: that is no reason to wait.
func nextRest(rest time.Duration, before, after int64) time.Duration {
	if after <= 2*residentMost || after < before-before/4 {
		return residentEvery
	}
	return min(2*rest, residentRest)
}

// tableLevels finds the tables, which badger shows nobody. Nil: this badger has none there.
func tableLevels(db *badger.DB) (out []tableLevel) {
	lc := reflect.ValueOf(db).Elem().FieldByName("lc")
	if lc.Kind() != reflect.Pointer || lc.IsNil() || lc.Elem().Kind() != reflect.Struct {
		return nil
	}
	levels := lc.Elem().FieldByName("levels") // set when badger was opened, and never again
	if levels.Kind() != reflect.Slice || levels.Type().Elem().Kind() != reflect.Pointer || levels.Type().Elem().Elem().Kind() != reflect.Struct {
		return nil
	}
	for i := range levels.Len() {
		level := levels.Index(i).Elem()
		mu, tables := level.FieldByName("RWMutex"), level.FieldByName("tables")
		if !mu.IsValid() || mu.Type() != reflect.TypeFor[sync.RWMutex]() || !tables.IsValid() || tables.Type() != reflect.TypeFor[[]*table.Table]() {
			return nil
		}
		out = append(out, tableLevel{
			mu:     (*sync.RWMutex)(unsafe.Pointer(mu.UnsafeAddr())),
			tables: (*[]*table.Table)(unsafe.Pointer(tables.UnsafeAddr())),
		})
	}
	return out
}

// letGo lets go of the pages of level 0, and of tables that were written after young.
func letGo(levels []tableLevel, young time.Time) {
	for i, l := range levels {
		for _, t := range l.hold(func(t *table.Table) bool { return i == 0 || t.CreatedAt.After(young) }) {
			unmapPages(t.Data)
			_ = t.DecrRef() // the last one deletes the table, which badger does in the same way
		}
	}
}

// hold returns those of the level's tables that are chosen. badger keeps each mapped until its reference is given back.
func (l tableLevel) hold(chosen func(*table.Table) bool) (held []*table.Table) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, t := range *l.tables {
		if t.MmapFile != nil && chosen(t) {
			t.IncrRef()
			held = append(held, t)
		}
	}
	return held
}
