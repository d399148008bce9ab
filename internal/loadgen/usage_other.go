//go:build !linux

package loadgen

import "errors"

var errNoProc = errors.New("processes can be measured on Linux only")

func sample(pids []int) (usage, error) {
	if len(pids) > 0 {
		return usage{}, errNoProc
	}
	return usage{}, nil
}

// CheckProcess tells why the process cannot be measured.
func CheckProcess(int) error { return errNoProc }
