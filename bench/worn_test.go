package main

import (
	"strings"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/internal/loadgen"
)

func TestWornIsComparedWithFresh(t *testing.T) {
	felts := func(get, put float64) []felt {
		var all []felt
		for _, by := range []float64{0.5, 1, 2} {
			all = append(all, felt{Get: loadgen.Latency{P99: get * by}, Put: loadgen.Latency{P99: put * by}, Errors: 1})
		}
		return all
	}
	w := &worn{
		Settings: settings{Keys: 1000, Value: 100, Rounds: 3, Rate: 1500, Window: time.Second}, Fresh: felts(1000, 2000), Worn: felts(1500, 2000), Start: 0.5,
		Wear: overwrite{Ops: 9000, Errors: 4, Seconds: 3, CPU: 400, Lat: loadgen.Latency{P99: 5000}},
	}
	text := w.markdown()
	for _, want := range []string{
		"after 9000 overwrites",
		"| GET r=2, p99 | 1.00 [0.50 to 2.00] | 1.50 [0.75 to 3.00] | 1.50 |",
		"| PUT w=2, p99 | 2.00 [1.00 to 4.00] | 2.00 [1.00 to 4.00] | 1.00 |",
		"3000/s, p99 5.0 ms, 400 us of CPU each. The restart: 0.5 s. Operations that failed: 10.",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
}
