// Package config is the settings of one node as plain data: one struct, one
// Default, one Validate, and the reader of the optional settings file.
//
// It knows the names of the flags and environment variables, so that an error
// can name the setting to change, but not how they are parsed: the command line
// fills a Config through the struct tags. It must not know any other package
// of ours, the network, or the data directory. It owns no goroutine; a Config
// is a value and is not changed after Validate.
package config

import (
	"log/slog"
	"os"
	"time"
)

// Config is every setting of one node. The tags are read by the command line
// (name, env, default, help, group) and by LoadFile (name).
type Config struct {
	Name string `name:"name" env:"DUNLIN_NAME" default:"${hostname}" group:"Node" help:"This node's name, unique in the cluster. It stays the same for the life of the data directory."`
	Data string `name:"data" env:"DUNLIN_DATA" default:"./data" placeholder:"DIR" group:"Node" help:"Data directory. Created when it is missing."`

	HTTP      string `name:"http" env:"DUNLIN_HTTP" default:":8000" placeholder:"HOST:PORT" group:"Addresses" help:"Where clients are answered."`
	RPC       string `name:"rpc" env:"DUNLIN_RPC" default:":8100" placeholder:"HOST:PORT" group:"Addresses" help:"Where other nodes are answered."`
	Gossip    string `name:"gossip" env:"DUNLIN_GOSSIP" default:":8200" placeholder:"HOST:PORT" group:"Addresses" help:"Where membership is gossiped, TCP and UDP."`
	Advertise string `name:"advertise" env:"DUNLIN_ADVERTISE" placeholder:"HOST" group:"Addresses" help:"The host that others reach this node by, without a port. Found from the network interface when not given."`

	Seeds   []Seed `name:"seeds" env:"DUNLIN_SEEDS" placeholder:"NAME@HOST:PORT" group:"Cluster" help:"Gossip addresses of nodes to start with. A fresh node that finds its own name here is a founder and waits for the others; another one joins. Without seeds: a cluster of one."`
	Cluster string `name:"cluster" env:"DUNLIN_CLUSTER" default:"dunlin" group:"Cluster" help:"Cluster name. Nodes of another cluster are refused."`
	Secret  string `name:"secret" env:"DUNLIN_SECRET" group:"Cluster" help:"Shared secret of all nodes: encrypts gossip and authenticates node-to-node connections. Prefer the variable to the flag, which everyone on this machine can read."`
	Zone    string `name:"zone" env:"DUNLIN_ZONE" group:"Cluster" help:"Failure zone, e.g. a rack. Replicas of one key are spread over distinct zones first."`
	Replace bool   `name:"replace" env:"DUNLIN_REPLACE" group:"Cluster" help:"Take the place of the member that has this name and does not answer, because its disk is lost for good. Only a node with an empty directory does."`
	Weight  int    `name:"weight" env:"DUNLIN_WEIGHT" default:"1" group:"Cluster" help:"Share of the data relative to other nodes, 1..100."`

	LeaveOnStop  bool          `name:"leave-on-stop" env:"DUNLIN_LEAVE_ON_STOP" group:"Cluster" help:"On SIGTERM or SIGINT leave the cluster before ending: hand over what this node holds. A second signal ends at once. Only nodes above N do; the exit code is 0 only if the node has left."`
	LeaveTimeout time.Duration `name:"leave-timeout" env:"DUNLIN_LEAVE_TIMEOUT" default:"10m" placeholder:"DURATION" group:"Cluster" help:"How long --leave-on-stop may take; then the node ends as the member that it is."`

	N          int    `name:"n" env:"DUNLIN_N" default:"3" group:"Replication" help:"Replicas of each key."`
	R          Quorum `name:"r" env:"DUNLIN_R" default:"quorum" placeholder:"1..N|one|quorum|all" group:"Replication" help:"Replicas that a read waits for, unless the bucket or the request says otherwise."`
	W          Quorum `name:"w" env:"DUNLIN_W" default:"quorum" placeholder:"1..N|one|quorum|all" group:"Replication" help:"Replicas that a write waits for, unless the bucket or the request says otherwise."`
	Partitions int    `name:"partitions" env:"DUNLIN_PARTITIONS" default:"1024" group:"Replication" help:"Slices of the hash space, a power of two. Fixed when the cluster is founded."`

	Durability string `name:"durability" env:"DUNLIN_DURABILITY" default:"fsync" placeholder:"fsync|os" group:"Storage" help:"When a write counts as stored: fsync = on the disk, os = handed to the operating system (survives a killed process, not a power cut)."`
	MaxValue   Size   `name:"max-value" env:"DUNLIN_MAX_VALUE" default:"1MiB" placeholder:"SIZE" group:"Storage" help:"Largest value, at most 8MiB. A larger one is answered with 413."`
	Cache      Cache  `name:"cache" env:"DUNLIN_CACHE" default:"auto" placeholder:"SIZE|auto" group:"Storage" help:"Memory for records that were used lately. 0 keeps none. auto = a sixty-fourth of the machine's or the container's memory, from 64MiB to 1GiB."`
	MinFree    Free   `name:"min-free" env:"DUNLIN_MIN_FREE" default:"auto" placeholder:"SIZE|PERCENT|auto" group:"Storage" help:"Free disk space below which this node refuses client writes (507), e.g. 1GiB or 5%. auto = the larger of these two, less on disks below 8GiB. More is kept free where the storage needs it."`

	MaxInFlight    int           `name:"max-in-flight" env:"DUNLIN_MAX_IN_FLIGHT" default:"1024" group:"Limits" help:"HTTP requests worked on at once. More are answered with 503 and Retry-After."`
	DefaultTimeout time.Duration `name:"default-timeout" env:"DUNLIN_DEFAULT_TIMEOUT" default:"5s" placeholder:"DURATION" group:"Limits" help:"Time limit of a request that gives none, at most 60s."`

	Pprof string `name:"pprof" env:"DUNLIN_PPROF" placeholder:"HOST:PORT" group:"Logging" help:"Where this process's profiles are served (/debug/pprof/, for go tool pprof). Only for those who may see everything: use a loopback address. Not served when not given."`

	LogLevel  slog.Level `name:"log-level" env:"DUNLIN_LOG_LEVEL" default:"info" placeholder:"debug|info|warn|error" group:"Logging" help:"Least level that is logged."`
	LogFormat string     `name:"log-format" env:"DUNLIN_LOG_FORMAT" default:"text" placeholder:"text|json" group:"Logging" help:"How log lines are written to stderr."`
}

