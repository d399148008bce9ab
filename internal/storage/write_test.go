package storage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/dunlindb/dunlin/vclock"
)

func TestMintAndMerge(t *testing.T) {
	s := openMemory(t, Options{})
	k := Key{1, "b", "k"}
	if st := get(t, s, k); st.Found || st.Digest != (vclock.Digest{}) {
		t.Errorf("before any write: %+v", st)
	}
	var seen vclock.Minted
	m, ack, err := s.Mint(t.Context(), k, vclock.Write{Value: []byte("one")}, func(m vclock.Minted, _ uint64) {
		seen = m
		if st, _ := s.Get(k); st.Found {
			t.Error("applied was called after the commit")
		}
	})
	if err != nil || !ack.Changed || !ack.Fsynced || seen.Dot != m.Dot || m.Dot.Counter != 1 {
		t.Fatalf("Mint = %+v, %+v, %v", m, ack, err)
	}
	st := get(t, s, k)
	if !st.Found || !st.Record.Equal(ack.Object) || st.Digest != ack.Digest || st.Digest != ack.Object.Digest("b", "k") {
		t.Errorf("Get = %+v, want %+v", st, ack)
	}
	// A peer's concurrent write makes a sibling, once.
	for i, changed := range []bool{true, false} {
		ack, err := s.Merge(t.Context(), k, peerObject(7, 1, "two"), MergeOptions{})
		if err != nil || ack.Changed != changed || len(ack.Object.Siblings) != 2 || !ack.Fsynced {
			t.Errorf("Merge %d = %+v, %v", i, ack, err)
		}
	}
	if got := get(t, s, k); got.Record.Own != m.Record.Own {
		t.Errorf("a merge changed the own actor: %+v, want %+v", got.Record.Own, m.Record.Own)
	}
	// A repeated request mints nothing.
	id := vclock.WriteID{Key: [16]byte{1}, Body: [16]byte{2}, Client: true}
	for i := range 2 {
		m, ack, err := s.Mint(t.Context(), k, vclock.Write{ID: id}, nil)
		if err != nil || m.Existing != (i == 1) || ack.Changed != (i == 0) || ack.Digest == (vclock.Digest{}) {
			t.Errorf("request %d: %+v %+v %v", i, m, ack, err)
		}
	}
	if got := s.Buckets(); !slices.Equal(got, []string{"b"}) {
		t.Errorf("buckets %q", got)
	}
}

func TestBadKeys(t *testing.T) {
	s := openMemory(t, Options{})
	for _, k := range []Key{
		{-1, "b", "k"}, {1 << 16, "b", "k"}, {1, "", "k"}, {1, "a\x00", "k"}, {1, "b", ""},
		{1, strings.Repeat("b", MaxBucket+1), "k"}, {1, "b", strings.Repeat("k", MaxKey+1)},
	} {
		_, err := s.Get(k)
		_, merr := s.Merge(t.Context(), k, peerObject(1, 1, ""), MergeOptions{})
		if !errors.Is(err, ErrKey) || !errors.Is(merr, ErrKey) {
			t.Errorf("key in partition %d, bucket %.9q: %v, %v, want ErrKey", k.Partition, k.Bucket, err, merr)
		}
	}
	put(t, s, Key{1<<16 - 1, strings.Repeat("b", MaxBucket), strings.Repeat("k", MaxKey)}, "x")
}

// Limits bound minting only; retired ids are purged when a merge writes, without writing again for the same ones.
func TestLimitsAndPurge(t *testing.T) {
	limits := vclock.DefaultLimits(100)
	limits.Siblings, limits.Retired = 2, 3
	s := openMemory(t, Options{Limits: limits})
	k := Key{1, "b", "k"}
	for i := range 3 {
		_, _, err := s.Mint(t.Context(), k, vclock.Write{Value: []byte{byte(i)}}, nil)
		if errors.Is(err, vclock.ErrSiblings) != (i == 2) || err != nil && i < 2 {
			t.Errorf("write %d: %v", i, err)
		}
	}
	o := peerObject(7, 1, "third")
	for i := range 5 {
		id := vclock.WriteID{Key: [16]byte{byte(i)}, Client: true}
		o.Retired = append(o.Retired, vclock.Retired{ID: id, At: time.Now().UnixMilli() + int64(i)})
	}
	for i, changed := range []bool{true, false} {
		ack, err := s.Merge(t.Context(), k, o, MergeOptions{})
		if err != nil || ack.Changed != changed || len(ack.Object.Siblings) != 3 || len(ack.Object.Retired) != 3 {
			t.Errorf("merge %d: %+v, %v", i, ack, err)
		}
	}
}

