package transport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dunlindb/dunlin/internal/wire"
	"github.com/dunlindb/dunlin/ring"
)

func encoded(f func(*wire.Encoder)) []byte {
	e := wire.NewEncoder()
	defer e.Free()
	f(e)
	return e.Copy()
}

func TestLengthBombCostsNothing(t *testing.T) {
	bomb := append(binary.BigEndian.AppendUint32(nil, 1<<30), 1, 2, 3)
	for _, limit := range []int{1 << 20, 1 << 30} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		const rounds = 100
		for range rounds {
			if _, err := readFrame(bytes.NewReader(bomb), limit); err == nil {
				t.Fatal("a frame of three bytes was taken for one of a GiB")
			}
		}
		runtime.ReadMemStats(&after)
		allocated := (after.TotalAlloc - before.TotalAlloc) / rounds
		if allocated > 2*arrivalStep {
			t.Errorf("limit %d: %d bytes allocated", limit, allocated)
		}
	}
}

func TestReadFrameGrowsWithWhatArrives(t *testing.T) {
	for _, n := range []int{1, arrivalStep - 1, arrivalStep, arrivalStep + 1, 10*arrivalStep + 17} {
		body := bytes.Repeat([]byte("abcdefg"), n/7+1)[:n]
		raw := appendFrame(nil, body)
		got, err := readFrame(&trickle{raw}, n)
		if err != nil || !bytes.Equal(got, body) {
			t.Errorf("%d bytes: got %d, %v", n, len(got), err)
		}
		if _, err := readFrame(bytes.NewReader(raw), n-1); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%d bytes above the limit: %v", n, err)
		}
		if _, err := readFrame(bytes.NewReader(raw[:len(raw)-1]), n); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes cut: %v", n, err)
		}
	}
}

// trickle hands out a few hundred bytes at a time.
type trickle struct{ b []byte }

func (t *trickle) Read(p []byte) (int, error) {
	if len(t.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, t.b[:min(len(t.b), 333)])
	t.b = t.b[n:]
	return n, nil
}

// forge opens a proved connection to node 2 by hand, so that frames can be forged on it.
func forge(t *testing.T, w *world) net.Conn {
	t.Helper()
	conn, err := w.pipes.Host(hostOf(9)).Dial(t.Context(), hostOf(2))
	if err != nil {
		t.Fatal(err)
	}
	s := shaker{nodeID(9), "test", []byte("s3cret"), func() []byte { return nil }, func(ring.NodeID, []byte) error { return nil }}
	if _, err := s.run(conn, nodeID(2)); err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestHostileFramesEndTheConnection(t *testing.T) {
	request := encoded(func(e *wire.Encoder) { encodeRequest(e, 1, "hang", time.Second, nil) })
	for name, raw := range map[string][]byte{
		"length bomb": {0xff, 0xff, 0xff, 0xff},
		"garbage":     appendFrame(nil, []byte("garbage")),
		"array bomb":  appendFrame(nil, []byte{0xdd, 0xff, 0xff, 0xff, 0xff}),
		"bytes bomb":  appendFrame(nil, []byte{0x95, 1, 1, 0xa1, 'x', 1, 0xc6, 0xff, 0xff, 0xff, 0xff}),
		"response":    appendFrame(nil, encoded(func(e *wire.Encoder) { encodeResponse(e, 1, 0, "", nil) })),
		"same id":     append(appendFrame(nil, request), appendFrame(nil, request)...),
		"left over":   appendFrame(nil, append(bytes.Clone(pingFrame), 0)),
		"long pause":  appendFrame(nil, request)[:7],
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				h, release, waiting := hang()
				defer release()
				b := w.node(2, map[string]Handler{"hang": h})
				conn := forge(t, w)
				defer conn.Close()
				if _, err := conn.Write(raw); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadAll(conn); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if len(b.inbounds) != 0 || waiting.Load() != 0 || b.gate.count != 0 {
					t.Errorf("%d connections, %d handlers, %d in the gate", len(b.inbounds), waiting.Load(), b.gate.count)
				}
				mustEcho(t, w.node(1, nil), nodeID(2))
			})
		})
	}
}

