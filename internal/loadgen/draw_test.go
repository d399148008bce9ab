package loadgen

import (
	"math"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"
)

// Ranks have the shares that the definition says: 1/(r+1)^theta over their sum.
func TestZipfHasItsShares(t *testing.T) {
	const n, theta, draws = 1000, 0.99, 2_000_000
	z := newZipf(n, theta)
	r := rand.New(rand.NewPCG(1, 2))
	var count [n]int
	for range draws {
		count[z.rank(r.Float64())]++
	}
	sum := 0.0
	for i := 1; i <= n; i++ {
		sum += math.Pow(float64(i), -theta)
	}
	cumulated, want := 0, 0.0
	for rank := range n {
		cumulated += count[rank]
		want += math.Pow(float64(rank+1), -theta) / sum
		got := float64(cumulated) / draws
		if math.Abs(got-want) > 0.02 { // the method is exact for two ranks and close to the law for the rest
			t.Fatalf("the first %d ranks have %.4f of the draws, want %.4f", rank+1, got, want)
		}
		if rank < 2 && math.Abs(got-want) > 0.002 {
			t.Fatalf("rank %d: %.4f, want %.4f", rank, got, want)
		}
	}
}

func TestZetaOfManyIsTheSum(t *testing.T) {
	const n = 3_000_000
	sum := 0.0
	for i := 1; i <= n; i++ {
		sum += math.Pow(float64(i), -0.7)
	}
	if got := zeta(n, 0.7); math.Abs(got-sum) > 1e-3 {
		t.Errorf("zeta(%d) is %f, want %f", n, got, sum)
	}
}

func TestZipfStaysInRange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 5000).Draw(t, "n")
		z := newZipf(n, rapid.Float64Range(0.01, 0.999).Draw(t, "theta"))
		for _, u := range []float64{0, rapid.Float64Range(0, 1).Draw(t, "u"), math.Nextafter(1, 0)} {
			if r := z.rank(u); r < 0 || r >= n {
				t.Fatalf("rank(%v) of %d is %d", u, n, r)
			}
		}
	})
}

func drawerOf(spec Spec, stream uint64) *drawer {
	var head atomic.Int64
	z := zipf{}
	if spec.Dist != Uniform {
		z = newZipf(spec.Keys, spec.Theta)
	}
	return newDrawer(&spec, z, &head, stream)
}

func testSpec() Spec {
	return Spec{Connections: 1, Mix: Mix{Put: 50, Get: 40, Delete: 10}, Dist: Uniform, Theta: DefaultTheta, Keys: 100, ValueSize: SizeRange{5, 50}, Ops: 10, Seed: 7}
}

// All that a drawer draws is in range and readable, and the mix is kept.
func TestDrawsKeepTheSpec(t *testing.T) {
	for _, dist := range []string{Uniform, Zipfian, Latest} {
		spec := testSpec()
		spec.Dist = dist
		d := drawerOf(spec, 1)
		var op Op
		var seen [kinds]int
		keys := map[int]bool{}
		const draws = 20000
		for range draws {
			d.next(&op)
			seen[op.Kind]++
			keys[op.Index] = true
			switch {
			case op.Index < 0 || op.Index >= spec.Keys || len(op.Key) != keyLength:
				t.Fatalf("%s: index %d, key %q", dist, op.Index, op.Key)
			case op.Kind != Put && len(op.Value) != 0:
				t.Fatalf("%s: a %v with a value", dist, op.Kind)
			case op.Kind == Put && (len(op.Value) < 5 || len(op.Value) > 50 || !tagged(op.Value, op.Index)):
				t.Fatalf("%s: value of %d bytes", dist, len(op.Value))
			}
		}
		for k, share := range spec.Mix {
			if got := 100 * seen[k] / draws; got < share-3 || got > share+3 {
				t.Errorf("%s: %d%% are %v, want %d%%", dist, got, Kind(k), share)
			}
		}
		if len(keys) < 60 { // zipfian scatters its ranks over the keys, some meet
			t.Errorf("%s: only %d of 100 keys", dist, len(keys))
		}
	}
}

func TestLatestReadsWhatWasWrittenLast(t *testing.T) {
	spec := testSpec()
	spec.Dist = Latest
	d := drawerOf(spec, 1)
	for i := range 30 {
		if got := d.index(Put); got != i {
			t.Fatalf("write %d goes to key %d", i, got)
		}
	}
	near := 0
	for range 1000 {
		if i := d.index(Get); i > 19 && i <= 29 {
			near++
		}
	}
	if near < 450 { // the first ten of a hundred zipfian ranks have 56 %
		t.Errorf("%d of 1000 reads are of the last ten writes", near)
	}
}

func TestSeedsRepeat(t *testing.T) {
	a, b, other := drawerOf(testSpec(), 3), drawerOf(testSpec(), 3), drawerOf(testSpec(), 4)
	var x, y, z Op
	same, differ := true, false
	for range 100 {
		a.next(&x)
		b.next(&y)
		other.next(&z)
		same = same && x.Kind == y.Kind && x.Index == y.Index && string(x.Value) == string(y.Value)
		differ = differ || x.Index != z.Index
	}
	if !same || !differ {
		t.Errorf("the same stream twice: same %v; another: differs %v", same, differ)
	}
}

func TestTagsTellKeysAndCuts(t *testing.T) {
	v := make([]byte, 40)
	tag(v, 7)
	if !tagged(v, 7) || tagged(v, 8) || tagged(v[:39], 7) || tagged(append(v, 0), 7) {
		t.Error("a tag belongs to one key and one length")
	}
	if !tagged(nil, 7) { // an empty value tells nothing
		t.Error("an empty value is refused")
	}
}
