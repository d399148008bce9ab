package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/dunlindb/dunlin/internal/fleet"
	"github.com/dunlindb/dunlin/internal/loadgen"
)

func natsDefault(ctx context.Context, s settings) (*server, error) { return natsWith(ctx, s, "2m") }
func natsAlways(ctx context.Context, s settings) (*server, error)  { return natsWith(ctx, s, "always") }

// natsWith is a JetStream key-value bucket with three replicas in files. Its
// reads are direct gets, which any replica answers.
func natsWith(ctx context.Context, s settings, syncs string) (*server, error) {
	program, err := find(s.bin, "nats-server")
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
	var routes []string
	for i := range nodes {
		routes = append(routes, fmt.Sprintf("nats-route://127.0.0.1:%d", ports[2*i+1]))
	}
	address := func(node int) string { return fmt.Sprintf("127.0.0.1:%d", ports[2*node]) }
	dial := func(_ context.Context, i int) (loadgen.Conn, error) { return dialNATS(address(i % nodes)) }
	return &server{
		version: version + " JetStream, key-value bucket of three replicas in files, sync_interval " + syncs + "; direct gets",
		command: func(node int, dir string) (*exec.Cmd, error) {
			text := fmt.Sprintf("server_name: n%d\nlisten: %q\njetstream { store_dir: %q, max_mem: 1G, max_file: 20G, sync_interval: %s }\ncluster { name: bench, listen: \"127.0.0.1:%d\", routes: [ %s ] }\n",
				node+1, address(node), dir, syncs, ports[2*node+1], strings.Join(routes, ", "))
			path := filepath.Join(dir, "server.conf")
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				return nil, err
			}
			return exec.Command(program, "-c", path), nil
		},
		ready: func(ctx context.Context) error {
			for i := range nodes {
				c, err := dialNATS(address(i))
				if err != nil {
					return err
				}
				err = c.createBucket()
				c.Close()
				if err != nil {
					return err
				}
			}
			return served(ctx, dial, nodes)
		},
		loads: loadsOf(s, dial, nil, dial),
	}, nil
}

// natsConn speaks the NATS client protocol, one request at a time.
type natsConn struct {
	conn           net.Conn
	r              *bufio.Reader
	inbox          string // where answers come; every connection has its own
	request, value []byte
	asked          int64
}

const natsStream = `{"name":"KV_bench","subjects":["$KV.bench.>"],"num_replicas":3,"storage":"file","max_msgs_per_subject":1,` +
	`"max_msgs":-1,"max_bytes":-1,"max_msg_size":-1,"discard":"new","allow_rollup_hdrs":true,"deny_delete":true,"allow_direct":true}`

func dialNATS(addr string) (*natsConn, error) {
	conn, err := net.DialTimeout("tcp", addr, opTime)
	if err != nil {
		return nil, err
	}
	c := &natsConn{conn: conn, r: bufio.NewReader(conn), inbox: "_INBOX." + rand.Text() + "."}
	if err := c.hello(); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return c, nil
}

func (c *natsConn) hello() error {
	if err := c.conn.SetDeadline(time.Now().Add(opTime)); err != nil {
		return err
	}
	if _, err := c.r.ReadSlice('\n'); err != nil { // INFO
		return err
	}
	_, err := fmt.Fprintf(c.conn, "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true,\"lang\":\"go\",\"version\":\"0\",\"protocol\":1}\r\nSUB %s* 1\r\n", c.inbox)
	return err
}

// Close ends the connection.
func (c *natsConn) Close() { _ = c.conn.Close() }

// call publishes body to subject and reads the answer, valid until the next.
// header is empty where the answer has none.
func (c *natsConn) call(subject string, key, body []byte) (header, answer []byte, err error) {
	if err := c.conn.SetDeadline(time.Now().Add(opTime)); err != nil {
		return nil, nil, err
	}
	c.asked++
	b := append(c.request[:0], "PUB "...)
	b = append(b, subject...)
	b = append(b, key...)
	b = append(b, ' ')
	b = append(b, c.inbox...)
	b = strconv.AppendInt(b, c.asked, 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, int64(len(body)), 10)
	b = append(b, "\r\n"...)
	b = append(b, body...)
	c.request = append(b, "\r\n"...)
	if _, err := c.conn.Write(c.request); err != nil {
		return nil, nil, err
	}
	return c.answer()
}

