package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

const (
	devMarker = "dunlin-dev.json" // says that dev made the directory
	devLock   = "dev.lock"        // held while a dev runs there; its pid, emptied at a clean end
)

// devMark is the content of the marker file.
type devMark struct {
	Format int `json:"format"`
	Nodes  int `json:"nodes"`
}

// devDir is the directory of a dev cluster, locked against a second dev.
type devDir struct {
	path    string
	lock    *os.File
	unclean bool // the dev before was killed
}

// openDevDir locks dir for a cluster of so many nodes and makes it when it is
// missing. It touches nothing in a directory that dev did not make, and deletes
// nothing yet.
func openDevDir(dir string, nodes int, fresh bool) (*devDir, error) {
	if err := checkDevDir(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("--dir: %w; give a directory that can be written", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, devLock), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("--dir: %w; give a directory that can be written", err)
	}
	text := make([]byte, 32)
	n, _ := lock.Read(text) // an empty file is read as none
	pid := strings.TrimSpace(string(text[:n]))
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("--dir: a dunlin dev (pid %s) runs in %s; stop it, or give another --dir and --port-base", dash(pid), dir)
	}
	d := &devDir{path: dir, lock: lock, unclean: pid != ""}
	if err := d.claim(nodes, fresh); err != nil {
		_ = lock.Close()
		return nil, err
	}
	return d, nil
}

// checkDevDir refuses a directory with foreign content.
func checkDevDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("--dir: %w; give a directory that can be written", err)
	}
	foreign := false
	for _, e := range entries {
		if e.Name() == devMarker {
			return nil
		}
		foreign = foreign || e.Name() != devLock
	}
	if foreign {
		return fmt.Errorf("--dir: %s is not empty and was not made by dunlin dev; give another directory", dir)
	}
	return nil
}

// claim compares the directory with what is asked, under the lock, and writes
// the pid.
func (d *devDir) claim(nodes int, fresh bool) error {
	text, err := os.ReadFile(filepath.Join(d.path, devMarker))
	if errors.Is(err, os.ErrNotExist) {
		return d.writePid()
	}
	var mark devMark
	if err == nil {
		err = json.Unmarshal(text, &mark)
	}
	if err != nil || mark.Format != 1 {
		return fmt.Errorf("--dir: %s cannot be read as the mark of a dev cluster; give another directory", filepath.Join(d.path, devMarker))
	}
	if mark.Nodes != nodes && !fresh {
		return fmt.Errorf("--nodes: the cluster in %s was founded with %d nodes, and that cannot change yet; use --nodes %d, or --fresh to start over (deletes its data)", d.path, mark.Nodes, mark.Nodes)
	}
	return d.writePid()
}

func (d *devDir) writePid() error {
	err := d.lock.Truncate(0)
	if err == nil {
		_, err = d.lock.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		return fmt.Errorf("--dir: %w; give a directory that can be written", err)
	}
	return nil
}

// found marks the directory as a cluster of so many nodes; with fresh it
// deletes the one before.
func (d *devDir) found(nodes int, fresh bool) error {
	if fresh {
		if err := d.wipe(); err != nil {
			return err
		}
	}
	text, err := json.Marshal(devMark{Format: 1, Nodes: nodes})
	if err == nil {
		err = os.WriteFile(filepath.Join(d.path, devMarker), append(text, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("--dir: %w", err)
	}
	return nil
}

// wipe deletes the nodes' directories and logs; the marker last, so that a
// wipe that was cut off can be repeated.
func (d *devDir) wipe() error {
	for i := 1; i <= maxDevNodes; i++ {
		name := filepath.Join(d.path, "n"+strconv.Itoa(i))
		if err := errors.Join(os.RemoveAll(name), os.RemoveAll(name+".log")); err != nil {
			return fmt.Errorf("--fresh: %w", err)
		}
	}
	if err := os.RemoveAll(filepath.Join(d.path, devMarker)); err != nil {
		return fmt.Errorf("--fresh: %w", err)
	}
	return nil
}

// close says that all nodes have stopped, and unlocks.
func (d *devDir) close() {
	_ = d.lock.Truncate(0)
	_ = d.lock.Close()
}
