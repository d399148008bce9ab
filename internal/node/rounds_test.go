package node

import (
	"context"
	"errors"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

// Reap rounds are taken from the first source that tells them: one that is silent keeps nobody waiting for long.
func TestRoundsAreGatheredFromWhoAnswers(t *testing.T) {
	a, b, c := ring.NodeID{1}, ring.NodeID{2}, ring.NodeID{3}
	sources := map[int][]ring.NodeID{1: {a, b, c}, 2: {b, a, c}, 3: {c, a, b}}
	type answer struct {
		round uint64
		after time.Duration
		err   error
	}
	silent := answer{after: time.Hour}
	for name, x := range map[string]struct {
		answers map[ring.NodeID]answer
		want    map[int]uint64 // nil: an error
		took    time.Duration
	}{
		"all answer":            {map[ring.NodeID]answer{a: {round: 1}, b: {round: 2}, c: {round: 3}}, map[int]uint64{1: 1, 2: 2, 3: 3}, 0},
		"one refuses":           {map[ring.NodeID]answer{a: {err: errors.New("no")}, b: {round: 2}, c: {round: 3}}, map[int]uint64{1: 2, 2: 2, 3: 3}, 0},
		"one is silent":         {map[ring.NodeID]answer{a: silent, b: {round: 2}, c: {round: 3}}, map[int]uint64{1: 2, 2: 2, 3: 3}, roundsLate},
		"two are silent":        {map[ring.NodeID]answer{a: silent, b: silent, c: {round: 3}}, map[int]uint64{1: 3, 2: 3, 3: 3}, roundsLate},
		"all are late":          {map[ring.NodeID]answer{a: {1, time.Second, nil}, b: {1, time.Second, nil}, c: {1, time.Second, nil}}, map[int]uint64{1: 1, 2: 1, 3: 1}, time.Second},
		"all refuse":            {map[ring.NodeID]answer{a: {err: errors.New("no")}, b: {err: errors.New("no")}, c: {err: errors.New("no")}}, nil, 0},
		"nobody says anything":  {map[ring.NodeID]answer{a: silent, b: silent, c: silent}, nil, roundsTimeout},
		"only a slow one could": {map[ring.NodeID]answer{a: {err: errors.New("no")}, b: {9, 500 * time.Millisecond, nil}, c: silent}, map[int]uint64{1: 9, 2: 9, 3: 9}, 700 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				got, err := gather(t.Context(), sources, func(ctx context.Context, id ring.NodeID, some []int) (map[int]uint64, error) {
					select {
					case <-time.After(x.answers[id].after):
					case <-ctx.Done():
						return nil, ctx.Err()
					}
					out := map[int]uint64{}
					for _, p := range some {
						out[p] = x.answers[id].round
					}
					return out, x.answers[id].err
				})
				if !maps.Equal(got, x.want) || (err == nil) != (x.want != nil) {
					t.Errorf("%v, %v", got, err)
				}
				if err != nil && !strings.Contains(err.Error(), "nobody tells the reap rounds of 3 partitions") {
					t.Error(err)
				}
				if took := time.Since(began); took > x.took {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}
