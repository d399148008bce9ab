package api

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

// serve runs a real server with the world's handler and returns its address.
func (w *world) serve(t *testing.T, opt Options) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := NewServer(opt, w.handler)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
	return l.Addr().String()
}

func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(15 * time.Second)) // so that a failing test ends
	return c.(*net.TCPConn)
}

func send1(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, r *bufio.Reader) *http.Response {
	t.Helper()
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	res.Body = io.NopCloser(bytes.NewReader(body))
	return res
}

func TestBodies(t *testing.T) {
	const limit = 1 << 20
	w := newWorld(t, Options{})
	addr := w.serve(t, Options{})
	put := func(head, body string) int {
		t.Helper()
		c := dial(t, addr)
		send1(t, c, "PUT /kv/b/k HTTP/1.1\r\nHost: x\r\n"+head+"\r\n")
		go func() { _, _ = io.WriteString(c, body) }() // the server need not read it all
		return receive(t, bufio.NewReader(c)).StatusCode
	}
	length := func(n int) string { return fmt.Sprintf("Content-Length: %d\r\n", n) }
	for name, c := range map[string]struct {
		head, body string
		want       int
		value      int // bytes stored
	}{
		"absent":           {"", "", 204, 0},
		"empty":            {length(0), "", 204, 0},
		"small":            {length(5), "hello", 204, 5},
		"just fits":        {length(limit), strings.Repeat("x", limit), 204, limit},
		"one too many":     {length(limit + 1), strings.Repeat("x", limit+1), 413, -1},
		"10 MiB":           {length(10 << 20), strings.Repeat("x", 10<<20), 413, -1},
		"chunked":          {"Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", 204, 11},
		"chunked, empty":   {"Transfer-Encoding: chunked\r\n", "0\r\n\r\n", 204, 0},
		"chunked, broken":  {"Transfer-Encoding: chunked\r\n", "zz\r\n", 400, -1},
		"chunked, 10 MiB":  {"Transfer-Encoding: chunked\r\n", "a00000\r\n" + strings.Repeat("x", 10<<20) + "\r\n0\r\n\r\n", 413, -1},
		"announced, large": {length(10<<20) + "Expect: 100-continue\r\n", "", 413, -1},
	} {
		before := w.kv.written()
		if got := put(c.head, c.body); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
		if stored := w.kv.written() > before; stored != (c.want == 204) {
			t.Errorf("%s: stored %v", name, stored)
		} else if stored && len(w.kv.lastPut().Write.Value) != c.value {
			t.Errorf("%s: %d bytes stored", name, len(w.kv.lastPut().Write.Value))
		}
		w.want(204, "DELETE", "/kv/b/k", "")
	}
	c := dial(t, addr)
	r := bufio.NewReader(c)
	send1(t, c, "PUT /kv/b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
	if res := receive(t, r); res.StatusCode != 100 {
		t.Fatalf("announced: %d, want 100", res.StatusCode)
	}
	send1(t, c, "hello")
	if res := receive(t, r); res.StatusCode != 204 {
		t.Errorf("after 100: %d", res.StatusCode)
	}
}

func TestSlowSenders(t *testing.T) {
	const most = 400 * time.Millisecond
	opt := Options{BodyTimeout: most, HeaderTimeout: most, IdleTimeout: most}
	w := newWorld(t, opt)
	addr := w.serve(t, opt)
	var wg sync.WaitGroup
	for name, c := range map[string]struct{ text, want string }{
		"header":      {"PUT /kv/b/k HTTP/1.1\r\nHo", ""},
		"nothing":     {"", ""},
		"body":        {"PUT /kv/b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhe", " 408 "},
		"big body":    {"PUT /kv/b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\nhe", " 408 "},
		"unread body": {"PUT /kv/b/k?w=0 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhe", " 400 "},
		"idle":        {"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", " 200 "},
		"batch":       {"POST /batch HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{", `"status":408`},
	} {
		conn := dial(t, addr)
		send1(t, conn, c.text)
		wg.Go(func() {
			answer, err := io.ReadAll(conn) // until the server closes
			if err != nil {
				t.Errorf("%s: the server keeps a slow sender: %v", name, err)
			}
			if !strings.Contains(string(answer), c.want) {
				t.Errorf("%s: answered %q", name, answer)
			}
		})
	}
	wg.Wait()
	if w.kv.written() != 0 {
		t.Error("half a value was stored")
	}
	if n := w.flight(); n != 0 {
		t.Errorf("%d requests in flight for ever", n)
	}
}

// A body that came in time leaves no deadline behind that would cut the work off.
func TestWorkLongerThanTheBodyTimeout(t *testing.T) {
	opt := Options{BodyTimeout: 50 * time.Millisecond, GoneGrace: time.Millisecond}
	w := newWorld(t, opt)
	addr := w.serve(t, opt)
	w.kv.block = func(ctx context.Context) {
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
	for _, head := range []string{"Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"} {
		c := dial(t, addr)
		send1(t, c, "PUT /kv/b/k HTTP/1.1\r\nHost: x\r\n"+head)
		if res := receive(t, bufio.NewReader(c)); res.StatusCode != 204 {
			t.Errorf("%q: %d", head, res.StatusCode)
		}
	}
	c := dial(t, addr)
	send1(t, c, "POST /batch HTTP/1.1\r\nHost: x\r\nContent-Length: 38\r\n\r\n"+`{"op":"get","bucket":"b","key":"none"}`)
	body, _ := io.ReadAll(receive(t, bufio.NewReader(c)).Body)
	if !bytes.Contains(body, []byte(`"status":404`)) {
		t.Errorf("batch: %s", body)
	}
}

// A client that looks for an answer only after it has sent everything is told what was wrong.
func TestTooLargeSentWhole(t *testing.T) {
	w := newWorld(t, Options{})
	addr := w.serve(t, Options{})
	c := dial(t, addr)
	r := bufio.NewReader(c)
	for range 2 {
		send1(t, c, "PUT /kv/b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 10485760\r\n\r\n"+strings.Repeat("x", 10<<20))
		if res := receive(t, r); res.StatusCode != 413 {
			t.Errorf("%d, want 413", res.StatusCode)
		}
	}
	send1(t, c, "PUT /kv/b/k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\na00000\r\n"+strings.Repeat("x", 10<<20)+"\r\n0\r\n\r\n")
	if res := receive(t, r); res.StatusCode != 413 {
		t.Errorf("chunked: %d, want 413", res.StatusCode)
	}
	send1(t, c, "PUT /kv/b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nv")
	if res := receive(t, r); res.StatusCode != 204 {
		t.Errorf("the next request on the connection: %d", res.StatusCode)
	}
}

// A client that closes its sending side after the request, as nc -N does, is answered.
func TestHalfClosed(t *testing.T) {
	w := newWorld(t, Options{})
	addr := w.serve(t, Options{})
	w.kv.block = func(ctx context.Context) {
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond): // the end of the connection is seen meanwhile
		}
	}
	for text, want := range map[string]string{
		"PUT /kv/b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello":                                        " 204 ",
		"GET /kv/b/none HTTP/1.1\r\nHost: x\r\n\r\n":                                                               " 404 ",
		"POST /batch HTTP/1.1\r\nHost: x\r\nContent-Length: 38\r\n\r\n" + `{"op":"get","bucket":"b","key":"none"}`: `"status":404`,
		"PUT /kv/b/half HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhe":                                        " 400 ",
	} {
		c := dial(t, addr)
		send1(t, c, text)
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(c)
		if err != nil || !strings.Contains(string(answer), want) {
			t.Errorf("%q: %v, answered %q", text, err, answer)
		}
	}
	if w.kv.written() != 1 {
		t.Errorf("%d writes, want 1", w.kv.written())
	}
}

