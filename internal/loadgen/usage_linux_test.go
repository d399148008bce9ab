package loadgen

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestUsageOfAProcess(t *testing.T) {
	if err := CheckProcess(os.Getpid()); err != nil {
		t.Fatal(err)
	}
	before, err := sample([]int{os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	for u := before; u.cpu[0] < before.cpu[0]+3*tick; { // work until it shows
		if u, err = sample([]int{os.Getpid()}); err != nil {
			t.Fatal(err)
		}
	}
	after, err := sample([]int{os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	servers, machine := after.since(before, []int{os.Getpid()}, 1000)
	if servers.CPUPerOp < 30 || servers.PeakRSS[0] < 1<<20 {
		t.Errorf("%+v", servers)
	}
	if machine.Busy <= 0 || machine.Busy > 1 || machine.Other < 0 || machine.Other > 1 || machine.ClientPerOp <= 0 {
		t.Errorf("%+v", machine)
	}
}

func TestAnEndedProcessIsNamed(t *testing.T) {
	child := exec.Command("true")
	if err := child.Run(); err != nil {
		t.Fatal(err)
	}
	if err := CheckProcess(child.Process.Pid); err == nil || !strings.Contains(err.Error(), "there is no process") {
		t.Errorf("check: %v", err)
	}
	if _, err := sample([]int{child.Process.Pid}); err == nil {
		t.Error("it is measured")
	}
}