// A peer that asks without reading answers is held by the bound of its queue, not by memory.
func TestFloodWithoutReading(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		b := w.start(w.make(2, func(o *Options) { o.MaxFrame = minMaxFrame }))
		conn := forge(t, w)
		defer conn.Close()
		one := encoded(func(e *wire.Encoder) { encodeRequest(e, 1, "nobody", time.Second, nil) })
		var err error
		for i := 0; err == nil && i < 100_000; i++ {
			_, err = conn.Write(appendFrame(nil, one))
		}
		if err == nil {
			t.Error("the flood was taken without an end")
		}
		synctest.Wait()
		if len(b.inbounds) != 0 {
			t.Error("the connection is still there")
		}
	})
}

// A newer connection of a peer replaces the older one: the peer would not have dialled if it still used it.
func TestNewerConnectionReplacesOlder(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		b := w.node(2, nil)
		first := forge(t, w)
		defer first.Close()
		synctest.Wait()
		second := forge(t, w)
		defer second.Close()
		if _, err := first.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the older connection: %v", err)
		}
		synctest.Wait()
		if len(b.inbounds) != 1 {
			t.Errorf("%d connections", len(b.inbounds))
		}
	})
}

func FuzzFrame(f *testing.F) {
	f.Add(encoded(func(e *wire.Encoder) { encodeRequest(e, 7, "get", time.Second, []byte("key")) }))
	f.Add(encoded(func(e *wire.Encoder) { encodeResponse(e, 7, 42, "text", []byte("value")) }))
	f.Add(encoded(func(e *wire.Encoder) { encodeCancel(e, 7) }))
	f.Add(pingFrame)
	f.Add(pongFrame)
	f.Add([]byte{0xdd, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := decodeFrame(b)
		if err != nil {
			if !errors.Is(err, wire.ErrMalformed) {
				t.Fatalf("error %v does not say that the frame is malformed", err)
			}
			return
		}
		again := encoded(func(e *wire.Encoder) {
			switch got.kind {
			case kindRequest:
				encodeRequest(e, got.id, string(got.endpoint), got.left, got.payload)
			case kindResponse:
				encodeResponse(e, got.id, got.code, got.text, got.payload)
			case kindCancel:
				encodeCancel(e, got.id)
			default:
				e.Array(1)
				e.Uint(uint64(got.kind))
			}
		})
		back, err := decodeFrame(again)
		if err != nil || back.kind != got.kind || back.id != got.id || back.left != got.left || back.code != got.code ||
			back.text != got.text || !bytes.Equal(back.endpoint, got.endpoint) || !bytes.Equal(back.payload, got.payload) {
			t.Fatalf("%+v became %+v, %v", got, back, err)
		}
	})
}

func FuzzHandshake(f *testing.F) {
	for _, body := range [][]byte{
		identity{cluster: "c", id: nodeID(1), wanted: nodeID(2), hello: []byte("hi")}.encode(),
		encodeProof(make([]byte, 32), "no"), encodeRefusal("go away"), {0xdd, 0xff, 0xff, 0xff, 0xff},
	} {
		f.Add(appendFrame(append([]byte(magic), handshakeVersion), body))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, kind := range []int{messageHello, messageProof} {
			m, body, err := readMessage(bytes.NewReader(b), kind)
			if err == nil && (m.kind != kind || len(body) == 0 || len(m.text) > maxText || len(m.identity.hello) > maxHello) {
				t.Fatalf("accepted %+v", m)
			}
		}
	})
}

// FuzzServer feeds bytes to a connection after its handshake: nothing may panic, hang or be left over.
func FuzzServer(f *testing.F) {
	f.Add(appendFrame(nil, encoded(func(e *wire.Encoder) { encodeRequest(e, 1, "echo", time.Second, []byte("x")) })))
	f.Add(appendFrame(appendFrame(nil, pingFrame), encoded(func(e *wire.Encoder) { encodeCancel(e, 1) })))
	f.Fuzz(func(t *testing.T, b []byte) {
		tr, err := New(Options{Self: nodeID(2), Network: NewPipes(), Listen: "a", Lookup: func(ring.NodeID) (string, bool) { return "", false }})
		if err != nil {
			t.Fatal(err)
		}
		tr.Handle("echo", echo)
		here, there := net.Pipe()
		in := newInbound(tr, newLink(nodeID(1), here, tr.opt.MaxFrame))
		go in.write(func(error) { in.close() })
		go func() { _, _ = io.Copy(io.Discard, there) }()
		go func() {
			_, _ = there.Write(b)
			_ = there.Close()
		}()
		if err := in.read(); err == nil {
			t.Error("the connection ended without a reason")
		}
		in.close()
		<-in.done
		tr.gate.close()
		<-tr.gate.idle
		tr.abort() // as Close does
	})
}
