//go:build !linux

package fleet

import (
	"context"
	"errors"
	"net"
	"time"
)

// Lab is a network of namespaces, which only Linux has: there is none here.
type Lab struct{}

var errNoLab = errors.New("network namespaces need Linux")

// NewLab fails.
func NewLab(int) (*Lab, error) { return nil, errNoLab }

// Close does nothing.
func (l *Lab) Close() {}

// Address is empty.
func (l *Lab) Address(int) string { return "" }

// Launch starts nothing.
func (l *Lab) Launch(int) func(start func() error) error {
	return func(func() error) error { return errNoLab }
}

// Dial fails.
func (l *Lab) Dial(context.Context, string, string) (net.Conn, error) { return nil, errNoLab }

// CutOneWay fails.
func (l *Lab) CutOneWay(int, int) error { return errNoLab }

// Split fails.
func (l *Lab) Split(a, b []int) error { return errNoLab }

// Lose fails.
func (l *Lab) Lose(int) error { return errNoLab }

// Delay fails.
func (l *Lab) Delay(time.Duration) error { return errNoLab }

// Heal fails.
func (l *Lab) Heal() error { return errNoLab }