// The work for a client that went away ends soon, and long before its timeout.
func TestClientGone(t *testing.T) {
	opt := Options{GoneGrace: 10 * time.Millisecond}
	w := newWorld(t, opt)
	addr := w.serve(t, opt)
	entered, left := make(chan struct{}), make(chan struct{})
	w.kv.block = func(ctx context.Context) {
		close(entered)
		<-ctx.Done()
		close(left)
	}
	c := dial(t, addr)
	send1(t, c, "GET /kv/b/k?timeout=60s HTTP/1.1\r\nHost: x\r\n\r\n")
	<-entered
	c.Close()
	select {
	case <-left:
	case <-time.After(10 * time.Second):
		t.Fatal("still working for a client that is gone")
	}
}

func TestTimeoutParameter(t *testing.T) {
	w := newWorld(t, Options{})
	w.kv.block = func(ctx context.Context) { <-ctx.Done() }
	problemOf(t, w.want(504, "GET", "/kv/b/k?timeout=10ms", ""))
	if p := problemOf(t, w.want(504, "PUT", "/kv/b/k?timeout=10ms", "v")); p.Outcome != "indeterminate" {
		t.Errorf("%+v", p)
	}
}

func TestHeaders(t *testing.T) {
	w := newWorld(t, Options{})
	addr := w.serve(t, Options{})
	if res := raw(t, addr, "GET /kv/b/none HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("x", 64<<10)+"\r\n\r\n"); res.StatusCode != 404 {
		t.Errorf("a header of 64 KiB: %d", res.StatusCode)
	}
	if res := raw(t, addr, "GET /kv/b/k HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("x", 200<<10)+"\r\n\r\n"); res.StatusCode != 431 {
		t.Errorf("a header of 200 KiB: %d", res.StatusCode)
	}
}

