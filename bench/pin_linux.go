package main

import (
	"errors"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// halves splits the processors, so that a load generator does not take from the servers what its own load costs: half
// for the servers, half for this process. ok is false where there is only one.
func halves() (servers, client unix.CPUSet, ok bool) {
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil || all.Count() < 2 {
		return servers, client, false
	}
	left := all.Count() / 2
	for cpu := 0; servers.Count()+client.Count() < all.Count(); cpu++ {
		switch {
		case !all.IsSet(cpu):
		case left > 0:
			servers.Set(cpu)
			left--
		default:
			client.Set(cpu)
		}
	}
	return servers, client, true
}

// apart runs start, which begins the servers, on one half of the processors, and this process on the other from then on.
func apart(start func() error) (split bool, err error) {
	servers, client, ok := halves()
	if !ok {
		return false, start()
	}
	// Children, and threads of the runtime, inherit from the thread that makes them.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.SchedSetaffinity(0, &servers); err != nil {
		return false, err
	}
	err = start()
	tasks, readErr := os.ReadDir("/proc/self/task")
	if err != nil || readErr != nil {
		return false, errors.Join(err, readErr)
	}
	for _, t := range tasks {
		if id, err := strconv.Atoi(t.Name()); err == nil {
			_ = unix.SchedSetaffinity(id, &client) // a thread may have ended
		}
	}
	return true, nil
}
