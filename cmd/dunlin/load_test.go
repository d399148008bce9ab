package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"
)

func stat(t *testing.T, path string) os.FileInfo {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// loadFile writes n records and returns the file's path.
func loadFile(t *testing.T, n int) string {
	t.Helper()
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, "{\"key\":\"k%03d\",\"value\":\"v%d\"}\n", i, i)
	}
	path := filepath.Join(t.TempDir(), "data.ndjson")
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// interruptedLoad starts a load of 300 records that comes to a stand behind
// the 100th write, ends it with sig, and lets a second one finish.
func interruptedLoad(t *testing.T, sig syscall.Signal) (first, second *process, fake *fakeCluster, path string) {
	t.Helper()
	fake = newFakeCluster()
	fake.stall, fake.stallAt = make(chan struct{}), 100
	server := httptest.NewServer(fake)
	t.Cleanup(server.Close)
	path = loadFile(t, 300)
	args := []string{"load", path, "--bucket", "b", "--url", server.URL, "--concurrency", "4", "--acked", path + ".acked"}
	first = launch(t, nil, args...)
	eventually(t, "100 writes", func() bool {
		fake.mu.Lock()
		defer fake.mu.Unlock()
		return fake.writes >= 104
	})
	if sig == syscall.SIGKILL { // what is to survive must have been saved
		eventually(t, "a saved state", func() bool {
			st, err := readState(&loadCmd{Bucket: "b", KeyField: "key", ValueField: "value", State: path + ".dunlin-load", File: path}, stat(t, path))
			return err == nil && st.Through > 0
		})
	}
	_ = first.Process.Signal(sig)
	if sig != syscall.SIGKILL {
		close(fake.stall)
	}
	<-first.done
	fake.mu.Lock()
	fake.stall = nil
	fake.mu.Unlock()
	second = launch(t, nil, args...)
	second.exits(t, 0)
	return first, second, fake, path
}

func TestLoadGoesOnAfterAnInterrupt(t *testing.T) {
	first, second, fake, path := interruptedLoad(t, syscall.SIGINT)
	first.exits(t, 1)
	if out := first.output(); !strings.Contains(out, "interrupted; progress is saved in "+path+".dunlin-load, the same command goes on") {
		t.Errorf("the first says: %s", out)
	}
	if !strings.Contains(second.output(), "going on behind line") {
		t.Errorf("the second says: %s", second.output())
	}
	if fake.writes != 300 {
		t.Errorf("%d writes for 300 records: some were written again, or never", fake.writes)
	}
	checkLoaded(t, fake, path, 300)
}

func TestLoadGoesOnAfterAKill(t *testing.T) {
	_, second, fake, path := interruptedLoad(t, syscall.SIGKILL)
	if !strings.Contains(second.output(), "going on behind line") {
		t.Errorf("the second says: %s", second.output())
	}
	checkLoaded(t, fake, path, 300)
}

// checkLoaded checks that every record is there once, and acknowledged.
func checkLoaded(t *testing.T, fake *fakeCluster, path string, n int) {
	t.Helper()
	acked := readFile(t, path+".acked")
	for i := range n {
		key := fmt.Sprintf("k%03d", i)
		if got := fake.keys["b/"+key]; len(got) != 1 || got[0].text != fmt.Sprintf("v%d", i) {
			t.Errorf("%s is %v", key, got)
		}
		if !strings.Contains(acked, `{"key":"`+key+`","node":"fake"`) {
			t.Errorf("%s is not in the list of acknowledged keys", key)
		}
	}
}

func TestLoadNoticesAChangedFile(t *testing.T) {
	_, _, _, path := interruptedLoad(t, syscall.SIGINT)
	text := readFile(t, path)
	changed := strings.Replace(text, "v7", "x7", 1) // of the same size
	if err := os.WriteFile(path, []byte(changed), 0o644); err != nil {
		t.Fatal(err)
	}
	p := launch(t, nil, "load", path, "--bucket", "b", "--url", "http://127.0.0.1:1")
	p.exits(t, 1)
	if !strings.Contains(p.output(), "the file has changed since the load began; use --restart") {
		t.Errorf("it says: %s", p.output())
	}
}

func TestLoadStopsWhenTheClusterTakesNothing(t *testing.T) {
	fake := newFakeCluster()
	fake.fail = 1 << 30
	server := httptest.NewServer(fake)
	defer server.Close()
	path := loadFile(t, 3)
	p := launch(t, nil, "load", path, "--bucket", "b", "--url", server.URL, "--give-up", "300ms")
	p.exits(t, 1)
	if out := p.output(); !strings.Contains(out, "not acknowledged within 300ms (--give-up)") || !strings.Contains(out, "no quorum") || !strings.Contains(out, "the same command goes on") {
		t.Errorf("it says: %s", out)
	}
	fake.mu.Lock()
	fake.fail = 0
	fake.mu.Unlock()
	p = launch(t, nil, "load", path, "--bucket", "b", "--url", server.URL)
	p.exits(t, 0)
	if len(fake.keys) != 3 {
		t.Errorf("%d keys", len(fake.keys))
	}
}

// However lines are done with, the state counts exactly those up to the first
// that is not, and survives being written and read.
func TestStateAdvancesOverWhatIsComplete(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 30).Draw(t, "lines")
		order := rapid.Permutation(seq(n)).Draw(t, "order")
		keep := rapid.IntRange(0, n).Draw(t, "done with")
		cmd := &loadCmd{Bucket: "b", State: path}
		st := newState(cmd, nil)
		done := map[int64]bool{}
		for _, line := range order[:keep] {
			st.settle(line, settled{length: line, digest: fmt.Sprint(line)})
			done[line] = true
		}
		var through, offset int64
		want := ""
		for done[through+1] {
			through++
			offset += through
			want = chain(want, fmt.Sprint(through))
		}
		if st.Through != through || st.Offset != offset || st.Chain != want || int64(len(st.Done)) != int64(keep)-through {
			t.Fatalf("done with %v: through %d offset %d, %d behind", order[:keep], st.Through, st.Offset, len(st.Done))
		}
		if err := st.write(path); err != nil {
			t.Fatal(err)
		}
		again, err := readState(cmd, nil)
		if err != nil || again.Through != through || again.Chain != want || len(again.Done) != len(st.Done) || again.Source != st.Source {
			t.Fatalf("read back: %+v, %v", again, err)
		}
	})
}

func seq(n int) []int64 {
	out := make([]int64, n)
	for i := range out {
		out[i] = int64(i + 1)
	}
	return out
}

func TestLinesAreBounded(t *testing.T) {
	long := strings.Repeat("x", maxLine+1)
	r := newLineReader(strings.NewReader("a\r\n\n" + long + "\nlast"))
	for _, want := range []struct {
		text   string
		length int64
		err    error
	}{{"a", 3, nil}, {"", 1, nil}, {long[:maxLine], maxLine + 2, errLongLine}, {"last", 4, nil}, {"", 0, io.EOF}} {
		text, length, err := r.next()
		if string(text) != want.text || length != want.length || !errors.Is(err, want.err) {
			t.Fatalf("line %d: %.20q of %d bytes, length %d, %v", r.line, text, len(text), length, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"key":"k","value":"v"}`))
	f.Add([]byte(`{"key":1,"value":"dg==","encoding":"base64"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		c := &loadCmd{KeyField: "key", ValueField: "value"}
		if r, err := c.parse(text); err == nil && r.key == "" {
			t.Fatal("a record without a key")
		}
	})
}
