//go:build !linux

package main

// apart is not known here: servers and this process share all processors.
func apart(start func() error) (split bool, err error) { return false, start() }
