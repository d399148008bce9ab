package loadgen

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Latency summarises latencies, in microseconds. In the open loop they count
// from when an operation was due, in the closed loop from when it was sent.
type Latency struct {
	Count int64   `json:"count"`
	Mean  float64 `json:"mean_us"`
	P50   float64 `json:"p50_us"`
	P90   float64 `json:"p90_us"`
	P99   float64 `json:"p99_us"`
	P999  float64 `json:"p99_9_us"`
	P9999 float64 `json:"p99_99_us"`
	Max   float64 `json:"max_us"`
}

func summarize(h *hdrhistogram.Histogram) Latency {
	if h.TotalCount() == 0 {
		return Latency{}
	}
	us := func(ns int64) float64 { return float64(ns) / 1e3 }
	at := func(p float64) float64 { return us(h.ValueAtQuantile(p)) }
	return Latency{
		Count: h.TotalCount(), Mean: h.Mean() / 1e3, Max: us(h.Max()),
		P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), P9999: at(99.99),
	}
}

// KindResult is what became of one kind of operation.
type KindResult struct {
	Latency  Latency          `json:"latency"`            // of those that succeeded
	Failed   Latency          `json:"failed"`             // of those that did not
	Answers  map[string]int64 `json:"answers"`            // by HTTP status, or reason without one
	Missing  int64            `json:"missing,omitempty"`  // reads of absent keys
	Siblings int64            `json:"siblings,omitempty"` // reads of several values
}

// Point is one second of the window, by when answers came.
type Point struct {
	At     float64 `json:"at_s"` // end of the second, from the beginning of the window
	Rate   float64 `json:"ops_per_s"`
	Errors int64   `json:"errors"`
	P50    float64 `json:"p50_us"`
	P99    float64 `json:"p99_us"`
	Max    float64 `json:"max_us"`
	CPU    float64 `json:"server_cpu_us_per_op,omitempty"`
}

// Servers is what the given processes used during the window.
type Servers struct {
	PIDs       []int     `json:"pids"`
	CPUPerOp   float64   `json:"cpu_us_per_op"` // of all together
	CPUSeconds []float64 `json:"cpu_s"`         // of each
	PeakRSS    []int64   `json:"peak_rss_bytes"`
}

// Machine is what the whole machine did during the window.
type Machine struct {
	Busy         float64 `json:"busy"`              // share of all processors
	Other        float64 `json:"other"`             // share used by neither the servers nor this process
	FlushesPerOp float64 `json:"flushes_per_op"`    // of all disks
	WrittenPerOp float64 `json:"disk_bytes_per_op"` // of all disks
	ClientPerOp  float64 `json:"client_cpu_us_per_op"`
}

// Result is a whole measurement.
type Result struct {
	Spec      Spec                  `json:"settings"`
	Started   time.Time             `json:"started"`
	Seconds   float64               `json:"seconds"`   // length of the window
	PerSecond float64               `json:"ops_per_s"` // successful answers within the window
	Ops       int64                 `json:"operations"`
	Errors    int64                 `json:"errors"`
	Unsent    int64                 `json:"unsent,omitempty"` // due, but no connection was free until the end; in Latency with the time waited
	Cut       bool                  `json:"interrupted,omitempty"`
	Latency   Latency               `json:"latency"` // of all kinds: successes, and what was unsent
	Kinds     map[string]KindResult `json:"kinds"`
	Failures  map[string]string     `json:"failures,omitempty"` // by reason: what was said first
	Servers   *Servers              `json:"servers,omitempty"`
	Machine   *Machine              `json:"machine,omitempty"`
	Series    []Point               `json:"series"`
}

// collect makes the result's counts from all that was recorded.
func (r *recorder) collect(out *Result) {
	r.roll()
	r.mu.Lock()
	defer r.mu.Unlock()
	all := newHistogram()
	out.Kinds = map[string]KindResult{}
	for k, t := range r.total {
		n := t.ok.TotalCount() + t.failed.TotalCount()
		if n == 0 {
			continue
		}
		all.Merge(t.ok)
		out.Ops += n
		out.Errors += t.failed.TotalCount()
		out.Kinds[Kind(k).String()] = KindResult{
			Latency: summarize(t.ok), Failed: summarize(t.failed), Answers: t.answers, Missing: t.missing, Siblings: t.siblings,
		}
	}
	all.Merge(r.late)
	out.Unsent = r.late.TotalCount()
	out.Latency = summarize(all)
	out.Failures = r.first
}