// answer reads up to the answer of the last call.
func (c *natsConn) answer() (header, body []byte, err error) {
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return nil, nil, err
		}
		fields := bytes.Fields(line)
		switch {
		case len(fields) == 0:
			return nil, nil, errMalformed
		case string(fields[0]) == "PING":
			if _, err := io.WriteString(c.conn, "PONG\r\n"); err != nil {
				return nil, nil, err
			}
		case string(fields[0]) == "-ERR":
			return nil, nil, replyError(bytes.TrimSpace(line))
		case string(fields[0]) == "MSG" || string(fields[0]) == "HMSG":
			late := !c.mine(fields)
			if header, body, err = c.message(fields); err != nil || !late {
				return header, body, err
			}
		}
	}
}

// mine tells whether a message is to the last call, not a late answer.
func (c *natsConn) mine(fields [][]byte) bool {
	n, ok := bytes.CutPrefix(fields[min(1, len(fields)-1)], []byte(c.inbox))
	return ok && string(n) == strconv.FormatInt(c.asked, 10)
}

// message reads the rest of a message: MSG subject sid [reply] size, or HMSG
// with the header's size before the whole.
func (c *natsConn) message(fields [][]byte) (header, body []byte, err error) {
	size, err := strconv.Atoi(string(fields[len(fields)-1]))
	if err != nil || size < 0 || size > maxReply {
		return nil, nil, errMalformed
	}
	head := 0
	if string(fields[0]) == "HMSG" {
		if head, err = strconv.Atoi(string(fields[len(fields)-2])); err != nil || head < 0 || head > size {
			return nil, nil, errMalformed
		}
	}
	c.value = append(c.value[:0], make([]byte, size)...)
	if _, err := io.ReadFull(c.r, c.value); err != nil {
		return nil, nil, err
	}
	_, err = c.r.Discard(2)
	return c.value[:head], c.value[head:], err
}

// Do does op, a Put or a Get.
func (c *natsConn) Do(op *loadgen.Op) loadgen.Answer {
	subject := "$KV.bench."
	if op.Kind == loadgen.Get {
		subject = "$JS.API.DIRECT.GET.KV_bench.$KV.bench."
	}
	header, body, err := c.call(subject, op.Key, op.Value)
	var failed replyError
	switch {
	case errors.As(err, &failed):
		return loadgen.Answer{Class: loadgen.Broken, Reason: "error", Detail: string(failed)}
	case err != nil:
		return loadgen.Lost(err)
	case bytes.HasPrefix(header, []byte("NATS/1.0 404")):
		return loadgen.Answer{Class: loadgen.Missing, Reason: "404"}
	case bytes.HasPrefix(header, []byte("NATS/1.0 ")): // a status; a value's header has none
		return loadgen.Answer{Class: loadgen.Failed, Reason: "error", Detail: string(header)}
	}
	if op.Kind == loadgen.Put {
		if err := told(body); err != nil {
			return loadgen.Answer{Class: loadgen.Failed, Reason: "error", Detail: err.Error()}
		}
	}
	return loadgen.Answer{Reason: "ok", Value: body}
}

var errNoStream = errors.New("no server answers for the bucket")

func (c *natsConn) createBucket() error {
	header, body, err := c.call("$JS.API.STREAM.CREATE.KV_bench", nil, []byte(natsStream))
	if err != nil {
		return err
	}
	if len(header) > 0 {
		return errNoStream
	}
	return told(body)
}

// told is the error in an answer of JetStream.
func told(body []byte) error {
	var doc struct {
		Error struct {
			Description string `json:"description"`
		} `json:"error"`
	}
	if !bytes.Contains(body, []byte(`"error"`)) {
		return nil
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return err
	}
	if doc.Error.Description != "" {
		return errors.New(doc.Error.Description)
	}
	return nil
}
