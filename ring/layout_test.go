package ring

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/dunlindb/dunlin/internal/wire"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func sampleLayout() Layout {
	return Layout{
		Epoch: 300, Cluster: "flock-1", ClusterID: [16]byte{0xc1, 15: 0xd1}, Partitions: 1024, N: 3,
		Members: []Member{
			{ID: NodeID{0x22, 15: 1}, Name: "knot", Zone: "west.2", Weight: 1000},
			{ID: NodeID{0x11, 15: 2}, Name: "dunlin_a", Weight: 1},
			{ID: NodeID{0x33, 15: 3}, Name: "curlew", Zone: "east", Weight: 128},
		},
	}
}

// fullLayout has every field set. Its table is written by hand, so that it stays when Next changes.
func fullLayout() Layout {
	l := sampleLayout()
	l.Partitions, l.N = 8, 2
	l.Members = sorted(l.Members)
	for _, two := range [][2]int{{0, 1}, {1, 2}, {0, 2}, {0, 2}, {1, 2}, {0, 1}, {0, 2}, {1, 2}} {
		l.Primaries = append(l.Primaries, l.Members[two[0]].ID, l.Members[two[1]].ID)
	}
	l.Buckets = []BucketN{{"sessions", 1}, {"audit/2", 5}, {"\xff\x01", 16}}
	l.Lineages = [][16]byte{{0x11, 15: 0xee}, {0x22}}
	l.Removed = []NodeID{{0x05}, {0x77, 15: 7}}
	return l
}

func withoutBuckets(l Layout) Layout {
	l.Buckets, l.Lineages = nil, nil
	return l
}

func TestValidateNamesTheField(t *testing.T) {
	for _, l := range []Layout{sampleLayout(), fullLayout()} {
		if err := l.Validate(); err != nil {
			t.Fatalf("a sample: %v", err)
		}
	}
	long := strings.Repeat("x", MaxName+1)
	for _, c := range []struct {
		field  string
		change func(*Layout)
	}{
		{"Epoch", func(l *Layout) { l.Epoch = 0 }},
		{"Cluster", func(l *Layout) { l.Cluster = "" }},
		{"Cluster", func(l *Layout) { l.Cluster = long }},
		{"Cluster", func(l *Layout) { l.Cluster = "a b" }},
		{"ClusterID", func(l *Layout) { l.ClusterID = [16]byte{} }},
		{"Partitions", func(l *Layout) { l.Partitions = 0 }},
		{"Partitions", func(l *Layout) { l.Partitions = -1024 }},
		{"Partitions", func(l *Layout) { l.Partitions = 1000 }},
		{"Partitions", func(l *Layout) { l.Partitions = 2 * MaxPartitions }},
		{"N", func(l *Layout) { l.N = 0 }},
		{"N", func(l *Layout) { l.N = MaxN + 1 }},
		{"Members", func(l *Layout) { l.Members = nil }},
		{"Members", func(l *Layout) { l.Members = make([]Member, MaxMembers+1) }},
		{"Members[1].ID", func(l *Layout) { l.Members[1].ID = NodeID{} }},
		{"Members[2].ID", func(l *Layout) { l.Members[2].ID = l.Members[0].ID }},
		{"Members[0].Name", func(l *Layout) { l.Members[0].Name = "" }},
		{"Members[0].Name", func(l *Layout) { l.Members[0].Name = "é" }},
		{"Members[2].Name", func(l *Layout) { l.Members[2].Name = l.Members[1].Name }},
		{"Members[0].Zone", func(l *Layout) { l.Members[0].Zone = "a/b" }},
		{"Members[0].Zone", func(l *Layout) { l.Members[0].Zone = long }},
		{"Members[1].Weight", func(l *Layout) { l.Members[1].Weight = 0 }},
		{"Members[1].Weight", func(l *Layout) { l.Members[1].Weight = MaxWeight + 1 }},
		{"Primaries", func(l *Layout) { l.Primaries = l.Primaries[:15] }},
		{"Primaries", func(l *Layout) { l.N = 3 }},
		{"Primaries[2]", func(l *Layout) { l.Primaries[2][15]++ }},
		{"Primaries[5]", func(l *Layout) { l.Primaries[5] = l.Primaries[4] }},
		{"Primaries[1]", func(l *Layout) { l.Primaries[0], l.Primaries[1] = l.Primaries[1], l.Primaries[0] }},
		{"Buckets[1]", func(l *Layout) { l.Buckets[1].Bucket = "" }},
		{"Buckets[1]", func(l *Layout) { l.Buckets[1].Bucket = "a\x00b" }},
		{"Buckets[0]", func(l *Layout) { l.Buckets[0].Bucket = strings.Repeat("b", MaxBucketName+1) }},
		{"Buckets[2]", func(l *Layout) { l.Buckets[2].Bucket = "sessions" }},
		{"Buckets", func(l *Layout) { l.Buckets = make([]BucketN, MaxBucketN+1) }},
		{"Buckets[0]", func(l *Layout) { l.Buckets[0].N = 0 }},
		{"Buckets[0]", func(l *Layout) { l.Buckets[0].N = MaxN + 1 }},
		{"Lineages", func(l *Layout) { l.Lineages = make([][16]byte, MaxLineages+1) }},
		{"Lineages[1]", func(l *Layout) { l.Lineages[1] = [16]byte{} }},
		{"Removed", func(l *Layout) { l.Removed = manyIDs(MaxRemoved + 1) }},
		{"Removed[0]", func(l *Layout) { l.Removed[0] = NodeID{} }},
		{"Removed[1]", func(l *Layout) { l.Removed[1] = l.Removed[0] }},
		{"Removed[1]", func(l *Layout) { l.Removed[1] = l.Members[2].ID }},
	} {
		l := fullLayout()
		c.change(&l)
		err := l.Validate()
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), ": "+c.field+": ") {
			t.Errorf("want an error about %s, got %v", c.field, err)
		}
	}
}

