package cluster

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"
)

func pair(t *testing.T, n *MemNetwork) (a, b *MemTransport) {
	t.Helper()
	a, err := n.Transport("10.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	if b, err = n.Transport("10.0.0.2:1"); err != nil {
		t.Fatal(err)
	}
	return a, b
}

func arrived(tr *MemTransport) (n int) {
	time.Sleep(time.Second)
	synctest.Wait()
	for {
		select {
		case <-tr.PacketCh():
			n++
		default:
			return n
		}
	}
}

func TestMemNetworkLosesDuplicatesAndCutsPackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewMemNetwork(3)
		a, b := pair(t, n)
		send := func(from, to *MemTransport) {
			for range 100 {
				if _, err := from.WriteTo([]byte("x"), to.Addr()); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, tt := range []struct {
			faults   MemFaults
			from, to int
		}{
			{MemFaults{}, 100, 100},
			{MemFaults{MinLatency: time.Millisecond, MaxLatency: time.Second / 2}, 100, 100},
			{MemFaults{Loss: 1}, 0, 0},
			{MemFaults{Loss: 0.5}, 30, 70},
			{MemFaults{Duplicate: 1}, 200, 200},
		} {
			n.SetFaults(tt.faults)
			send(a, b)
			if got := arrived(b); got < tt.from || got > tt.to {
				t.Errorf("%+v: %d of 100 arrived", tt.faults, got)
			}
		}
		n.SetFaults(MemFaults{MinLatency: 100 * time.Millisecond})
		n.CutOneWay(a.Addr(), b.Addr())
		send(a, b)
		send(b, a)
		if x, y := arrived(b), arrived(a); x != 0 || y != 100 {
			t.Errorf("one-way cut: %d and %d", x, y)
		}
		n.Heal(a.Addr(), b.Addr())
		send(a, b)
		n.Cut(a.Addr(), b.Addr()) // under way when the cut comes
		if got := arrived(b); got != 0 {
			t.Errorf("%d packets passed a cut", got)
		}
	})
}

func TestMemNetworkStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewMemNetwork(3)
		a, b := pair(t, n)
		go func() {
			for {
				select {
				case c := <-b.StreamCh():
					go func() {
						buf := make([]byte, 5)
						if k, err := c.Read(buf); err == nil {
							_, _ = c.Write(buf[:k])
						}
					}()
				case <-b.done:
					return
				}
			}
		}()
		conn, err := a.DialAddressTimeout(memberlist.Address{Addr: b.Addr()}, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 5)
		if _, err := conn.Read(buf); err != nil || string(buf) != "hello" {
			t.Fatalf("%q, %v", buf, err)
		}
		open, err := a.DialTimeout(b.Addr(), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		n.CutOneWay(b.Addr(), a.Addr())
		if _, err := open.Read(buf); err == nil {
			t.Fatal("a stream survives a cut")
		}
		begin := time.Now()
		if _, err := a.DialTimeout(b.Addr(), 2*time.Second); !errors.Is(err, errMemUnreachable) || time.Since(begin) != 2*time.Second {
			t.Fatalf("dial across a cut: %v after %v", err, time.Since(begin))
		}
		n.HealAll()
		n.Remove(b.Addr())
		if _, err := a.DialTimeout(b.Addr(), 2*time.Second); err == nil {
			t.Fatal("a removed node answers")
		}
		if _, err := n.Transport(a.Addr()); err == nil {
			t.Fatal("an address given twice")
		}
		if _, err := n.Transport(b.Addr()); err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
	})
}
