package loadgen

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// tick is the unit of processor times in /proc: USER_HZ, 100 on every
// architecture that Go runs on.
const tick = time.Second / 100

const sectorSize = 512 // of /proc/diskstats, whatever the disk's

// sample reads /proc.
func sample(pids []int) (usage, error) {
	var u usage
	for _, pid := range pids {
		cpu, peak, err := process(pid)
		if err != nil {
			return u, errGone(pid, err)
		}
		u.cpu, u.peak = append(u.cpu, cpu), append(u.peak, peak)
	}
	var self unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &self); err != nil {
		return u, err
	}
	u.self = time.Duration(self.Utime.Nano() + self.Stime.Nano())
	u.busy, u.total = processors()
	u.flushes, u.written = disks()
	return u, nil
}

// CheckProcess tells why the process cannot be measured.
func CheckProcess(pid int) error {
	_, _, err := process(pid)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("there is no process %d", pid)
	}
	return err
}

func process(pid int) (cpu time.Duration, peak int64, err error) {
	dir := "/proc/" + strconv.Itoa(pid)
	b, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return 0, 0, err
	}
	// The name in parentheses may hold anything.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 13 {
		return 0, 0, fmt.Errorf("%s/stat: %q", dir, b)
	}
	for _, f := range fields[11:13] { // utime, stime
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("%s/stat: %w", dir, err)
		}
		cpu += time.Duration(n) * tick
	}
	if b, err = os.ReadFile(dir + "/status"); err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			peak = kib << 10
		}
	}
	return cpu, peak, nil
}

// processors is the time of all processors, and how much of it they worked.
func processors() (busy, total time.Duration) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0
	}
	line, _, _ := strings.Cut(string(b), "\n")
	for i, f := range strings.Fields(line) {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil || i > 8 { // the word cpu; guests, which user has already
			continue
		}
		total += time.Duration(n) * tick
		if i != 4 && i != 5 && i != 8 { // idle, iowait, steal
			busy += time.Duration(n) * tick
		}
	}
	return busy, total
}

// disks sums flushes and bytes written over all disks.
func disks() (flushes, written int64) {
	b, err := os.ReadFile("/proc/diskstats")
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 20 || strings.HasPrefix(f[2], "loop") || strings.HasPrefix(f[2], "ram") || strings.HasPrefix(f[2], "zram") {
			continue
		}
		sectors, _ := strconv.ParseInt(f[9], 10, 64)
		n, _ := strconv.ParseInt(f[18], 10, 64)
		flushes += n
		written += sectors * sectorSize
	}
	return flushes, written
}