func noZero(s string) bool { return !strings.Contains(s, "\x00") && len(s) <= MaxBucketName-10 }

// genFullLayout draws layouts with any of the fields of version 3.
var genFullLayout = rapid.Custom(func(t *rapid.T) Layout {
	l := genLayout.Draw(t, "members")
	rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "rest"), 1))
	if rapid.Bool().Draw(t, "table") {
		l.Primaries = l.assigned()
		for at := 0; at < len(l.Primaries); at += l.width() {
			slices.SortFunc(l.Primaries[at:at+l.width()], NodeID.Compare)
		}
	}
	for i := range rapid.IntRange(0, 20).Draw(t, "buckets") {
		l.Buckets = append(l.Buckets, BucketN{fmt.Sprint(i, rapid.StringMatching(".{0,60}").Filter(noZero).Draw(t, "bucket")), 1 + rnd.IntN(MaxN)})
	}
	for range rapid.IntRange(0, 20).Draw(t, "removed") {
		l.Removed = append(l.Removed, randomID(rnd))
	}
	slices.SortFunc(l.Removed, NodeID.Compare)
	for range rapid.IntRange(0, 3).Draw(t, "lineages") {
		l.Lineages = append(l.Lineages, randomID(rnd))
	}
	return l
})

func TestLayoutRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := genFullLayout.Draw(t, "layout")
		other := l
		other.Members = rapid.Permutation(l.Members).Draw(t, "order")
		other.Removed = slices.Clone(l.Removed)
		slices.Reverse(other.Removed)
		got, err := DecodeLayout(other.Encode())
		if err != nil {
			t.Fatal(err)
		}
		l.Members = sorted(l.Members)
		if diff := cmp.Diff(l, got); diff != "" {
			t.Fatal(diff)
		}
		if got.Hash() != other.Hash() || l.Hash() != other.Hash() {
			t.Fatal("the hash depends on an order")
		}
	})
}

