package node

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/dunlindb/dunlin/api"
	"github.com/dunlindb/dunlin/internal/storage"
	"github.com/dunlindb/dunlin/ring"
)

// sampleRecords is how many records of a bucket are looked at, about, to estimate what it takes.
const sampleRecords = 1 << 16

// planOfBucket is what another n of a bucket would do, in the bucket's partitions: nothing else moves.
func (m membership) planOfBucket(ctx context.Context, now, then *ring.Ring, bucket string) (api.MemberPlan, error) {
	plan := api.MemberPlan{Epoch: then.Epoch()}
	most := 0
	first, end := then.PartitionsOf(bucket)
	for _, member := range then.Members() {
		s := api.MemberShare{ID: member.ID, Name: member.Name, Zone: member.Zone, Weight: member.Weight}
		for p := first; p < end; p++ {
			// A ring that does not know yet that the bucket has partitions of its own gives the owners of all others.
			before, after := now.IsPrimary(p, member.ID), then.IsPrimary(p, member.ID)
			count(&s.Before, before)
			count(&s.After, after)
			count(&s.Gains, after && !before)
			count(&s.Loses, before && !after)
		}
		plan.Moved += s.Gains
		plan.Slots += s.After
		most = max(most, s.Gains)
		plan.Nodes = append(plan.Nodes, s)
	}
	plan.SharedZone = sharedZones(then, first, end)
	each, err := m.n.bytesOfBucket(ctx, now, bucket)
	plan.Bytes = int64(each * float64(plan.Moved))
	plan.Duration = time.Duration(each * float64(most) / transferRate * float64(time.Second))
	return plan, err
}

func count(n *int, one bool) {
	if one {
		*n++
	}
}

// bytesOfBucket estimates what a partition of a bucket takes, by some of those that this node owns, drawn at random.
func (n *Node) bytesOfBucket(ctx context.Context, r *ring.Ring, bucket string) (float64, error) {
	var own []int
	for p, end := r.PartitionsOf(bucket); p < end; p++ {
		if r.IsPrimary(p, n.self()) {
			own = append(own, p)
		}
	}
	rand.Shuffle(len(own), func(i, j int) { own[i], own[j] = own[j], own[i] })
	var bytes int64
	records, read := 0, 0
	for _, p := range own {
		if records >= sampleRecords {
			break
		}
		page := storage.ListPage{More: true}
		for after := ""; page.More; {
			var err error
			page, err = n.store.List(ctx, storage.ListRequest{Partitions: []int{p}, Bucket: bucket, After: after, Limit: storage.MaxList})
			if err != nil {
				return 0, fmt.Errorf("estimating the size of bucket %s: %w", bucket, err)
			}
			for _, e := range page.Entries {
				bytes += int64(e.Size + len(e.Key) + len(bucket))
				after = e.Key
			}
			records += len(page.Entries)
		}
		read++
	}
	return float64(bytes) / float64(max(read, 1)), nil
}
