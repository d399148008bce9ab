package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dunlindb/dunlin/internal/cluster"
	"github.com/dunlindb/dunlin/internal/reaper"
	"github.com/dunlindb/dunlin/internal/storage"
	"github.com/dunlindb/dunlin/ring"
)

// reaperView is the cluster as the reaper sees it.
type reaperView struct{ *cluster.Cluster }

// Ring implements reaper.View: nil while members change, since those of one layout are then not all that hold copies.
func (v reaperView) Ring() *ring.Ring {
	if e := v.Epochs(); e != nil && !e.Changing() && v.Heard() == e.Newest().Epoch() {
		return e.Base()
	}
	return nil
}

// Newest implements reaper.View: that an epoch was decided ends rounds of older ones, also while this node prepares for it.
func (v reaperView) Newest() uint64 { return v.Heard() }

// Learn implements reaper.View. It does not wait until this node is prepared for the epoch: nodes that gain partitions of
// each other ask each other while they prepare.
func (v reaperView) Learn(ctx context.Context, from ring.NodeID, epoch uint64) error {
	return v.Hear(ctx, from, epoch)
}

// grave is the store as the reaper sees it.
type grave struct{ store *storage.Store }

func storeStatements(ks []reaper.Statement) []storage.Statement {
	out := make([]storage.Statement, len(ks))
	for i, k := range ks {
		out[i] = storage.Statement{Key: storage.Key(k.Key), Digest: k.Digest}
	}
	return out
}

func reaperError(err error) error {
	if errors.Is(err, storage.ErrStaleRound) {
		return fmt.Errorf("%w: %w", reaper.ErrStaleRound, err)
	}
	return err
}

// Candidates implements reaper.Store.
func (g grave) Candidates(ctx context.Context, p, limit int, now time.Time, minAge time.Duration) ([]reaper.Statement, error) {
	ks, err := g.store.Candidates(ctx, p, limit, now, minAge)
	if err != nil {
		return nil, err
	}
	out := make([]reaper.Statement, len(ks))
	for i, k := range ks {
		out[i] = reaper.Statement{Key: reaper.Key(k.Key), Digest: k.Digest}
	}
	return out, nil
}

// Confirm implements reaper.Store.
func (g grave) Confirm(ctx context.Context, p int, primary bool, ks []reaper.Statement) ([]bool, error) {
	return g.store.Confirm(ctx, p, primary, storeStatements(ks))
}

// EnterRound implements reaper.Store.
func (g grave) EnterRound(ctx context.Context, p int, round uint64, primary bool, ks []reaper.Statement) ([]bool, error) {
	confirmed, err := g.store.EnterRound(ctx, p, round, primary, storeStatements(ks))
	return confirmed, reaperError(err)
}

// Remove implements reaper.Store.
func (g grave) Remove(ctx context.Context, p int, round uint64, ks []reaper.Statement) (int, error) {
	n, err := g.store.Remove(ctx, p, round, storeStatements(ks))
	return n, reaperError(err)
}

// Unmark implements reaper.Store.
func (g grave) Unmark(ctx context.Context, p int, round uint64, ks []reaper.Statement) error {
	return reaperError(g.store.Unmark(ctx, p, round, storeStatements(ks)))
}

// Removing implements reaper.Store.
func (g grave) Removing(p int) []reaper.Statement {
	ks := g.store.Removing(p)
	out := make([]reaper.Statement, len(ks))
	for i, k := range ks {
		out[i] = reaper.Statement{Key: reaper.Key(k.Key), Digest: k.Digest}
	}
	return out
}

// EnterRounds implements reaper.Store.
func (g grave) EnterRounds(ctx context.Context, rounds map[int]uint64) error {
	return g.store.EnterRounds(ctx, rounds)
}

// Round implements reaper.Store.
func (g grave) Round(p int) uint64 { return g.store.Round(p) }
