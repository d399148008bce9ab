package fleet

import (
	"net"
	"os"
	"testing"
	"time"
)

// Packets take the delay there and back, one after the other, and after healing none.
func TestDelay(t *testing.T) {
	l, err := NewLab(2)
	if err != nil {
		t.Skip(err)
	}
	defer l.Close()
	const delay = 40 * time.Millisecond
	if err := l.Delay(delay); err != nil {
		if _, missing := os.Stat("/dev/net/tun"); missing != nil {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	var echo net.PacketConn
	if err := l.nodes[1].do(func() (err error) { echo, err = net.ListenPacket("udp4", l.Address(1)+":7"); return err }); err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		b := make([]byte, 100)
		for {
			n, from, err := echo.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = echo.WriteTo(b[:n], from)
		}
	}()
	conn, err := l.nodes[0].dial(t.Context(), "udp4", l.Address(1)+":7")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ping := func() time.Duration {
		if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := conn.Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		return time.Since(start)
	}
	for range 10 {
		if took := ping(); took < delay { // twice a half at least
			t.Errorf("there and back in %v", took)
		}
	}
	if err := l.Heal(); err != nil {
		t.Fatal(err)
	}
	least := time.Hour
	for range 10 {
		least = min(least, ping())
	}
	if least >= delay {
		t.Errorf("there and back in %v at least after healing", least)
	}
	if l.slow.lost.Load() > 0 || l.slow.onWay.Load() > 0 {
		t.Errorf("%d lost, %d on the way", l.slow.lost.Load(), l.slow.onWay.Load())
	}
}
