package antientropy

import (
	"fmt"
	"testing"
)

// Two nodes that hold the same 4096 keys in 16 partitions in memory: what each exchange costs, and the list of one
// partition's keys.
func BenchmarkServe(b *testing.B) {
	w := newWorld(b, worldOptions{nodes: 3, idle: true})
	for i := range 4096 {
		w.writeAll(w.key(i), fmt.Sprint(i))
	}
	asks, asked := w.nodes[0], w.nodes[1]
	e := asks.Epochs()
	roots := rootsRequest{epoch: 1, asked: newBitmap(e.Partitions())}
	shared := asks.s.shared(e, asked.id)
	for _, p := range shared {
		sum, _ := asks.store.Root(p)
		roots.asked.set(p)
		roots.roots = append(roots.roots, sum[:]...)
	}
	keys := keysRequest{epoch: 1, spans: []span{{partition: shared[0], leaf: AllLeaves}}}
	for endpoint, request := range map[string]interface{ encode() []byte }{EndpointRoots: &roots, EndpointKeys: &keys} {
		serve := asked.s.Handlers()[endpoint]
		b.Run(endpoint, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := serve(b.Context(), asks.id, request.encode()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkKeysReply(b *testing.B) {
	w := newWorld(b, worldOptions{nodes: 3, partitions: 1, idle: true})
	for i := range 256 {
		w.write(w.key(i), 0, fmt.Sprint(i))
	}
	entries, _, err := w.holders(0)[0].store.Keys(b.Context(), KeyQuery{Leaf: AllLeaves, Limit: maxEntries})
	if err != nil {
		b.Fatal(err)
	}
	body := (&keysReply{lists: []list{{entries: entries}}}).encode()
	b.ReportAllocs()
	for b.Loop() {
		if r, err := decodeKeysReply(body); err != nil || len(r.lists[0].entries) != 256 {
			b.Fatal(r, err)
		}
	}
}
