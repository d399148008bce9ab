package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net/url"
	"os/exec"
	"strconv"
	"strings"

	"github.com/dunlindb/dunlin/internal/fleet"
	"github.com/dunlindb/dunlin/internal/loadgen"
)

func etcd(ctx context.Context, s settings) (*server, error) {
	return etcdWith(ctx, s, "WAL synced for each batch")
}

func etcdOS(ctx context.Context, s settings) (*server, error) {
	return etcdWith(ctx, s, "WAL never synced", "--unsafe-no-fsync")
}

// etcdWith is three voters, asked through the JSON gateway. Connections are spread
// over all three, so that most operations are passed on to the leader.
func etcdWith(ctx context.Context, s settings, syncs string, flags ...string) (*server, error) {
	program, err := find(s.bin, "etcd")
	if err != nil {
		return nil, err
	}
	version, err := firstLine(ctx, program, "--version")
	if err != nil {
		return nil, err
	}
	ports, err := fleet.FreePorts("127.0.0.1", 2*nodes)
	if err != nil {
		return nil, err
	}
	var bases []*url.URL
	var members []string
	for i := range nodes {
		bases = append(bases, &url.URL{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", ports[2*i])})
		members = append(members, fmt.Sprintf("n%d=http://127.0.0.1:%d", i+1, ports[2*i+1]))
	}
	dialer := func(serializable bool) loadgen.Dialer {
		return func(ctx context.Context, i int) (loadgen.Conn, error) {
			base := bases[i%len(bases)]
			h, err := loadgen.DialHTTP(ctx, base, opTime, "")
			if err != nil {
				return nil, err
			}
			return &etcdConn{http: h, host: base.Host, serializable: serializable}, nil
		}
	}
	return &server{
		version: version + ", JSON gateway, " + syncs + "; newest: linearizable, one replica: serializable",
		command: func(node int, dir string) (*exec.Cmd, error) {
			peer, own := fmt.Sprintf("http://127.0.0.1:%d", ports[2*node+1]), bases[node].String()
			return exec.Command(program, append(flags, "--name", fmt.Sprintf("n%d", node+1), "--data-dir", dir, "--logger", "zap", "--log-level", "error",
				"--listen-client-urls", own, "--advertise-client-urls", own, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
				"--initial-cluster", strings.Join(members, ","), "--initial-cluster-state", "new", "--quota-backend-bytes", "16000000000")...), nil
		},
		ready: func(ctx context.Context) error { return served(ctx, dialer(false), nodes) },
		loads: loadsOf(s, dialer(false), dialer(false), dialer(true)),
	}, nil
}

// served tells whether a read through each of the first n connections is
// answered.
func served(ctx context.Context, dial loadgen.Dialer, n int) error {
	for i := range n {
		c, err := dial(ctx, i)
		if err != nil {
			return err
		}
		a := c.Do(&loadgen.Op{Kind: loadgen.Get, Key: []byte("absent")})
		c.Close()
		if a.Class == loadgen.Failed || a.Class == loadgen.Broken {
			return fmt.Errorf("%s %s", a.Reason, a.Detail)
		}
	}
	return nil
}

// etcdConn does operations through the JSON gateway.
type etcdConn struct {
	http                 *loadgen.HTTPConn
	host                 string
	serializable         bool
	request, body, value []byte
}

// Do does op, a Put or a Get.
func (c *etcdConn) Do(op *loadgen.Op) loadgen.Answer {
	path := "/v3/kv/range"
	b := append(c.body[:0], `{"key":"`...)
	b = base64.StdEncoding.AppendEncode(b, op.Key)
	switch {
	case op.Kind == loadgen.Put:
		path = "/v3/kv/put"
		b = append(b, `","value":"`...)
		b = base64.StdEncoding.AppendEncode(b, op.Value)
		b = append(b, `"}`...)
	case c.serializable:
		b = append(b, `","serializable":true}`...)
	default:
		b = append(b, `"}`...)
	}
	c.body = b
	r := append(c.request[:0], "POST "...)
	r = append(r, path...)
	r = append(r, " HTTP/1.1\r\nHost: "...)
	r = append(r, c.host...)
	r = append(r, "\r\nContent-Type: application/json\r\nContent-Length: "...)
	r = strconv.AppendInt(r, int64(len(b)), 10)
	r = append(r, "\r\n\r\n"...)
	c.request = append(r, b...)
	a, err := c.http.Do(c.request)
	if err != nil {
		return loadgen.Lost(err)
	}
	out := loadgen.Answer{Reason: strconv.Itoa(a.Status), Close: a.Close}
	if a.Status != 200 {
		out.Class, out.Detail = loadgen.Failed, string(a.Body[:min(len(a.Body), 300)])
		return out
	}
	if op.Kind == loadgen.Get {
		return c.found(out, a.Body)
	}
	return out
}

// found sets the value of a read from the gateway's JSON. The whole need not
// be parsed: its values are base64.
func (c *etcdConn) found(out loadgen.Answer, body []byte) loadgen.Answer {
	_, rest, ok := bytes.Cut(body, []byte(`"value":"`))
	text, _, closed := bytes.Cut(rest, []byte(`"`))
	if !ok || !closed {
		out.Class = loadgen.Missing
		return out
	}
	var err error
	if c.value, err = base64.StdEncoding.AppendDecode(c.value[:0], text); err != nil {
		out.Class, out.Reason, out.Detail = loadgen.Failed, "not base64", err.Error()
		return out
	}
	out.Value = c.value
	return out
}

// Close ends the connection.
func (c *etcdConn) Close() { c.http.Close() }
