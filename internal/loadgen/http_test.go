package loadgen

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// reads makes an HTTPConn that is answered with text.
func reads(text []byte) *HTTPConn {
	return &HTTPConn{r: bufio.NewReaderSize(bytes.NewReader(text), 8<<10), header: []byte("dunlin-context")}
}

func TestAnswersAreRead(t *testing.T) {
	for _, c := range []struct {
		text   string
		status int
		body   string
		kept   string
		close  bool
	}{
		{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nDunlin-Context: abc\r\n\r\nhello", 200, "hello", "abc", false},
		{"HTTP/1.1 204 No Content\r\n\r\n", 204, "", "", false},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: x\r\n\r\n", 200, "abcde", "", false},
		{"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno", 503, "no", "", true},
		{"HTTP/1.0 200 OK\r\n\r\nuntil the end", 200, "until the end", "", true},
	} {
		a, err := reads([]byte(c.text)).read()
		if err != nil || a.Status != c.status || string(a.Body) != c.body || string(a.Kept) != c.kept || a.Close != c.close {
			t.Errorf("%q: %+v, body %q, kept %q, %v", c.text, a, a.Body, a.Kept, err)
		}
	}
	for _, text := range []string{
		"", "HTTP/1.1", "SSH-2.0-OpenSSH\r\n", "HTTP/1.1 099 x\r\n\r\n", "HTTP/1.1 abc x\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", "HTTP/1.1 200 OK\r\nnothing\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
		"HTTP/1.1 200 OK\r\n" + strings.Repeat("A: b\r\n", maxHead) + "\r\n",
		"HTTP/1.1 200 OK\r\nA: " + strings.Repeat("b", 9<<10) + "\r\n\r\n",
	} {
		if a, err := reads([]byte(text)).read(); err == nil {
			t.Errorf("%.60q passes: %+v", text, a)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		a, err := reads(text).read()
		if err == nil && (a.Status < 200 || a.Status > 999 || len(a.Body) > len(text)) {
			t.Fatalf("%d, %d bytes of %d", a.Status, len(a.Body), len(text))
		}
	})
}

// keys is a server of values with contexts, whose requests net/http has parsed.
type keys struct {
	mu     sync.Mutex
	values map[string]string
	seen   []string // contexts that came
	asked  map[string]int
}

func (k *keys) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked[r.Method+" "+r.URL.RawQuery]++
	w.Header().Set("Dunlin-Context", "of "+r.URL.Path)
	switch r.Method {
	case http.MethodPut:
		b, _ := io.ReadAll(r.Body)
		k.values[r.URL.Path] = string(b)
		k.seen = append(k.seen, r.Header.Get("Dunlin-Context"))
		w.WriteHeader(204)
	case http.MethodDelete:
		delete(k.values, r.URL.Path)
		w.WriteHeader(204)
	default:
		v, ok := k.values[r.URL.Path]
		if !ok {
			w.WriteHeader(404)
			return
		}
		_, _ = io.WriteString(w, v)
	}
}

func target(t *testing.T, h http.Handler) HTTPTarget {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return HTTPTarget{URLs: []*url.URL{u}, Bucket: "b", Timeout: 10 * time.Second, Contexts: true,
		Write: url.Values{"w": {"2"}}, Read: url.Values{"r": {"1"}, "sloppy": {"false"}}}
}

func TestRunOverHTTP(t *testing.T) {
	k := &keys{values: map[string]string{}, asked: map[string]int{}}
	spec := testSpec()
	spec.Connections, spec.Ops, spec.Verify, spec.Keys = 4, 2000, true, 20
	r, err := Run(t.Context(), spec, target(t, k).Dialer(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if r.Ops != 2000 || r.Errors != 0 || r.Kinds["put"].Answers["204"] == 0 || r.Kinds["get"].Answers["200"] == 0 {
		t.Errorf("%d operations, %d errors %v: %+v", r.Ops, r.Errors, r.Failures, r.Kinds)
	}
	if k.asked["PUT w=2"] == 0 || k.asked["GET r=1&sloppy=false"] == 0 || k.asked["DELETE w=2"] == 0 || len(k.asked) != 3 {
		t.Errorf("asked: %v", k.asked)
	}
	// All but about the first of each key know a context.
	with := 0
	for _, c := range k.seen {
		if strings.HasPrefix(c, "of /kv/b/key-") {
			with++
		}
	}
	if with < len(k.seen)-spec.Keys*spec.Connections || with == len(k.seen) {
		t.Errorf("%d of %d writes carry a context", with, len(k.seen))
	}
}

func TestNoAnswerIsATimeout(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	h, err := DialHTTP(t.Context(), &url.URL{Scheme: "http", Host: l.Addr().String()}, 20*time.Millisecond, "")
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	_, err = h.Do([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	if a := Lost(err); err == nil || a.Class != Broken || a.Reason != ReasonTimeout {
		t.Errorf("%v: %+v", err, a)
	}
	if a := Lost(io.ErrUnexpectedEOF); a.Reason != ReasonConnection {
		t.Errorf("a broken connection: %+v", a)
	}
}

func TestPreloadWritesAllAndTriesAgain(t *testing.T) {
	k := &keys{values: map[string]string{}, asked: map[string]int{}}
	failing := 3
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		k.mu.Lock()
		fail := failing > 0
		failing--
		k.mu.Unlock()
		if fail {
			w.WriteHeader(503)
			return
		}
		k.ServeHTTP(w, r)
	})
	spec := testSpec()
	spec.Connections = 4
	var done atomic.Int64
	if err := Preload(t.Context(), spec, target(t, h).Dialer(), &done); err != nil || len(k.values) != 100 || done.Load() != 100 {
		t.Errorf("%d keys, %d done: %v", len(k.values), done.Load(), err)
	}
	always := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no quorum", http.StatusServiceUnavailable)
	})
	if err := Preload(t.Context(), spec, target(t, always).Dialer(), &done); err == nil || !strings.Contains(err.Error(), "503 no quorum") {
		t.Errorf("against a server that refuses all: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Preload(ctx, spec, target(t, k).Dialer(), &done); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

func TestPreloadGrowsTheKeySpace(t *testing.T) {
	k := &keys{values: map[string]string{}, asked: map[string]int{}}
	spec := testSpec()
	var done atomic.Int64
	if err := PreloadFrom(t.Context(), spec, 70, target(t, k).Dialer(), &done); err != nil || len(k.values) != 30 || done.Load() != 30 {
		t.Errorf("%d keys, %d done: %v", len(k.values), done.Load(), err)
	}
	for i, want := range map[int]bool{69: false, 70: true, 99: true} {
		if _, got := k.values["/kv/b/"+string(AppendKey(nil, i))]; got != want {
			t.Errorf("key %d: written %v", i, got)
		}
	}
	if err := PreloadFrom(t.Context(), spec, 100, target(t, k).Dialer(), &done); err != nil || len(k.values) != 30 {
		t.Errorf("with nothing to write: %v", err)
	}
}
