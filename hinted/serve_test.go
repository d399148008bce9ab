package hinted

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// stuck is a Receiver that does not come back until it is let go.
type stuck struct{ free chan struct{} }

func (s stuck) Merge(ctx context.Context, _ int, _, _ string, _ vclock.Object, _ uint64) error {
	select {
	case <-s.free:
	case <-ctx.Done():
	}
	return ctx.Err()
}
func (s stuck) MarkBehind(context.Context, []int) error { return nil }
func (s stuck) Round(int) uint64                        { return 0 }

func batchOf(w *world, epoch uint64, ks ...Key) []byte {
	m := batchMessage{epoch: epoch}
	for i, k := range ks {
		m.items = append(m.items, item{k.Bucket, k.Key, 0, object(uint64(i+1), 10)})
	}
	return m.encode()
}

// Many nodes hold hints for one that comes back: it takes a few batches at once and refuses the others unread.
func TestReceiverBoundsBatches(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 4)
		b := node(1)
		free := make(chan struct{})
		x, err := New(Deps{Self: b, Store: newStore(), Receiver: stuck{free}, Peers: w, View: w}, Options{Serving: 2})
		if err != nil {
			t.Fatal(err)
		}
		body := batchOf(w, 1, w.keys(3, b)...)
		results := make(chan error, 2)
		for range 2 {
			go func() {
				_, err := x.Handlers()[EndpointBatch](t.Context(), holder, body)
				results <- err
			}()
		}
		synctest.Wait()
		_, err = x.Handlers()[EndpointBatch](t.Context(), holder, body)
		if judge(err) != overloaded {
			t.Fatalf("third batch: %v", err)
		}
		close(free)
		for range 2 {
			if err := <-results; err != nil {
				t.Fatal(err)
			}
		}
		if _, err = x.Handlers()[EndpointBatch](t.Context(), holder, body); err != nil {
			t.Fatalf("after the others were done: %v", err)
		}
	})
}

// A handler returns at its caller's deadline, and says of no hint that it is stored which is not.
func TestReceiverKeepsTheDeadline(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 4)
		b := node(1)
		x, err := New(Deps{Self: b, Store: newStore(), Receiver: stuck{make(chan struct{})}, Peers: w, View: w}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		out, err := x.Handlers()[EndpointBatch](ctx, holder, batchOf(w, 1, w.keys(100, b)...))
		if err != nil {
			t.Fatal(err)
		}
		a, err := decodeAnswer(out)
		if err != nil || len(a.statuses) != 100 || slices.Contains(a.statuses, stored) || a.text == "" {
			t.Fatalf("%v %v", a, err)
		}
	})
}

func TestReceiverJudgesEachHint(t *testing.T) {
	w := newWorld(t, 6)
	b := node(1)
	mine := w.keys(2, b)
	var other Key
	for _, k := range w.keys(300) {
		if !w.layout.IsPrimary(k.Partition, b) {
			other = k
			break
		}
	}
	out, err := w.handlers[b][EndpointBatch](t.Context(), holder, batchOf(w, 1, mine[0], other, mine[1]))
	if err != nil {
		t.Fatal(err)
	}
	a, err := decodeAnswer(out)
	if err != nil || !slices.Equal(a.statuses, []status{stored, refused, stored}) {
		t.Fatalf("%v %v", a, err)
	}
	if len(w.replicas[b].held) != 2 {
		t.Fatalf("%d keys stored", len(w.replicas[b].held))
	}
}

