//go:build !linux

package storage

import "errors"

// mappedFiles is known of Linux only.
type mappedFiles struct{}

func openMappedFiles() (*mappedFiles, error) { return nil, errors.ErrUnsupported }

func (*mappedFiles) close() {}

func (*mappedFiles) resident() int64 { return 0 }

func unmapPages([]byte) {}
