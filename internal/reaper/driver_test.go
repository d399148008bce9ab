package reaper

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// fake is a store, a journal, the peers and the view in one: it confirms everything but what it is told not to.
type fake struct {
	mu         sync.Mutex
	ring       *ring.Ring
	round      uint64
	candidates []Statement
	unsure     map[Key]bool // not confirmed by anyone
	files      map[string][]byte
	noSave     error
	scans      int
	calls      map[string]int
	down       map[ring.NodeID]bool
	hang       bool
	marks      map[Key]uint64
}

func newFake() *fake {
	return &fake{ring: theRing, files: map[string][]byte{}, calls: map[string]int{}, down: map[ring.NodeID]bool{}, unsure: map[Key]bool{}, marks: map[Key]uint64{}}
}

func (f *fake) Candidates(_ context.Context, _, limit int, _ time.Time, _ time.Duration) ([]Statement, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.scans++
	return f.candidates[:min(limit, len(f.candidates))], nil
}

func (f *fake) Confirm(_ context.Context, _ int, _ bool, ks []Statement) ([]bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	bits := make([]bool, len(ks))
	for i := range ks {
		bits[i] = !f.unsure[ks[i].Key]
	}
	return bits, nil
}

func (f *fake) EnterRound(ctx context.Context, p int, round uint64, primary bool, ks []Statement) ([]bool, error) {
	bits, err := f.Confirm(ctx, p, primary, ks)
	f.mu.Lock()
	defer f.mu.Unlock()
	if round < f.round {
		return nil, ErrStaleRound
	}
	f.round = round
	for i := range ks {
		f.marks[ks[i].Key] = round
	}
	return bits, err
}

func (f *fake) EnterRounds(ctx context.Context, rounds map[int]uint64) error {
	for p, round := range rounds {
		if f.Round(p) < round {
			if _, err := f.EnterRound(ctx, p, round, false, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *fake) Removing(int) []Statement { return nil }

func (f *fake) Newest() uint64 {
	if rg := f.Ring(); rg != nil {
		return rg.Epoch()
	}
	return 0
}

func (f *fake) Learn(_ context.Context, _ ring.NodeID, epoch uint64) error {
	if f.Newest() < epoch {
		return errors.New("not told")
	}
	return nil
}

func (f *fake) Remove(_ context.Context, _ int, _ uint64, ks []Statement) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var left []Statement
	gone := map[Key]bool{}
	for i := range ks {
		gone[ks[i].Key] = true
	}
	for _, s := range f.candidates {
		if !gone[s.Key] {
			left = append(left, s)
		}
	}
	f.candidates = left
	return len(ks), nil
}

func (f *fake) Unmark(_ context.Context, _ int, _ uint64, ks []Statement) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range ks {
		delete(f.marks, ks[i].Key)
	}
	return nil
}

func (f *fake) Round(int) uint64 { f.mu.Lock(); defer f.mu.Unlock(); return f.round }

func (f *fake) Load(name string) ([]byte, error) { return f.files[name], nil }

func (f *fake) Save(name string, b []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.noSave != nil {
		return f.noSave
	}
	f.files[name] = b
	return nil
}

func (f *fake) Ring() *ring.Ring { f.mu.Lock(); defer f.mu.Unlock(); return f.ring }

func (f *fake) Alive(id ring.NodeID) bool { f.mu.Lock(); defer f.mu.Unlock(); return !f.down[id] }

// Call answers for the other members, each of which has a store like this one.
func (f *fake) Call(ctx context.Context, _ ring.NodeID, endpoint string, body []byte) ([]byte, error) {
	f.mu.Lock()
	f.calls[endpoint]++
	hang := f.hang
	f.mu.Unlock()
	if hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	m, err := decodeRequest(body)
	if err != nil {
		return nil, err
	}
	bits, _ := f.Confirm(ctx, 0, true, m.keys)
	return (&answer{round: m.round, entered: true, confirmed: bits}).encode(), nil
}

func (f *fake) deps() Deps {
	return Deps{Self: ringIDs[0], Store: f, State: f, Peers: f, View: f, Log: quiet, Registry: prometheus.NewRegistry()}
}

func (f *fake) add(n int) {
	for i := range n {
		f.candidates = append(f.candidates, Statement{Key{0, "b", fmt.Sprintf("k%04d", len(f.candidates))}, vclock.Digest{byte(i)}})
	}
}

func start(t *testing.T, f *fake, opt Options) *Reaper {
	t.Helper()
	r, err := New(f.deps(), opt)
	if err != nil {
		t.Fatal(err)
	}
	r.Start()
	return r
}

func TestAQuietClusterCostsAFewScans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		r := start(t, f, Options{})
		time.Sleep(time.Hour)
		r.Close()
		if f.scans < 10 || f.scans > 15 || len(f.calls) != 0 {
			t.Errorf("%d scans, calls %v in an hour", f.scans, f.calls)
		}
	})
}

func TestManyKeysGoInBatchesAtAPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.add(1000)
		r := start(t, f, Options{ScanEvery: time.Second, PassEvery: 10 * time.Second})
		time.Sleep(25 * time.Second)
		if st := r.Status(); st.Rounds != 3 || st.Removed != 3*256 {
			t.Errorf("after 25 s: %+v", st)
		}
		time.Sleep(20 * time.Second)
		r.Close()
		st := r.Status()
		if st.Rounds != 4 || st.Removed != 1000 || len(st.Open) != 0 || f.round != 4 {
			t.Errorf("%+v, round %d", st, f.round)
		}
	})
}

func TestKeysThatNobodyConfirmsDoNotHoldUpOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.add(600)
		for _, s := range f.candidates[:500] {
			f.unsure[s.Key] = true
		}
		r := start(t, f, Options{ScanEvery: 10 * time.Second})
		time.Sleep(2 * time.Minute)
		r.Close()
		if st := r.Status(); st.Removed != 100 || len(f.candidates) != 500 {
			t.Errorf("%+v, %d left", st, len(f.candidates))
		}
	})
}

func TestADeadMemberIsNamedAndNotCalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.add(1)
		f.down[ringIDs[2]] = true
		r := start(t, f, Options{ScanEvery: time.Minute})
		time.Sleep(2 * time.Minute)
		since := r.Status().Waiting[0].Since
		time.Sleep(time.Hour)
		st := r.Status()
		if len(st.Waiting) != 1 || st.Waiting[0].Peer != ringIDs[2] || !st.Waiting[0].Since.Equal(since) || st.Waiting[0].Phase != "confirm" || len(f.calls) != 0 {
			t.Errorf("%+v, calls %v", st, f.calls)
		}
		if f.scans > 80 {
			t.Errorf("%d scans in an hour of waiting", f.scans)
		}
		f.mu.Lock()
		clear(f.down)
		f.mu.Unlock()
		time.Sleep(2 * time.Minute)
		r.Close()
		if st := r.Status(); st.Removed != 1 || len(st.Waiting) != 0 {
			t.Errorf("%+v", st)
		}
	})
}

func TestCloseDoesNotWaitForAPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.add(1)
		f.hang = true
		r := start(t, f, Options{ScanEvery: time.Second, CallTimeout: time.Hour})
		time.Sleep(2 * time.Second)
		begun := time.Now()
		r.Close()
		r.Close()
		if d := time.Since(begun); d != 0 || f.calls[EndpointConfirm] != 3 {
			t.Errorf("closing took %v; calls %v", d, f.calls)
		}
	})
}

