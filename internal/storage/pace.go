package storage

import (
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/prometheus/client_golang/prometheus"
)

// pace keeps compactions from taking the processors away from requests. badger builds up to thirteen tables at once, each
// on a goroutine that does nothing else, and Go lets each of them run for 10 ms before anything that became ready
// meanwhile: with two processors, each step of a request waited for 50 to 170 ms. Paced, about one table is built at a
// time for four processors.
type pace struct {
	db     atomic.Pointer[badger.DB] // nil while it is being opened
	paused prometheus.Counter        // seconds
	turns  chan struct{}             // one for each goroutine that pauses; others wait for them
	merged chan struct{}             // gets one when a table was merged, if the one before was taken
	stop   chan struct{}
	end    func() // ends all pauses; may be called again
}

func newPace(processors int, paused prometheus.Counter) *pace {
	stop := make(chan struct{})
	return &pace{paused: paused, merged: make(chan struct{}, 1), turns: make(chan struct{}, max(1, processors/4)), stop: stop, end: sync.OnceFunc(func() { close(stop) })}
}

const (
	// tableMerged begins what badger logs when the entries of a table have been merged, on the goroutine that merges the
	// next one then, and without a lock. The last of its four arguments is how long that took.
	tableMerged = "[%d] LOG Compact. Added"

	pauseFactor  = 4 // times what a table took; about half of that again goes into building its file
	longestPause = 200 * time.Millisecond
	// urgentTables is the number of tables in level 0 with which compactions go on unpaced: between level0Tables and
	// level0Most, nearer the first.
	urgentTables = 13
)

// Debugf implements badger.Logger.
func (l badgerLog) Debugf(format string, args ...any) {
	l.line(slog.LevelDebug-4, format, args)
	if l.pace == nil || !strings.HasPrefix(format, tableMerged) || len(args) != 4 {
		return
	}
	select {
	case l.pace.merged <- struct{}{}:
	default:
	}
	if took, ok := args[3].(time.Duration); ok {
		l.pace.pause(took)
	}
}

// pause returns when the next table may be merged.
func (p *pace) pause(took time.Duration) {
	select {
	case p.turns <- struct{}{}:
	case <-p.stop:
		return
	}
	defer func() { <-p.turns }()
	if p.urgent() {
		return
	}
	length := min(pauseFactor*max(took, time.Millisecond), longestPause) // it was rounded
	timer := time.NewTimer(length)
	defer timer.Stop()
	select {
	case <-timer.C:
		p.paused.Add(length.Seconds())
	case <-p.stop:
	}
}

func (p *pace) urgent() bool {
	db := p.db.Load()
	if db == nil {
		return false
	}
	for _, l := range db.Levels() {
		if l.Level == 0 {
			return l.NumTables >= urgentTables
		}
	}
	return false
}