func TestLimit(t *testing.T) {
	opt := Options{MaxConns: 2}
	w := newWorld(t, opt)
	addr := w.serve(t, opt)
	ask := func(c net.Conn) { send1(t, c, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n") }
	first, second, third := dial(t, addr), dial(t, addr), dial(t, addr)
	for _, c := range []net.Conn{first, second} {
		ask(c)
		receive(t, bufio.NewReader(c))
	}
	ask(third)
	_ = third.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := third.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("a third connection beside two: %v", err)
	}
	first.Close()
	_ = third.SetReadDeadline(time.Now().Add(10 * time.Second))
	if res := receive(t, bufio.NewReader(third)); res.StatusCode != 200 {
		t.Errorf("after one was closed: %d", res.StatusCode)
	}
}

// What is refused before net/http sees it is answered and counted like what the handler refuses.
func TestRefusedOnTheConnection(t *testing.T) {
	w := newWorld(t, Options{MaxInFlight: 1})
	addr := w.serve(t, Options{})
	entered, release := make(chan struct{}), make(chan struct{})
	w.kv.block = func(context.Context) { entered <- struct{}{}; <-release }
	done := make(chan struct{})
	go func() { defer close(done); w.want(404, "GET", "/kv/b/none", "") }()
	<-entered
	c := dial(t, addr)
	r := bufio.NewReader(c)
	value := strings.Repeat("x", 10_000)
	for method, outcome := range map[string]string{"GET": "", "PUT": "none", "DELETE": "none"} {
		var got [2]*http.Response
		var bodies [2][]byte
		for i, text := range []string{"", value} { // the latter is too large for other than net/http
			send1(t, c, fmt.Sprintf("%s /kv/b/k HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", method, len(text), text))
			got[i] = receive(t, r)
			bodies[i], _ = io.ReadAll(got[i].Body)
			got[i].Header.Del("Date")
		}
		if got[0].StatusCode != 503 || !bytes.Equal(bodies[0], bodies[1]) || !reflect.DeepEqual(got[0].Header, got[1].Header) {
			t.Errorf("%s: %v %s\nthe handler: %v %s", method, got[0], bodies[0], got[1], bodies[1])
		}
		if outcome != "" != strings.Contains(string(bodies[0]), `"outcome":"none"`) {
			t.Errorf("%s: %s", method, bodies[0])
		}
	}
	close(release)
	<-done
	metrics := w.want(200, "GET", "/metrics", "").Body.String()
	for _, line := range []string{
		`dunlin_http_refused_total 6`,
		`dunlin_http_requests_total{code="503",method="PUT",route="/kv/{bucket}/{key}"} 2`,
	} {
		if !strings.Contains(metrics, line+"\n") {
			t.Errorf("no %s", line)
		}
	}
	w.kv.block = nil
	send1(t, c, "GET /kv/b/none HTTP/1.1\r\nHost: x\r\n\r\n")
	if res := receive(t, r); res.StatusCode != 404 {
		t.Errorf("later: %d", res.StatusCode)
	}
}
