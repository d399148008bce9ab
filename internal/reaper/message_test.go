package reaper

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dunlindb/dunlin/internal/wire"
	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

var compare = cmp.AllowUnexported(request{}, answer{}, intent{}, node{})

func statements(p, n int) (ks []Statement) {
	for i := range n {
		ks = append(ks, Statement{Key{p, "bucket", string(rune('a' + i%26))}, vclock.Digest{byte(i), 7}})
	}
	return ks
}

func TestMessagesComeBack(t *testing.T) {
	for _, m := range []request{
		{epoch: 1},
		{epoch: 1 << 40, partition: ring.MaxPartitions - 1, round: maxRound, keys: statements(ring.MaxPartitions-1, maxBatch), struck: statements(ring.MaxPartitions-1, 3)},
	} {
		got, err := decodeRequest(m.encode())
		if d := cmp.Diff(m, got, compare); d != "" || err != nil {
			t.Errorf("%v\n%s", err, d)
		}
	}
	for n := range 20 {
		a := answer{round: 9, entered: n%2 == 0, confirmed: make([]bool, n)}
		for i := range n {
			a.confirmed[i] = i%3 == 0
		}
		got, err := decodeAnswer(a.encode(), n)
		if d := cmp.Diff(a, got, compare); d != "" || err != nil {
			t.Errorf("%v\n%s", err, d)
		}
		if _, err := decodeAnswer(a.encode(), n+8); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%d bits were taken for %d: %v", n, n+8, err)
		}
	}
	for _, ph := range []phase{entering, removing, striking} {
		x := intent{2, 5, 3, ph, statements(5, 2), statements(5, 1)}
		got, err := decodeIntent(x.encode())
		if d := cmp.Diff(x, got, compare); d != "" || err != nil {
			t.Errorf("%v\n%s", err, d)
		}
	}
}

// What is on other nodes and on disks must be read by later releases.
func TestFormatsStay(t *testing.T) {
	m := request{epoch: 2, partition: 300, round: 7, keys: statements(300, 1)}
	x := intent{2, 300, 7, removing, statements(300, 1), nil}
	a := answer{round: 7, entered: true, confirmed: []bool{true, false, true}}
	for _, f := range []struct {
		name, want string
		got        []byte
	}{
		{"request", "960102cd012c0793a66275636b6574a161c4100007000000000000000000000000000090", m.encode()},
		{"intent", "970102cd012c070293a66275636b6574a161c4100007000000000000000000000000000090", x.encode()},
		{"answer", "940107c3c40105", a.encode()},
	} {
		if got := hex.EncodeToString(f.got); got != f.want {
			t.Errorf("%s: %s, was %s", f.name, got, f.want)
		}
	}
}

func TestGarbageIsRefused(t *testing.T) {
	long := request{keys: statements(0, maxBatch+1)}
	zero := intent{epoch: 1}
	many := intent{1, 0, 1, entering, statements(0, maxBatch), statements(0, 1)}
	far := request{round: maxRound + 1}
	for name, b := range map[string][]byte{"empty": nil, "long": long.encode(), "far": far.encode(), "answer": (&answer{}).encode()} {
		if _, err := decodeRequest(b); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, b := range map[string][]byte{"empty": nil, "no phase": zero.encode(), "too many": many.encode()} {
		if _, err := decodeIntent(b); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzRequest(f *testing.F) {
	m := request{epoch: 2, partition: 3, round: 7, keys: statements(3, 2), struck: statements(3, 1)}
	f.Add(m.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeRequest(b)
		if err != nil {
			return
		}
		if again, err := decodeRequest(m.encode()); err != nil || cmp.Diff(m, again, compare) != "" {
			t.Errorf("%+v became %+v: %v", m, again, err)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add((&answer{round: 7, entered: true, confirmed: make([]bool, 9)}).encode(), 9)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		if n < 0 || n > maxBatch {
			return
		}
		a, err := decodeAnswer(b, n)
		if err == nil && len(a.confirmed) != n {
			t.Errorf("%d answers for %d keys", len(a.confirmed), n)
		}
	})
}

func FuzzIntent(f *testing.F) {
	x := intent{2, 5, 3, removing, statements(5, 2), statements(5, 1)}
	f.Add(x.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := decodeIntent(b)
		if err != nil {
			return
		}
		if again := x.encode(); len(again) <= len(b) {
			if y, err := decodeIntent(again); err != nil || !bytes.Equal(y.encode(), again) {
				t.Errorf("%+v became %+v: %v", x, y, err)
			}
		}
	})
}