// Durability settings.
const (
	DurabilityFsync = "fsync" // an ack means: on the disk
	DurabilityOS    = "os"    // an ack means: in the operating system's cache
)

// Limits that Validate enforces.
const (
	MaxMaxValue   = 8 * MiB
	MaxTimeout    = 60 * time.Second
	maxCache      = TiB
	maxN          = 15
	maxPartitions = 1 << 16
	maxLeave      = 24 * time.Hour
	maxWeight     = 100
	maxInFlight   = 1 << 20
	maxNameLength = 64
)

// Hostname is the default of Name: the host's name, or "node" where the system
// has none.
func Hostname() string {
	h, err := os.Hostname()
	if err != nil || h == "" {
		return "node"
	}
	return h
}

// Default returns the settings of a node for which nothing was set. They equal
// the default tags of Config.
func Default() Config {
	return Config{
		Name:           Hostname(),
		Data:           "./data",
		HTTP:           ":8000",
		RPC:            ":8100",
		Gossip:         ":8200",
		Cluster:        "dunlin",
		Weight:         1,
		LeaveTimeout:   10 * time.Minute,
		N:              3,
		R:              QuorumMajority,
		W:              QuorumMajority,
		Partitions:     1024,
		Durability:     DurabilityFsync,
		MaxValue:       MiB,
		Cache:          Cache{Auto: true},
		MinFree:        Free{Auto: true},
		MaxInFlight:    1024,
		DefaultTimeout: 5 * time.Second,
		LogLevel:       slog.LevelInfo,
		LogFormat:      "text",
	}
}