// Many writers of one key that know nothing of each other: no dot twice, none missing, no value lost.
func TestConcurrentMintsOfOneKey(t *testing.T) {
	limits := vclock.DefaultLimits(100)
	limits.Siblings = 1 << 14
	s := openMemory(t, Options{Limits: limits})
	k := Key{1, "b", "k"}
	const writers, writes = 64, 20
	var mu sync.Mutex
	dots := make(map[vclock.Dot]string)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range writes {
				value := fmt.Sprintf("%d/%d", w, i)
				m, ack, err := s.Mint(t.Context(), k, vclock.Write{Value: []byte(value)}, nil)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if was, twice := dots[m.Dot]; twice {
					t.Errorf("%v minted for %q and %q", m.Dot, was, value)
				}
				dots[m.Dot] = value
				mu.Unlock()
				if st := get(t, s, k); !st.Record.Context.Descends(ack.Object.Context) {
					t.Error("a read after the acknowledgement does not show the write")
				}
			}
		})
	}
	wg.Wait()
	st := get(t, s, k)
	if len(st.Record.Context) != 1 || st.Record.Context[0].Counter != writers*writes {
		t.Errorf("context %v, want one actor up to %d", st.Record.Context, writers*writes)
	}
	if len(dots) != writers*writes || len(st.Record.Siblings) != writers*writes {
		t.Errorf("%d dots and %d siblings, want %d", len(dots), len(st.Record.Siblings), writers*writes)
	}
	for _, sib := range st.Record.Siblings {
		if dots[sib.Dot] != string(sib.Value) {
			t.Errorf("%v holds %q, acknowledged was %q", sib.Dot, sib.Value, dots[sib.Dot])
		}
	}
}

