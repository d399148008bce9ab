package storage

import (
	"bytes"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// mappedFiles tells how much of files is mapped into this process's memory.
type mappedFiles struct {
	statm *os.File
	page  int64
}

func openMappedFiles() (*mappedFiles, error) {
	f, err := os.Open("/proc/self/statm")
	if err != nil {
		return nil, err
	}
	return &mappedFiles{statm: f, page: int64(os.Getpagesize())}, nil
}

func (m *mappedFiles) close() { _ = m.statm.Close() }

// resident is in bytes; 0 where it is not known.
func (m *mappedFiles) resident() int64 {
	var buf [128]byte
	n, _ := m.statm.ReadAt(buf[:], 0) // its end is an error, too
	fields := bytes.Fields(buf[:max(n, 0)])
	if len(fields) < 3 {
		return 0
	}
	pages, err := strconv.ParseInt(string(fields[2]), 10, 64)
	if err != nil {
		return 0
	}
	return pages * m.page
}

// unmapPages lets go of the pages of a shared mapping of a file. What was written to them is the file's.
func unmapPages(mapped []byte) { _ = unix.Madvise(mapped, unix.MADV_DONTNEED) }
