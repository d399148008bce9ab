package buckets

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

// Endpoints that a node routes to Handlers.
const (
	EndpointPut    = "buckets.put"    // a record: take it in if it is newer
	EndpointDigest = "buckets.digest" // nothing: answers the digest of all versions
	EndpointAll    = "buckets.all"    // a bucket: answers the page of records after it
)

const (
	pullEvery   = 5 * time.Second
	firstPull   = 50 * time.Millisecond // between looks for a first peer
	callTimeout = 5 * time.Second
	maxAsked    = 16   // peers asked at once
	maxPages    = 1000 // of one peer; more than there can be
)

// Handler answers another node's call.
type Handler = func(ctx context.Context, from ring.NodeID, body []byte) ([]byte, error)

// Handlers returns what answers the endpoints of this package.
func (g *Registry) Handlers() map[string]Handler {
	return map[string]Handler{
		EndpointPut:    g.handlePut,
		EndpointDigest: g.handleDigest,
		EndpointAll:    g.handleAll,
	}
}

func (g *Registry) handlePut(_ context.Context, _ ring.NodeID, body []byte) ([]byte, error) {
	r, err := parseRecord(body)
	if err != nil {
		return nil, err
	}
	return nil, g.merge([]record{r})
}

func (g *Registry) handleDigest(_ context.Context, _ ring.NodeID, _ []byte) ([]byte, error) {
	d := g.state.Load().digest
	return d[:], nil
}

func (g *Registry) handleAll(_ context.Context, _ ring.NodeID, body []byte) ([]byte, error) {
	after, err := parseAfter(body)
	if err != nil {
		return nil, err
	}
	props := g.state.Load().props
	names := slices.Sorted(maps.Keys(props))
	at, found := slices.BinarySearch(names, after)
	if found {
		at++
	}
	names = names[at:]
	p := page{more: len(names) > maxRecords}
	for _, name := range names[:min(len(names), maxRecords)] {
		p.records = append(p.records, record{name, props[name]})
	}
	return p.bytes(), nil
}

// push sends r to every live member and returns those that did not confirm, sorted.
func (g *Registry) push(ctx context.Context, r record) []ring.NodeID {
	body := r.bytes()
	missing := g.each(ctx, g.deps.Alive(), func(ctx context.Context, id ring.NodeID) error {
		_, err := g.deps.Peers.Call(ctx, id, EndpointPut, body)
		return err
	})
	return missing
}

// each calls ask for every peer, a few at once, and returns those for which it failed, sorted.
func (g *Registry) each(ctx context.Context, peers []ring.NodeID, ask func(context.Context, ring.NodeID) error) []ring.NodeID {
	var mu sync.Mutex
	var failed []ring.NodeID
	var wg sync.WaitGroup
	slots := make(chan struct{}, maxAsked)
	for _, id := range peers {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := ask(ctx, id); err != nil {
				g.deps.Log.Debug("bucket properties not exchanged", "peer", id, "err", err)
				mu.Lock()
				defer mu.Unlock()
				failed = append(failed, id)
			}
		})
	}
	wg.Wait()
	slices.SortFunc(failed, ring.NodeID.Compare)
	return failed
}

// Sync takes in what the live peers hold, from as many as answer, and returns their number. A node does this once
// before it serves, to miss no policy that was set while it was down. ctx bounds it.
func (g *Registry) Sync(ctx context.Context) int { return g.SyncFrom(ctx, g.deps.Alive()) }

// SyncFrom is Sync with some peers, for a node that is no member yet.
func (g *Registry) SyncFrom(ctx context.Context, peers []ring.NodeID) int {
	failed := g.each(ctx, peers, g.pull)
	return len(peers) - len(failed)
}

// pull takes in what one peer holds and is newer.
func (g *Registry) pull(ctx context.Context, from ring.NodeID) error {
	digest, err := g.call(ctx, from, EndpointDigest, nil)
	if err != nil {
		return err
	}
	if mine := g.state.Load().digest; bytes.Equal(digest, mine[:]) {
		return nil
	}
	after := ""
	for range maxPages {
		body, err := g.call(ctx, from, EndpointAll, afterBytes(after))
		if err != nil {
			return err
		}
		p, err := parsePage(body)
		if err != nil {
			return fmt.Errorf("page of bucket properties: %w", err)
		}
		if len(p.records) > 0 && p.records[0].bucket <= after {
			return fmt.Errorf("page of bucket properties does not go on after %q", after)
		}
		if err := g.merge(p.records); err != nil {
			return err
		}
		if !p.more {
			return nil
		}
		after = p.records[len(p.records)-1].bucket
	}
	return fmt.Errorf("peer holds more than %d pages of bucket properties", maxPages)
}

func (g *Registry) call(ctx context.Context, to ring.NodeID, endpoint string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return g.deps.Peers.Call(ctx, to, endpoint, body)
}

// Start begins to pull from one random live peer every few seconds. Call it once.
func (g *Registry) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	g.stop = cancel
	g.done.Go(func() { g.pullLoop(ctx) })
}

// Close stops the pull loop and waits for it. It does nothing when Start was not called.
func (g *Registry) Close() {
	if g.stop != nil {
		g.stop()
	}
	g.done.Wait()
}

func (g *Registry) pullLoop(ctx context.Context) {
	// What was set while this node was down is wanted at once, as soon as a peer is seen.
	wait := firstPull
	for {
		if !pause(ctx, wait) {
			return
		}
		tried := wait
		wait = min(2*tried, pullEvery)
		peers := g.deps.Alive()
		if len(peers) == 0 {
			continue
		}
		from := peers[rand.IntN(len(peers))]
		switch err := g.pull(ctx, from); {
		case err == nil:
			// Spread, so that nodes started together do not ask together.
			wait = pullEvery*3/4 + rand.N(pullEvery/2)
		case ctx.Err() == nil && tried == pullEvery: // not of the first moments, when peers are just coming up
			g.deps.Log.Warn("bucket properties not pulled", "peer", from, "err", err)
		}
	}
}

// pause waits, and reports whether ctx has not ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
