package storage

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// fdatasync syncs what is in a file, and of what is known about it only what reading needs.
func fdatasync(f *os.File) error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}
