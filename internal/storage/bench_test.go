package storage

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/dunlindb/dunlin/vclock"
)

// BenchmarkApply mints 1 KB values under many keys, each writer waiting for its acknowledgement.
func BenchmarkApply(b *testing.B) {
	for _, durability := range []Durability{Fsync, OS} {
		for _, writers := range []int{1, 16, 64} {
			b.Run(fmt.Sprintf("%s/writers=%d", durability, writers), func(b *testing.B) {
				s, _ := openTest(b, b.TempDir(), Options{Durability: durability, Partitions: 1024})
				value := make([]byte, 1024)
				rand.Read(value)
				var n atomic.Int64
				b.SetParallelism((writers + 1) / 2) // of two CPUs
				b.ReportAllocs()
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						i := n.Add(1) % 100_000
						k := Key{int(i % 1024), "bench", fmt.Sprintf("key-%08d", i)}
						w := vclock.Write{Value: value, LastWriteWins: true}
						if _, _, err := s.Mint(b.Context(), k, w, nil); err != nil {
							b.Error(err)
							return
						}
					}
				})
				b.StopTimer()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "puts/s")
			})
		}
	}
}

func BenchmarkGet(b *testing.B) {
	s, _ := openTest(b, b.TempDir(), Options{})
	value := make([]byte, 1024)
	rand.Read(value)
	const keys = 10_000
	key := func(i int) Key { return Key{i % 1024, "bench", fmt.Sprintf("key-%08d", i)} }
	var wg sync.WaitGroup
	for w := range 64 {
		wg.Go(func() {
			for i := w; i < keys; i += 64 {
				if _, _, err := s.Mint(b.Context(), key(i), vclock.Write{Value: value}, nil); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b.Run("record", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if st, err := s.Get(key(i * 7919 % keys)); err != nil || !st.Found {
				b.Fatal(st, err)
			}
		}
	})
	b.Run("record beside writes", func(b *testing.B) {
		stop, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if _, _, err := s.Mint(context.Background(), key(i%keys), vclock.Write{Value: value, LastWriteWins: true}, nil); err != nil {
					b.Error(err)
					return
				}
			}
		}()
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if st, err := s.Get(key(i * 7919 % keys)); err != nil || !st.Found {
				b.Fatal(st, err)
			}
		}
		close(stop)
		<-done
	})
	b.Run("digest", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if st, err := s.Digest(key(i * 7919 % keys)); err != nil || !st.Found {
				b.Fatal(st, err)
			}
		}
	})
	b.Run("list", func(b *testing.B) {
		r := ListRequest{Bucket: "bench", Limit: 100}
		for p := range 1024 {
			r.Partitions = append(r.Partitions, p)
		}
		b.ReportAllocs()
		for b.Loop() {
			if page, err := s.List(b.Context(), r); err != nil || len(page.Entries) != 100 {
				b.Fatal(len(page.Entries), err)
			}
		}
	})
}

// What a read may allocate; it does not depend on the machine.
func TestAllocationsOfAGet(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector, which runs with -short, allocates")
	}
	s, _ := openTest(t, t.TempDir(), Options{})
	k := Key{1, "bench", "key"}
	if _, _, err := s.Mint(t.Context(), k, vclock.Write{Value: make([]byte, 1024)}, nil); err != nil {
		t.Fatal(err)
	}
	const most = 13
	if got := testing.AllocsPerRun(500, func() { _, _ = s.Get(k) }); got > most {
		t.Errorf("%.0f allocations, at most %d", got, most)
	}
}
