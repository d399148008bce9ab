package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/dunlindb/dunlin/internal/fleet"
	"github.com/dunlindb/dunlin/internal/loadgen"
)

func redisMemory(ctx context.Context, s settings) (*server, error) { return redisWith(ctx, s, false) }
func redisAlways(ctx context.Context, s settings) (*server, error) { return redisWith(ctx, s, true) }

// redisWith is a primary with two replicas; every SET is followed by WAIT 1.
func redisWith(ctx context.Context, s settings, aof bool) (*server, error) {
	program, err := find(s.bin, "redis-server")
	if err != nil {
		return nil, err
	}
	version, err := firstLine(ctx, program, "--version")
	if err != nil {
		return nil, err
	}
	ports, err := fleet.FreePorts("127.0.0.1", nodes)
	if err != nil {
		return nil, err
	}
	primary := fmt.Sprintf("127.0.0.1:%d", ports[0])
	keep := []string{"--appendonly", "no"}
	disk := "nothing on disk"
	if aof {
		keep, disk = []string{"--appendonly", "yes", "--appendfsync", "always"}, "AOF, fsync always"
	}
	dial := func(_ context.Context, _ int) (loadgen.Conn, error) { return dialRedis(primary) }
	version, _, _ = strings.Cut(version, " sha=")
	return &server{
		version:  version + ", " + disk + ", primary and two replicas, WAIT 1; GETs from the primary",
		volatile: !aof,
		command: func(node int, dir string) (*exec.Cmd, error) {
			args := append([]string{"--bind", "127.0.0.1", "--port", strconv.Itoa(ports[node]), "--dir", dir, "--save", "", "--daemonize", "no",
				"--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0", "--client-output-buffer-limit", "replica 0 0 0"}, keep...)
			if node > 0 {
				args = append(args, "--replicaof", "127.0.0.1", strconv.Itoa(ports[0]))
			}
			return exec.Command(program, args...), nil
		},
		ready: func(context.Context) error { return redisReady(primary) },
		loads: loadsOf(s, dial, nil, dial),
	}, nil
}

// redisReady tells whether both replicas follow.
func redisReady(primary string) error {
	c, err := dialRedis(primary)
	if err != nil {
		return err
	}
	defer c.Close()
	c.request = command(c.request[:0], "INFO", "replication")
	if _, err := c.conn.Write(c.request); err != nil {
		return err
	}
	info, err := c.reply()
	if err != nil {
		return err
	}
	if n := strings.Count(string(info), "state=online"); n != nodes-1 {
		return fmt.Errorf("%d of %d replicas follow", n, nodes-1)
	}
	return nil
}

// redisConn speaks RESP2.
type redisConn struct {
	conn           net.Conn
	r              *bufio.Reader
	request, value []byte
}

func dialRedis(addr string) (*redisConn, error) {
	conn, err := net.DialTimeout("tcp", addr, opTime)
	if err != nil {
		return nil, err
	}
	return &redisConn{conn: conn, r: bufio.NewReader(conn)}, nil
}

// command appends a command in RESP.
func command[T string | []byte](b []byte, args ...T) []byte {
	b = fmt.Appendf(b, "*%d\r\n", len(args))
	for _, a := range args {
		b = append(b, '$')
		b = strconv.AppendInt(b, int64(len(a)), 10)
		b = append(b, "\r\n"...)
		b = append(b, a...)
		b = append(b, "\r\n"...)
	}
	return b
}

var (
	errNil       = errors.New("nil")
	errMalformed = errors.New("malformed reply")
)

// replyError is an error that the server told.
type replyError string

func (e replyError) Error() string { return string(e) }

// maxReply bounds a reply.
const maxReply = 64 << 20

// reply reads one reply, valid until the next.
func (c *redisConn) reply() ([]byte, error) {
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	if len(line) < 3 {
		return nil, errMalformed
	}
	kind, text := line[0], line[1:len(line)-2]
	switch kind {
	case '+', ':':
		c.value = append(c.value[:0], text...)
		return c.value, nil
	case '-':
		return nil, replyError(text)
	case '$':
		n, err := strconv.Atoi(string(text))
		if err != nil || n > maxReply {
			return nil, errMalformed
		}
		if n < 0 {
			return nil, errNil
		}
		c.value = append(c.value[:0], make([]byte, n)...)
		if _, err := io.ReadFull(c.r, c.value); err != nil {
			return nil, err
		}
		_, err = c.r.Discard(2)
		return c.value, err
	}
	return nil, errMalformed
}

// Do does op, a Put or a Get.
func (c *redisConn) Do(op *loadgen.Op) loadgen.Answer {
	if err := c.conn.SetDeadline(time.Now().Add(opTime)); err != nil {
		return loadgen.Lost(err)
	}
	if op.Kind == loadgen.Put {
		c.request = command(c.request[:0], []byte("SET"), op.Key, op.Value)
		c.request = command(c.request, "WAIT", "1", "0")
	} else {
		c.request = command(c.request[:0], []byte("GET"), op.Key)
	}
	if _, err := c.conn.Write(c.request); err != nil {
		return loadgen.Lost(err)
	}
	value, err := c.reply()
	if err == nil && op.Kind == loadgen.Put {
		var acks []byte
		if acks, err = c.reply(); err == nil && string(acks) == "0" {
			err = replyError("WAIT: no replica has it")
		}
	}
	var told replyError
	switch {
	case errors.Is(err, errNil):
		return loadgen.Answer{Class: loadgen.Missing, Reason: "nil"}
	case errors.As(err, &told):
		return loadgen.Answer{Class: loadgen.Failed, Reason: "error", Detail: string(told)}
	case err != nil:
		return loadgen.Lost(err)
	}
	return loadgen.Answer{Reason: "ok", Value: value}
}

// Close ends the connection.
func (c *redisConn) Close() { _ = c.conn.Close() }
