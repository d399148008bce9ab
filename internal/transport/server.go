package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/dunlindb/dunlin/internal/wire"
)

// maxServingFrames bounds the bytes of the requests being served, in frames of the largest size.
const maxServingFrames = 8

// gate bounds the handlers that run at once, over all peers, and the bytes of their requests.
type gate struct {
	maxCount int
	maxBytes int64

	mu      sync.Mutex
	count   int
	bytes   int64
	closing bool
	idle    chan struct{} // closed when closing and no handler runs
}

func newGate(count int, bytes int64) *gate {
	return &gate{maxCount: count, maxBytes: bytes, idle: make(chan struct{})}
}

// enter returns why there is no room, or nothing.
func (g *gate) enter(n int) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closing:
		return "this node is stopping"
	case g.count >= g.maxCount:
		return "too many requests are being served"
	case g.count > 0 && g.bytes+int64(n) > g.maxBytes:
		return "the requests being served hold too many bytes"
	}
	g.count++
	g.bytes += int64(n)
	return ""
}

func (g *gate) leave(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.count--
	g.bytes -= int64(n)
	if g.closing && g.count == 0 {
		close(g.idle)
	}
}

// close lets nobody in any more; idle tells when the last one has left.
func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closing {
		g.closing = true
		if g.count == 0 {
			close(g.idle)
		}
	}
}

// inbound is the server's side of a connection.
type inbound struct {
	*link
	t      *Transport
	ctx    context.Context // of all its handlers; ends with the connection
	cancel context.CancelFunc

	mu      sync.Mutex
	running map[uint64]context.CancelFunc
}

func newInbound(t *Transport, l *link) *inbound {
	in := &inbound{link: l, t: t, running: make(map[uint64]context.CancelFunc)}
	in.ctx, in.cancel = context.WithCancel(t.serving)
	return in
}

// read starts a handler for each request, until the connection ends.
func (in *inbound) read() error {
	defer in.cancel()
	for {
		b, err := readFrame(in.reader, in.t.opt.MaxFrame)
		if err != nil {
			return err
		}
		f, err := decodeFrame(b)
		if err != nil {
			return err
		}
		switch f.kind {
		case kindRequest:
			err = in.request(f, len(b))
		case kindCancel:
			in.finish(f.id)
		case kindPing:
			in.out.signal(kindPong)
		default:
			err = fmt.Errorf("%w: a frame of kind %d from a caller", wire.ErrMalformed, f.kind)
		}
		if err != nil {
			return err
		}
	}
}

// job is one request that is being served.
type job struct {
	in      *inbound
	ctx     context.Context
	cancel  context.CancelFunc
	handler Handler
	frame   frame
	size    int // what it takes of the gate's bytes
}

// request starts the handler of a request or answers at once why not. An error ends the connection.
func (in *inbound) request(f frame, size int) error {
	h := in.t.handlers[string(f.endpoint)]
	if h == nil {
		return in.refuse(f.id, CodeUnknownEndpoint, fmt.Sprintf("no endpoint %q", f.endpoint))
	}
	if full := in.t.gate.enter(size); full != "" {
		return in.refuse(f.id, CodeOverloaded, full)
	}
	if early := in.t.early[string(f.endpoint)]; early != nil && len(f.payload) <= maxEarly {
		if r := (&receipt{in: in, id: f.id, size: size}); r.try(early, &f) {
			return nil
		}
	}
	ctx, cancel := context.WithTimeout(in.ctx, f.left)
	in.mu.Lock()
	_, twice := in.running[f.id]
	if !twice {
		in.running[f.id] = cancel
	}
	in.mu.Unlock()
	if twice {
		cancel()
		in.t.gate.leave(size)
		return fmt.Errorf("%w: request id %d is in use", wire.ErrMalformed, f.id)
	}
	in.t.workers.serve(&job{in, ctx, cancel, h, f, size})
	return nil
}

// refuse answers without a handler. A peer that does not read its answers while it asks on is cut.
func (in *inbound) refuse(id uint64, code uint16, text string) error {
	enc := wire.NewEncoder()
	encodeResponse(enc, id, code, text, nil)
	result := in.out.push(queued{enc, nil}, false)
	if result != pushed {
		enc.Free()
	}
	if result == pushFull {
		return errors.New("the peer does not read its answers")
	}
	return nil // while Close flushes, a new request must not cost the answers that are still queued
}

// finish cancels the context of a request and forgets it.
func (in *inbound) finish(id uint64) {
	in.mu.Lock()
	cancel := in.running[id]
	delete(in.running, id)
	in.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}

// serve runs one handler, which holds its place in the gate until the answer is queued.
func (in *inbound) serve(j *job) {
	defer in.t.gate.leave(j.size)
	defer in.finish(j.frame.id)
	if j.ctx.Err() != nil {
		return // expired or cancelled while it waited to run: nobody wants the answer
	}
	payload, err := in.handle(j)
	if j.ctx.Err() != nil {
		return
	}
	enc := in.response(j.frame.id, payload, err)
	if in.out.push(queued{enc, nil}, true) != pushed {
		enc.Free()
	}
}

// response is the frame that answers a request.
func (in *inbound) response(id uint64, payload []byte, err error) *wire.Encoder {
	var code uint16
	var text string
	if err != nil {
		code, text, payload = codeOf(err), bounded(err.Error()), nil
		var p *panicked
		if errors.As(err, &p) {
			code = CodePanic
		}
	} else if len(payload) > in.t.opt.MaxFrame-frameOverhead {
		code, text = CodeTooLarge, fmt.Sprintf("answer of %d bytes exceeds the largest frame", len(payload))
		payload = nil
	}
	enc := wire.NewEncoder()
	encodeResponse(enc, id, code, text, payload)
	return enc
}

type panicked struct{ value any }

func (p *panicked) Error() string { return fmt.Sprintf("handler panicked: %v", p.value) }

func (in *inbound) handle(j *job) (payload []byte, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = in.panicked(v, string(j.frame.endpoint))
		}
	}()
	return j.handler(j.ctx, in.peer, j.frame.payload)
}

// panicked logs a panic of who handles an endpoint, and makes it an error.
func (in *inbound) panicked(value any, endpoint string) error {
	in.t.opt.Logger.LogAttrs(in.ctx, slog.LevelError, "handler panicked",
		slog.String("op", endpoint), slog.String("peer", in.peer.String()),
		slog.Any("panic", value), slog.String("stack", string(debug.Stack())))
	return &panicked{value}
}

// flush writes what is queued and closes the connection, within limit.
func (in *inbound) flush(limit time.Duration) {
	in.out.drain()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-in.done:
	case <-timer.C:
	}
	in.close()
}

// ended reports whether err is how a connection ends when the peer goes away.
func ended(err error) bool { return errors.Is(err, io.EOF) }
