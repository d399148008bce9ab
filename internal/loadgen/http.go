package loadgen

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"time"
)

// Bounds of an answer.
const (
	maxHead = 64 << 10
	maxBody = MaxValue + 1<<20
)

var errMalformed = errors.New("malformed HTTP answer")

// HTTPConn is one keep-alive HTTP/1.1 connection that sends requests built by
// its user. It exists because the client shares the machine with the servers
// in most measurements: it costs a quarter of what net/http does.
type HTTPConn struct {
	conn    net.Conn
	r       *bufio.Reader
	timeout time.Duration
	header  []byte // name of a header to keep, lower case
	kept    []byte
	body    []byte
	stop    func() bool
}

// HTTPAnswer is an answer; its fields are valid until the next request.
type HTTPAnswer struct {
	Status int
	Kept   []byte // value of the header that DialHTTP was told to keep
	Body   []byte
	Close  bool // the server ends the connection
}

// DialHTTP connects to base, http or https. The end of ctx interrupts every
// request. keep names a header whose value is wanted; it may be empty.
func DialHTTP(ctx context.Context, base *url.URL, timeout time.Duration, keep string) (*HTTPConn, error) {
	port := base.Port()
	if port == "" {
		port = map[bool]string{false: "80", true: "443"}[base.Scheme == "https"]
	}
	dialing, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var conn net.Conn
	var err error
	if addr := net.JoinHostPort(base.Hostname(), port); base.Scheme == "https" {
		conn, err = (&tls.Dialer{}).DialContext(dialing, "tcp", addr)
	} else {
		conn, err = (&net.Dialer{}).DialContext(dialing, "tcp", addr)
	}
	if err != nil {
		return nil, err
	}
	h := &HTTPConn{conn: conn, r: bufio.NewReaderSize(conn, 8<<10), timeout: timeout, header: bytes.ToLower([]byte(keep))}
	h.stop = context.AfterFunc(ctx, func() { _ = conn.Close() })
	return h, nil
}

// Close ends the connection.
func (h *HTTPConn) Close() {
	h.stop()
	_ = h.conn.Close()
}

// Do sends a complete request and reads the answer. After an error the
// connection cannot be used on.
func (h *HTTPConn) Do(request []byte) (HTTPAnswer, error) {
	if err := h.conn.SetDeadline(time.Now().Add(h.timeout)); err != nil {
		return HTTPAnswer{}, err
	}
	if _, err := h.conn.Write(request); err != nil {
		return HTTPAnswer{}, err
	}
	return h.read()
}

func (h *HTTPConn) read() (a HTTPAnswer, err error) {
	line, err := h.line()
	if err != nil {
		return a, err
	}
	if len(line) < 12 || string(line[:7]) != "HTTP/1." || line[8] != ' ' {
		return a, fmt.Errorf("%w: %.40q", errMalformed, line)
	}
	if a.Status, err = strconv.Atoi(string(line[9:12])); err != nil || a.Status < 200 {
		return a, fmt.Errorf("%w: status %.40q", errMalformed, line)
	}
	length, chunked, err := h.head(&a)
	if err != nil {
		return a, err
	}
	h.body = h.body[:0]
	switch {
	case a.Status == 204 || a.Status == 304:
	case chunked:
		err = h.chunks()
	case length >= 0:
		err = h.take(length)
	default:
		a.Close = true
		err = h.rest()
	}
	a.Body, a.Kept = h.body, h.kept
	return a, err
}

// head reads the header up to the empty line. length is -1 where none is told.
func (h *HTTPConn) head(a *HTTPAnswer) (length int, chunked bool, err error) {
	length, h.kept = -1, h.kept[:0]
	for total := 0; ; {
		line, err := h.line()
		if err != nil {
			return 0, false, err
		}
		if len(line) == 0 {
			return length, chunked, nil
		}
		if total += len(line); total > maxHead {
			return 0, false, fmt.Errorf("%w: header of more than %d bytes", errMalformed, maxHead)
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			return 0, false, fmt.Errorf("%w: header %.40q", errMalformed, line)
		}
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("content-length")):
			if length, err = strconv.Atoi(string(value)); err != nil || length < 0 || length > maxBody {
				return 0, false, fmt.Errorf("%w: length %.40q", errMalformed, value)
			}
		case bytes.EqualFold(name, []byte("transfer-encoding")):
			chunked = bytes.EqualFold(value, []byte("chunked"))
		case bytes.EqualFold(name, []byte("connection")):
			a.Close = bytes.EqualFold(value, []byte("close"))
		case len(h.header) > 0 && bytes.EqualFold(name, h.header):
			h.kept = append(h.kept, value...)
		}
	}
}

// line reads a line, without its end. It is valid until the next read.
func (h *HTTPConn) line() ([]byte, error) {
	line, err := h.r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil, fmt.Errorf("%w: a line of more than %d bytes", errMalformed, h.r.Size())
	}
	if err != nil {
		return nil, err
	}
	return bytes.TrimRight(line, "\r\n"), nil
}

// take appends n bytes to the body.
func (h *HTTPConn) take(n int) error {
	from := len(h.body)
	if n > maxBody-from {
		return fmt.Errorf("%w: body of more than %d bytes", errMalformed, maxBody)
	}
	for len(h.body) < from+n { // grown by what came, not by what was announced
		step := min(from+n-len(h.body), 1<<20)
		at := len(h.body)
		h.body = append(h.body, make([]byte, step)...)
		if _, err := io.ReadFull(h.r, h.body[at:]); err != nil {
			return err
		}
	}
	return nil
}

func (h *HTTPConn) chunks() error {
	for {
		line, err := h.line()
		if err != nil {
			return err
		}
		size, _, _ := bytes.Cut(line, []byte(";"))
		n, err := strconv.ParseUint(string(bytes.TrimSpace(size)), 16, 31)
		if err != nil {
			return fmt.Errorf("%w: chunk %.40q", errMalformed, line)
		}
		if n == 0 {
			return h.trailer()
		}
		if err := h.take(int(n)); err != nil {
			return err
		}
		if line, err = h.line(); err != nil || len(line) != 0 {
			return errors.Join(errMalformed, err)
		}
	}
}

func (h *HTTPConn) trailer() error {
	for total := 0; total <= maxHead; {
		line, err := h.line()
		if err != nil || len(line) == 0 {
			return err
		}
		total += len(line)
	}
	return fmt.Errorf("%w: trailer of more than %d bytes", errMalformed, maxHead)
}

// rest reads until the server closes.
func (h *HTTPConn) rest() error {
	b, err := io.ReadAll(io.LimitReader(h.r, maxBody+1))
	if len(b) > maxBody {
		return fmt.Errorf("%w: body of more than %d bytes", errMalformed, maxBody)
	}
	h.body = append(h.body, b...)
	return err
}

// Lost is the Answer for an operation whose connection failed with err.
func Lost(err error) Answer {
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return Answer{Class: Broken, Reason: ReasonTimeout, Detail: err.Error()}
	}
	return Answer{Class: Broken, Reason: ReasonConnection, Detail: err.Error()}
}
