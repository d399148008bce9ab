package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/internal/fleet"
)

// binary is the program under test, built once.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "dunlin-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "dunlin")
	args := []string{"build", "-o", binary}
	if os.Getenv("DUNLIN_E2E_RACE") != "" {
		args = append(args, "-race")
	}
	build := exec.Command("go", append(args, "github.com/dunlindb/dunlin/cmd/dunlin")...)
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "building the program:", err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// need skips the test where something is missing, or fails it where DUNLIN_REQUIRE asks for it.
func need(t *testing.T, what string, missing error) {
	t.Helper()
	if missing == nil {
		return
	}
	if slices.Contains(strings.Split(os.Getenv("DUNLIN_REQUIRE"), ","), what) {
		t.Fatalf("%s is required (DUNLIN_REQUIRE), but: %v", what, missing)
	}
	t.Skipf("needs %s: %v", what, missing)
}

// heavy skips a test that takes long, unless it is asked for.
func heavy(t *testing.T) {
	t.Helper()
	if !slices.Contains(strings.Split(os.Getenv("DUNLIN_REQUIRE"), ","), "heavy") {
		t.Skip("a heavy test: set DUNLIN_REQUIRE=heavy, as .ci/run does")
	}
}

func installed(program string) error {
	_, err := exec.LookPath(program)
	return err
}

// process is one node.
type process struct {
	name string
	dir  string
	env  []string
	http string

	launch         func(start func() error) error
	*fleet.Process // nil: not started, or ended by signal
}

// flock is a cluster of real processes on this machine.
type flock struct {
	t     *testing.T
	nodes []*process
	log   *os.File
	reach reach // what the test does to them
}

func newFlock(t *testing.T, n int) *flock {
	t.Helper()
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	f := &flock{t: t, log: log}
	ports := freePorts(t, 3*n)
	var seeds []string
	for i := range n {
		seeds = append(seeds, fmt.Sprintf("n%d@127.0.0.1:%d", i+1, ports[3*i+2]))
	}
	for i := range n {
		p := &process{name: fmt.Sprintf("n%d", i+1), http: fmt.Sprintf("127.0.0.1:%d", ports[3*i])}
		p.dir = filepath.Join(dir, p.name)
		p.env = []string{
			"DUNLIN_NAME=" + p.name, "DUNLIN_DATA=" + p.dir, "DUNLIN_HTTP=" + p.http,
			fmt.Sprintf("DUNLIN_RPC=127.0.0.1:%d", ports[3*i+1]), fmt.Sprintf("DUNLIN_GOSSIP=127.0.0.1:%d", ports[3*i+2]),
			"DUNLIN_SEEDS=" + strings.Join(seeds, ","), "DUNLIN_CLUSTER=e2e", "DUNLIN_MIN_FREE=64MiB", "PATH=" + os.Getenv("PATH"), "GORACE=halt_on_error=1",
		}
		f.nodes = append(f.nodes, p)
	}
	t.Cleanup(f.close)
	return f
}

func freePorts(t *testing.T, n int) []int {
	t.Helper()
	out, err := fleet.FreePorts("127.0.0.1", n)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// close ends every process and, if the test failed, shows the end of their logs.
func (f *flock) close() {
	for _, p := range f.nodes {
		if p.Process != nil {
			f.signal(p, syscall.SIGKILL)
		}
	}
	if f.t.Failed() {
		b, _ := os.ReadFile(f.log.Name())
		f.t.Logf("the end of the nodes' logs:\n%s", b[max(0, len(b)-8000):])
	}
	_ = f.log.Close()
}

func (f *flock) start(nodes ...*process) {
	f.t.Helper()
	for _, p := range nodes {
		n := fleet.Node{Name: p.name, Log: f.log.Name(), Program: binary, Args: []string{"serve", "--stop-with-stdin"}, Env: p.env, Launch: p.launch}
		if err := n.Start(); err != nil {
			f.t.Fatal(err)
		}
		p.Process = n.Process
	}
}

// signal sends a signal to a process that this test started, and waits for its end.
func (f *flock) signal(p *process, s syscall.Signal) {
	f.t.Helper()
	f.reach.set(p, true)
	if err := p.Signal(s); err != nil {
		f.t.Fatal(err)
	}
	select {
	case <-p.Done():
		if s == syscall.SIGTERM && !p.State().Success() {
			f.t.Errorf("%s did not stop cleanly: %s", p.name, p.Words())
		}
	case <-time.After(30 * time.Second):
		f.t.Errorf("%s did not end within 30 s of %v", p.name, s)
	}
	p.Process = nil
}

func (f *flock) ready(nodes ...*process) {
	f.t.Helper()
	for _, p := range nodes {
		until(f.t, 60*time.Second, p.name+" is ready", func() error {
			status, body, err := try(f.t.Context(), "GET", p.url("/readyz"), "")
			if err == nil && status != 200 {
				err = errors.New(body)
			}
			return err
		})
		f.reach.set(p, false)
	}
}

func (p *process) url(path string) string { return "http://" + p.http + path }

// until waits for a condition, which says why it does not hold yet.
func until(t *testing.T, limit time.Duration, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v, not %s: %v", limit, what, err)
		}
		<-time.After(50 * time.Millisecond)
	}
}

func try(ctx context.Context, method, url, body string) (int, string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// expect makes a request that must answer with the status, and returns the body.
func expect(t *testing.T, status int, method, url, body string) string {
	t.Helper()
	got, b, err := try(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	if got != status {
		t.Fatalf("%s %s: %d %s, want %d", method, url, got, b, status)
	}
	return b
}

// output collects what a program prints while it runs.
type output struct {
	mu sync.Mutex
	b  strings.Builder
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}