func TestHandlersRefuse(t *testing.T) {
	w := newWorld(t, 4)
	b := node(1)
	h := w.handlers[b]
	ks := w.keys(1, b)
	marks := func(epoch uint64, ps ...int) []byte { return (&droppedMessage{epoch, ps}).encode() }
	for name, c := range map[string]struct {
		endpoint string
		from     ring.NodeID
		body     []byte
		code     Code
	}{
		"a batch of another epoch":   {EndpointBatch, holder, batchOf(w, 2, ks...), CodeEpoch},
		"a batch of a stranger":      {EndpointBatch, node(77), batchOf(w, 1, ks...), CodeEpoch},
		"a batch of garbage":         {EndpointBatch, holder, []byte("garbage"), CodeBadRequest},
		"marks of another epoch":     {EndpointDropped, holder, marks(2, 1), CodeEpoch},
		"marks of a stranger":        {EndpointDropped, node(77), marks(1, 1), CodeEpoch},
		"marks of no such partition": {EndpointDropped, holder, marks(1, 1, 16), CodeBadRequest},
		"no bytes at all":            {EndpointDropped, holder, nil, CodeBadRequest},
	} {
		_, err := h[c.endpoint](t.Context(), c.from, c.body)
		var coded *codedError
		if !errors.As(err, &coded) || coded.code != c.code {
			t.Errorf("%s: %v, want code %d", name, err, c.code)
		}
	}
	if r := w.replicas[b]; len(r.held) != 0 || len(r.behind) != 0 {
		t.Fatalf("stored %v, marked %v", r.held, r.behind)
	}
}

func TestNewChecksWhatItGets(t *testing.T) {
	w := newWorld(t, 4)
	good := Deps{Self: holder, Store: w.store, Receiver: w.replicas[holder], Peers: w, View: w}
	for name, o := range map[string]Options{
		"batch items": {BatchItems: maxItems + 1}, "batch bytes": {BatchBytes: maxBatchBytes + 1},
		"rates": {BytesPerSecond: 10, MinBytesPerSecond: 11}, "duration": {Settle: -1}, "targets": {Targets: -1},
	} {
		if _, err := New(good, o); err == nil {
			t.Errorf("%s: accepted %+v", name, o)
		}
	}
	for _, spoil := range []func(*Deps){
		func(d *Deps) { d.Self = ring.NodeID{} }, func(d *Deps) { d.Store = nil }, func(d *Deps) { d.Receiver = nil },
		func(d *Deps) { d.Peers = nil }, func(d *Deps) { d.View = nil },
	} {
		d := good
		spoil(&d)
		if _, err := New(d, Options{}); err == nil {
			t.Errorf("accepted %+v", d)
		}
	}
	x, err := New(good, Options{BytesPerSecond: 100})
	if err != nil || x.opt.MinBytesPerSecond != 100 {
		t.Fatalf("%v %v", x, err)
	}
	x.Close() // never started
}

func TestMetrics(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 4)
		b := node(1)
		reg := prometheus.NewRegistry()
		x, err := New(Deps{Self: holder, Store: w.store, Receiver: w.replicas[holder], Peers: w, View: w, Registry: reg}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		read := func() map[string]float64 {
			fs, err := reg.Gather()
			if err != nil {
				t.Fatal(err)
			}
			out := map[string]float64{}
			for _, f := range fs {
				for _, m := range f.GetMetric() {
					out[f.GetName()] += m.GetGauge().GetValue() + m.GetCounter().GetValue()
				}
			}
			return out
		}
		w.up(b, false)
		w.hint(b, 7, 10)
		w.store.drop(b, 1, 2)
		x.Start()
		defer x.Close()
		time.Sleep(10 * time.Second)
		got := read()
		if got["dunlin_hinted_pending"] != 7 || got["dunlin_hinted_bytes"] != 70 || got["dunlin_hinted_dropped_partitions"] != 2 ||
			got["dunlin_hinted_oldest_age_seconds"] < 9 {
			t.Fatalf("%v", got)
		}
		w.up(b, true)
		w.drained(10*time.Second, b)
		time.Sleep(2 * time.Second)
		got = read()
		if got["dunlin_hinted_pending"] != 0 || got["dunlin_hinted_replayed_total"] != 7 || got["dunlin_hinted_marked_partitions_total"] != 2 ||
			got["dunlin_hinted_oldest_age_seconds"] != 0 || got["dunlin_hinted_sent_bytes_total"] == 0 {
			t.Fatalf("%v", got)
		}
	})
}
