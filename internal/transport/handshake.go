package transport

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/dunlindb/dunlin/internal/wire"
	"github.com/dunlindb/dunlin/ring"
)

// The handshake. The caller C dials the server S:
//
//	C → S  hello  [1, cluster, id, wanted id, nonce, hello]
//	S → C  hello  the same; its wanted id is C's
//	C → S  proof  [2, mac, ""]
//	S → C  proof  [2, mac, verdict]
//	C → S  proof  [2, mac, verdict]
//
// An empty verdict accepts. A mac is HMAC-SHA256, keyed with the secret, of both hellos as they were sent, the
// step and the verdict; both nonces, ids, cluster names and hello bytes are in it, so a proof is good for one
// connection, one direction and one step. Without a secret the key is empty and the macs prove nothing.
// Verify is asked only after the other side's proof, and only a proved verdict is reported to Refused.
//
// Instead of any message a side may send a refusal, [3, text], and close: its text is for people, it is not
// proved. Each message is "DNLN", a version and a length before the body; this head and the refusal keep their
// form in every version, so that two releases can tell each other why they do not talk.
const (
	magic            = "DNLN"
	handshakeVersion = 1

	messageHello   = 1
	messageProof   = 2
	messageRefusal = 3

	handshakeTimeout = 5 * time.Second
	maxHello         = 64 << 10
	maxCluster       = 256
	maxMessage       = maxHello + maxCluster + 256
	nonceBytes       = 32
)

// errSecret says no more than it must.
var errSecret = errors.New("the secret does not match")

// refusal is a handshake that ended by a decision, not by a broken connection.
type refusal struct {
	text   string
	theirs bool // the other side decided
	proved bool // and it had proved its identity
}

func (r *refusal) Error() string {
	if r.theirs {
		return "refused by the peer: " + r.text
	}
	return "refused: " + r.text
}

func refuse(format string, args ...any) error { return &refusal{text: fmt.Sprintf(format, args...)} }

// identity is what a node says of itself.
type identity struct {
	cluster string
	id      ring.NodeID
	wanted  ring.NodeID // whom it believes to talk to
	nonce   [nonceBytes]byte
	hello   []byte
}

func (i identity) encode() []byte {
	e := wire.NewEncoder()
	defer e.Free()
	e.Array(6)
	e.Uint(messageHello)
	e.String(i.cluster)
	e.Raw(i.id[:])
	e.Raw(i.wanted[:])
	e.Raw(i.nonce[:])
	e.Raw(i.hello)
	return e.Copy()
}

func encodeProof(mac []byte, verdict string) []byte {
	e := wire.NewEncoder()
	defer e.Free()
	e.Array(3)
	e.Uint(messageProof)
	e.Raw(mac)
	e.String(verdict)
	return e.Copy()
}

func encodeRefusal(text string) []byte {
	e := wire.NewEncoder()
	defer e.Free()
	e.Array(2)
	e.Uint(messageRefusal)
	e.String(bounded(text))
	return e.Copy()
}

// message is a decoded handshake message of any kind.
type message struct {
	kind     int
	identity identity
	mac      [sha256.Size]byte
	text     string // of a refusal, or the verdict of a proof
}

func decodeMessage(b []byte) (message, error) {
	d := wire.NewDecoder(b)
	var m message
	n := d.Array(6)
	m.kind = d.Count(messageRefusal)
	want := 0
	switch m.kind {
	case messageHello:
		want = 6
		m.identity.cluster = d.String(maxCluster)
		d.Fixed(m.identity.id[:])
		d.Fixed(m.identity.wanted[:])
		d.Fixed(m.identity.nonce[:])
		m.identity.hello = d.Raw(maxHello)
	case messageProof:
		want = 3
		d.Fixed(m.mac[:])
		m.text = d.String(maxText)
	case messageRefusal:
		want = 2
		m.text = d.String(maxText)
	default:
		d.Fail("unknown handshake message")
	}
	if d.Err() == nil && n != want {
		d.Fail("handshake message of the wrong length")
	}
	return m, d.Done()
}

func writeMessage(w io.Writer, body []byte) error {
	b := append([]byte(magic), handshakeVersion)
	_, err := w.Write(appendFrame(b, body))
	return err
}

// readMessage reads one message of the wanted kind and returns the body too, for the transcript. A refusal by
// the other side is returned as an error, as is anything unreadable.
func readMessage(r io.Reader, kind int) (message, []byte, error) {
	var head [len(magic) + 1]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return message{}, nil, err
	}
	if string(head[:len(magic)]) != magic {
		return message{}, nil, refuse("this is not the node protocol")
	}
	body, err := readFrame(r, maxMessage)
	if errors.Is(err, wire.ErrMalformed) {
		return message{}, nil, refuse("handshake: %v", err)
	}
	if err != nil {
		return message{}, nil, err
	}
	m, err := decodeMessage(body)
	if err == nil && m.kind == messageRefusal {
		return m, nil, &refusal{text: m.text, theirs: true}
	}
	if v := head[len(magic)]; v != handshakeVersion {
		return m, nil, refuse("node protocol version %d, this node speaks %d", v, handshakeVersion)
	}
	if err != nil {
		return m, nil, refuse("handshake: %v", err)
	}
	if m.kind != kind {
		return m, nil, refuse("handshake message of kind %d where %d was expected", m.kind, kind)
	}
	return m, body, nil
}

