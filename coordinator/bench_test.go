package coordinator

import (
	"testing"

	"github.com/dunlindb/dunlin/vclock"
)

// BenchmarkPut and BenchmarkGet are coordination, clocks and messages of one request over three replicas in memory,
// through handlers, without sockets.
func BenchmarkPut(b *testing.B) {
	w := newWorld(b, 3)
	req := PutRequest{Key: "k", Write: vclock.Write{Value: make([]byte, 1024), LastWriteWins: true}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.put(w.nodes[0], req); err != nil {
			b.Fatal(err)
		}
		w.takeCalls()
	}
}

func BenchmarkGet(b *testing.B) {
	w := newWorld(b, 3)
	if _, err := w.put(w.nodes[0], PutRequest{Key: "k", W: 3, Write: vclock.Write{Value: make([]byte, 1024)}}); err != nil {
		b.Fatal(err)
	}
	for name, r := range map[string]int{"one replica": 1, "newest": 2} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if res, err := w.get(w.nodes[0], "k", r); err != nil || len(res.Object.Siblings) != 1 {
					b.Fatal(res, err)
				}
				w.takeCalls()
			}
		})
	}
}

func BenchmarkMergeMessage(b *testing.B) {
	w := newWorld(b, 3)
	res, err := w.put(w.nodes[0], PutRequest{Key: "k", ReturnBody: true, Write: vclock.Write{Value: make([]byte, 1024)}})
	if err != nil {
		b.Fatal(err)
	}
	m := mergeMessage{epoch: 1, bucket: "b", key: "k", object: res.Object}
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m.encode()
		}
	})
	body := m.encode()
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := decodeMerge(body); err != nil {
				b.Fatal(err)
			}
		}
	})
}
