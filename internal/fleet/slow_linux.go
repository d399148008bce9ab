package fleet

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	detour       = "slow0" // the device of a node by which delayed packets leave and arrive
	mostOnTheWay = 1 << 14 // packets; what is more is lost, as in a router that is full
	packetBytes  = 1 << 16
)

// slowPath takes packets from node to node with a delay, packet by packet, so that they overtake each other. It stands
// in for netem, which few kernels have.
type slowPath struct {
	devices []*os.File // by node
	delay   atomic.Int64
	onWay   atomic.Int64
	lost    atomic.Int64
}

// newSlowPath gives each node a device for it. Nothing goes there yet.
func newSlowPath(l *Lab) (*slowPath, error) {
	s := &slowPath{}
	for _, ns := range l.nodes {
		var device *os.File
		err := ns.do(func() (err error) { device, err = openTun(detour); return err })
		if err == nil {
			s.devices = append(s.devices, device)
			err = errors.Join(ns.run("ip link set "+detour+" up"), ns.do(anySender))
		}
		if err != nil {
			s.close()
			return nil, err
		}
	}
	for _, device := range s.devices {
		go s.carry(device)
	}
	return s, nil
}

// anySender lets packets arrive by another device than answers go by, in the network namespace of the calling thread.
func anySender() error {
	var errs []error
	for _, device := range []string{"all", detour} {
		errs = append(errs, os.WriteFile("/proc/sys/net/ipv4/conf/"+device+"/rp_filter", []byte("0"), 0o644))
	}
	return errors.Join(errs...)
}

func (s *slowPath) close() {
	for _, device := range s.devices {
		_ = device.Close() // it takes the device with it
	}
}

// carry reads what one node sends until its device is closed.
func (s *slowPath) carry(from *os.File) {
	buffer := make([]byte, packetBytes)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		to := s.destination(buffer[:n])
		if to == nil {
			continue
		}
		if s.onWay.Add(1) > mostOnTheWay {
			s.onWay.Add(-1)
			s.lost.Add(1)
			continue
		}
		packet := append([]byte(nil), buffer[:n]...)
		d := s.delay.Load()
		time.AfterFunc(time.Duration(d/2+rand.Int64N(d+1)), func() {
			s.onWay.Add(-1)
			_, _ = to.Write(packet) // lost, if the device is closed or full
		})
	}
}

// destination is the device of the node that an IPv4 packet is for, nil if there is none.
func (s *slowPath) destination(packet []byte) *os.File {
	if len(packet) < 20 || packet[0]>>4 != 4 {
		return nil
	}
	if to := packet[16:20]; to[0] == 10 && to[1] == 77 && to[2] == 0 && 0 < to[3] && int(to[3]) <= len(s.devices) {
		return s.devices[to[3]-1]
	}
	return nil
}

// openTun makes a device of IP packets in the network namespace of the calling thread.
func openTun(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("a tun device: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil // after TUNSETIFF: before it the file cannot be polled
}
