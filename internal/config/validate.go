package config

import (
	"errors"
	"fmt"
	"net"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Error is a setting that cannot be used. Its text is one line that names the
// setting by flag and variable and says what to do.
type Error struct {
	Flag string // without dashes, e.g. "max-value"
	Env  string // e.g. "DUNLIN_MAX_VALUE"
	Err  error
}

func (e *Error) Error() string { return fmt.Sprintf("--%s (%s): %v", e.Flag, e.Env, e.Err) }

// Unwrap returns the reason.
func (e *Error) Unwrap() error { return e.Err }

// Problem returns the Error for the setting whose flag is given, for checks
// that only the running node can make (a busy port, an unreadable directory).
func Problem(flag string, err error) error {
	f, ok := fields()[flag]
	if !ok {
		return fmt.Errorf("--%s: %w", flag, err)
	}
	return &Error{Flag: flag, Env: f.Tag.Get("env"), Err: err}
}

// fields are the settings by flag name.
func fields() map[string]reflect.StructField {
	t := reflect.TypeFor[Config]()
	out := make(map[string]reflect.StructField, t.NumField())
	for i := range t.NumField() {
		out[t.Field(i).Tag.Get("name")] = t.Field(i)
	}
	return out
}

// Variables returns the environment variables that set a Config.
func Variables() []string {
	t := reflect.TypeFor[Config]()
	out := make([]string, 0, t.NumField())
	for i := range t.NumField() {
		out = append(out, t.Field(i).Tag.Get("env"))
	}
	return out
}

// Validate reports the first setting that cannot be used as an *Error. It
// looks at nothing but c: no file, no network.
func (c Config) Validate() error {
	checks := []struct {
		flag string
		err  error
	}{
		{"name", checkName(c.Name)},
		{"data", checkData(c.Data)},
		{"http", checkListen(c.HTTP)},
		{"rpc", checkListen(c.RPC)},
		{"gossip", checkListen(c.Gossip)},
		{"rpc", c.checkDistinct(c.RPC, "--http", c.HTTP)},
		{"gossip", c.checkDistinct(c.Gossip, "--http", c.HTTP)},
		{"gossip", c.checkDistinct(c.Gossip, "--rpc", c.RPC)},
		{"advertise", checkAdvertise(c.Advertise)},
		{"seeds", checkSeeds(c.Seeds)},
		{"cluster", checkName(c.Cluster)},
		{"zone", checkZone(c.Zone)},
		{"weight", checkRange(c.Weight, 1, maxWeight)},
		{"leave-timeout", checkLeave(c.LeaveTimeout)},
		{"n", checkRange(c.N, 1, maxN)},
		{"r", checkQuorum(c.R, c.N)},
		{"w", checkQuorum(c.W, c.N)},
		{"partitions", checkPartitions(c.Partitions)},
		{"durability", checkWord(c.Durability, DurabilityFsync, DurabilityOS)},
		{"max-value", checkMaxValue(c.MaxValue)},
		{"cache", checkCache(c.Cache.Bytes)},
		{"max-in-flight", checkRange(c.MaxInFlight, 1, maxInFlight)},
		{"default-timeout", checkTimeout(c.DefaultTimeout)},
		{"pprof", checkPprof(c.Pprof)},
		{"log-format", checkWord(c.LogFormat, "text", "json")},
	}
	for _, check := range checks {
		if check.err != nil {
			return Problem(check.flag, check.err)
		}
	}
	return nil
}

func checkName(s string) error {
	if s == "" {
		return errors.New("is empty; use 1 to 64 of A-Z a-z 0-9 . _ -")
	}
	bad := strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r))
	})
	if bad >= 0 || len(s) > maxNameLength {
		return fmt.Errorf("%q is no name; use 1 to 64 of A-Z a-z 0-9 . _ -", s)
	}
	return nil
}

func checkZone(s string) error {
	if s == "" {
		return nil
	}
	return checkName(s)
}

func checkCache(s Size) error {
	if s < 0 || s > maxCache {
		return fmt.Errorf("%s is out of range; use 0 to %s", s, maxCache)
	}
	return nil
}

func checkPprof(addr string) error {
	if addr == "" {
		return nil
	}
	return checkListen(addr)
}

func checkData(s string) error {
	if s == "" {
		return errors.New("is empty; use the path of a directory")
	}
	return nil
}

func validPort(s string, least int) bool {
	p, err := strconv.Atoi(s)
	return err == nil && p >= least && p <= 65535
}

func checkListen(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil || !validPort(port, 0) || strings.ContainsAny(host, " /@") {
		return fmt.Errorf("%q is no address to listen on; use host:port or :port, e.g. :8000 or 127.0.0.1:8000", s)
	}
	return nil
}

// checkDistinct refuses two listeners that could not both start. Port 0 is
// any free port and never collides.
func (c Config) checkDistinct(addr, otherFlag, other string) error {
	host, port, err1 := net.SplitHostPort(addr)
	otherHost, otherPort, err2 := net.SplitHostPort(other)
	if err1 != nil || err2 != nil || port != otherPort || port == "0" {
		return nil
	}
	if host == otherHost || anyHost(host) || anyHost(otherHost) {
		return fmt.Errorf("%q uses the port of %s %q; give each its own port", addr, otherFlag, other)
	}
	return nil
}

func anyHost(h string) bool { return h == "" || h == "0.0.0.0" || h == "::" }

func checkAdvertise(s string) error {
	if s == "" || net.ParseIP(s) != nil {
		return nil
	}
	if strings.ContainsAny(s, ":/@ ") {
		return fmt.Errorf("%q is no host; use an IP address or a host name, without a port", s)
	}
	return nil
}

func checkSeeds(seeds []Seed) error {
	named := map[string]string{}
	for _, s := range seeds {
		if s.Name == "" {
			continue
		}
		if addr, twice := named[s.Name]; twice {
			return fmt.Errorf("%q is listed twice (%s and %s); names are unique", s.Name, addr, s.Addr)
		}
		named[s.Name] = s.Addr
	}
	return nil
}

func checkRange(v, lo, hi int) error {
	if v < lo || v > hi {
		return fmt.Errorf("%d is out of range; use %d..%d", v, lo, hi)
	}
	return nil
}

func checkQuorum(q Quorum, n int) error {
	_, err := q.Of(n)
	return err
}

func checkPartitions(q int) error {
	if q < 1 || q > maxPartitions || q&(q-1) != 0 {
		return fmt.Errorf("%d is no power of two from 1 to %d; use e.g. 1024", q, maxPartitions)
	}
	return nil
}

func checkWord(s string, words ...string) error {
	for _, w := range words {
		if s == w {
			return nil
		}
	}
	return fmt.Errorf("%q is unknown; use %s", s, strings.Join(words, " or "))
}

func checkMaxValue(s Size) error {
	if s < 1 || s > MaxMaxValue {
		return fmt.Errorf("%s is out of range; use 1B..%s", s, MaxMaxValue)
	}
	return nil
}

func checkTimeout(d time.Duration) error {
	if d < time.Millisecond || d > MaxTimeout {
		return fmt.Errorf("%s is out of range; use 1ms..%s", d, MaxTimeout)
	}
	return nil
}

func checkLeave(d time.Duration) error {
	if d < time.Second || d > maxLeave {
		return fmt.Errorf("%s is out of range; use 1s..%s", d, maxLeave)
	}
	return nil
}
