package loadgen

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// alarm sleeps exactly. The runtime's own timers wait in epoll, whose unit is a millisecond, which would count as
// latency; a sleep in the kernel is exact, but keeps one of the runtime's processors from the connections. A timer that is a
// file is neither.
type alarm struct {
	fd   int
	file *os.File // of fd, known to the runtime's poller
}

func newAlarm() (*alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("a timer: %w", err)
	}
	return &alarm{fd: fd, file: os.NewFile(uintptr(fd), "timer")}, nil
}

// sleep waits for d, exact to some ten microseconds.
func (a *alarm) sleep(d time.Duration) {
	if d <= 0 {
		return
	}
	at := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}
	if err := unix.TimerfdSettime(a.fd, 0, &at, nil); err != nil {
		time.Sleep(d)
		return
	}
	var times [8]byte
	_, _ = a.file.Read(times[:]) // fails when it is closed
}

func (a *alarm) close() { _ = a.file.Close() }
