package direct

import (
	"bytes"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// maxFields is how many header fields a request may have to be answered here.
const maxFields = 32

// message is a request as it lies in a buffer.
type message struct {
	method, target, host string
	fields               [maxFields]field
	n                    int // of fields
	head                 int // bytes before the body
	body                 int // bytes of the body
}

type field struct{ name, value string }

// size is how many bytes the request has.
func (m *message) size() int { return m.head + m.body }

var endOfHead = []byte("\r\n\r\n")

// parse reads the request that b begins with, perhaps without all of its body. It reports false for whatever is not
// whole up to its body, or is not of the plainest form: net/http decides about that.
func (m *message) parse(b []byte) bool {
	end := bytes.Index(b, endOfHead)
	if end < 0 {
		return false
	}
	m.head = end + len(endOfHead)
	text := string(b[:end+2]) // each line with its end; one copy for all
	line, text, _ := strings.Cut(text, "\r\n")
	var rest, proto string
	var ok1, ok2 bool
	m.method, rest, ok1 = strings.Cut(line, " ")
	m.target, proto, ok2 = strings.Cut(rest, " ")
	if !ok1 || !ok2 || proto != "HTTP/1.1" || !httpguts.ValidHeaderFieldName(m.method) || !plainTarget(m.target) {
		return false
	}
	m.n, m.body, m.host = 0, 0, ""
	hosts, lengths := 0, 0
	for text != "" {
		line, text, _ = strings.Cut(text, "\r\n")
		name, value, ok := strings.Cut(line, ":")
		if !ok || !httpguts.ValidHeaderFieldName(name) {
			return false
		}
		value = strings.Trim(value, " \t")
		if !httpguts.ValidHeaderFieldValue(value) {
			return false
		}
		name = textproto.CanonicalMIMEHeaderKey(name)
		switch name {
		case "Host":
			if hosts++; hosts > 1 || value == "" || !httpguts.ValidHostHeader(value) {
				return false
			}
			m.host = value
			continue // net/http keeps it apart, too
		case "Content-Length":
			if lengths++; lengths > 1 || !m.setLength(value) {
				return false
			}
		case "Connection":
			if !strings.EqualFold(value, "keep-alive") {
				return false
			}
		case "Transfer-Encoding", "Expect", "Upgrade", "Trailer", "Te", "Pragma", "Http2-Settings":
			return false
		}
		if m.n == maxFields {
			return false
		}
		m.fields[m.n] = field{name, value}
		m.n++
	}
	return hosts == 1
}

// plainTarget reports whether a target is a path, and perhaps a query, of visible ASCII characters.
func plainTarget(s string) bool {
	if s == "" || s[0] != '/' {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// setLength reads a Content-Length, of digits only.
func (m *message) setLength(s string) bool {
	if s == "" || len(s) > 9 { // what is longer is not small
		return false
	}
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
		n = n*10 + int(s[i]-'0')
	}
	m.body = n
	return true
}

// request is what net/http would have made of it, but for the body and the context. It fails where the target cannot
// be read.
func (m *message) request() (http.Request, error) {
	u, err := url.ParseRequestURI(m.target)
	if err != nil {
		return http.Request{}, err
	}
	header := make(http.Header, m.n)
	values := make([]string, m.n) // one array for all
	for i, f := range m.fields[:m.n] {
		if known, ok := header[f.name]; ok {
			header[f.name] = append(known, f.value)
			continue
		}
		values[i] = f.value
		header[f.name] = values[i : i+1 : i+1]
	}
	return http.Request{
		Method: m.method, URL: u, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: header, Body: http.NoBody,
		ContentLength: int64(m.body), Host: m.host, RequestURI: m.target,
	}, nil
}