// shaker runs handshakes for one node.
type shaker struct {
	self    ring.NodeID
	cluster string
	secret  []byte
	hello   func() []byte
	verify  func(ring.NodeID, []byte) error
}

// run does one side's handshake on conn and returns who the other side is. wanted is the node that the caller
// dialled, zero for the server's side. The caller of run sets the deadline and closes conn on error.
func (s *shaker) run(conn net.Conn, wanted ring.NodeID) (ring.NodeID, error) {
	var peer ring.NodeID
	var err error
	if wanted.IsZero() {
		peer, err = s.serve(conn)
	} else {
		peer, err = wanted, s.dial(conn, wanted)
	}
	var r *refusal
	if errors.As(err, &r) && !r.theirs && !r.proved {
		_ = writeMessage(conn, encodeRefusal(r.text)) // best effort: the connection is closed anyway
	}
	return peer, err
}

func (s *shaker) dial(conn net.Conn, wanted ring.NodeID) error {
	mine, err := s.introduce(wanted)
	if err != nil {
		return err
	}
	if err := writeMessage(conn, mine); err != nil {
		return err
	}
	m, theirs, err := readMessage(conn, messageHello)
	if err != nil {
		return err
	}
	if err := s.check(m.identity); err != nil {
		return err
	}
	if m.identity.id != wanted {
		return refuse("node %s answers here, wanted %s", m.identity.id, wanted)
	}
	t := transcript{s.secret, mine, theirs}
	if err := writeMessage(conn, encodeProof(t.mac(stepCaller, ""), "")); err != nil {
		return err
	}
	proof, _, err := readMessage(conn, messageProof)
	if err != nil {
		return err
	}
	if err := t.accept(proof, stepServer); err != nil {
		return err
	}
	return s.judge(conn, m.identity, t.mac)
}

func (s *shaker) serve(conn net.Conn) (ring.NodeID, error) {
	m, theirs, err := readMessage(conn, messageHello)
	if err != nil {
		return ring.NodeID{}, err
	}
	peer := m.identity.id
	if err := s.check(m.identity); err != nil {
		return peer, err
	}
	if m.identity.wanted != s.self {
		return peer, refuse("node %s answers here, wanted %s", s.self, m.identity.wanted)
	}
	mine, err := s.introduce(peer)
	if err != nil {
		return peer, err
	}
	if err := writeMessage(conn, mine); err != nil {
		return peer, err
	}
	t := transcript{s.secret, theirs, mine}
	proof, _, err := readMessage(conn, messageProof)
	if err != nil {
		return peer, err
	}
	if err := t.accept(proof, stepCaller); err != nil {
		return peer, err
	}
	verdict := func(_ step, text string) []byte { return t.mac(stepServer, text) }
	if err := s.judge(conn, m.identity, verdict); err != nil {
		return peer, err
	}
	if proof, _, err = readMessage(conn, messageProof); err != nil {
		return peer, err
	}
	return peer, t.accept(proof, stepVerdict)
}

// introduce returns this node's hello message.
func (s *shaker) introduce(wanted ring.NodeID) ([]byte, error) {
	i := identity{cluster: s.cluster, id: s.self, wanted: wanted, hello: s.hello()}
	if len(i.hello) > maxHello {
		return nil, refuse("node %s has a hello of %d bytes, at most %d", s.self, len(i.hello), maxHello)
	}
	_, _ = rand.Read(i.nonce[:]) // documented never to fail
	return i.encode(), nil
}

// check looks at what needs no proof to be wrong.
func (s *shaker) check(i identity) error {
	switch {
	case i.cluster != s.cluster:
		return refuse("cluster %q here, %q there", s.cluster, i.cluster)
	case i.id.IsZero():
		return refuse("a node id of zeros")
	case i.id == s.self:
		return refuse("both sides are node %s: a node that dials itself, or a copied data directory", s.self)
	}
	return nil
}

// judge asks verify about a proved peer and sends the verdict.
func (s *shaker) judge(conn net.Conn, i identity, mac func(step, string) []byte) error {
	text := ""
	if err := s.verify(i.id, i.hello); err != nil {
		if text = bounded(err.Error()); text == "" {
			text = "refused without a reason"
		}
	}
	if err := writeMessage(conn, encodeProof(mac(stepVerdict, text), text)); err != nil {
		return err
	}
	if text != "" {
		return &refusal{text: text, proved: true}
	}
	return nil
}

type step string

const (
	stepCaller  step = "dunlin caller's proof"
	stepServer  step = "dunlin server's proof and verdict"
	stepVerdict step = "dunlin caller's verdict"
)

// transcript is what a mac covers.
type transcript struct {
	secret         []byte
	caller, server []byte // the two hello messages
}

func (t transcript) mac(s step, verdict string) []byte {
	h := hmac.New(sha256.New, t.secret)
	for _, part := range [][]byte{[]byte(s), t.caller, t.server, []byte(verdict)} {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		h.Write(n[:])
		h.Write(part)
	}
	return h.Sum(nil)
}

// accept checks a proof, then its verdict.
func (t transcript) accept(m message, s step) error {
	if !hmac.Equal(m.mac[:], t.mac(s, m.text)) {
		return &refusal{text: errSecret.Error()}
	}
	if m.text != "" {
		return &refusal{text: m.text, theirs: true, proved: true}
	}
	return nil
}

// bounded cuts a text to what fits into a message.
func bounded(text string) string {
	if len(text) > maxText {
		return strings.ToValidUTF8(text[:maxText], "")
	}
	return text
}
