package torture

import (
	"errors"
	"fmt"
	"time"
)

// Whether to ill-treat the network, too.
const (
	NetworkAuto = "auto" // where that can be done
	NetworkYes  = "yes"  // or not run at all
	NetworkNo   = "no"
)

// Limits of Options.
const (
	MinNodes   = 3 // replicas of a key
	MaxNodes   = 9
	MaxClients = 256
)

// Options of a run.
type Options struct {
	Program    string        // of a node, a path
	Dir        string        // where data, logs and namespaces go; it must exist
	Nodes      int           // MinNodes..MaxNodes
	Clients    int           // 1..MaxClients
	Time       time.Duration // after which the faults end; 0: no limit
	Kills      int           // after which the faults end; 0: no limit
	Seed       uint64        // of all choices
	Durability string        // of the nodes, fsync or os
	Network    string        // one of the constants
	Say        func(format string, args ...any)
}

// Invalid is an option that cannot be.
type Invalid struct {
	Option string // as a flag is called, without dashes
	Err    error
}

func (e *Invalid) Error() string { return e.Option + ": " + e.Err.Error() }

// Unwrap returns the reason.
func (e *Invalid) Unwrap() error { return e.Err }

// Validate returns an *Invalid.
func (o Options) Validate() error {
	bad := func(option, format string, args ...any) error { return &Invalid{option, fmt.Errorf(format, args...)} }
	switch {
	case o.Nodes < MinNodes || o.Nodes > MaxNodes:
		return bad("nodes", "%d is out of range; use %d..%d", o.Nodes, MinNodes, MaxNodes)
	case o.Clients < 1 || o.Clients > MaxClients:
		return bad("clients", "%d is out of range; use 1..%d", o.Clients, MaxClients)
	case o.Time < 0:
		return bad("time", "%v is negative", o.Time)
	case o.Kills < 0:
		return bad("kills", "%d is negative", o.Kills)
	case o.Time == 0 && o.Kills == 0:
		return &Invalid{"time", errors.New("neither a time nor a number of kills ends the run")}
	case o.Durability != "fsync" && o.Durability != "os":
		return bad("durability", "%q is neither fsync nor os", o.Durability)
	case o.Network != NetworkAuto && o.Network != NetworkYes && o.Network != NetworkNo:
		return bad("network", "%q is none of auto, yes, no", o.Network)
	}
	return nil
}
