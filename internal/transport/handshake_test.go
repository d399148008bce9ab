package transport

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

// refusals collects what Refused is told.
type refusals struct {
	mu   sync.Mutex
	list []string
}

func (r *refusals) told(peer ring.NodeID, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, fmt.Sprintf("%d: %s", peer[15], reason))
}

func (r *refusals) all() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.list, "; ")
}

func TestHandshakeRefusals(t *testing.T) {
	cases := map[string]struct {
		caller, server     func(*Options)
		text               string
		tellCaller, tellIt bool // whether Refused is told at the caller, at the server
	}{
		"wrong secret":   {caller: func(o *Options) { o.Secret = "guess" }, text: "secret does not match"},
		"no secret":      {caller: func(o *Options) { o.Secret = "" }, text: "secret does not match"},
		"server without": {server: func(o *Options) { o.Secret = "" }, text: "secret does not match"},
		"other cluster":  {caller: func(o *Options) { o.Cluster = "prod" }, text: `cluster "test" here, "prod" there`},
		"other node":     {server: func(o *Options) { o.Self = nodeID(3) }, text: "wanted " + nodeID(2).String()},
		"same identity":  {caller: func(o *Options) { o.Self = nodeID(2) }, text: "not a peer"},
		"long hello":     {caller: func(o *Options) { o.Hello = func() []byte { return make([]byte, maxHello+1) } }, text: "hello of 65537 bytes"},
		"server refuses": {server: func(o *Options) { o.Verify = never("you were removed") }, text: "you were removed", tellCaller: true},
		"caller refuses": {caller: func(o *Options) { o.Verify = never("other lineage") }, text: "other lineage", tellIt: true},
		"no reason":      {server: func(o *Options) { o.Verify = never("") }, text: "without a reason", tellCaller: true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				var atCaller, atServer refusals
				change := func(f func(*Options), r *refusals) func(*Options) {
					return func(o *Options) {
						o.Refused = r.told
						if f != nil {
							f(o)
						}
					}
				}
				b := w.make(2, change(c.server, &atServer))
				b.Handle("echo", echo)
				w.start(b)
				a := w.start(w.make(1, change(c.caller, &atCaller)))
				w.enter(nodeID(2), hostOf(2))
				_, err := a.Call(t.Context(), nodeID(2), "echo", nil)
				kind := KindRefused
				if name == "same identity" {
					kind = KindInvalid
				}
				if e := wantError(t, err, kind, true); !strings.Contains(e.Text, c.text) {
					t.Errorf("refused with %q, want %q", e.Text, c.text)
				}
				synctest.Wait()
				if got := atCaller.all(); (got != "") != c.tellCaller || c.tellCaller && !strings.Contains(got, c.text) {
					t.Errorf("the caller was told %q", got)
				}
				if got := atServer.all(); (got != "") != c.tellIt || c.tellIt && !strings.Contains(got, c.text) {
					t.Errorf("the server was told %q", got)
				}
				if len(b.inbounds) != 0 || len(a.sessions) != 0 {
					t.Error("a refused connection is in use")
				}
			})
		})
	}
}

func never(reason string) func(ring.NodeID, []byte) error {
	return func(ring.NodeID, []byte) error { return errors.New(reason) }
}

func TestHelloTravelsBothWays(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var mu sync.Mutex
		seen := map[ring.NodeID]string{}
		with := func(hello string) func(*Options) {
			return func(o *Options) {
				o.Hello = func() []byte { return []byte(hello) }
				o.Verify = func(peer ring.NodeID, hello []byte) error {
					mu.Lock()
					defer mu.Unlock()
					seen[peer] = string(hello)
					return nil
				}
			}
		}
		b := w.make(2, with(strings.Repeat("b", maxHello)))
		b.Handle("echo", echo)
		w.start(b)
		mustEcho(t, w.start(w.make(1, with("of a"))), nodeID(2))
		if seen[nodeID(1)] != "of a" || len(seen[nodeID(2)]) != maxHello {
			t.Errorf("saw %q and %d bytes", seen[nodeID(1)], len(seen[nodeID(2)]))
		}
	})
}

// A stranger's refusal must not make a node believe that its cluster removed it.
func TestUnprovedRefusalIsNotReported(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var told refusals
		a := w.start(w.make(1, func(o *Options) { o.Refused = told.told }))
		w.enter(nodeID(2), "stranger")
		l, err := w.pipes.Listen(t.Context(), "stranger")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			_ = writeMessage(conn, encodeRefusal("you were removed"))
			_, _ = io.Copy(io.Discard, conn)
		}()
		_, err = a.Call(t.Context(), nodeID(2), "echo", nil)
		if e := wantError(t, err, KindRefused, true); e.Text != "you were removed" {
			t.Error(e)
		}
		conn, err := w.pipes.Dial(t.Context(), hostOf(1))
		if err != nil {
			t.Fatal(err)
		}
		_ = writeMessage(conn, encodeRefusal("you were removed"))
		synctest.Wait()
		_ = conn.Close()
		if got := told.all(); got != "" {
			t.Errorf("Refused was told %q", got)
		}
	})
}

