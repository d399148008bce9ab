package direct

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

// by says in the answer who answered.
const by = "Answered-By"

// site is a server with a direct one, or none, in it.
type site struct {
	http   *http.Server
	direct *Server
	addr   string
}

// mark wraps a handler so that answers say who made them.
func mark(h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(by, "net/http")
		if _, ok := w.(*answer); ok {
			w.Header().Set(by, "direct")
		}
		h(w, r)
	})
}

func options(h http.Handler) Options {
	return Options{
		Handler: h, Takes: func(method, target string) bool {
			return method != http.MethodHead && method != http.MethodPost && strings.HasPrefix(target, "/kv/")
		},
		HeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, WriteTimeout: 10 * time.Second, GoneAfter: 20 * time.Millisecond,
	}
}

func start(t *testing.T, opt Options, with bool) *site {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &site{
		direct: New(opt), addr: l.Addr().String(),
		http: &http.Server{
			Handler: opt.Handler, ReadHeaderTimeout: opt.HeaderTimeout, IdleTimeout: opt.IdleTimeout, ErrorLog: log.New(io.Discard, "", 0),
		},
	}
	if with {
		s.http.ConnState = s.direct.ConnState
		l = s.direct.Listener(l)
	}
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { s.direct.Watch(ctx) })
	wg.Go(func() { _ = s.http.Serve(l) })
	t.Cleanup(func() { s.http.Close(); stop(); wg.Wait() })
	return s
}

type client struct {
	*net.TCPConn
	r *bufio.Reader
}

func (s *site) dial(t *testing.T) client {
	t.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second)) // so that a failing test ends
	return client{c.(*net.TCPConn), bufio.NewReader(c)}
}

func (c client) send(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

func (c client) receive(t *testing.T) (*http.Response, string) {
	t.Helper()
	res, err := http.ReadResponse(c.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

// ended reports whether the server has closed the connection, without another byte.
func (c client) ended() bool {
	_, err := c.r.ReadByte()
	return errors.Is(err, io.EOF)
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	fmt.Fprintf(w, "%s %s %q", r.Method, r.RequestURI, body)
}

// Whatever a handler does, the client gets what it would get from net/http alone.
func TestAnswersLikeNetHTTP(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 8<<10)
	handlers := map[string]http.HandlerFunc{
		"nothing": func(http.ResponseWriter, *http.Request) {},
		"echo":    echo,
		"empty, said": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "0")
			w.WriteHeader(404)
		},
		"no content": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("ETag", `"x"`)
			w.WriteHeader(204)
			if _, err := io.WriteString(w, "x"); !errors.Is(err, http.ErrBodyNotAllowed) {
				t.Error(err)
			}
		},
		"not modified": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/css")
			w.Header().Set("Content-Length", "7")
			w.WriteHeader(304)
		},
		"fields after the status": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Before", "1")
			w.WriteHeader(201)
			w.WriteHeader(500)
			w.Header().Set("After", "1")
			_, _ = io.WriteString(w, "<html>")
		},
		"said and written twice": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "6")
			_, _ = io.WriteString(w, "abc")
			_, _ = io.WriteString(w, "def")
		},
		"large": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(big)))
			w.Header().Set("Content-Type", "a/b")
			_, _ = io.WriteString(w, big)
		},
		"many values":  func(w http.ResponseWriter, _ *http.Request) { w.Header()["X"] = []string{"a", " b ", ""} },
		"split fields": func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", "a\r\nSet-Cookie: b\nc") },
		"own date":     func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Date", "today") },
		"no type": func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = nil
			_, _ = w.Write([]byte("x"))
		},
		"closing": func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Connection", "close") },
	}
	for name, h := range handlers {
		var got [2]*http.Response
		var bodies [2]string
		for i, with := range []bool{false, true} {
			s := start(t, options(mark(h)), with)
			c := s.dial(t)
			for range 2 {
				c.send(t, "PUT /kv/b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
				got[i], bodies[i] = c.receive(t)
				if got[i].Close {
					if !c.ended() {
						t.Errorf("%s: said to close the connection, and kept it", name)
					}
					break
				}
			}
		}
		if who := got[1].Header.Get(by); who != "direct" {
			t.Errorf("%s: answered by %s", name, who)
		}
		for _, res := range got {
			if date := res.Header.Get("Date"); date != "today" {
				if _, err := http.ParseTime(date); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				res.Header.Del("Date")
			}
			res.Header.Del(by)
		}
		got[0].TransferEncoding = nil // chunked, of what is large and of unknown length
		if got[0].Status != got[1].Status || bodies[0] != bodies[1] || !reflect.DeepEqual(got[0].Header, got[1].Header) || got[0].Close != got[1].Close {
			t.Errorf("%s: %v %.99q\nnet/http: %v %.99q", name, got[1], bodies[1], got[0], bodies[0])
		}
	}
}

