package transport

import (
	"encoding/binary"
	"net"
	"runtime"
	"sync"

	"github.com/dunlindb/dunlin/internal/wire"
)

const (
	// batchBytes is roughly what goes into one Write. Smaller batches keep more of the queue removable.
	batchBytes = 128 << 10
	// directBytes is the size from which a frame is written by itself instead of being copied into the batch.
	directBytes = 32 << 10
	// chunkBytes bounds one Write, so that a slow connection shows progress.
	chunkBytes = 256 << 10
)

type pushResult int

const (
	pushed pushResult = iota
	pushFull
	pushClosed
)

// queued is one frame that waits to be written; call is the one that waits for its answer, if any.
type queued struct {
	enc  *wire.Encoder
	call *call
}

// outbox is the queue of frames of one connection, emptied by its writer. A frame is either in the queue, and
// can be taken back, or was taken by the writer and counts as written.
type outbox struct {
	limit int64 // bytes queued or being written; a single frame is always accepted

	mu     sync.Mutex
	filled sync.Cond // something to write, or closed
	space  sync.Cond // bytes were written, or closed
	queue  []queued
	base   uint64 // position of queue[0]; a call remembers its own
	bytes  int64
	ping   bool
	pong   bool
	state  outboxState

	writing bool   // a Write is under way
	wrote   uint64 // Writes that ended; with writing it shows a stalled connection
}

type outboxState int

const (
	outboxOpen     outboxState = iota
	outboxDraining             // takes nothing more; the writer ends when it is empty
	outboxClosed
)

func (o *outbox) init(limit int64) {
	o.limit = limit
	o.filled.L = &o.mu
	o.space.L = &o.mu
}

// push queues a frame or, with wait, blocks until there is room. The encoder belongs to the outbox only if the
// result is pushed.
func (o *outbox) push(q queued, wait bool) pushResult {
	n := int64(len(q.enc.Bytes()))
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.state == outboxOpen && o.bytes > 0 && o.bytes+n > o.limit {
		if !wait {
			return pushFull
		}
		o.space.Wait()
	}
	if o.state != outboxOpen {
		return pushClosed
	}
	if q.call != nil {
		q.call.queued, q.call.position = true, o.base+uint64(len(o.queue))
	}
	o.bytes += n
	o.queue = append(o.queue, q)
	if len(o.queue) == 1 {
		o.filled.Signal()
	}
	return pushed
}

// full reports whether n more bytes would be refused now; it spares encoding them.
func (o *outbox) full(n int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.bytes > 0 && o.bytes+int64(n) > o.limit
}

// remove takes the frame of c back and reports whether it was still there. The last frame takes its place:
// frames of different calls have no order.
func (o *outbox) remove(c *call) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !c.queued {
		return false
	}
	i, last := int(c.position-o.base), len(o.queue)-1
	q := o.queue[i]
	o.queue[i] = o.queue[last]
	if moved := o.queue[i].call; moved != nil {
		moved.position = c.position
	}
	o.queue[last] = queued{}
	o.queue = o.queue[:last]
	c.queued = false
	o.bytes -= int64(len(q.enc.Bytes()))
	q.enc.Free()
	o.space.Broadcast()
	return true
}

// signal asks for a ping or a pong. Any number of them before the next write is one.
func (o *outbox) signal(kind int) {
	o.mu.Lock()
	o.ping = o.ping || kind == kindPing
	o.pong = o.pong || kind == kindPong
	o.mu.Unlock()
	o.filled.Signal()
}

// drain lets the writer finish what is queued and end.
func (o *outbox) drain() { o.end(outboxDraining) }

// close makes the writer end and forgets the queue; the calls in it are marked as never sent.
func (o *outbox) close() { o.end(outboxClosed) }

func (o *outbox) end(state outboxState) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.state = max(o.state, state)
	if o.state == outboxClosed {
		for _, q := range o.queue {
			if q.call != nil {
				q.call.queued, q.call.notSent = false, true
			}
			q.enc.Free()
		}
		o.queue = nil
	}
	o.filled.Broadcast()
	o.space.Broadcast()
}

// progress returns whether a Write is under way and how many have ended.
func (o *outbox) progress() (bool, uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.writing, o.wrote
}

// await blocks until there is something to write and reports false when there will be nothing more.
func (o *outbox) await() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for {
		switch {
		case o.state == outboxClosed:
			return false
		case len(o.queue) > 0 || o.ping || o.pong:
			return true
		case o.state == outboxDraining:
			return false
		}
		o.filled.Wait()
	}
}

// take moves about batchBytes of frames to the writer.
func (o *outbox) take(batch []queued) (taken []queued, ping, pong bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, size := 0, 0
	for n < len(o.queue) && size < batchBytes {
		size += len(o.queue[n].enc.Bytes())
		if c := o.queue[n].call; c != nil {
			c.queued = false
		}
		n++
	}
	batch = append(batch, o.queue[:n]...)
	rest := copy(o.queue, o.queue[n:])
	clear(o.queue[rest:])
	o.queue = o.queue[:rest]
	o.base += uint64(n)
	ping, pong = o.ping, o.pong
	o.ping, o.pong = false, false
	return batch, ping, pong
}

// written gives back the room of a batch.
func (o *outbox) written(n int64) {
	o.mu.Lock()
	o.bytes -= n
	o.mu.Unlock()
	o.space.Broadcast()
}

var (
	pingFrame = encodeControl(kindPing)
	pongFrame = encodeControl(kindPong)
)

// run writes until the outbox is closed, or drained, or a Write fails; the error is never nil.
func (o *outbox) run(conn net.Conn) error {
	var (
		buf   []byte
		batch []queued
		ping  bool
		pong  bool
	)
	for o.await() {
		// Callers that are about to run add their frames to this Write: it halves the cost of a busy
		// connection and costs an idle one nothing.
		runtime.Gosched()
		batch, ping, pong = o.take(batch[:0])
		buf = buf[:0]
		if ping {
			buf = appendFrame(buf, pingFrame)
		}
		if pong {
			buf = appendFrame(buf, pongFrame)
		}
		var size int64
		var err error
		for i, q := range batch {
			b := q.enc.Bytes()
			size += int64(len(b))
			if len(b) < directBytes {
				buf = appendFrame(buf, b)
			} else if err == nil {
				buf = binary.BigEndian.AppendUint32(buf, uint32(len(b)))
				if err = o.write(conn, buf); err == nil {
					err = o.write(conn, b)
				}
				buf = buf[:0]
			}
			q.enc.Free()
			batch[i] = queued{}
		}
		if err == nil && len(buf) > 0 {
			err = o.write(conn, buf)
		}
		o.written(size)
		if err != nil {
			return err
		}
	}
	return net.ErrClosed
}

func appendFrame(buf, body []byte) []byte {
	return append(binary.BigEndian.AppendUint32(buf, uint32(len(body))), body...)
}

func (o *outbox) write(conn net.Conn, b []byte) error {
	for len(b) > 0 {
		n := min(len(b), chunkBytes)
		o.mu.Lock()
		o.writing = true
		o.mu.Unlock()
		_, err := conn.Write(b[:n])
		o.mu.Lock()
		o.writing = false
		o.wrote++
		o.mu.Unlock()
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
