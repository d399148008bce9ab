package main

import (
	"os"
	"strings"
	"testing"
)

// A package that is added to the benchmarks, or loses its own, shows in the comparison only if the baseline has it.
func TestBaselineHasEveryPackage(t *testing.T) {
	rules, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(rules), "\nMICRO = ")
	list, _, _ = strings.Cut(list, "\n")
	packages := strings.Fields(list)
	if len(packages) < 5 {
		t.Fatalf("the Makefile names %v", packages)
	}
	baseline, err := os.ReadFile("baseline.txt")
	if err != nil {
		t.Fatal(err)
	}
	runs, at := map[string]int{}, ""
	for line := range strings.Lines(string(baseline)) {
		if name, ok := strings.CutPrefix(line, "pkg: github.com/dunlindb/dunlin"); ok {
			at = "." + strings.TrimSpace(name)
		}
		if strings.HasPrefix(line, "Benchmark") && strings.Contains(line, " ns/op") {
			runs[at]++
		}
	}
	for _, p := range packages {
		if runs[p] == 0 || runs[p]%6 != 0 {
			t.Errorf("%s: %d results, which is no multiple of 6", p, runs[p])
		}
	}
}
