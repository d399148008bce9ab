package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestDefaultIsValid(t *testing.T) {
	c := Default()
	c.Name = "n1"
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
}

func TestValidateNamesFlagVariableAndRemedy(t *testing.T) {
	cases := []struct {
		change func(*Config)
		want   []string
	}{
		{func(c *Config) { c.W = "5" }, []string{`--w (DUNLIN_W): "5" is more than N=3; use 1..3, one, quorum or all`}},
		{func(c *Config) { c.R = "0" }, []string{"--r (DUNLIN_R)", "less than 1"}},
		{func(c *Config) { c.N = 0 }, []string{"--n (DUNLIN_N)", "1..15"}},
		{func(c *Config) { c.Name = "a/b" }, []string{"--name (DUNLIN_NAME)"}},
		{func(c *Config) { c.Data = "" }, []string{"--data (DUNLIN_DATA)"}},
		{func(c *Config) { c.HTTP = "8000" }, []string{"--http (DUNLIN_HTTP)", ":8000"}},
		{func(c *Config) { c.RPC = "h:70000" }, []string{"--rpc (DUNLIN_RPC)"}},
		{func(c *Config) { c.Gossip = "127.0.0.1:8000" }, []string{"--gossip (DUNLIN_GOSSIP)", "--http"}},
		{func(c *Config) { c.Advertise = "host:1" }, []string{"--advertise (DUNLIN_ADVERTISE)", "without a port"}},
		{func(c *Config) { c.Seeds = []Seed{{"a", "x:1"}, {"a", "y:1"}} }, []string{"--seeds (DUNLIN_SEEDS)", "twice"}},
		{func(c *Config) { c.Partitions = 1000 }, []string{"--partitions (DUNLIN_PARTITIONS)", "power of two"}},
		{func(c *Config) { c.Weight = 0 }, []string{"--weight (DUNLIN_WEIGHT)"}},
		{func(c *Config) { c.Durability = "yes" }, []string{"--durability (DUNLIN_DURABILITY)", "fsync or os"}},
		{func(c *Config) { c.MaxValue = 9 * MiB }, []string{"--max-value (DUNLIN_MAX_VALUE)", "8MiB"}},
		{func(c *Config) { c.MaxInFlight = 0 }, []string{"--max-in-flight (DUNLIN_MAX_IN_FLIGHT)"}},
		{func(c *Config) { c.DefaultTimeout = time.Hour }, []string{"--default-timeout (DUNLIN_DEFAULT_TIMEOUT)", "1m0s"}},
		{func(c *Config) { c.LeaveTimeout = 0 }, []string{"--leave-timeout (DUNLIN_LEAVE_TIMEOUT)", "1s..24h0m0s"}},
		{func(c *Config) { c.LogFormat = "xml" }, []string{"--log-format (DUNLIN_LOG_FORMAT)", "text or json"}},
		{func(c *Config) { c.Cache.Bytes = 2 * TiB }, []string{"--cache (DUNLIN_CACHE)", "1TiB"}},
		{func(c *Config) { c.Pprof = "6060" }, []string{"--pprof (DUNLIN_PPROF)"}},
		{func(c *Config) { c.Zone = "a b" }, []string{"--zone (DUNLIN_ZONE)"}},
		{func(c *Config) { c.Cluster = "" }, []string{"--cluster (DUNLIN_CLUSTER)"}},
	}
	for _, tc := range cases {
		c := Default()
		c.Name = "n1"
		tc.change(&c)
		err := c.Validate()
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("want an *Error with %q, got %v", tc.want, err)
			continue
		}
		for _, want := range tc.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("error %q does not contain %q", err, want)
			}
		}
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("error %q has more than one line", err)
		}
	}
}

func TestListenersOnDistinctHostsMayShareAPort(t *testing.T) {
	c := Default()
	c.Name, c.HTTP, c.RPC, c.Gossip = "n1", "127.0.0.1:8000", "127.0.0.2:8000", "127.0.0.1:0"
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
}

