package loadgen

import (
	"fmt"
	"time"
)

// usage is what processes and machine have used so far.
type usage struct {
	cpu               []time.Duration // of each pid
	peak              []int64         // bytes, of each pid
	self, busy, total time.Duration
	flushes, written  int64
}

// sampler reads usage of the pids.
type sampler func(pids []int) (usage, error)

// since relates what was used from before to u to ops operations.
func (u usage) since(before usage, pids []int, ops int64) (*Servers, *Machine) {
	per := func(x float64) float64 { return x / float64(max(ops, 1)) }
	micros := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
	var servers *Servers
	var cpu time.Duration
	if len(pids) > 0 {
		servers = &Servers{PIDs: pids, PeakRSS: u.peak}
		for i := range pids {
			d := u.cpu[i] - before.cpu[i]
			cpu += d
			servers.CPUSeconds = append(servers.CPUSeconds, d.Seconds())
		}
		servers.CPUPerOp = per(micros(cpu))
	}
	if u.total == before.total { // not known here
		return servers, nil
	}
	share := func(d time.Duration) float64 { return max(0, float64(d)/float64(u.total-before.total)) }
	busy, self := u.busy-before.busy, u.self-before.self
	return servers, &Machine{
		Busy: share(busy), Other: share(busy - cpu - self), ClientPerOp: per(micros(self)),
		FlushesPerOp: per(float64(u.flushes - before.flushes)), WrittenPerOp: per(float64(u.written - before.written)),
	}
}

// errGone tells that a process to be measured does not exist.
func errGone(pid int, err error) error { return fmt.Errorf("process %d: %w", pid, err) }
