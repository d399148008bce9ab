package main

import (
	"os"
	"runtime"
	"strings"
	"syscall"
)

// wakefulMonitor keeps the monitor of Go's runtime (sysmon) from its deep sleep. It falls into that whenever all of the
// process is idle, and the next system call wakes it up and has it look every 20 us for a millisecond; a node that is busy for
// fractions of a millisecond at a time pays for that a tenth to a fifth of its CPU. Kept awake, it looks less and less often,
// down to every 10 ms, unless it finds something to do. The only setting that keeps it awake is that of the scheduler's
// trace, which is a line on stderr; this is its longest interval, 25 days of the machine's uptime.
//
// docs/benchmarks.md says what it is worth, and how to measure that again with a later Go.
const wakefulMonitor = "schedtrace=2147483647"

// wakeMonitor replaces this process by one with that setting: the runtime reads it only when a program starts. It returns if
// the setting is there, or if that cannot be done, which costs nothing but CPU.
func wakeMonitor() {
	env, changed := withWakefulMonitor(os.Environ())
	if !changed || runtime.GOOS != "linux" {
		return
	}
	if exe, err := os.Executable(); err == nil {
		_ = syscall.Exec(exe, os.Args, env)
	}
}

// withWakefulMonitor adds the setting to an environment, unless the user has decided on a trace.
func withWakefulMonitor(environ []string) (env []string, changed bool) {
	const name = "GODEBUG="
	settings := wakefulMonitor
	for _, e := range environ {
		theirs, ok := strings.CutPrefix(e, name)
		switch {
		case !ok:
			env = append(env, e)
		case strings.Contains(theirs, "schedtrace="):
			return environ, false
		case theirs != "":
			settings = theirs + "," + wakefulMonitor
		}
	}
	return append(env, name+settings), true
}
