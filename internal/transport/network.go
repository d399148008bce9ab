package transport

import (
	"context"
	"net"
	"time"
)

// Network is the only way in which connections are made, so that tests and simulations can supply their own.
// Both methods are safe for concurrent use.
type Network interface {
	// Listen announces addr; ctx bounds the announcing only.
	Listen(ctx context.Context, addr string) (net.Listener, error)
	// Dial connects to addr and gives up when ctx ends.
	Dial(ctx context.Context, addr string) (net.Conn, error)
}

// keepAlive is the interval of TCP's own probes. They are a second line: the transport's pings notice a dead
// peer earlier.
const keepAlive = 15 * time.Second

// unacked is how long bytes that were sent may go unacknowledged by the other host until the connection ends. After a cut
// a connection comes back only when the kernel sends again, which it does twice as late each time: past this, a new one
// is there sooner. A slow link, or a slow peer, acknowledges.
const unacked = 3 * time.Second

type tcp struct{}

// TCP returns the operating system's network: keepalive on, Nagle's delay off.
func TCP() Network { return tcp{} }

func (tcp) Listen(ctx context.Context, addr string) (net.Listener, error) {
	c := net.ListenConfig{KeepAlive: keepAlive, Control: boundUnacked}
	c.SetMultipathTCP(false) // which does not know all of TCP's options
	return c.Listen(ctx, "tcp", addr)
}

// Dial relies on the net package for TCP_NODELAY, which it sets on every connection it makes or accepts.
func (tcp) Dial(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{KeepAlive: keepAlive, Control: boundUnacked}
	return d.DialContext(ctx, "tcp", addr)
}
