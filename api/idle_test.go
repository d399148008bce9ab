package api

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"
)

const (
	idleConns = 10_000
	idleAddr  = "DUNLIN_TEST_IDLE_ADDR" // set: this process is the clients of TestManyIdleConnections
)

// 10,000 idle connections cost bounded memory, and the server still answers others. The clients are a process of
// their own: both ends in one would need more open files than many machines allow one process.
func TestManyIdleConnections(t *testing.T) {
	if testing.Short() {
		t.Skip("opens thousands of connections")
	}
	var rl syscall.Rlimit // Go has raised the soft limit to the hard one already
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &rl); err != nil {
		t.Fatal(err)
	}
	if rl.Cur < idleConns+200 {
		t.Skipf("needs %d open files, the hard limit (ulimit -Hn) is %d", idleConns+200, rl.Cur)
	}
	opt := Options{IdleTimeout: time.Hour} // none may close because this machine is slow
	w := newWorld(t, opt)
	addr := w.serve(t, opt)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	hold := startIdleClients(t, addr)
	runtime.GC()
	runtime.ReadMemStats(&after)
	each := int64(after.HeapInuse+after.StackInuse-before.HeapInuse-before.StackInuse) / idleConns
	t.Logf("%d idle connections, %d bytes each at the server", idleConns, each)
	if each > 40<<10 {
		t.Errorf("an idle connection costs %d bytes", each)
	}
	if res := raw(t, addr, "GET /kv/b/none HTTP/1.1\r\nHost: x\r\n\r\n"); res.StatusCode != 404 {
		t.Errorf("beside them: %d", res.StatusCode)
	}
	hold()
}

// startIdleClients returns when every connection has had an answer and is idle. What it returns checks that all are
// still open, and ends them.
func startIdleClients(t *testing.T, addr string) (end func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestIdleClients$")
	cmd.Env = append(os.Environ(), idleAddr+"="+addr)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	lines := bufio.NewReader(out)
	expect := func(want string) {
		t.Helper()
		if got, err := lines.ReadString('\n'); got != want+"\n" {
			rest, _ := io.ReadAll(lines)
			t.Fatalf("the clients: %q, %v, want %q\n%s", got, err, want, rest)
		}
	}
	expect("idle")
	return func() {
		t.Helper()
		in.Close()
		expect("open")
	}
}

// TestIdleClients is the other process of TestManyIdleConnections. It says "idle" when all connections are, and when
// its standard input ends, "open" if none was closed.
func TestIdleClients(t *testing.T) {
	addr := os.Getenv(idleAddr)
	if addr == "" {
		return // no test of its own
	}
	conns := make([]*net.TCPConn, idleConns)
	for i := range conns {
		conns[i] = dial(t, addr)
		// A reset at the end: 10,000 ports that wait are too many for the next run.
		if err := conns[i].SetLinger(0); err != nil {
			t.Fatal(err)
		}
		send1(t, conns[i], "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
		if n, err := conns[i].Read(make([]byte, 512)); err != nil || n == 0 {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	fmt.Println("idle")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		t.Fatal(err)
	}
	for i, c := range conns {
		if err := stillOpen(c); err != nil {
			t.Fatalf("connection %d did not stay: %v", i, err)
		}
	}
	fmt.Println("open")
}

// stillOpen looks without waiting: an open connection has nothing to read yet.
func stillOpen(c *net.TCPConn) error {
	sc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var n int
	var peeked error
	err = sc.Control(func(fd uintptr) {
		n, _, peeked = syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK)
	})
	if err == nil && peeked != syscall.EAGAIN {
		err = fmt.Errorf("%d bytes to read, %w", n, errors.Join(peeked, io.EOF))
	}
	return err
}