func TestWhoAnswers(t *testing.T) {
	s := start(t, options(mark(echo)), true)
	const plain = "GET /kv/b/k HTTP/1.1\r\nHost: x\r\n\r\n"
	large := strings.Repeat("x", 10_000)
	for name, c := range map[string]struct {
		first string
		who   string // answers it
		then  string // answers a plain one afterwards on the same connection
	}{
		"plain":         {plain, "direct", "direct"},
		"with a body":   {"PUT /kv/b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", "direct", "direct"},
		"another path":  {"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", "net/http", "direct"},
		"large":         {"PUT /kv/b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\n" + large, "net/http", "direct"},
		"chunked":       {"PUT /kv/b/k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "net/http", "net/http"},
		"a long header": {"GET /kv/b/k HTTP/1.1\r\nHost: x\r\nX: " + large + "\r\n\r\n", "net/http", "net/http"},
	} {
		conn := s.dial(t)
		conn.send(t, c.first)
		if res, _ := conn.receive(t); res.Header.Get(by) != c.who {
			t.Errorf("%s: answered by %s", name, res.Header.Get(by))
		}
		// While net/http still watches for the client to go away, it takes the first byte of a next request.
		for again := true; again; again = c.then == "direct" {
			conn.send(t, plain)
			res, _ := conn.receive(t)
			if res.Header.Get(by) == c.then {
				break
			}
		}
		for range 2 {
			conn.send(t, plain)
			if res, body := conn.receive(t); res.Header.Get(by) != c.then || body != `GET /kv/b/k ""` {
				t.Errorf("%s, then plain: answered by %s: %s", name, res.Header.Get(by), body)
			}
		}
	}
}

// An answer that is not what was announced, or that ends in a panic, ends the connection and is not taken for whole.
func TestBrokenHandlers(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"too little": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "9")
			_, _ = io.WriteString(w, "x")
		},
		"panic": func(http.ResponseWriter, *http.Request) { panic("bug") },
		"abort": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "x")
			panic(http.ErrAbortHandler)
		},
	} {
		s := start(t, options(h), true)
		c := s.dial(t)
		c.send(t, "GET /kv/b/k HTTP/1.1\r\nHost: x\r\n\r\n")
		if !c.ended() {
			t.Errorf("%s: the client got something", name)
		}
		if n := s.direct.busy.Load(); n != 0 {
			t.Errorf("%s: %d requests are under way for ever", name, n)
		}
	}
}

func TestRefuse(t *testing.T) {
	var full bool
	opt := options(mark(echo))
	opt.Refuse = func(method, target string, _ time.Time) []byte {
		if full && method == "PUT" && target == "/kv/b/k" {
			return []byte("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nfull")
		}
		return nil
	}
	s := start(t, opt, true)
	c := s.dial(t)
	for range 3 {
		for full = range map[bool]int{true: 0, false: 0} { // read only while a request is under way
			c.send(t, "PUT /kv/b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
			res, body := c.receive(t)
			if full != (res.StatusCode == 503) || full != (body == "full") {
				t.Errorf("full %v: %d %s", full, res.StatusCode, body)
			}
			c.send(t, "GET /kv/b/k HTTP/1.1\r\nHost: x\r\n\r\n")
			if res, _ := c.receive(t); res.StatusCode != 200 {
				t.Errorf("full %v, not refused: %d", full, res.StatusCode)
			}
		}
	}
}

// Drain waits for what is under way, whose client is told; then nothing more is taken, and connections that wait are
// closed at once.
func TestDrain(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	s := start(t, options(mark(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/kv/b/slow" {
			close(entered)
			<-release
		}
		echo(w, r)
	})), true)
	idle, fresh, slow := s.dial(t), s.dial(t), s.dial(t)
	idle.send(t, "GET /kv/b/k HTTP/1.1\r\nHost: x\r\n\r\n")
	idle.receive(t)
	slow.send(t, "GET /kv/b/slow HTTP/1.1\r\nHost: x\r\n\r\n")
	<-entered
	drained := make(chan struct{})
	go func() { defer close(drained); s.direct.Drain(context.Background()) }()
	if !idle.ended() {
		t.Error("an idle connection stays open")
	}
	fresh.send(t, "GET /kv/b/k HTTP/1.1\r\nHost: x\r\n\r\n")
	if res, _ := fresh.receive(t); res.Header.Get(by) != "net/http" {
		t.Error("a request is taken while draining")
	}
	select {
	case <-drained:
		t.Fatal("drained beside a request under way")
	default:
	}
	close(release)
	<-drained
	if res, body := slow.receive(t); !res.Close || res.Header.Get(by) != "direct" || body != `GET /kv/b/slow ""` {
		t.Errorf("%v %s", res, body)
	}
	if !slow.ended() {
		t.Error("said to close the connection, and kept it")
	}
	begin := time.Now()
	if err := s.http.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > 4*time.Second { // net/http waits for new connections, for 5 s
		t.Errorf("shutting down took %s", took)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s.direct.busy.Add(1)
	s.direct.Drain(ctx) // does not wait longer than that
	s.direct.busy.Add(-1)
}

