package cluster

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseSeeds(t *testing.T) {
	got, err := ParseSeeds(" a@kv1:8200, kv2:8200 ,b@[::1]:8200,")
	want := []Seed{{"a", "kv1:8200"}, {"", "kv2:8200"}, {"b", "[::1]:8200"}}
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("%v, %v", got, err)
	}
	if got, err := ParseSeeds(""); err != nil || len(got) != 0 {
		t.Fatalf("%v, %v", got, err)
	}
	for _, bad := range []string{"kv1", "a@kv1", "@kv1:8200", "a@kv1:0", "a@kv1:http", "a b@kv1:8200", "a/b@kv1:8200", ":8200", "a@x:1,a@y:2", "a@b@c:1"} {
		pieces := strings.Split(bad, ",")
		if _, err := ParseSeeds(bad); err == nil || !strings.Contains(err.Error(), pieces[len(pieces)-1]) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestNewNamesTheWrongSetting(t *testing.T) {
	w := &world{t: t}
	for _, tt := range []struct {
		want   string
		change func(*Config)
	}{
		{"node id", func(c *Config) { c.Self = [16]byte{} }},
		{"node name", func(c *Config) { c.Name = "" }},
		{"node name", func(c *Config) { c.Name = strings.Repeat("x", MaxName+1) }},
		{"cluster name", func(c *Config) { c.Cluster = "a/b" }},
		{"zone", func(c *Config) { c.Zone = "not a zone" }},
		{"weight", func(c *Config) { c.Weight = 0 }},
		{"Partitions", func(c *Config) { c.Partitions = 100 }},
		{"N:", func(c *Config) { c.N = 0 }},
		{"HTTP", func(c *Config) { c.HTTPAddr = strings.Repeat("x", MaxAddress+1) }},
		{"RPC", func(c *Config) { c.RPCAddr = strings.Repeat("x", MaxAddress+1) }},
		{"State", func(c *Config) { c.State = nil }},
	} {
		cfg := w.config("a", "")
		tt.change(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", tt.want, err)
		}
	}
}

func TestStartNamesTheGossipAddress(t *testing.T) {
	w := &world{t: t}
	for _, bad := range []string{"nonsense", "127.0.0.1:http", "127.0.0.1:70000"} {
		cfg := w.config("a", "")
		cfg.GossipBind = bad
		c, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		if err := c.Start(ctx); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("%q: %v", bad, err)
		}
		cancel()
	}
}

func TestOwnIPIsAnIP(t *testing.T) {
	if ip := net.ParseIP(ownIP(t.Context())); ip == nil || ip.IsUnspecified() {
		t.Fatal(ip)
	}
}

// files returns what the directory of a founder looks like after a while.
func founderFiles(t *testing.T) (Config, map[string][]byte) {
	w := &world{t: t}
	cfg := w.config("a", abc)
	s := cfg.State.(*memState)
	v := newVote(&cfg, membersOf(w, "a", "b", "c"))
	s.files[keyVote] = v.encode()
	s.files[keyEpochs] = firstEpochs(v.layout()).encode()
	s.files[keyStarts] = encodeStarts([]uint64{1, 2, 3})
	s.files[keySeen] = encodeSeen(nil)
	s.files[keyPeers] = encodePeers([]peerRecord{{ID: nodeID("b"), Name: "b", RPCAddr: "b:8100", GossipAddr: addrOf(2), Weight: 1}})
	return cfg, s.files
}

func TestADamagedPeersFileIsIgnored(t *testing.T) {
	for _, bad := range [][]byte{{}, []byte("garbage"), {0xdd, 0xff, 0xff, 0xff, 0xff}, nil} {
		cfg, files := founderFiles(t)
		if bad == nil {
			bad = files[keyPeers][:len(files[keyPeers])-1]
		}
		files[keyPeers] = bad
		c, err := New(cfg)
		if err != nil {
			t.Fatalf("%x: %v", bad, err)
		}
		if _, ok := c.Address(nodeID("b")); ok || c.Ring() == nil {
			t.Fatalf("%x: address %v, ring %v", bad, ok, c.Ring())
		}
	}
}

func TestADamagedVoteLayoutOrStartsFileIsAnError(t *testing.T) {
	for _, name := range []string{keyVote, keyEpochs, keyStarts, keySeen} {
		for _, cut := range []func([]byte) []byte{
			func(b []byte) []byte { return b[:len(b)-1] },
			func([]byte) []byte { return []byte("garbage") },
			func(b []byte) []byte { return append(slices.Clone(b), 0) },
			func([]byte) []byte { return []byte{} },
		} {
			cfg, files := founderFiles(t)
			files[name] = cut(files[name])
			if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("%s = %x: %v", name, files[name], err)
			}
		}
	}
	cfg, files := founderFiles(t)
	delete(files, keyVote)
	if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), keyVote) {
		t.Errorf("a layout without its vote: %v", err)
	}
}

func TestADirectoryOfAnotherClusterIsAnError(t *testing.T) {
	for _, gone := range []string{"", keyEpochs, keyVote} {
		cfg, files := founderFiles(t)
		delete(files, gone)
		cfg.Cluster = "other"
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), `belongs to cluster "dunlin"`) {
			t.Errorf("without %q: %v", gone, err)
		}
	}
	cfg, _ := founderFiles(t)
	cfg.Self = nodeID("someone else")
	if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "another node") {
		t.Error(err)
	}
}

func TestNewStoresAStartIDAndNothingElse(t *testing.T) {
	cfg, _ := founderFiles(t)
	s := cfg.State.(*memState)
	s.saves = map[string]int{}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if s.saved(keyStarts) != 1 || len(s.saves) != 1 {
		t.Fatal(s.saves)
	}
	if ids, err := decodeStarts(s.files[keyStarts]); err != nil || len(ids) != 4 || ids[3] != c.start {
		t.Fatalf("%v, %v", ids, err)
	}
	s.broken = keyStarts
	if _, err := New(cfg); err == nil {
		t.Fatal("started without a stored start id")
	}
}
