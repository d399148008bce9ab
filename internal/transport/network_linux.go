package transport

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// boundUnacked sets unacked on a socket; what a listener accepts inherits it. Without it connections only end later.
func boundUnacked(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unacked.Milliseconds()))
	})
}
