package main

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/internal/loadgen"
)

func TestJoinsAreComparedWithTheFairShare(t *testing.T) {
	j := &joins{Settings: settings{Keys: 1000, Value: 100, Rounds: 1, Connections: 16, Rate: 1500}}
	for _, clients := range []string{noClients, asMuchAs, atGivenRate} {
		x := joined{Clients: clients, Seconds: 12, Partitions: 614, All: 3072, Objects: 660, Bytes: 2_500_000, Stored: 10_000_000, Leave: 7}
		if clients != noClients {
			x.Before, x.During, x.Rates, x.Errors = loadgen.Latency{P99: 4000}, loadgen.Latency{P99: 9000}, [2]float64{3000, 2000}, 1
		}
		j.Joins = append(j.Joins, x)
	}
	j.Joins[0].Back, j.Joins[0].BackTime = 8_000_000, 40
	text := j.markdown()
	for _, want := range []string{
		"| clients | none | closed loop, 16 connections | open loop, 300/s |\n",
		"| of its fair share of the members' files | 1.25 [1.25 to 1.25] |  |  |\n", // 2.5 MB of 10/5 MB
		"| objects, of its fair share of all copies | 1.10 [1.10 to 1.10] |",        // 660 of 3 x 1000/5
		"| partitions, of its fair share | 1.00 [1.00 to 1.00] |",
		"| operations/s before |  | 3000 [3000 to 3000] | 3000 [3000 to 3000] |\n",
		"| p99 before, ms |  | 4.00 [4.00 to 4.00] |",
		"Files of the four members: 10.0 [10.0 to 10.0] MB before the join without clients, 8.00 [8.00 to 8.00] MB 40.0 [40.0 to 40.0] s after its end.",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if strings.Contains(text, "Preliminary") {
		t.Error("nothing else used the machine:", text)
	}
	j.Joins[1].Other, j.Joins[2].Other = 0.5, 0.5
	if !strings.Contains(j.markdown(), "Preliminary:** other work used 50%") {
		t.Error("does not tell that it was disturbed")
	}
}

func TestJoinIsForItself(t *testing.T) {
	if s, err := parse([]string{"--join", "--window", "10s"}, io.Discard); err != nil || !s.join || s.Window != 10*time.Second {
		t.Errorf("%+v, %v", s, err)
	}
	for _, args := range [][]string{{"--join", "--healing"}, {"--join", "--rate", "0"}, {"--join", "--servers", "etcd"}, {"--join", "--from", "x"}} {
		if _, err := parse(args, io.Discard); err == nil || !strings.Contains(err.Error(), "--join") {
			t.Errorf("%v: %v", args, err)
		}
	}
}