// Whoever replays, reflects or changes a recorded handshake has no proof for the new nonces.
func TestProofsAreBound(t *testing.T) {
	base := transcript{[]byte("secret"), []byte("caller"), []byte("server")}
	mac := base.mac(stepServer, "")
	for name, other := range map[string][]byte{
		"secret":    transcript{[]byte("Secret"), base.caller, base.server}.mac(stepServer, ""),
		"hello":     transcript{base.secret, []byte("callers"), []byte("erver")}.mac(stepServer, ""),
		"direction": transcript{base.secret, base.server, base.caller}.mac(stepServer, ""),
		"step":      base.mac(stepCaller, ""),
		"verdict":   base.mac(stepServer, "no"),
	} {
		if bytes.Equal(mac, other) {
			t.Errorf("another %s has the same mac", name)
		}
	}
	m := message{kind: messageProof}
	copy(m.mac[:], mac)
	if err := base.accept(m, stepServer); err != nil {
		t.Error(err)
	}
	m.text = "no"
	if err := base.accept(m, stepServer); err == nil || !strings.Contains(err.Error(), errSecret.Error()) {
		t.Errorf("a forged verdict gave %v", err)
	}
}

// The secret is checked before Verify sees anything of the peer.
func TestVerifySeesOnlyProvedPeers(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		asked := false
		w.start(w.make(2, func(o *Options) {
			o.Verify = func(ring.NodeID, []byte) error { asked = true; return nil }
		}))
		a := w.start(w.make(1, func(o *Options) { o.Secret = "guess" }))
		_, err := a.Call(t.Context(), nodeID(2), "echo", nil)
		wantError(t, err, KindRefused, true)
		synctest.Wait()
		if asked {
			t.Error("Verify was asked about a peer without the secret")
		}
	})
}

// answerOf writes raw bytes to node 2 and returns what it says before it closes, and when.
func answerOf(t *testing.T, w *world, raw []byte) ([]byte, time.Duration) {
	t.Helper()
	conn, err := w.pipes.Dial(t.Context(), hostOf(2))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	begun := time.Now()
	if _, err := conn.Write(raw); err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(conn)
	return b, time.Since(begun)
}

func TestVersionsExplainThemselves(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.node(2, nil)
		future := append([]byte(magic), 9)
		future = appendFrame(future, []byte{0x93, 77, 1, 2}) // a body that this release cannot read
		got, _ := answerOf(t, w, future)
		m, _, err := readMessage(bytes.NewReader(got), messageHello)
		var r *refusal
		if !errors.As(err, &r) || !r.theirs || !strings.Contains(m.text, "version 9, this node speaks 1") {
			t.Errorf("answer %q, %v", got, err)
		}
	})
}

func TestHostileHandshakes(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		b := w.node(2, nil)
		head := append([]byte(magic), handshakeVersion)
		hello := identity{cluster: "test", id: nodeID(1), wanted: nodeID(2)}.encode()
		for name, c := range map[string]struct {
			raw     []byte
			answers bool
			slow    bool
		}{
			"half open":    {raw: nil, slow: true},
			"half a head":  {raw: head[:3], slow: true},
			"http":         {raw: []byte("GET / HTTP/1.1\r\n\r\n"), answers: true},
			"length bomb":  {raw: append(head[:5:5], 0xff, 0xff, 0xff, 0xff), answers: true},
			"zero length":  {raw: append(head[:5:5], 0, 0, 0, 0), answers: true},
			"half a hello": {raw: appendFrame(head[:5:5], hello)[:40], slow: true},
			"array bomb":   {raw: appendFrame(head[:5:5], []byte{0xdd, 0xff, 0xff, 0xff, 0xff}), answers: true},
			"proof first":  {raw: appendFrame(head[:5:5], encodeProof(make([]byte, 32), "")), answers: true},
			"no proof":     {raw: appendFrame(head[:5:5], hello), answers: true, slow: true},
		} {
			got, took := answerOf(t, w, c.raw)
			if (len(got) > 0) != c.answers || (took == handshakeTimeout) != c.slow {
				t.Errorf("%s: %d bytes of answer after %v", name, len(got), took)
			}
		}
		synctest.Wait()
		if b.shaking != 0 || len(b.inbounds) != 0 {
			t.Errorf("%d handshakes, %d connections left", b.shaking, len(b.inbounds))
		}
		mustEcho(t, w.node(1, nil), nodeID(2))
	})
}

// One byte at a time does not prolong the deadline.
func TestSlowHandshakeIsCut(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.node(2, nil)
		conn, err := w.pipes.Dial(t.Context(), hostOf(2))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		raw := appendFrame(append([]byte(magic), handshakeVersion), make([]byte, 1000))
		begun := time.Now()
		for _, c := range raw {
			if _, err = conn.Write([]byte{c}); err != nil {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		if d := time.Since(begun); err == nil || d > handshakeTimeout+time.Second {
			t.Errorf("a slow sender was cut after %v: %v", d, err)
		}
	})
}

func TestHandshakesAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		b := w.node(2, nil)
		var conns []net.Conn
		for range maxHandshakes + 50 {
			conn, err := w.pipes.Dial(t.Context(), hostOf(2))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conns = append(conns, conn)
		}
		synctest.Wait()
		b.mu.Lock()
		shaking := b.shaking
		b.mu.Unlock()
		if shaking != maxHandshakes {
			t.Errorf("%d handshakes, want %d", shaking, maxHandshakes)
		}
		if _, err := conns[maxHandshakes+10].Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("a connection too many was not closed: %v", err)
		}
		time.Sleep(handshakeTimeout)
		synctest.Wait() // the places are given back at this very moment
		mustEcho(t, w.node(1, nil), nodeID(2))
	})
}
