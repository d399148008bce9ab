package main

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/internal/loadgen"
)

func TestProbesAreJudgedByWhenTheyWere(t *testing.T) {
	begin := time.Unix(1000, 0)
	end := begin.Add(10 * time.Second)
	at := func(s float64, took time.Duration, status int) probe {
		return probe{at: begin.Add(time.Duration(s * float64(time.Second))), took: took, status: status, wait: status == 503}
	}
	silent := at(4, 30*time.Millisecond, 503)
	silent.wait = false
	got := judge([]probe{
		at(-1, 2*time.Millisecond, 200), at(-2, time.Millisecond, 204),
		at(1, time.Second, 200), // done, however late: the load's own latencies tell that
		at(2, 10*time.Millisecond, 503), at(3, 60*time.Millisecond, 503), silent, at(5, time.Second, 504), at(6, time.Second, 0),
		at(10.5, 250*time.Millisecond, 503), at(11, time.Second, 204),
		at(12.5, 4*time.Millisecond, 204), at(13, 3*time.Millisecond, 200),
	}, begin, end)
	want := probed{
		Before: 2000, Refused: 4, RefusedP99: 250_000, RefusedMax: 250_000, Late: 2, NoWait: 1, LastRefusal: 0.75, After: 4000, OtherFailed: 2,
	}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestOverloadIsComparedWithThePeakOfItsRound(t *testing.T) {
	o := &overloads{Settings: settings{Keys: 1000, Value: 100, Rounds: 2, Connections: 64, Flood: time.Minute}, Split: true}
	for _, peak := range []float64{1000, 2000} {
		o.Floods = append(o.Floods, overload{
			Peak: peak, Rate: 2 * peak, Goodput: 900, Answers: answers{"200": 50, "204": 40, "404": 1, "503": 105, "504": 2, "timeout": 1}, Unsent: 1,
			Good: loadgen.Latency{P99: 100_000}, Refused: loadgen.Latency{P50: 3000, P99: 20_000}, RSS: [2]float64{100 << 20, 150 << 20},
		})
	}
	text := o.markdown()
	for _, want := range []string{
		"The servers had half of the processors, the client the other half.",
		"| done, of the peak | 0.68 [0.45 to 0.90] |",
		"| refused with 503, % of what was asked for | 52.5 [52.5 to 52.5] |",
		"| failed otherwise, % | 1.50 [1.50 to 1.50] |",
		"| not even sent by the client, % | 0.50 [0.50 to 0.50] |",
		"| and after, MiB | 150 [150 to 150] |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if strings.Contains(text, "Preliminary") {
		t.Error("nothing else used the machine:", text)
	}
}

func TestFreezeIsComparedWithTheHealthyWindowOfItsRound(t *testing.T) {
	f := &frozen{Settings: settings{Keys: 1000, Value: 100, Rounds: 2, Rate: 1500}}
	for _, healthy := range []float64{2000, 8000} {
		f.Freezes = append(f.Freezes, freeze{
			Before: felt{Get: loadgen.Latency{P99: healthy}, Put: loadgen.Latency{P99: healthy}},
			During: felt{Get: loadgen.Latency{P99: 4000}, Put: loadgen.Latency{P99: 4000}, Errors: 1}, After: felt{Errors: 2}, Hedges: 7,
		})
	}
	f.Upkeep = []upkeep{{Compact: felt{Put: loadgen.Latency{P999: 9000}, Errors: 3}, Repairs: 2, Written: 5e6}}
	text := f.markdown()
	for _, want := range []string{
		"| PUT w=2, p99.9 | 0.00 [0.00 to 0.00] | 0.00 [0.00 to 0.00] | 9.00 [9.00 to 9.00] |", "Operations that failed: 3.", "node: 5.00 [5.00 to 5.00] MB",
		"| GET r=2, p99 | 5.00 [2.00 to 8.00] |", "| 4.00 [4.00 to 4.00] | 1.25 [0.50 to 2.00] |",
		"Operations that failed: 6.", "stood still: 7.00 [7.00 to 7.00]",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
}

func TestModesAreForThemselves(t *testing.T) {
	if s, err := parse([]string{"--overload", "--flood", "5s"}, io.Discard); err != nil || !s.overload || s.Flood != 5*time.Second {
		t.Errorf("%+v, %v", s, err)
	}
	for _, args := range [][]string{{"--frozen", "--overload"}, {"--frozen", "--rate", "0"}, {"--overload", "--healing"}, {"--overload", "--flood", "0s"}, {"--worn", "--join"}, {"--worn", "--overwrites", "0"}} {
		if _, err := parse(args, io.Discard); err == nil {
			t.Errorf("%v is taken", args)
		}
	}
}