// Writers that replace what they read, each adding a name to a set: no name may get lost.
func TestConcurrentReadModifyWrite(t *testing.T) {
	s := openMemory(t, Options{Shards: 2})
	const writers, writes = 16, 20
	keys := []Key{{1, "b", "k"}, {2, "b", "l"}, {3, "c", "m"}}
	read := func(k Key) (map[string]bool, vclock.Context) {
		a := get(t, s, k).Record.Answer(0, false)
		names := make(map[string]bool)
		for _, sib := range a.Live {
			for _, name := range strings.Fields(string(sib.Value)) {
				names[name] = true
			}
		}
		return names, a.Context
	}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range writes {
				k := keys[i%len(keys)]
				names, seen := read(k)
				names[fmt.Sprintf("%d/%d", w, i)] = true
				value := []byte(strings.Join(slices.Collect(maps.Keys(names)), " "))
				if _, _, err := s.Mint(t.Context(), k, vclock.Write{Value: value, Context: seen}, nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	names := make(map[string]bool)
	counted := uint64(0)
	for _, k := range keys {
		part, seen := read(k)
		maps.Copy(names, part)
		if len(seen.Vector) != 1 {
			t.Errorf("%v has %v, want one actor", k, seen.Vector)
		}
		counted += seen.Vector[0].Counter
	}
	if len(names) != writers*writes || counted != writers*writes {
		t.Errorf("%d names and %d writes left, want %d", len(names), counted, writers*writes)
	}
}

// faults is a Commit hook whose behaviour a test can change between calls.
type faults struct {
	mu   sync.Mutex
	hook func(commit func() error) error
}

func (f *faults) set(hook func(func() error) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook = hook
}

func (f *faults) commit(commit func() error) error {
	f.mu.Lock()
	hook := f.hook
	f.mu.Unlock()
	if hook == nil {
		return commit()
	}
	return hook(commit)
}

var errDisk = errors.New("input/output error")

func TestFailedCommit(t *testing.T) {
	var f faults
	s := openMemory(t, Options{Commit: f.commit})
	k := Key{1, "b", "k"}
	before, _ := put(t, s, k, "before")
	f.set(func(func() error) error { return errDisk })
	m, ack, err := s.Mint(t.Context(), k, vclock.Write{Value: []byte("failed")}, nil)
	if !errors.Is(err, ErrCommit) || !errors.Is(err, errDisk) || !strings.Contains(err.Error(), "may or may not be stored") {
		t.Errorf("Mint: %v", err)
	}
	if m.Dot != (vclock.Dot{}) || ack.Changed {
		t.Errorf("failed Mint answered %+v %+v", m, ack)
	}
	if st := get(t, s, k); !st.Record.Equal(before.Record.Object) {
		t.Errorf("a write whose commit failed is visible: %+v", st)
	}
	if got := s.Buckets(); !slices.Equal(got, []string{"b"}) {
		t.Error("buckets", got)
	}
	f.set(nil)
	after, _ := put(t, s, k, "after")
	if after.Dot.Actor == before.Dot.Actor || after.Dot.Actor.Birth == before.Dot.Actor.Birth {
		t.Errorf("the actor %v was continued after a failed commit", before.Dot.Actor)
	}
	if err := s.Healthy(); err != nil {
		t.Error(err)
	}
}

// An fsync may fail after the write became visible. What the retry finds unchanged is not durable for that reason.
func TestFailedCommitThatIsVisible(t *testing.T) {
	var f faults
	s := openMemory(t, Options{Commit: f.commit, Shards: 1})
	k := Key{1, "b", "k"}
	o := peerObject(7, 1, "value")
	commits := 0
	f.set(func(commit func() error) error { commits++; return errors.Join(commit(), errDisk) })
	if _, err := s.Merge(t.Context(), k, o, MergeOptions{}); !errors.Is(err, ErrCommit) {
		t.Fatal(err)
	}
	if !get(t, s, k).Found {
		t.Fatal("the test wants the failed write to be visible")
	}
	for i, want := range []int{2, 2} {
		f.set(func(commit func() error) error { commits++; return commit() })
		ack, err := s.Merge(t.Context(), k, o, MergeOptions{})
		if err != nil || ack.Changed || commits != want {
			t.Errorf("retry %d: %+v, %v after %d commits, want %d", i, ack, err, commits, want)
		}
	}
	s.shards[0].allSuspects = true // nothing runs: the shard waits for its queue
	if _, err := s.Merge(t.Context(), k, o, MergeOptions{}); err != nil || commits != 3 {
		t.Errorf("with all keys suspect: %v after %d commits, want 3", err, commits)
	}
}

func TestRefusesWritesAfterFailuresInARow(t *testing.T) {
	var f faults
	s := openMemory(t, Options{Commit: f.commit})
	k := Key{1, "b", "k"}
	put(t, s, k, "kept")
	fail := func(func() error) error { return errDisk }
	for range maxFailures - 1 {
		f.set(fail)
		_, err := s.Merge(t.Context(), k, peerObject(7, 1, "x"), MergeOptions{})
		if !errors.Is(err, ErrCommit) || s.Status().Healthy != nil {
			t.Fatal(err, s.Status().Healthy)
		}
	}
	f.set(nil)
	put(t, s, k, "a success in between")
	f.set(fail)
	for range maxFailures {
		if err := s.PutMeta("m", nil); !errors.Is(err, ErrCommit) {
			t.Fatal(err)
		}
	}
	f.set(nil)
	if _, _, err := s.Mint(t.Context(), k, vclock.Write{}, nil); !errors.Is(err, ErrUnhealthy) || !errors.Is(err, errDisk) {
		t.Errorf("Mint: %v, want ErrUnhealthy", err)
	}
	if _, err := s.Merge(t.Context(), k, vclock.Object{}, MergeOptions{}); !errors.Is(err, ErrUnhealthy) {
		t.Errorf("Merge: %v, want ErrUnhealthy", err)
	}
	if err := s.Status().Healthy; !errors.Is(err, ErrUnhealthy) {
		t.Errorf("Healthy = %v", err)
	}
	if !get(t, s, k).Found {
		t.Error("reads stopped with writes")
	}
}

// hold makes the next commit wait until release is called, once held is closed.
func hold(f *faults) (held chan struct{}, release func()) {
	held, released := make(chan struct{}), make(chan struct{})
	var once sync.Once
	f.set(func(commit func() error) error {
		once.Do(func() { close(held) })
		<-released
		return commit()
	})
	return held, sync.OnceFunc(func() { close(released) })
}

func TestQueueIsBounded(t *testing.T) {
	for name, o := range map[string]Options{
		"ops":   {QueueLen: 3},
		"bytes": {QueueBytes: 3 * (opOverhead + 1)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var f faults
				o.Commit, o.Shards = f.commit, 1
				s := openMemory(t, o)
				held, release := hold(&f)
				var wg sync.WaitGroup
				write := func(key string, want error) {
					wg.Go(func() {
						_, _, err := s.Mint(context.Background(), Key{1, "b", key}, vclock.Write{Value: []byte{1}}, nil)
						if !errors.Is(err, want) {
							t.Errorf("%s: %v, want %v", key, err, want)
						}
					})
				}
				write("first", nil)
				<-held
				for i := range 3 {
					write(fmt.Sprint(i), nil)
				}
				synctest.Wait()
				if st := s.Status(); st.QueueOps != 3 || st.QueueBytes != 3*(opOverhead+1) {
					t.Errorf("queue %+v", st)
				}
				write("too many", ErrOverloaded)
				synctest.Wait()
				release()
				wg.Wait()
				f.set(nil)
				if st := s.Status(); st.QueueOps != 0 || st.QueueBytes != 0 {
					t.Errorf("queue afterwards %+v", st)
				}
				if get(t, s, Key{1, "b", "too many"}).Found || !get(t, s, Key{1, "b", "2"}).Found {
					t.Error("stored what was refused, or not what was taken")
				}
				put(t, s, Key{1, "b", "large"}, strings.Repeat("x", 10*opOverhead)) // one is always admitted
			})
		})
	}
}

