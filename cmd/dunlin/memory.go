package main

import (
	"errors"
	"log/slog"
	"math"
	"os"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

const (
	// gcPercent is GOGC where the user has set none. Nearly all of a node's memory are memtables, buffers and records, in
	// which the collector has nothing to follow: to run it often costs little (docs/storage.md, Memory).
	gcPercent = 50
	// containerShare is the part of a container's memory that the collector is to stay below. The rest is for what it
	// does not know: badger's mapped logs and tables, and the kernel's part.
	containerShare = 0.7
)

// limitMemory makes the collector run earlier than Go would, and work harder when a node comes near the memory that its
// container has. Whoever sets GOGC, GOMEMLIMIT or AUTOMEMLIMIT decides for himself.
func limitMemory(log *slog.Logger) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	limit, err := memlimit.Set(memlimit.WithRatio(containerShare))
	switch {
	case errors.Is(err, memlimit.ErrCgroupsNotSupported), errors.Is(err, memlimit.ErrNoCgroup):
		// This is no container.
	case err != nil:
		log.Warn("cannot tell how much memory there is; set GOMEMLIMIT if it is little", "op", "memory", "err", err)
	case limit != math.MaxInt64:
		log.Info("the collector keeps memory below a limit", "op", "memory", "bytes", limit)
	}
}

// memory is what this process may use: its container's, or the machine's; 0 if that is not known.
func memory() uint64 {
	least := uint64(math.MaxUint64)
	for _, ask := range []memlimit.Provider{memlimit.FromCgroup, memlimit.FromSystem} {
		if n, err := ask(); err == nil && n > 0 {
			least = min(least, n)
		}
	}
	if least == math.MaxUint64 {
		return 0
	}
	return least
}
