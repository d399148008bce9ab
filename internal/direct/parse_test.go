package direct

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
)

var plain = []string{
	"GET /kv/b/k HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET /kv/b/k?r=2&trace=1 HTTP/1.1\r\nHost: localhost:8001\r\nUser-Agent: curl/8\r\nAccept: */*\r\n\r\n",
	"PUT /kv/b/k?w=2 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\nhello",
	"PUT /kv/b/a%2Fb HTTP/1.1\r\nhost:x\r\ncontent-length:  0 \r\nDunlin-Context:\t abc \t\r\nX: \r\n\r\n",
	"DELETE /kv/b/k HTTP/1.1\r\nHost: [::1]:8001\r\nIf-Match: \"a\"\r\nIf-Match: \"b\"\r\nConnection: Keep-Alive\r\n\r\n",
	"GET //a//b?%zz HTTP/1.1\r\nHost: x\r\nX: caf\xc3\xa9\r\n\r\n",
}

// notPlain are requests, and things that are none, that net/http is to decide about.
var notPlain = []string{
	"",
	"GET /kv/b/k HTTP/1.1\r\nHost: x\r\n",
	"GET /kv/b/k HTTP/1.0\r\nHost: x\r\n\r\n",
	"GET /kv/b/k HTTP/1.1\r\n\r\n",
	"GET /kv/b/k HTTP/1.1\r\nHost:\r\n\r\n",
	"GET /kv/b/k HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
	"GET /kv/b/k HTTP/1.1\nHost: x\n\n",
	"GET /kv/b/k HTTP/1.1\r\nHost: x\nX: y\r\n\r\n",
	"GET /kv/b/k HTTP/1.1\r\nHost: x\r\nX: a\rb\r\n\r\n",
	"GET  /kv/b/k HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET /kv/b/k  HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET http://x/kv/b/k HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET * HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET /kv/b/\xff HTTP/1.1\r\nHost: x\r\n\r\n",
	"\r\nGET /kv/b/k HTTP/1.1\r\nHost: x\r\n\r\n",
	"GET /kv/b/k HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
	"GET /kv/b/k HTTP/1.1\r\nHost: x\r\nX : y\r\n\r\n",
	"GET /kv/b/k HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
	"GET /kv/b/k HTTP/1.1\r\nHost: x\r\n: y\r\n\r\n",
	"GET /kv/b/k HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
	"GET /kv/b/k HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
	"GET /kv/b/k HTTP/1.1\r\nHost: x\r\nPragma: no-cache\r\n\r\n",
	"GET /kv/b/k HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
	"PUT /kv/b/k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"PUT /kv/b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"PUT /kv/b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
	"PUT /kv/b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
	"PUT /kv/b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 5\r\n\r\nhello",
	"PUT /kv/b/k HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nhello",
	"PUT /kv/b/k HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\nhello",
	"PUT /kv/b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 0x5\r\n\r\nhello",
	"PUT /kv/b/k HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\nhello",
	"PUT /kv/b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\nhello",
	"GET /kv/b/k HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X: y\r\n", maxFields+1) + "\r\n",
}

func TestParse(t *testing.T) {
	var m message
	for _, s := range plain {
		if !m.parse([]byte(s)) || m.size() != len(s) {
			t.Errorf("%q is plain, size %d", s, m.size())
		}
		checkLikeNetHTTP(t, []byte(s))
	}
	for _, s := range notPlain {
		if m.parse([]byte(s)) {
			t.Errorf("%q is not plain", s)
		}
	}
}

// checkLikeNetHTTP checks that what is taken for a request, net/http takes for the same one.
func checkLikeNetHTTP(t *testing.T, b []byte) {
	t.Helper()
	var m message
	if !m.parse(b) {
		return
	}
	got, err := m.request()
	r := bufio.NewReader(bytes.NewReader(b))
	want, wantErr := http.ReadRequest(r)
	if err != nil || wantErr != nil {
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%q: %v, net/http says %v", b, err, wantErr)
		}
		return
	}
	var body []byte
	if m.size() <= len(b) {
		body = b[m.head:m.size()]
	}
	wantBody, wantErr := io.ReadAll(want.Body)
	if m.size() > len(b) != (wantErr != nil) || wantErr == nil && !bytes.Equal(body, wantBody) {
		t.Errorf("%q: body %q, net/http has %q, %v", b, body, wantBody, wantErr)
	}
	if rest, _ := io.ReadAll(r); wantErr == nil && len(rest) != len(b)-m.size() {
		t.Errorf("%q: %d bytes after it, net/http has %q", b, len(b)-m.size(), rest)
	}
	if want.Close || want.TransferEncoding != nil || want.Trailer != nil {
		t.Errorf("%q: net/http sees more in it: %+v", b, want)
	}
	want.Body, got.Body = nil, nil
	if *want.URL != *got.URL || !reflect.DeepEqual(want.Header, got.Header) {
		t.Errorf("%q: %v %v, net/http has %v %v", b, got.URL, got.Header, want.URL, want.Header)
	}
	want.URL, got.URL, want.Header, got.Header = nil, nil, nil, nil
	if !reflect.DeepEqual(*want.WithContext(t.Context()), *got.WithContext(t.Context())) {
		t.Errorf("%q: %+v, net/http has %+v", b, &got, want)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range append(plain, notPlain...) {
		f.Add([]byte(s))
		f.Add([]byte(s + "GET /kv/b/k HTTP/1.1\r\n"))
	}
	f.Fuzz(checkLikeNetHTTP)
}