// The largest layout fits into MaxLayout.
func TestMaxLayout(t *testing.T) {
	l := Layout{
		Epoch: 1 << 63, Cluster: strings.Repeat("c", MaxName), ClusterID: [16]byte{1}, Partitions: MaxPartitions, N: MaxN,
		Members: manyMembers(MaxMembers), Removed: manyIDs(MaxMembers + MaxRemoved)[MaxMembers:],
	}
	for i := range l.Members {
		l.Members[i].Name = fmt.Sprintf("%0*d", MaxName, i)
		l.Members[i].Zone, l.Members[i].Weight = l.Members[i].Name, MaxWeight
	}
	members := sorted(l.Members)
	for range MaxPartitions {
		l.Primaries = append(l.Primaries, ids(members[:MaxN])...)
	}
	for i := range MaxBucketN {
		l.Buckets = append(l.Buckets, BucketN{fmt.Sprintf("%0*d", MaxBucketName, i), MaxN})
	}
	for _, id := range manyIDs(MaxLineages) {
		l.Lineages = append(l.Lineages, id)
	}
	b := l.Encode()
	if _, err := DecodeLayout(b); err != nil || len(b) > MaxLayout {
		t.Errorf("%d bytes, at most %d (%v)", len(b), MaxLayout, err)
	}
}

// Layouts are on disk and in votes, across releases.
func TestGoldenLayout(t *testing.T) {
	for _, c := range []struct {
		file, hash string
		layout     Layout
	}{
		{"testdata/layout.v1.hex", "2c286992660c4040f830116380cab050", sampleLayout()},
		{"testdata/layout.v2.hex", "4d719d91758a116d0f71f1f828333c83", withoutBuckets(fullLayout())},
		{"testdata/layout.v3.hex", "4042c9d9073e29c5b2c066e65860c198", fullLayout()},
	} {
		file, err := os.ReadFile(c.file)
		if err != nil {
			t.Fatal(err)
		}
		golden, err := hex.DecodeString(strings.Join(strings.Fields(string(file)), ""))
		if err != nil {
			t.Fatal(err)
		}
		l := c.layout
		if got := l.Encode(); !cmp.Equal(got, golden) {
			t.Errorf("%s: encoding changed:\n%x\nwant\n%x", c.file, got, golden)
		}
		got, err := DecodeLayout(golden)
		if err != nil {
			t.Fatal(err)
		}
		l.Members = sorted(l.Members)
		if diff := cmp.Diff(l, got); diff != "" {
			t.Errorf("%s: %s", c.file, diff)
		}
		if hash := l.Hash(); hex.EncodeToString(hash[:]) != c.hash {
			t.Errorf("%s: hash changed: %x", c.file, hash)
		}
	}
}

func TestHashCoversEveryField(t *testing.T) {
	seen := map[[16]byte]bool{fullLayout().Hash(): true}
	for i, change := range []func(*Layout){
		func(l *Layout) { l.Epoch++ },
		func(l *Layout) { l.Cluster += "x" },
		func(l *Layout) { l.ClusterID[3]++ },
		func(l *Layout) { l.Partitions *= 2 },
		func(l *Layout) { l.N++ },
		func(l *Layout) { l.Members, l.Primaries = l.Members[:2], nil },
		func(l *Layout) { l.Members[0].ID[7]++ },
		func(l *Layout) { l.Primaries[1] = l.Members[2].ID },
		func(l *Layout) { l.Primaries = nil },
		func(l *Layout) { l.Buckets[0].N++ },
		func(l *Layout) { l.Buckets[0], l.Buckets[1] = l.Buckets[1], l.Buckets[0] },
		func(l *Layout) { l.Buckets = append(l.Buckets, BucketN{"x", 1}) },
		func(l *Layout) { l.Lineages[1][5]++ },
		func(l *Layout) { l.Lineages = l.Lineages[:1] },
		func(l *Layout) { l.Removed[0][5]++ },
		func(l *Layout) { l.Removed = l.Removed[1:] },
		func(l *Layout) { l.Members[0].Name += "x" },
		func(l *Layout) { l.Members[0].Zone += "x" },
		func(l *Layout) { l.Members[0].Weight++ },
	} {
		l := fullLayout()
		change(&l)
		if h := l.Hash(); seen[h] {
			t.Errorf("change %d does not change the hash", i)
		} else {
			seen[h] = true
		}
	}
}

