package transport

import (
	"bufio"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

const (
	watchInterval = time.Second
	pingEvery     = 5 * time.Second
	// silenceCaller and silenceServer close a connection on which nothing was heard. The caller pings, so it
	// notices first and the server's bound is only for callers that vanished.
	silenceCaller = 10 * time.Second
	silenceServer = 15 * time.Second
	// stallLimit closes a connection on which a single Write makes no progress.
	stallLimit = 10 * time.Second

	readBuffer = 32 << 10
)

// link is one connection after its handshake, with its outbox. Both sides have one.
type link struct {
	peer    ring.NodeID
	conn    net.Conn
	caller  bool // this side dialled
	reader  *bufio.Reader
	out     outbox
	reads   atomic.Uint64 // Reads that returned bytes
	closing sync.Once
	done    chan struct{} // closed when the writer has ended

	// Owned by the watcher.
	lastReads, lastWrites      uint64
	silent, stalled, sincePing time.Duration
}

func newLink(peer ring.NodeID, conn net.Conn, maxFrame int) *link {
	l := &link{peer: peer, conn: conn, done: make(chan struct{})}
	l.reader = bufio.NewReaderSize(heard{l}, readBuffer)
	l.out.init(2 * int64(maxFrame))
	return l
}

// heard counts the Reads of a link that returned bytes.
type heard struct{ l *link }

func (h heard) Read(p []byte) (int, error) {
	n, err := h.l.conn.Read(p)
	if n > 0 {
		h.l.reads.Add(1)
	}
	return n, err
}

// write runs the outbox and then end, which must close the link; that ends the reader too.
func (l *link) write(end func(error)) {
	defer close(l.done)
	end(l.out.run(l.conn))
}

// close drops the connection at once.
func (l *link) close() {
	l.closing.Do(func() {
		l.out.close()
		_ = l.conn.Close()
	})
}

// watch is called every watchInterval. It returns why the connection must be closed, or nothing.
func (l *link) watch() string {
	silence := silenceServer
	if l.caller {
		silence = silenceCaller
		if l.sincePing += watchInterval; l.sincePing >= pingEvery {
			l.sincePing = 0
			l.out.signal(kindPing)
		}
	}
	l.silent += watchInterval
	if reads := l.reads.Load(); reads != l.lastReads {
		l.lastReads, l.silent = reads, 0
	}
	if l.silent >= silence {
		return "nothing heard for " + silence.String()
	}
	writing, writes := l.out.progress()
	l.stalled += watchInterval
	if !writing || writes != l.lastWrites {
		l.lastWrites, l.stalled = writes, 0
	}
	if l.stalled >= stallLimit {
		return "a write made no progress for " + stallLimit.String()
	}
	return ""
}
