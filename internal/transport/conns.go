package transport

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

const (
	acceptPauseFirst = 5 * time.Millisecond
	acceptPauseLast  = time.Second
	// warnEvery keeps a scanner at the port from filling the log.
	warnEvery = time.Second
)

// accept takes connections until the listener is closed. An error of another kind, such as too many open
// files, passes: it is waited out.
func (t *Transport) accept(l net.Listener) {
	pause := acceptPauseFirst
	for {
		conn, err := l.Accept()
		if err == nil {
			pause = acceptPauseFirst
			if !t.admit(conn) {
				_ = conn.Close()
			}
			continue
		}
		if t.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		t.warn("accept failed", slog.Any("error", err))
		select {
		case <-time.After(pause):
			pause = min(2*pause, acceptPauseLast)
		case <-t.ctx.Done():
			return
		}
	}
}

// admit starts the handshake of an accepted connection, if there is room for one more.
func (t *Transport) admit(conn net.Conn) bool {
	t.mu.Lock()
	full := t.shaking >= maxHandshakes
	if !full {
		t.shaking++
	}
	t.mu.Unlock()
	if full {
		t.warn("too many connections in handshake")
		return false
	}
	if t.spawn(func() { t.serveConn(conn) }) {
		return true
	}
	t.shaken()
	return false
}

func (t *Transport) shaken() {
	t.mu.Lock()
	t.shaking--
	t.mu.Unlock()
}

// serveConn is the life of an inbound connection.
func (t *Transport) serveConn(conn net.Conn) {
	id, err := t.shake(conn, ring.NodeID{})
	t.shaken()
	if err != nil {
		_ = conn.Close()
		t.warn("handshake with a caller failed", slog.String("remote", conn.RemoteAddr().String()),
			slog.String("peer", id.String()), slog.Any("error", err))
		return
	}
	in := newInbound(t, newLink(id, conn, t.opt.MaxFrame))
	if !t.addInbound(in) {
		in.cancel()
		in.close()
		return
	}
	t.mu.Lock()
	p := t.peers[id]
	t.mu.Unlock()
	if p != nil {
		p.heard()
	}
	err = in.read()
	in.close()
	t.mu.Lock()
	if t.inbounds[id] == in {
		delete(t.inbounds, id)
	}
	t.mu.Unlock()
	t.lost(in.link, err)
}

// addInbound makes in the connection of its peer and starts its writer. A peer dials again only when its older
// connection is of no use to it, even if that is not noticed here yet.
func (t *Transport) addInbound(in *inbound) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.inbounds[in.peer]
	if t.closed || old == nil && len(t.inbounds) >= maxConnections {
		return false
	}
	if old != nil {
		old.close()
	}
	t.inbounds[in.peer] = in
	t.wg.Go(func() { in.write(func(error) { in.close() }) })
	return true
}

// connect dials a peer and shakes hands.
func (t *Transport) connect(id ring.NodeID, addr string) (*link, error) {
	ctx, cancel := context.WithTimeout(t.ctx, t.opt.DialTimeout)
	conn, err := t.opt.Network.Dial(ctx, addr)
	cancel()
	if err != nil {
		return nil, err
	}
	if _, err := t.shake(conn, id); err != nil {
		_ = conn.Close()
		t.warn("handshake with a peer failed", slog.String("remote", addr),
			slog.String("peer", id.String()), slog.Any("error", err))
		return nil, err
	}
	return newLink(id, conn, t.opt.MaxFrame), nil
}

// shake runs a handshake under its deadline and passes a proved refusal on. It leaves conn open.
func (t *Transport) shake(conn net.Conn, wanted ring.NodeID) (ring.NodeID, error) {
	if err := conn.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return wanted, err
	}
	release := context.AfterFunc(t.ctx, func() { _ = conn.Close() })
	id, err := t.shaker.run(conn, wanted)
	if !release() && err == nil {
		err = ErrClosed
	}
	var r *refusal
	if errors.As(err, &r) && r.theirs && r.proved {
		t.opt.Refused(id, r.text)
	}
	if err != nil {
		return id, err
	}
	return id, conn.SetDeadline(time.Time{})
}

func (t *Transport) addSession(s *session) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.sessions[s] = struct{}{}
	t.wg.Go(func() { s.write(s.fail) })
	return true
}

// runSession reads answers until the connection ends, then fails the calls that are left.
func (t *Transport) runSession(s *session) {
	err := s.read()
	if ended(err) {
		err = errors.New("closed by the peer")
	}
	s.fail(err)
	t.mu.Lock()
	delete(t.sessions, s)
	t.mu.Unlock()
	t.lost(s.link, s.cause())
}

func (t *Transport) lost(l *link, err error) {
	if t.ctx.Err() == nil {
		t.opt.Logger.Info("connection ended", "peer", l.peer.String(), "caller", l.caller, "error", err)
	}
}

// watch looks after all connections once every watchInterval.
func (t *Transport) watch() {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-t.ctx.Done():
			return
		}
		t.mu.Lock()
		sessions := make([]*session, 0, len(t.sessions))
		for s := range t.sessions {
			sessions = append(sessions, s)
		}
		inbounds := make([]*inbound, 0, len(t.inbounds))
		for _, in := range t.inbounds {
			inbounds = append(inbounds, in)
		}
		t.mu.Unlock()
		for _, s := range sessions {
			if reason := s.watch(); reason != "" {
				s.fail(errors.New(reason))
			} else {
				s.expire(time.Now())
			}
		}
		for _, in := range inbounds {
			if reason := in.watch(); reason != "" {
				t.warn("connection with a caller is dead", slog.String("peer", in.peer.String()), slog.String("error", reason))
				in.close()
			}
		}
	}
}

// warn logs a message at most once every warnEvery; more often it is logged for debugging only. msg is a
// constant: what varies belongs into the attributes.
func (t *Transport) warn(msg string, attrs ...slog.Attr) {
	level := slog.LevelDebug
	now := time.Now()
	t.mu.Lock()
	if now.Sub(t.warned[msg]) >= warnEvery {
		t.warned[msg], level = now, slog.LevelWarn
	}
	t.mu.Unlock()
	t.opt.Logger.LogAttrs(t.ctx, level, msg, attrs...)
}