func TestGone(t *testing.T) {
	if OnGone(t.Context(), func() {}) {
		t.Error("any context is one of a request")
	}
	entered, left := make(chan struct{}, 1), make(chan struct{}, 1)
	s := start(t, options(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancel(context.WithValue(r.Context(), http.ServerContextKey, "a value")) // one of ours still
		defer cancel()
		if !OnGone(ctx, cancel) {
			t.Error("not one of its requests")
		}
		entered <- struct{}{}
		select {
		case <-ctx.Done():
		case <-time.After(300 * time.Millisecond):
			if r.URL.Path == "/kv/b/forever" {
				<-ctx.Done()
			}
		}
		left <- struct{}{}
		w.WriteHeader(204)
	})), true)
	for name, leave := range map[string]func(client){
		"closed":      func(c client) { c.Close() },
		"half-closed": func(c client) { _ = c.CloseWrite() },
		"reset":       func(c client) { _ = c.SetLinger(0); c.Close() },
	} {
		c := s.dial(t)
		c.send(t, "GET /kv/b/forever HTTP/1.1\r\nHost: x\r\n\r\n")
		<-entered
		leave(c)
		select {
		case <-left:
		case <-time.After(15 * time.Second):
			t.Fatalf("%s: worked on for ever", name)
		}
	}
	// One that sends its next request meanwhile is there, and its bytes are not taken.
	c := s.dial(t)
	c.send(t, "GET /kv/b/k HTTP/1.1\r\nHost: x\r\n\r\n")
	for i := range 2 {
		<-entered
		if i == 0 {
			c.send(t, "GET /kv/b/k HTTP/1.1\r\nHost: x\r\n\r\n")
		}
		<-left
		if res, _ := c.receive(t); res.StatusCode != 204 {
			t.Errorf("%d", res.StatusCode)
		}
	}
}

func TestTimeouts(t *testing.T) {
	opt := options(mark(echo))
	opt.HeaderTimeout, opt.IdleTimeout, opt.WriteTimeout = 300*time.Millisecond, time.Minute, 100*time.Millisecond
	s := start(t, opt, true)
	slow := s.dial(t)
	slow.send(t, "GET /kv/b/k HTTP/1.1\r\nHost: x\r\n\r\n")
	slow.receive(t)
	slow.send(t, "GET /kv/b/k HT")
	if _, err := io.ReadAll(slow.r); err != nil { // whatever net/http says
		t.Error("half a header is waited for as for a next request")
	}
	opt.IdleTimeout = 100 * time.Millisecond
	s = start(t, opt, true)
	idle := s.dial(t)
	idle.send(t, "GET /kv/b/k HTTP/1.1\r\nHost: x\r\n\r\n")
	idle.receive(t)
	if !idle.ended() {
		t.Error("an idle connection stays open")
	}
	// A client that takes nothing does not hold the connection.
	huge := bytes.Repeat([]byte("x"), 64<<20)
	done := make(chan struct{})
	opt.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(huge)))
		_, _ = w.Write(huge)
		close(done)
	})
	s = start(t, opt, true)
	lazy := s.dial(t)
	lazy.send(t, "GET /kv/b/k HTTP/1.1\r\nHost: x\r\n\r\n")
	select {
	case <-done:
	case <-time.After(15 * time.Second):
		t.Error("a client that takes nothing holds a connection")
	}
}

// What an answer may allocate beyond the handler. It does not depend on the machine.
func TestAllocations(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector, which runs with -short, allocates")
	}
	d := New(options(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) })))
	in := []byte("PUT /kv/b/k?w=2 HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello")
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	c := &conn{Conn: &script{Conn: a, closed: make(chan struct{})}, server: d, between: true}
	if got := testing.AllocsPerRun(200, func() {
		var m message
		if !m.parse(in) || !c.answered(&m, in[m.head:]) {
			t.Fatal("not answered")
		}
	}); got > 15 {
		t.Errorf("%.0f allocations, at most 15", got)
	}
}

func BenchmarkAnswer(b *testing.B) {
	d := New(options(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) })))
	in := []byte("PUT /kv/b/k?w=2 HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello")
	s := &script{closed: make(chan struct{})}
	s.Conn, _ = net.Pipe()
	c := &conn{Conn: s, server: d, between: true}
	b.ReportAllocs()
	for b.Loop() {
		var m message
		if !m.parse(in) || !c.answered(&m, in[m.head:]) {
			b.Fatal("not answered")
		}
		s.out.Reset()
	}
}
