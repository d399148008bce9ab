package loadgen

import (
	"time"

	"golang.org/x/sys/unix"
)

// coarse is how much too long the runtime may sleep: its timers wait in
// epoll, whose unit is a millisecond. Without care that would count as latency.
const coarse = 1500 * time.Microsecond

// sleep waits for d, exact to some ten microseconds.
func sleep(d time.Duration) {
	if d > coarse {
		begun := time.Now()
		time.Sleep(d - coarse)
		d -= time.Since(begun)
	}
	if d > 0 {
		t := unix.NsecToTimespec(int64(d))
		_ = unix.Nanosleep(&t, nil) // when a signal cuts it short, the operation is sent some microseconds early
	}
}
