package vclock

import (
	"sync/atomic"
	"time"
)

// Stamp is a hybrid logical clock reading (Kulkarni et al., "Logical Physical Clocks", 2014): Unix milliseconds in
// the upper 48 bits, a logical counter in the lower 16. Stamps order writes of a last-write-wins bucket and say
// when a value was written; they play no part in Merge.
type Stamp uint64

const logicalBits = 16

// StampAt returns the first stamp of the given Unix milliseconds.
func StampAt(millis int64) Stamp { return Stamp(max(millis, 0)) << logicalBits }

// Millis returns the stamp's Unix milliseconds.
func (s Stamp) Millis() int64 { return int64(s >> logicalBits) }

// Time returns the stamp's wall time, in UTC.
func (s Stamp) Time() time.Time { return time.UnixMilli(s.Millis()).UTC() }

// HLC issues one node's stamps, each higher than all before, also when the wall clock steps back. Safe for
// concurrent use. The zero value is ready.
type HLC struct{ last atomic.Uint64 }

// Next returns a new stamp, given the wall clock's Unix milliseconds.
func (h *HLC) Next(millis int64) Stamp {
	for {
		last := h.last.Load()
		next := max(last+1, uint64(StampAt(millis)))
		if h.last.CompareAndSwap(last, next) {
			return Stamp(next)
		}
	}
}
