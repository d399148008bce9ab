package main

import (
	"bytes"
	"log/slog"
	"math"
	"runtime/debug"
	"strings"
	"testing"
)

// What the user has set stays, and what is limited is logged.
func TestLimitMemory(t *testing.T) {
	percent, limit := debug.SetGCPercent(100), debug.SetMemoryLimit(math.MaxInt64)
	t.Cleanup(func() {
		debug.SetGCPercent(percent)
		debug.SetMemoryLimit(limit)
	})
	run := func() string {
		debug.SetGCPercent(100)
		debug.SetMemoryLimit(math.MaxInt64)
		var out bytes.Buffer
		limitMemory(slog.New(slog.NewTextHandler(&out, nil)))
		return out.String()
	}
	t.Setenv("GOMEMLIMIT", "3GiB") // else what is found depends on the machine
	t.Setenv("GOGC", "")
	run()
	if got := debug.SetGCPercent(100); got != gcPercent {
		t.Errorf("GOGC is %d, want %d", got, gcPercent)
	}
	if got := debug.SetMemoryLimit(-1); got != math.MaxInt64 {
		t.Errorf("the user's limit was set to %d", got)
	}
	t.Setenv("GOGC", "70")
	run()
	if got := debug.SetGCPercent(100); got != 100 {
		t.Errorf("the user's GOGC was set to %d", got)
	}
	debug.SetMemoryLimit(3 << 30) // as the runtime does with GOMEMLIMIT
	var out bytes.Buffer
	limitMemory(slog.New(slog.NewTextHandler(&out, nil)))
	if !strings.Contains(out.String(), "bytes=3221225472") {
		t.Errorf("the limit is not told: %q", out.String())
	}
	t.Setenv("GOMEMLIMIT", "")
	t.Setenv("AUTOMEMLIMIT", "much")
	if got := run(); strings.Contains(got, "level=INFO") {
		t.Errorf("no limit was set, and %q", got)
	}
}
