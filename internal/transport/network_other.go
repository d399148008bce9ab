//go:build !linux

package transport

import "syscall"

// boundUnacked does nothing here: connections end by the transport's own silence.
func boundUnacked(_, _ string, _ syscall.RawConn) error { return nil }
