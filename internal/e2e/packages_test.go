package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// packageIndex writes every record of the machine's Debian package index as NDJSON, one record a package name, and
// returns the texts by name.
func packageIndex(t *testing.T, file string) map[string]string {
	t.Helper()
	need(t, "apt", installed("apt-cache"))
	out, err := exec.CommandContext(t.Context(), "apt-cache", "dumpavail").Output()
	if err == nil && len(out) < 1<<20 {
		err = fmt.Errorf("the package index has only %d bytes; run apt-get update", len(out))
	}
	need(t, "apt", err)
	texts := make(map[string]string)
	for record := range bytes.SplitSeq(out, []byte("\n\n")) {
		name, ok := bytes.CutPrefix(record, []byte("Package: "))
		if !ok {
			continue
		}
		name, _, _ = bytes.Cut(name, []byte("\n"))
		texts[string(name)] = string(record)
	}
	w, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	b := bufio.NewWriter(w)
	enc := json.NewEncoder(b)
	for name, text := range texts {
		if err := enc.Encode(map[string]string{"key": name, "value": text}); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return texts
}

// TestLoadPackageIndexWhileANodeIsKilled is the main job on real data: the whole package index is loaded with w=2
// through three nodes; one is killed with SIGKILL in the middle and started again while the load goes on. Then every
// acknowledged record is read with r=2 from a node that did not take its write, and compared byte by byte.
func TestLoadPackageIndexWhileANodeIsKilled(t *testing.T) {
	heavy(t)
	dir := t.TempDir()
	file, acked := filepath.Join(dir, "packages.ndjson"), filepath.Join(dir, "acked.ndjson")
	texts := packageIndex(t, file)

	f := newFlock(t, 3)
	f.start(f.nodes...)
	f.ready(f.nodes...)
	var urls []string
	for _, p := range f.nodes {
		urls = append(urls, p.url(""))
	}
	load := exec.CommandContext(t.Context(), binary, "load", file, "--bucket", "debian", "--w", "2",
		"--url", strings.Join(urls, ","), "--acked", acked, "--json")
	var stdout, stderr output
	load.Env, load.Stdout, load.Stderr = []string{"PATH=/"}, &stdout, &stderr
	start := time.Now()
	if err := load.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- load.Wait() }()

	// Kill when a third is acknowledged; the load must still be running when the node is back.
	victim := f.nodes[1]
	until(t, 2*time.Minute, "a third of the records are acknowledged", func() error {
		b, err := os.ReadFile(acked)
		if n := bytes.Count(b, []byte("\n")); err == nil && n < len(texts)/3 {
			err = fmt.Errorf("%d of %d", n, len(texts))
		}
		return err
	})
	f.signal(victim, syscall.SIGKILL)
	killed := time.Since(start)
	f.start(victim)
	f.ready(victim)
	back := time.Since(start)
	select {
	case err := <-ended:
		t.Fatalf("the load ended (%v) before the killed node was back; nothing was shown\n%s", err, stderr.String())
	default:
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Fatalf("the load failed: %v\n%s\n%s", err, stdout.String(), stderr.String())
		}
	case <-time.After(5 * time.Minute):
		_ = load.Process.Kill()
		t.Fatalf("the load did not end\n%s", stderr.String())
	}
	var sum struct {
		Records, Bytes, Retried, Failed, Acked int64
		Seconds                                float64
	}
	if err := json.Unmarshal([]byte(stdout.String()), &sum); err != nil {
		t.Fatalf("%v: %s", err, stdout.String())
	}
	if sum.Failed != 0 || sum.Acked != int64(len(texts)) {
		t.Fatalf("%+v of %d records", sum, len(texts))
	}
	checkAcked(t, f, acked, texts)
	t.Logf("%d records (%d bytes) in %.1f s (%.0f/s); node killed after %.1f s and ready again after %.1f s; %d writes retried; none missing, none different",
		sum.Records, sum.Bytes, sum.Seconds, float64(sum.Records)/sum.Seconds, killed.Seconds(), back.Seconds(), sum.Retried)
}

// checkAcked reads every acknowledged record with r=2 from another node than the one that coordinated its write.
func checkAcked(t *testing.T, f *flock, file string, texts map[string]string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	type ack struct{ Key, Node string }
	work := make(chan ack)
	var wrong, read atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for a := range work {
				i := (int(read.Add(1))) % len(f.nodes)
				if f.nodes[i].name == a.Node {
					i = (i + 1) % len(f.nodes)
				}
				status, body, err := try(t.Context(), "GET", f.nodes[i].url("/kv/debian/"+url.PathEscape(a.Key)+"?r=2"), "")
				if (err != nil || status != 200 || body != texts[a.Key]) && wrong.Add(1) <= 10 {
					t.Errorf("%s at %s (written through %s): status %d, %d bytes, want %d; %v", a.Key, f.nodes[i].name, a.Node, status, len(body), len(texts[a.Key]), err)
				}
			}
		})
	}
	seen := make(map[string]bool)
	for line := range strings.Lines(string(b)) {
		var a ack
		if err := json.Unmarshal([]byte(line), &a); err != nil {
			t.Fatal(err)
		}
		seen[a.Key] = true
		work <- a
	}
	close(work)
	wg.Wait()
	if wrong.Load() > 0 || len(seen) != len(texts) {
		t.Fatalf("%d of %d records wrong; %d acknowledged", wrong.Load(), len(texts), len(seen))
	}
}
