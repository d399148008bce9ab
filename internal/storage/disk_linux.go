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

// allocate gives the first n bytes of a file blocks on the disk, where they have none. What is read from it stays the same.
func allocate(f *os.File, n int64) error {
	for {
		if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, n); !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("fallocate", err)
		}
	}
}
