package main

import (
	"slices"
	"testing"
)

func TestWithSettings(t *testing.T) {
	settings := []string{wakefulMonitor, keepStacks}
	for _, c := range []struct {
		name      string
		have, env []string
	}{
		{"no setting", []string{"A=1"}, []string{"A=1", "GODEBUG=" + wakefulMonitor + "," + keepStacks}},
		{"an empty one", []string{"GODEBUG=", "A=1"}, []string{"A=1", "GODEBUG=" + wakefulMonitor + "," + keepStacks}},
		{"others are kept", []string{"GODEBUG=gctrace=1,x=2", "A=1"}, []string{"A=1", "GODEBUG=gctrace=1,x=2," + wakefulMonitor + "," + keepStacks}},
		{"the user's trace", []string{"GODEBUG=schedtrace=1000", "A=1"}, []string{"A=1", "GODEBUG=schedtrace=1000," + keepStacks}},
		{"the user wants stacks to shrink", []string{"GODEBUG=gcshrinkstackoff=0"}, []string{"GODEBUG=gcshrinkstackoff=0," + wakefulMonitor}},
		{"the user wants none", []string{"GODEBUG=gctrace=1,schedtrace=0,gcshrinkstackoff=0"}, nil},
		{"another's name ends alike", []string{"GODEBUG=xschedtrace=0,gcshrinkstackoff=1"}, []string{"GODEBUG=xschedtrace=0,gcshrinkstackoff=1," + wakefulMonitor}},
	} {
		t.Run(c.name, func(t *testing.T) {
			env, changed := withSettings(c.have, settings)
			want := c.env
			if want == nil {
				want = c.have
			}
			if changed != (c.env != nil) || !slices.Equal(env, want) {
				t.Errorf("got %q, changed: %v", env, changed)
			}
			if _, again := withSettings(env, settings); again {
				t.Error("the process would replace itself again")
			}
		})
	}
}
