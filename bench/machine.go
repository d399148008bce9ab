package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// machine is where and when the measurements were made.
type machine struct {
	CPUs   int       `json:"cpus"`
	Model  string    `json:"model"`
	Kernel string    `json:"kernel"`
	Go     string    `json:"go"`
	When   time.Time `json:"when"`
}

func thisMachine() machine {
	m := machine{CPUs: runtime.NumCPU(), Model: "unknown processor", Go: runtime.Version(), When: time.Now().UTC()}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				m.Model = strings.TrimSpace(value)
				break
			}
		}
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		release := strings.SplitN(unix.ByteSliceToString(u.Release[:]), ".", 3) // its end is the builder's
		m.Kernel = unix.ByteSliceToString(u.Sysname[:]) + " " + strings.Join(release[:min(2, len(release))], ".")
	}
	return m
}

func (m machine) String() string {
	return fmt.Sprintf("%d x %s, %s, %s, %s", m.CPUs, m.Model, m.Kernel, m.Go, m.When.Format("2 January 2006"))
}
