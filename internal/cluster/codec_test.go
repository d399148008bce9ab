package cluster

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"github.com/dunlindb/dunlin/ring"
)

func sampleMeta() *meta {
	return &meta{
		Start: 1<<64 - 1, Name: "a", HTTPAddr: "10.0.0.1:8000", RPCAddr: "10.0.0.1:8100", Zone: "z1", Weight: 7,
		Epoch: 3, Layout: digest{1}, Vote: digest{2}, Founding: digest{3},
	}
}

func sampleVote() *voteBody {
	return &voteBody{Cluster: "dunlin", Partitions: 64, N: 3, Founders: []ring.Member{
		{ID: nodeID("a"), Name: "a", Zone: "z", Weight: 1}, {ID: nodeID("b"), Name: "b", Weight: 2},
	}}
}

func sampleBody() *body {
	v := sampleVote()
	return &body{
		ID: nodeID("a"), Start: 9, Name: "a", Cluster: "dunlin", Partitions: 64, N: 3,
		Listed: []string{"a", "b"}, Vote: v.encode(), Layout: v.layout().Encode(),
	}
}

func TestEncodingsRoundTrip(t *testing.T) {
	m, err := decodeMeta(sampleMeta().encode())
	if err != nil || m != *sampleMeta() {
		t.Errorf("meta: %+v, %v", m, err)
	}
	v, err := decodeVote(sampleVote().encode())
	if err != nil || !reflect.DeepEqual(v, sampleVote()) || v.hash() != sampleVote().hash() {
		t.Errorf("vote: %+v, %v", v, err)
	}
	b, err := decodeBody(sampleBody().encode())
	if err != nil || !reflect.DeepEqual(b, sampleBody()) {
		t.Errorf("body: %+v, %v", b, err)
	}
	h := &hello{ID: nodeID("a"), Cluster: "dunlin", ClusterID: digest{4}, Starts: []uint64{1, 2}}
	h2, err := decodeHello(h.encode())
	if err != nil || !reflect.DeepEqual(h, h2) {
		t.Errorf("hello: %+v, %v", h2, err)
	}
	peers := []peerRecord{{ID: nodeID("b"), Name: "b", HTTPAddr: "h:1", RPCAddr: "r:1", GossipAddr: "g:1", Zone: "z", Weight: 3, Start: 8}}
	p2, err := decodePeers(encodePeers(peers))
	if err != nil || !reflect.DeepEqual(peers, p2) {
		t.Errorf("peers: %+v, %v", p2, err)
	}
}

func TestTheLargestMetadataFits(t *testing.T) {
	long := strings.Repeat("x", MaxAddress)
	m := sampleMeta()
	m.Name, m.Zone, m.HTTPAddr, m.RPCAddr, m.Weight, m.Epoch = long[:MaxName], long[:MaxZone], long, long, maxWeight, 1<<64-1
	if n := len(m.encode()); n > metaMax {
		t.Fatalf("%d bytes, memberlist panics past %d", n, metaMax)
	}
}

// The vote's hash is the cluster's id for ever: a change of the encoding would split a cluster during an upgrade.
func TestTheVoteHashIsStable(t *testing.T) {
	v := &voteBody{Cluster: "dunlin", Partitions: 1024, N: 3, Founders: []ring.Member{{ID: ring.NodeID{1}, Name: "a", Weight: 1}}}
	const want = "4d59fa6cf911174bed59c841a2782a5e"
	if got := v.hash(); got.hex() != want {
		t.Fatalf("vote hash %s, was %s", got.hex(), want)
	}
}

func TestVoteHashCoversEveryField(t *testing.T) {
	base := sampleVote().hash()
	for name, change := range map[string]func(*voteBody){
		"cluster": func(v *voteBody) { v.Cluster = "x" }, "partitions": func(v *voteBody) { v.Partitions = 128 },
		"n": func(v *voteBody) { v.N = 2 }, "id": func(v *voteBody) { v.Founders[0].ID = nodeID("x") },
		"name": func(v *voteBody) { v.Founders[0].Name = "x" }, "zone": func(v *voteBody) { v.Founders[0].Zone = "x" },
		"weight": func(v *voteBody) { v.Founders[0].Weight = 9 }, "members": func(v *voteBody) { v.Founders = v.Founders[:1] },
	} {
		v := sampleVote()
		change(v)
		if v.hash() == base {
			t.Errorf("%s is not in the hash", name)
		}
	}
}