// A context's end is heeded until the write is applied, and not afterwards.
func TestContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f faults
		s := openMemory(t, Options{Commit: f.commit, Shards: 1})
		held, release := hold(&f)
		var wg sync.WaitGroup
		mint := func(key string, want error) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			wg.Go(func() {
				defer cancel()
				applied := false
				_, _, err := s.Mint(ctx, Key{1, "b", key}, vclock.Write{}, func(vclock.Minted, uint64) { applied = true })
				if !errors.Is(err, want) || applied != (want == nil) {
					t.Errorf("%s: %v, want %v; applied %v", key, err, want, applied)
				}
			})
		}
		mint("applied", nil)
		<-held
		mint("queued", context.DeadlineExceeded)
		time.Sleep(2 * time.Second) // virtual
		release()
		wg.Wait()
		f.set(nil)
		done, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := s.Merge(done, Key{1, "b", "late"}, peerObject(7, 1, ""), MergeOptions{}); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		put(t, s, Key{1, "b", "barrier"}, "")
		for key, want := range map[string]bool{"applied": true, "queued": false, "late": false} {
			if got := get(t, s, Key{1, "b", key}).Found; got != want {
				t.Errorf("%s: found %v", key, got)
			}
		}
	})
}

// Close answers what was queued before it, and nothing afterwards.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f faults
		registry := prometheus.NewRegistry()
		s := openMemory(t, Options{Commit: f.commit, Shards: 1, Metrics: registry})
		held, release := hold(&f)
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				if _, _, err := s.Mint(context.Background(), Key{1, "b", fmt.Sprint(i)}, vclock.Write{}, nil); err != nil {
					t.Error(err)
				}
			})
		}
		<-held
		synctest.Wait()
		closed := make(chan error)
		go func() { closed <- s.Close() }()
		synctest.Wait()
		release()
		if err := <-closed; err != nil {
			t.Error(err)
		}
		wg.Wait()
		k := Key{1, "b", "k"}
		_, _, mint := s.Mint(t.Context(), k, vclock.Write{}, nil)
		_, merge := s.Merge(t.Context(), k, vclock.Object{}, MergeOptions{})
		_, read := s.Get(k)
		_, list := s.List(t.Context(), ListRequest{Partitions: []int{1}, Bucket: "b"})
		for i, err := range []error{mint, merge, read, list, s.PutMeta("m", nil), s.Close()} {
			if !errors.Is(err, ErrClosed) {
				t.Errorf("call %d after Close: %v", i, err)
			}
		}
		if s.Status().QueueOps != 0 {
			t.Error("queue after Close")
		}
		if left, err := registry.Gather(); err != nil || len(left) != 0 {
			t.Errorf("metrics after Close: %v, %v", left, err)
		}
	})
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	s := openMemory(t, Options{Metrics: registry})
	k := Key{1, "b", "k"}
	put(t, s, k, "x")
	for range 2 {
		if _, err := s.Merge(t.Context(), k, peerObject(7, 1, "y"), MergeOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	edit(t, s, k.encode(), func(b []byte) []byte { return b[:1] })
	if _, err := s.Get(k); !errors.Is(err, ErrCorrupt) {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, family := range families {
		got[family.GetName()] = metricValue(family.GetMetric()[0])
	}
	for name, want := range map[string]float64{
		"dunlin_storage_mints_total": 1, "dunlin_storage_merges_total": 2, "dunlin_storage_merges_unchanged_total": 1,
		"dunlin_storage_corrupt_records_total": 1, "dunlin_storage_batch_ops": 3, "dunlin_storage_commit_seconds": 2,
		"dunlin_storage_healthy": 1, "dunlin_storage_full": 0, "dunlin_storage_queue_ops": 0,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s = %v (there: %v), want %v", name, v, ok, want)
		}
	}
	if _, err := Open(nil, Options{InMemory: true, Metrics: registry}); err == nil {
		t.Error("two stores share one registry")
	}
}

func metricValue(m *dto.Metric) float64 {
	switch {
	case m.Counter != nil:
		return m.Counter.GetValue()
	case m.Gauge != nil:
		return m.Gauge.GetValue()
	}
	return float64(m.Histogram.GetSampleCount())
}