func TestAnotherLayoutEndsAnOpenRound(t *testing.T) {
	for _, ph := range []phase{entering, removing} {
		f := newFake()
		f.add(2)
		x := intent{1, 0, 5, ph, f.candidates, nil}
		f.files[slotName(3)] = x.encode()
		f.ring = makeRing(2)
		r, err := New(f.deps(), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if st := r.Status(); len(st.Open) != 1 || st.Open[0].Round != 5 {
			t.Errorf("%+v", st)
		}
		r.visit(t.Context(), 0)
		st := r.Status()
		if len(f.candidates) != 2 || len(f.files[slotName(3)]) != 0 || st.Abandoned != 1 || len(st.Open) != 0 || f.round != 5 {
			t.Errorf("%v: %d keys left, %+v, round %d", ph, len(f.candidates), st, f.round)
		}
		if f.calls[EndpointRemove] != 3 || len(f.calls) != 1 {
			t.Errorf("%v: calls %v", ph, f.calls)
		}
		r.Close()
	}
}

func TestNothingIsSentOfARoundThatIsNotPersisted(t *testing.T) {
	f := newFake()
	f.add(1)
	f.noSave = errors.New("no disk")
	r, err := New(f.deps(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if v := r.visit(t.Context(), 0); v != waiting || f.calls[EndpointEnter] != 0 || f.round != 0 {
		t.Errorf("%v, calls %v, round %d", v, f.calls, f.round)
	}
	f.noSave = nil
	r.visit(t.Context(), 0)
	if st := r.Status(); st.Removed != 1 {
		t.Errorf("%+v", st)
	}
}

func TestAGarbledJournalIsForgotten(t *testing.T) {
	f := newFake()
	f.files[slotName(0)] = []byte("garbage")
	r, err := New(f.deps(), Options{})
	if err != nil || len(r.Status().Open) != 0 {
		t.Fatalf("%v", err)
	}
	r.Close()
}

func TestRequestsOfAnotherWorldAreRefused(t *testing.T) {
	f := newFake()
	r, err := New(f.deps(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ok := request{epoch: 1, round: 1, keys: statements(0, 1)}
	if _, err := r.handleEnter(t.Context(), ringIDs[1], ok.encode()); err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]struct {
		m    request
		from ring.NodeID
	}{
		"epoch":     {request{epoch: 2, round: 2}, ringIDs[1]},
		"partition": {request{epoch: 1, round: 2, partition: 1}, ringIDs[1]},
		"stranger":  {request{epoch: 1, round: 2}, ring.NodeID{99}},
	} {
		for endpoint, h := range r.Handlers() {
			if endpoint == EndpointRounds {
				continue // a message of its own
			}
			if _, err := h(t.Context(), x.from, x.m.encode()); !errors.Is(err, ErrEpoch) {
				t.Errorf("%s, %s: %v", name, endpoint, err)
			}
		}
	}
	if f.round != 1 {
		t.Errorf("round %d", f.round)
	}
	if err := r.CatchUp(t.Context(), 7, 2); !errors.Is(err, ErrEpoch) {
		t.Error(err)
	}
	if err := r.CatchUp(t.Context(), 0, 4); err != nil || f.round != 4 {
		t.Error(err, f.round)
	}
	if err := r.CatchUp(t.Context(), 0, 3); err != nil || f.round != 4 {
		t.Error(err, f.round)
	}
}

// Two drivers that take the same number: what was said to one does not count for the other.
func TestARoundOfTwoDriversCountsForOne(t *testing.T) {
	f := newFake()
	r, err := New(f.deps(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	enter := func(from int, m request) answer {
		t.Helper()
		b, err := r.handleEnter(t.Context(), ringIDs[from], m.encode())
		if err != nil {
			t.Fatal(err)
		}
		a, err := decodeAnswer(b, len(m.keys))
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	one := request{epoch: 1, round: 5, keys: statements(0, 1)}
	two := request{epoch: 1, round: 5, keys: statements(0, 2)}
	if a := enter(1, one); !a.entered || !a.confirmed[0] {
		t.Errorf("%+v", a)
	}
	if a := enter(2, two); !a.entered || a.confirmed[0] || a.confirmed[1] {
		t.Errorf("the second driver's statement counted: %+v", a)
	}
	f.unsure[one.keys[0].Key] = true
	if a := enter(1, one); !a.confirmed[0] {
		t.Errorf("a repeated request is answered as the first time: %+v", a)
	}
	if a := enter(2, request{epoch: 1, round: 4, keys: one.keys}); a.entered || a.round != 5 {
		t.Errorf("an earlier round was entered: %+v", a)
	}
}

func TestMetricsFollowTheStatus(t *testing.T) {
	f := newFake()
	f.add(3)
	f.unsure[f.candidates[0].Key] = true
	d := f.deps()
	reg := prometheus.NewRegistry()
	d.Registry = reg
	r, err := New(d, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	r.visit(t.Context(), 0)
	got := map[string]float64{}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, fam := range families {
		m := fam.Metric[0]
		if fam.GetType() == dto.MetricType_COUNTER {
			got[fam.GetName()] = m.Counter.GetValue()
		}
	}
	for name, want := range map[string]float64{"candidates": 3, "confirmed": 2, "removed": 2, "rounds": 1, "struck": 0} {
		if got["dunlin_reaper_"+name+"_total"] != want {
			t.Errorf("%s: %v, want %v", name, got["dunlin_reaper_"+name+"_total"], want)
		}
	}
}