func TestDecodeLayoutRefuses(t *testing.T) {
	for _, l := range []Layout{sampleLayout(), withoutBuckets(fullLayout()), fullLayout()} {
		good := l.Encode()
		for cut := range good {
			if _, err := DecodeLayout(good[:cut]); !errors.Is(err, wire.ErrMalformed) {
				t.Errorf("cut at %d: %v", cut, err)
			}
		}
		if _, err := DecodeLayout(append(good[:len(good):len(good)], 0)); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("a byte left over: %v", err)
		}
		for _, version := range []byte{0, layoutV1, layoutV2, layoutV3, layoutV3 + 1} {
			if version == good[1] {
				continue
			}
			other := slices.Clone(good)
			other[1] = version
			if _, err := DecodeLayout(other); !errors.Is(err, wire.ErrMalformed) {
				t.Errorf("version %d: %v", version, err)
			} else if both := version >= layoutV2 && version <= layoutV3 && good[1] != layoutV1; !both && !strings.Contains(err.Error(), "version") {
				t.Errorf("version %d: %v", version, err)
			}
		}
	}
	twice := sampleLayout()
	twice.Members[1].Name = twice.Members[0].Name
	if _, err := DecodeLayout(twice.Encode()); !errors.Is(err, ErrInvalid) {
		t.Errorf("a name twice: %v", err)
	}
}

