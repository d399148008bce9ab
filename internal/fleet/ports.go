package fleet

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// The ports are below those that systems give to outgoing connections: a node that starts again must not find that some
// connection has taken its port meanwhile.
const (
	lowestPort  = 10000
	highestPort = 32000
	portTries   = 1000
)

// Loopback is an address of this machine that nobody else uses, most likely, where there is more than one: on Linux all
// of 127.0.0.0/8. What listens there cannot be kept from coming back by somebody who took its port meanwhile.
func Loopback() string {
	host := fmt.Sprintf("127.%d.%d.%d", 64+rand.IntN(128), rand.IntN(256), 1+rand.IntN(254))
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return "127.0.0.1"
	}
	_ = l.Close()
	return host
}

// FreePorts finds n ports at which nothing listens now at a host, neither by TCP nor by UDP.
func FreePorts(host string, n int) ([]int, error) {
	var out []int
	for range portTries {
		if len(out) == n {
			return out, nil
		}
		port := lowestPort + rand.IntN(highestPort-lowestPort)
		at := net.JoinHostPort(host, strconv.Itoa(port))
		tcp, err := net.Listen("tcp", at)
		if err != nil {
			continue
		}
		defer tcp.Close() // at the end, so that no port is found twice
		udp, err := net.ListenPacket("udp", at)
		if err != nil {
			continue
		}
		defer udp.Close()
		out = append(out, port)
	}
	return nil, fmt.Errorf("no %d free ports at %s between %d and %d", n, host, lowestPort, highestPort)
}
