package direct

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// script is a connection that gives its pieces, one with each Read.
type script struct {
	net.Conn // a pipe's end, for addresses
	pieces   [][]byte
	mu       sync.Mutex
	out      bytes.Buffer
	closed   chan struct{}
	once     sync.Once
}

func (s *script) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.pieces[0])
	if s.pieces[0] = s.pieces[0][n:]; len(s.pieces[0]) == 0 {
		s.pieces = s.pieces[1:]
	}
	return n, nil
}

func (s *script) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Write(p)
}

func (s *script) Close() error                     { s.once.Do(func() { close(s.closed) }); return nil }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// oneListener gives one connection, then none until it is closed.
type oneListener struct {
	conns chan net.Conn
}

func (l *oneListener) Accept() (net.Conn, error) {
	if c, ok := <-l.conns; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (l *oneListener) Close() error   { return nil }
func (l *oneListener) Addr() net.Addr { return &net.TCPAddr{} }

// However a stream of requests is cut into pieces, and whatever its bodies hold, the handler sees the same requests.
func TestStreams(t *testing.T) {
	const bait = "GET /kv/b/bait HTTP/1.1\r\nHost: x\r\n\r\n"
	rapid.Check(t, func(t *rapid.T) {
		var stream strings.Builder
		var want []string
		for i := range rapid.IntRange(1, 6).Draw(t, "requests") {
			path := rapid.SampledFrom([]string{"/kv/b/k", "/other"}).Draw(t, "path")
			method := rapid.SampledFrom([]string{"GET", "PUT", "DELETE"}).Draw(t, "method")
			body := strings.Repeat(bait, rapid.SampledFrom([]int{0, 1, 1, 2, 150}).Draw(t, "baits"))
			fmt.Fprintf(&stream, "%s %s?%d HTTP/1.1\r\nHost: x\r\n", method, path, i)
			switch rapid.IntRange(0, 3).Draw(t, "form") {
			case 0:
				fmt.Fprintf(&stream, "Transfer-Encoding: chunked\r\n\r\n")
				if body != "" {
					fmt.Fprintf(&stream, "%x\r\n%s\r\n", len(body), body)
				}
				stream.WriteString("0\r\n\r\n")
			case 1:
				fmt.Fprintf(&stream, "X: y\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
			default:
				fmt.Fprintf(&stream, "Content-Length: %d\r\n\r\n%s", len(body), body)
			}
			want = append(want, fmt.Sprintf("%s %s?%d %q", method, path, i, body))
		}
		text := stream.String()
		// Cuts are likely where they could hurt: before and after something that looks like a request.
		var places []int
		for i := range text {
			if i > 0 && (strings.HasPrefix(text[i:], "GET ") || strings.HasPrefix(text[i:], "PUT ") || strings.HasPrefix(text[i:], "DELETE ")) {
				places = append(places, i)
			}
		}
		cut := rapid.IntRange(0, len(text))
		if len(places) > 0 {
			cut = rapid.OneOf(rapid.SampledFrom(places), rapid.SampledFrom(places), rapid.SampledFrom(places), cut)
		}
		cuts := rapid.SliceOfN(cut, 0, 8).Draw(t, "cuts")
		slices.Sort(cuts)
		s := &script{closed: make(chan struct{})}
		last := 0
		for _, at := range append(cuts, len(text)) {
			if at > last {
				s.pieces = append(s.pieces, []byte(text[last:at]))
				last = at
			}
		}
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		s.Conn = a
		var mu sync.Mutex
		var got []string
		opt := options(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			mu.Lock()
			defer mu.Unlock()
			got = append(got, fmt.Sprintf("%s %s %q", r.Method, r.RequestURI, body))
			if err != nil {
				got = append(got, err.Error())
			}
			w.WriteHeader(204)
		}))
		d := New(opt)
		srv := &http.Server{Handler: opt.Handler, ConnState: d.ConnState, ErrorLog: log.New(io.Discard, "", 0)}
		l := &oneListener{make(chan net.Conn, 1)}
		l.conns <- s
		done := make(chan struct{})
		go func() { defer close(done); _ = srv.Serve(d.Listener(l)) }()
		select {
		case <-s.closed:
		case <-time.After(20 * time.Second):
			t.Fatal("the connection is never closed")
		}
		close(l.conns)
		<-done
		mu.Lock()
		defer mu.Unlock()
		if !slices.Equal(got, want) {
			t.Fatalf("the handler saw\n%s\nof\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if n := bytes.Count(s.out.Bytes(), []byte("HTTP/1.1 204 No Content\r\n")); n != len(want) {
			t.Fatalf("%d answers to %d requests", n, len(want))
		}
		if len(d.conns) != 0 || d.busy.Load() != 0 {
			t.Fatalf("%d connections and %d requests are left", len(d.conns), d.busy.Load())
		}
	})
}