// A layout has one encoding, and so one hash.
func TestDecodeLayoutRefusesOtherEncodings(t *testing.T) {
	version := uint64(layoutV3)
	encode := func(table []byte, buckets []string, removed []NodeID, members []Member) []byte {
		e := wire.NewEncoder()
		defer e.Free()
		e.Array(layoutV2Fields)
		e.Uint(version)
		e.Uint(1)
		e.String("c")
		e.Raw(bytes.Repeat([]byte{1}, 16))
		e.Uint(2)
		e.Uint(2)
		e.Array(len(members))
		for _, m := range members {
			e.Array(memberFields)
			e.Raw(m.ID[:])
			e.String(m.Name)
			e.String(m.Zone)
			e.Uint(uint64(m.Weight))
		}
		e.Raw(table)
		e.Array(len(buckets))
		for _, b := range buckets {
			e.Array(bucketNFields)
			e.String(b)
			e.Uint(3)
		}
		if version == layoutV2 {
			e.Raw(make([]byte, 16))
		} else {
			e.Array(0)
		}
		e.Array(len(removed))
		for _, id := range removed {
			e.Raw(id[:])
		}
		return e.Copy()
	}
	m := sorted(sampleLayout().Members)
	turned := []Member{m[1], m[0], m[2]}
	if _, err := DecodeLayout(encode([]byte{0, 1, 1, 2}, []string{"a", "b"}, []NodeID{{1}, {2}}, m)); err != nil {
		t.Fatal(err)
	}
	twice := encode(nil, []string{"a", "a"}, nil, m)
	version = layoutV2
	for what, b := range map[string][]byte{
		"nothing of version 2": encode(nil, nil, nil, m),
		"members turned":       encode([]byte{0, 1, 1, 2}, nil, nil, turned),
		"no such member":       encode([]byte{0, 1, 1, 3}, nil, nil, m),
		"a list turned":        encode([]byte{0, 1, 2, 1}, nil, nil, m),
		"a member twice":       encode([]byte{0, 1, 2, 2}, nil, nil, m),
		"a short table":        encode([]byte{0, 1, 2}, nil, nil, m),
		"buckets in version 2": encode(nil, []string{"a", "b"}, nil, m),
		"a bucket twice":       twice,
		"removed turned":       encode(nil, nil, []NodeID{{2}, {1}}, m),
		"a member removed":     encode(nil, nil, []NodeID{m[0].ID}, m),
	} {
		if _, err := DecodeLayout(b); !errors.Is(err, wire.ErrMalformed) && !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func FuzzDecodeLayout(f *testing.F) {
	f.Add(sampleLayout().Encode())
	f.Add(fullLayout().Encode())
	f.Add(families[2].layout(5, 1).Encode())
	f.Add([]byte{0x97, 1, 1, 0xa1, 'c', 0xc4, 16})
	f.Add([]byte{0xdd, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := DecodeLayout(b)
		if err != nil {
			if !errors.Is(err, wire.ErrMalformed) && !errors.Is(err, ErrInvalid) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		if err := l.Validate(); err != nil {
			t.Fatalf("decoded, but %v", err)
		}
		again, err := DecodeLayout(l.Encode())
		if err != nil || !cmp.Equal(l, again) || l.Hash() != again.Hash() {
			t.Fatalf("does not survive a second round: %v\n%s", err, cmp.Diff(l, again))
		}
	})
}

func TestMember(t *testing.T) {
	l := sampleLayout()
	if m, ok := l.Member(l.Members[2].ID); !ok || m != l.Members[2] {
		t.Errorf("got %v, %v", m, ok)
	}
	if m, ok := l.Member(NodeID{9}); ok || m != (Member{}) {
		t.Errorf("a stranger: %v, %v", m, ok)
	}
}

func TestNodeID(t *testing.T) {
	id := NodeID{0xab, 1, 15: 0xff}
	const text = "ab0100000000000000000000000000ff"
	if id.String() != text {
		t.Errorf("String = %s", id)
	}
	for _, s := range []string{text, strings.ToUpper(text)} {
		if got, err := ParseNodeID(s); err != nil || got != id {
			t.Errorf("ParseNodeID(%q) = %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", text[1:], text + "0", "g" + text[1:], " " + text[1:]} {
		if got, err := ParseNodeID(s); err == nil || !got.IsZero() {
			t.Errorf("ParseNodeID(%q) = %v, %v", s, got, err)
		}
	}
	var got NodeID
	b, _ := id.MarshalText()
	if err := got.UnmarshalText(b); err != nil || got != id {
		t.Errorf("text round trip: %v, %v", got, err)
	}
	if err := got.UnmarshalText([]byte("x")); err == nil || got != id {
		t.Errorf("a bad text changed the id to %v (%v)", got, err)
	}
	if (NodeID{1}).Compare(NodeID{2}) != -1 || id.Compare(id) != 0 || (NodeID{2}).Compare(NodeID{1, 9}) != 1 {
		t.Error("Compare does not order bytewise")
	}
	if id.IsZero() || !(NodeID{}).IsZero() {
		t.Error("IsZero")
	}
}

func TestKinship(t *testing.T) {
	a, b, c := [16]byte{1}, [16]byte{2}, [16]byte{3}
	for _, tc := range []struct {
		x, y [][16]byte
		want Kinship
	}{
		{nil, nil, Same}, {nil, [][16]byte{a}, Ancestor}, {[][16]byte{a}, nil, Descendant}, {[][16]byte{a}, [][16]byte{b}, Apart},
		{[][16]byte{a, b}, [][16]byte{a}, Descendant}, {[][16]byte{a, b}, [][16]byte{a, c}, Apart}, {[][16]byte{a, b}, [][16]byte{a, b}, Same},
		{[][16]byte{a}, [][16]byte{b, a}, Apart},
	} {
		if got := (Layout{Lineages: tc.x}).Kinship(Layout{Lineages: tc.y}); got != tc.want {
			t.Errorf("%v is %d to %v, want %d", tc.x, got, tc.y, tc.want)
		}
	}
}
