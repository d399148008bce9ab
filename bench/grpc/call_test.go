// Package grpc measures a call between nodes beside one of grpc-go. It is a module of its own, so that nothing else needs
// grpc-go:
//
//	cd bench/grpc && go test -bench .
package grpc

import (
	"context"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/dunlindb/dunlin/internal/transport"
	"github.com/dunlindb/dunlin/ring"
)

// callers make their calls at once, over one connection.
const callers = 64

// BenchmarkCall sends 1 KiB and gets two bytes back. cpu-ns/op is that of both sides, which share this process.
func BenchmarkCall(b *testing.B) {
	b.Run("transport", func(b *testing.B) { measure(b, overTransport(b)) })
	b.Run("grpc", func(b *testing.B) { measure(b, overGRPC(b)) })
}

func measure(b *testing.B, call func(context.Context, []byte) error) {
	ctx, cancel := context.WithTimeout(b.Context(), time.Hour)
	defer cancel()
	body := make([]byte, 1024)
	if err := call(ctx, body); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	begun := cpu()
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := c; i < b.N; i += callers {
				if err := call(ctx, body); err != nil {
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

func overTransport(b *testing.B) func(context.Context, []byte) error {
	book := map[ring.NodeID]string{}
	var nodes [2]*transport.Transport
	for n := range nodes {
		t, err := transport.New(transport.Options{
			Self: ring.NodeID{15: byte(n + 1)}, Cluster: "bench", Secret: "secret", Network: transport.TCP(), Listen: "127.0.0.1:0",
			Lookup: func(id ring.NodeID) (string, bool) { a, ok := book[id]; return a, ok },
		})
		if err != nil {
			b.Fatal(err)
		}
		t.Handle("put", func(context.Context, ring.NodeID, []byte) ([]byte, error) { return []byte("ok"), nil })
		if err := t.Start(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = t.Close() })
		nodes[n] = t
	}
	to := ring.NodeID{15: 2}
	book[to] = nodes[1].Addr().String()
	return func(ctx context.Context, body []byte) error {
		_, err := nodes[0].Call(ctx, to, "put", body)
		return err
	}
}

func overGRPC(b *testing.B) func(context.Context, []byte) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s := grpc.NewServer()
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "bench.Node", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Put", Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			if err := decode(new(wrapperspb.BytesValue)); err != nil {
				return nil, err
			}
			return wrapperspb.Bytes([]byte("ok")), nil
		}}},
	}, nil)
	go func() { _ = s.Serve(l) }()
	b.Cleanup(s.Stop)
	c, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	return func(ctx context.Context, body []byte) error {
		return c.Invoke(ctx, "/bench.Node/Put", wrapperspb.Bytes(body), new(wrapperspb.BytesValue))
	}
}
