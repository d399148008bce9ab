package transport

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// A connection ends when what was sent has not been acknowledged for some time, on both sides of it.
func TestUnackedBytesEndAConnection(t *testing.T) {
	l, err := TCP().Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialled, err := TCP().Dial(t.Context(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer dialled.Close()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	for side, c := range map[string]net.Conn{"dialled": dialled, "accepted": accepted} {
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var ms int
		if err := raw.Control(func(fd uintptr) { ms, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT) }); err != nil {
			t.Fatal(err)
		}
		if err != nil || int64(ms) != unacked.Milliseconds() {
			t.Errorf("%s: %d ms, %v", side, ms, err)
		}
	}
}