func TestQuorum(t *testing.T) {
	for text, want := range map[string]int{"one": 1, "Quorum": 3, "ALL": 5, "4": 4, " 2 ": 2} {
		var q Quorum
		if err := q.UnmarshalText([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := q.Of(5); err != nil || got != want {
			t.Errorf("%q of 5 = %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "two", "-1", "0", "99999999999999999999"} {
		var q Quorum
		if err := q.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q was accepted as %q", text, q)
		}
	}
	if _, err := Quorum("4").Of(3); err == nil {
		t.Error("4 of 3 was accepted")
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]Size{"0": 0, "17": 17, "17B": 17, "1MiB": MiB, "1.5 kib": 1536, "2g": 2 * GiB, "3MB": 3e6} {
		var s Size
		if err := s.UnmarshalText([]byte(text)); err != nil || s != want {
			t.Errorf("%q = %d, %v; want %d", text, s, err, want)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "nan", "inf", "9e30", "1XB"} {
		var s Size
		if err := s.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q was accepted as %d", text, s)
		}
	}
	for s, want := range map[Size]string{0: "0B", 1000: "1000B", KiB: "1KiB", 3 * MiB: "3MiB", 1536: "1536B"} {
		if s.String() != want {
			t.Errorf("%d prints as %s, want %s", s, s, want)
		}
	}
}

func TestFree(t *testing.T) {
	cases := []struct {
		text  string
		total Size
		want  Size
	}{
		{"auto", 100 * GiB, 5 * GiB},
		{"auto", 10 * GiB, GiB},
		{"auto", 2 * GiB, 512 * MiB},
		{"10%", 100 * GiB, 10 * GiB},
		{"2GiB", 100 * GiB, 2 * GiB},
		{"0", 100 * GiB, 0},
	}
	for _, tc := range cases {
		var f Free
		if err := f.UnmarshalText([]byte(tc.text)); err != nil {
			t.Fatal(err)
		}
		if got := Size(f.Of(int64(tc.total))); got != tc.want {
			t.Errorf("%s of %s = %s, want %s", tc.text, tc.total, got, tc.want)
		}
	}
	for _, text := range []string{"", "101%", "-1%", "nan%", "much"} {
		var f Free
		if err := f.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q was accepted as %v", text, f)
		}
	}
}

func TestCache(t *testing.T) {
	for _, c := range []struct {
		text string
		want Cache
	}{
		{"auto", Cache{Auto: true}},
		{" Auto ", Cache{Auto: true}},
		{"0", Cache{}},
		{"96MiB", Cache{Bytes: 96 * MiB}},
	} {
		var got Cache
		if err := got.UnmarshalText([]byte(c.text)); err != nil || got != c.want {
			t.Errorf("%q: %+v, %v; want %+v", c.text, got, err, c.want)
		}
		var again Cache
		if err := again.UnmarshalText([]byte(got.String())); err != nil || again != got {
			t.Errorf("%q is written %q, which is read as %+v, %v", c.text, got, again, err)
		}
	}
	for _, text := range []string{"", "much", "-1", "5%"} {
		var got Cache
		if err := got.UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), "auto") {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, c := range []struct {
		cache  Cache
		memory Size
		want   Size
	}{
		{Cache{Auto: true}, 0, 64 * MiB},
		{Cache{Auto: true}, 192 * MiB, 64 * MiB},
		{Cache{Auto: true}, 16 * GiB, 256 * MiB},
		{Cache{Auto: true}, 24105 * MiB, 376 * MiB},
		{Cache{Auto: true}, TiB, GiB},
		{Cache{}, 16 * GiB, 0},
		{Cache{Bytes: 2 * GiB}, GiB, 2 * GiB},
	} {
		if got := c.cache.Of(uint64(c.memory)); got != c.want {
			t.Errorf("%v of %v is %v, want %v", c.cache, c.memory, got, c.want)
		}
	}
}

func TestSeed(t *testing.T) {
	for _, text := range []string{"n1@10.0.0.1:8200", "host:8200", "n2@[::1]:8200"} {
		var s Seed
		if err := s.UnmarshalText([]byte(text)); err != nil || s.String() != text {
			t.Errorf("%q became %q, %v", text, s, err)
		}
	}
	for _, text := range []string{"", "host", "n1@", "@h:1", "n 1@h:1", ":8200", "h:0", "h:x"} {
		var s Seed
		if err := s.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q was accepted as %+v", text, s)
		}
	}
}

func TestLoadFile(t *testing.T) {
	write := func(text string) string {
		path := filepath.Join(t.TempDir(), "dunlin.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	got, err := LoadFile(write("# settings\nname: n1\nn: 3\nseeds: [n1@a:1, n2@b:2]\nmax-value: 2MiB\n"))
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"name": "n1", "n": "3", "seeds": "n1@a:1,n2@b:2", "max-value": "2MiB"} {
		if got[key] != want {
			t.Errorf("%s = %q, want %q", key, got[key], want)
		}
	}
	for text, want := range map[string]string{
		"name: n1\nquorum: 2\n":       `:2: unknown setting "quorum"`,
		"name: a\nname: b\n":          ":2:",
		"- a\n":                       ":1: expected lines",
		"seeds: {a: b}\n":             ":1:",
		"name:\n":                     "has no value",
		"name: [\n":                   "line",
		"name: n1\nseeds:\n  - [x]\n": "plain values",
	} {
		_, err := LoadFile(write(text))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: error %v, want one line with %q", text, err, want)
		}
	}
	if got, err := LoadFile(write("")); err != nil || len(got) != 0 {
		t.Errorf("empty file: %v, %v", got, err)
	}
	if _, err := LoadFile(filepath.Join(t.TempDir(), "absent")); err == nil {
		t.Error("an absent file was accepted")
	}
}

func TestVariablesAreComplete(t *testing.T) {
	seen := map[string]bool{}
	for _, v := range Variables() {
		if !strings.HasPrefix(v, "DUNLIN_") || seen[v] {
			t.Errorf("variable %q is malformed or used twice", v)
		}
		seen[v] = true
	}
	for name, f := range fields() {
		want := "DUNLIN_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		if f.Tag.Get("env") != want {
			t.Errorf("flag %s has variable %q, want %q", name, f.Tag.Get("env"), want)
		}
	}
}
