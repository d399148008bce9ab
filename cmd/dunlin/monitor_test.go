package main

import (
	"slices"
	"testing"
)

func TestWakefulMonitor(t *testing.T) {
	for _, c := range []struct {
		name      string
		have, env []string
	}{
		{"no setting", []string{"A=1"}, []string{"A=1", "GODEBUG=" + wakefulMonitor}},
		{"an empty one", []string{"GODEBUG=", "A=1"}, []string{"A=1", "GODEBUG=" + wakefulMonitor}},
		{"others are kept", []string{"GODEBUG=gctrace=1,x=2", "A=1"}, []string{"A=1", "GODEBUG=gctrace=1,x=2," + wakefulMonitor}},
		{"the user's trace", []string{"GODEBUG=schedtrace=1000", "A=1"}, nil},
		{"the user wants none", []string{"GODEBUG=gctrace=1,schedtrace=0"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			env, changed := withWakefulMonitor(c.have)
			want := c.env
			if want == nil {
				want = c.have
			}
			if changed != (c.env != nil) || !slices.Equal(env, want) {
				t.Errorf("got %q, changed: %v", env, changed)
			}
			if _, again := withWakefulMonitor(env); again {
				t.Error("the process would replace itself again")
			}
		})
	}
}
