package main

import (
	"strings"
	"testing"

	"github.com/dunlindb/dunlin/client"
)

// A forced removal prints all that it loses, however much that is.
func TestShowLoss(t *testing.T) {
	var out strings.Builder
	showLoss(&out, client.Plan{AtRisk: []int{0, 1, 2, 3, 7, 9, 10}, Lost: []int{2, 7}})
	for _, want := range []string{
		"LOST: of 2 partitions nothing is left: 2, 7\n", "AT RISK: of 5 more partitions", "acknowledged is lost: 0-1, 3, 9-10\n", "stopped for good",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in:\n%s", want, out.String())
		}
	}
	if got := ranges(nil); got != "none" {
		t.Error(got)
	}
}