func FuzzMeta(f *testing.F) {
	f.Add(sampleMeta().encode())
	f.Add([]byte{0xdd, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMeta(b)
		if err != nil {
			return
		}
		again, err := decodeMeta(m.encode())
		if err != nil || again != m {
			t.Fatalf("%+v became %+v, %v", m, again, err)
		}
	})
}

func FuzzVote(f *testing.F) {
	f.Add(sampleVote().encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := decodeVote(b)
		if err != nil {
			return
		}
		again, err := decodeVote(v.encode())
		if err != nil || again.hash() != v.hash() {
			t.Fatalf("%+v became %+v, %v", v, again, err)
		}
	})
}

func FuzzBody(f *testing.F) {
	f.Add(sampleBody().encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := decodeBody(b)
		if err != nil {
			return
		}
		if again, err := decodeBody(v.encode()); err != nil || !reflect.DeepEqual(again, v) {
			t.Fatalf("%+v became %+v, %v", v, again, err)
		}
	})
}

func FuzzHello(f *testing.F) {
	f.Add((&hello{ID: nodeID("a"), Cluster: "dunlin", Starts: []uint64{1, 2}}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeHello(b)
		if err != nil {
			return
		}
		if again, err := decodeHello(h.encode()); err != nil || !reflect.DeepEqual(again, h) {
			t.Fatalf("%+v became %+v, %v", h, again, err)
		}
	})
}

func FuzzFiles(f *testing.F) {
	f.Add(encodeStarts([]uint64{1, 2}))
	f.Add(encodeSeen(map[ring.NodeID]uint64{nodeID("a"): 7}))
	f.Add(encodePeers([]peerRecord{{ID: nodeID("b"), Name: "b"}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if ids, err := decodeStarts(b); err == nil {
			if again, err := decodeStarts(encodeStarts(ids)); err != nil || !reflect.DeepEqual(again, ids) {
				t.Fatalf("starts %v became %v, %v", ids, again, err)
			}
		}
		if seen, err := decodeSeen(b); err == nil {
			if again, err := decodeSeen(encodeSeen(seen)); err != nil || !reflect.DeepEqual(again, seen) {
				t.Fatalf("seen %v became %v, %v", seen, again, err)
			}
		}
		if peers, err := decodePeers(b); err == nil {
			if again, err := decodePeers(encodePeers(peers)); err != nil || !bytes.Equal(encodePeers(again), encodePeers(peers)) {
				t.Fatalf("peers %v became %v, %v", peers, again, err)
			}
		}
	})
}

// During an upgrade a node of a later release appends fields; this one must still see it.
func TestLaterMessagesAreReadAsFarAsKnown(t *testing.T) {
	later := func(b []byte) []byte { // one more field, next format
		out := append([]byte{b[0] + 1, b[1] + 1}, b[2:]...)
		return append(out, 7)
	}
	if m, err := decodeMeta(later(sampleMeta().encode())); err != nil || m != *sampleMeta() {
		t.Errorf("meta: %+v, %v", m, err)
	}
	if b, err := decodeBody(later(sampleBody().encode())); err != nil || !reflect.DeepEqual(b, sampleBody()) {
		t.Errorf("body: %+v, %v", b, err)
	}
	h := &hello{ID: nodeID("a"), Cluster: "dunlin", Starts: []uint64{1}}
	if got, err := decodeHello(later(h.encode())); err != nil || !reflect.DeepEqual(got, h) {
		t.Errorf("hello: %+v, %v", got, err)
	}
	for name, b := range map[string][]byte{
		"an older format":      append([]byte{0x9b, 0}, sampleMeta().encode()[2:]...),
		"one field too many":   append(append([]byte{0x9c, 1}, sampleMeta().encode()[2:]...), 7),
		"bytes after the last": append(sampleMeta().encode(), 7),
	} {
		if _, err := decodeMeta(b); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	if _, err := decodeVote(later(sampleVote().encode())); err == nil {
		t.Error("a vote of a later release is half read")
	}
}
