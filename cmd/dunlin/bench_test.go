package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dunlindb/dunlin/internal/config"
	"github.com/dunlindb/dunlin/internal/loadgen"
	"github.com/dunlindb/dunlin/internal/node"
)

// singleNode starts a real node in this process, a cluster of one, and returns
// its URL.
func singleNode(t *testing.T) string {
	t.Helper()
	c := config.Default()
	c.Name, c.Data, c.MinFree = "n1", filepath.Join(t.TempDir(), "n1"), config.Free{Bytes: 1}
	var listeners []net.Listener
	for _, addr := range []*string{&c.HTTP, &c.RPC, &c.Gossip} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		*addr = l.Addr().String()
		listeners = append(listeners, l)
	}
	for _, l := range listeners {
		_ = l.Close()
	}
	n, err := node.Start(t.Context(), c, slog.New(slog.NewTextHandler(t.Output(), nil)), node.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Stop(); err != nil {
			t.Error(err)
		}
	})
	url := "http://" + n.Addr().String()
	eventually(t, "a node that is ready", func() bool {
		resp, err := http.Get(url + "/readyz")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return url
}

// bench runs dunlin bench in this process and returns its result.
func bench(t *testing.T, args ...string) (r loadgen.Result, said string) {
	t.Helper()
	var out, err bytes.Buffer
	if code := run(t.Context(), append([]string{"bench", "--json", "-"}, args...), &streams{in: strings.NewReader(""), out: &out, err: &err}); code != 0 {
		t.Fatalf("bench %v: exit code %d: %s", args, code, err.String())
	}
	var doc struct {
		Operations, Errors int64
		Kinds              map[string]loadgen.KindResult
		Servers            *loadgen.Servers
		Series             []loadgen.Point
	}
	if e := json.Unmarshal(out.Bytes(), &doc); e != nil {
		t.Fatalf("%v: %s", e, out.String())
	}
	return loadgen.Result{Ops: doc.Operations, Errors: doc.Errors, Kinds: doc.Kinds, Servers: doc.Servers, Series: doc.Series}, err.String()
}

// A small load on a real node: what the load counts is what the node did, and
// the files are there.
func TestBenchAgainstARealNode(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a node and loads it for seconds")
	}
	url := singleNode(t)
	plot := filepath.Join(t.TempDir(), "out.png")
	r, said := bench(t, "--url", url, "--preload", "--keys", "50", "--mix", "put=40,get=40,delete=20", "--dist", "zipfian", "--rate", "200", "-c", "8",
		"--warmup", "100ms", "--ops", "500", "--value-size", "10..3000", "--pid", fmt.Sprint(os.Getpid()), "--plot", plot)
	if n := r.Ops; n != 500 || r.Errors != 0 || r.Kinds["delete"].Answers["204"] == 0 || r.Kinds["get"].Answers["200"] == 0 {
		t.Errorf("%d operations: %+v\n%s", n, r.Kinds, said)
	}
	if r.Kinds["get"].Siblings != 0 {
		t.Errorf("%d siblings in a bucket whose last write wins", r.Kinds["get"].Siblings)
	}
	if r.Servers == nil || r.Servers.CPUPerOp <= 0 || r.Servers.PeakRSS[0] == 0 || len(r.Series) < 2 || !strings.Contains(said, "cpu ") {
		t.Errorf("servers %+v, %d points: %s", r.Servers, len(r.Series), said)
	}
	if info, err := os.Stat(plot); err != nil || info.Size() < 5000 {
		t.Errorf("the plot: %v", err)
	}
}

// In a bucket that keeps siblings the writes replace what they have seen.
func TestBenchOfSiblingsSendsContexts(t *testing.T) {
	url := singleNode(t)
	r, said := bench(t, "--url", url, "--conflict", "siblings", "--preload", "--keys", "5", "--ops", "300", "-c", "1", "--warmup", "0s")
	if r.Ops != 300 || r.Errors != 0 || r.Kinds["get"].Answers["200"] == 0 || r.Kinds["get"].Siblings != 0 {
		t.Errorf("%+v\n%s", r.Kinds, said)
	}
}
