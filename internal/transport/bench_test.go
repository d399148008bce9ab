package transport

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

// BenchmarkCall reports the CPU of both sides, which share this process, as cpu-ns/op.
func BenchmarkCall(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) { benchmarkCall(b, callers) })
	}
}

func benchmarkCall(b *testing.B, callers int) {
	book := map[ring.NodeID]string{}
	var nodes []*Transport
	for n := range byte(2) {
		tr, err := New(Options{
			Self: nodeID(n + 1), Cluster: "bench", Secret: "s3cret", Network: TCP(), Listen: "127.0.0.1:0",
			Lookup: func(id ring.NodeID) (string, bool) { a, ok := book[id]; return a, ok },
		})
		if err != nil {
			b.Fatal(err)
		}
		tr.Handle("put", func(context.Context, ring.NodeID, []byte) ([]byte, error) { return []byte("ok"), nil })
		if err := tr.Start(b.Context()); err != nil {
			b.Fatal(err)
		}
		defer tr.Close()
		nodes = append(nodes, tr)
	}
	book[nodeID(2)] = nodes[1].Addr().String()
	body := make([]byte, 1024)
	ctx, cancel := context.WithTimeout(b.Context(), time.Hour)
	defer cancel()
	if _, err := nodes[0].Call(ctx, nodeID(2), "put", body); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	begun := cpu()
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := c; i < b.N; i += callers {
				if _, err := nodes[0].Call(ctx, nodeID(2), "put", body); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(cpu()-begun)/float64(b.N), "cpu-ns/op")
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
