package hinted

import "testing"

// BenchmarkBatch is a batch of hints at its target, which holds its replica in memory.
func BenchmarkBatch(b *testing.B) {
	const hints = 256
	w := newWorld(b, 3)
	target := node(1)
	m := batchMessage{epoch: 1}
	for i, k := range w.keys(hints, target) {
		m.items = append(m.items, item{k.Bucket, k.Key, 0, object(uint64(i+1), 1024)})
	}
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m.encode()
		}
	})
	body := m.encode()
	serve, r := w.handlers[target][EndpointBatch], w.replicas[target]
	b.Run("serve", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r.set(func(r *replica) { r.merges, r.rounds = 0, r.rounds[:0] })
			if _, err := serve(b.Context(), holder, body); err != nil || r.merges != hints {
				b.Fatal(r.merges, err)
			}
		}
	})
}
