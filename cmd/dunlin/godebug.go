package main

import (
	"os"
	"runtime"
	"slices"
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

const (
	// keepStacks keeps the collector from halving the stacks of goroutines that wait, such as those of connections, which
	// then grow again with the next request. A twelfth more is done of an overload (docs/benchmarks.md).
	keepStacks = "gcshrinkstackoff=1"
	// stacksNeed is with how much memory that is done: the stacks of all connections that a node takes, 16,384 of 32 KiB, are
	// an eighth of it.
	stacksNeed = 4 << 30
)

// tuneRuntime replaces this process by one with settings of Go's runtime, which it reads only when a program starts. It returns if
// they are there, or if that cannot be done, which costs nothing but CPU.
func tuneRuntime() {
	if runtime.GOOS != "linux" {
		return
	}
	settings := []string{wakefulMonitor}
	if memory() >= stacksNeed {
		settings = append(settings, keepStacks)
	}
	env, changed := withSettings(os.Environ(), settings)
	if !changed {
		return
	}
	if exe, err := os.Executable(); err == nil {
		_ = syscall.Exec(exe, os.Args, env)
	}
}

// withSettings adds to GODEBUG in an environment what the user has not decided there.
func withSettings(environ, settings []string) (env []string, changed bool) {
	const variable = "GODEBUG="
	var all []string
	for _, e := range environ {
		theirs, ok := strings.CutPrefix(e, variable)
		switch {
		case !ok:
			env = append(env, e)
		case theirs != "":
			all = strings.Split(theirs, ",")
		}
	}
	for _, s := range settings {
		name, _, _ := strings.Cut(s, "=")
		if !slices.ContainsFunc(all, func(their string) bool { return strings.HasPrefix(their, name+"=") }) {
			all, changed = append(all, s), true
		}
	}
	if !changed {
		return environ, false
	}
	return append(env, variable+strings.Join(all, ",")), true
}
