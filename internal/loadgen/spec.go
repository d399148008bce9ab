package loadgen

import (
	"fmt"
	"slices"
	"time"
)

// Bounds of a Spec.
const (
	MaxConnections = 4096
	MaxKeys        = 1 << 30
	MaxRate        = 10_000_000
	MaxValue       = 64 << 20

	// DefaultTheta is the skew of YCSB's zipfian.
	DefaultTheta = 0.99
)

// Distributions of the keys that operations touch.
const (
	Uniform = "uniform" // every key is as likely as any other
	Zipfian = "zipfian" // few keys are hot, spread over the whole key space
	Latest  = "latest"  // writes go round the key space; reads prefer what was written last
)

// Arrivals of an open loop.
const (
	Even    = "even"    // one operation each 1/rate
	Poisson = "poisson" // independent arrivals, 1/rate apart in the mean
)

// Spec is a load. Operations are drawn from Mix, their keys from Dist.
type Spec struct {
	Connections int           `json:"connections"`           // each has one operation under way at most
	Rate        float64       `json:"rate"`                  // operations per second of the open loop; 0: closed loop
	Arrivals    string        `json:"arrivals,omitempty"`    // of the open loop: Even or Poisson
	Mix         Mix           `json:"mix"`                   // shares of the kinds of operations
	Dist        string        `json:"dist"`                  // Uniform, Zipfian or Latest
	Theta       float64       `json:"theta,omitempty"`       // skew of Zipfian and Latest, above 0 and below 1
	Keys        int           `json:"keys"`                  // size of the key space
	ValueSize   SizeRange     `json:"value_size"`            // bytes
	Warmup      time.Duration `json:"warmup_ns"`             // not measured
	Duration    time.Duration `json:"duration_ns,omitempty"` // length of the measured window; 0: until Ops
	Ops         int64         `json:"ops,omitempty"`         // measured operations; 0: until Duration
	Seed        uint64        `json:"seed"`                  // the same seed draws the same keys, kinds and sizes
	Verify      bool          `json:"verify"`                // values that are read must be such as the load writes
}

// Invalid is a setting of a Spec that cannot be used.
type Invalid struct {
	Field string // as in the JSON of Spec
	Err   error
}

func (e *Invalid) Error() string { return e.Field + ": " + e.Err.Error() }

// Unwrap returns the reason.
func (e *Invalid) Unwrap() error { return e.Err }

func invalid(field, format string, args ...any) error {
	return &Invalid{Field: field, Err: fmt.Errorf(format, args...)}
}

// Validate returns the first setting that cannot be used, as an *Invalid.
func (s Spec) Validate() error {
	switch {
	case s.Connections < 1 || s.Connections > MaxConnections:
		return invalid("connections", "%d is out of range; use 1..%d", s.Connections, MaxConnections)
	case !(s.Rate >= 0 && s.Rate <= MaxRate):
		return invalid("rate", "%v is out of range; use 0 (closed loop) to %d operations per second", s.Rate, MaxRate)
	case s.Rate > 0 && s.Arrivals != Even && s.Arrivals != Poisson:
		return invalid("arrivals", "%q is neither %s nor %s", s.Arrivals, Even, Poisson)
	case s.Mix.total() == 0:
		return invalid("mix", "no kind of operation has a share; use e.g. put=50,get=50")
	case !slices.Contains([]string{Uniform, Zipfian, Latest}, s.Dist):
		return invalid("dist", "%q is none of %s, %s, %s", s.Dist, Uniform, Zipfian, Latest)
	case s.Dist != Uniform && !(s.Theta > 0 && s.Theta < 1):
		return invalid("theta", "%v is out of range; use a number above 0 and below 1, e.g. %v", s.Theta, DefaultTheta)
	case s.Keys < 1 || s.Keys > MaxKeys:
		return invalid("keys", "%d is out of range; use 1..%d", s.Keys, MaxKeys)
	case s.ValueSize.Min < 0 || s.ValueSize.Max < s.ValueSize.Min || s.ValueSize.Max > MaxValue:
		return invalid("value_size", "%v is out of range; use 0..%d bytes", s.ValueSize, MaxValue)
	case s.Warmup < 0:
		return invalid("warmup", "%v is negative", s.Warmup)
	case s.Duration < 0:
		return invalid("duration", "%v is negative", s.Duration)
	case s.Ops < 0:
		return invalid("ops", "%d is negative", s.Ops)
	case s.Duration == 0 && s.Ops == 0:
		return invalid("duration", "neither a duration nor a number of operations is given")
	}
	return nil
}

// String describes the load in one line.
func (s Spec) String() string {
	loop := fmt.Sprintf("closed loop of %d connections", s.Connections)
	if s.Rate > 0 {
		loop = fmt.Sprintf("open loop of %g/s (%s arrivals) over %d connections", s.Rate, s.Arrivals, s.Connections)
	}
	return fmt.Sprintf("%v, %s over %d keys, values of %v bytes, %s", s.Mix, s.Dist, s.Keys, s.ValueSize, loop)
}
