package coordinator

import (
	"context"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/dunlindb/dunlin/ring"
)

// resolvers is how many keys of a listing, on which replicas disagree, are read at once.
const resolvers = 16

// List returns keys of a bucket in byte order over the whole cluster. Every live member lists what it holds; a page
// is complete when each partition was listed by R of its primaries. Keys on which they disagree are read from R
// replicas to see whether they are live. Errors are a *QuorumError.
func (c *Coordinator) List(ctx context.Context, req ListRequest) (ListPage, error) {
	c.load.begin()
	defer c.load.end()
	page, err := c.list(ctx, req)
	c.metrics.done(opList, err)
	return page, err
}

func (c *Coordinator) list(ctx context.Context, req ListRequest) (ListPage, error) {
	var page ListPage
	after, tries := req.After, 1
	for ask := req.Limit + req.Limit/8 + 16; ; ask *= 2 {
		e, err := c.epochs()
		if err != nil {
			return ListPage{}, err
		}
		// What comes back may all be deleted: asking for more each time, a listing gets past any number of tombstones in
		// few rounds.
		ask = min(ask, maxListed)
		query := ListQuery{Bucket: req.Bucket, Prefix: req.Prefix, After: after, Limit: ask}
		var found []listed
		var end string
		var more bool
		replies, err := c.gather(ctx, e, query, req.R)
		if from, refused := refuser(err); refused && tries < epochTries && c.newer(ctx, from, e) {
			tries++
			continue
		}
		if err == nil {
			found, end, more = mergeListings(replies)
		}
		var live []string
		if err == nil {
			live, err = c.judge(ctx, found, req)
		}
		if err != nil {
			if after != req.After && ctx.Err() != nil {
				page.Next = after // the time is over, but there is progress to give
				return page, nil
			}
			return ListPage{}, err
		}
		for i, key := range live {
			page.Keys = append(page.Keys, key)
			if len(page.Keys) == req.Limit {
				if i < len(live)-1 || more {
					page.Next = key
				}
				return page, nil
			}
		}
		if !more {
			return page, nil
		}
		if after = end; ctx.Err() != nil {
			page.Next = after
			return page, nil
		}
	}
}

// listed is a key with what each replica that holds it says.
type listed struct {
	key     string
	entries []ListEntry
}

// mergeListings joins the replicas' sorted pages up to where all of them are known. end is that place, and more
// reports whether there may be keys after it.
func mergeListings(replies []listReply) (found []listed, end string, more bool) {
	for _, r := range replies {
		if r.more && len(r.entries) > 0 {
			if last := r.entries[len(r.entries)-1].Key; !more || last < end {
				end, more = last, true
			}
		}
	}
	byKey := make(map[string]*listed)
	for _, r := range replies {
		for _, e := range r.entries {
			if more && e.Key > end {
				break
			}
			l := byKey[e.Key]
			if l == nil {
				l = &listed{key: e.Key}
				byKey[e.Key] = l
			}
			l.entries = append(l.entries, e)
		}
	}
	for _, l := range byKey {
		found = append(found, *l)
	}
	slices.SortFunc(found, func(a, b listed) int {
		if a.key < b.key {
			return -1
		}
		return 1
	})
	return found, end, more
}

// verdict judges a key by its entries alone, if they agree.
func (l listed) verdict(now int64, lastWriteWins bool) (live, certain bool) {
	first := l.entries[0]
	for _, e := range l.entries {
		if e.Damaged || e.Digest != first.Digest {
			return false, false
		}
	}
	if lastWriteWins {
		return first.Winner.live(now), true
	}
	return first.All.live(now), true
}

// judge returns the live ones of the found keys, in order.
func (c *Coordinator) judge(ctx context.Context, found []listed, req ListRequest) ([]string, error) {
	now := c.now().UnixMilli()
	live := make([]bool, len(found))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(resolvers)
	for i, l := range found {
		ok, certain := l.verdict(now, req.LastWriteWins)
		if certain {
			live[i] = ok
			continue
		}
		g.Go(func() error {
			got, err := c.Get(gctx, GetRequest{Bucket: req.Bucket, Key: l.key, R: req.R, Sloppy: true})
			if err != nil {
				return err
			}
			live[i] = got.Object.Answer(now, req.LastWriteWins).Found()
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	keys := make([]string, 0, len(found))
	for i, l := range found {
		if live[i] {
			keys = append(keys, l.key)
		}
	}
	return keys, nil
}

// gather asks every live member for its page and returns once each partition is covered by want of its primaries.
func (c *Coordinator) gather(ctx context.Context, e *ring.Epochs, q ListQuery, want int) ([]listReply, error) {
	r := e.Reading()
	from, end := r.PartitionsOf(q.Bucket)
	want = count(want, r.NOf(from))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		node  ring.NodeID
		reply listReply
		err   error
	}
	members := r.Members()
	results := make(chan result, len(members))
	asked := 0
	m := listMessage{epoch: r.Epoch(), query: q}
	body := m.encode()
	for _, member := range members {
		if !c.up(e, member.ID) {
			continue
		}
		asked++
		c.work.Go(func() {
			reply, err := c.listOne(ctx, r, member.ID, q, body)
			reply.node = member.ID
			results <- result{member.ID, reply, err}
		})
	}
	var replies []listReply
	var failures []failure
	var refused []ReplicaOutcome // because of the epoch
	for !covered(r, from, end, replies, want) {
		if asked == 0 {
			return nil, c.uncovered(r, q.Bucket, replies, want, refused, kindOf(failures), "too few replicas of some partitions could list their keys")
		}
		select {
		case res := <-results:
			asked--
			if res.err != nil {
				f := classify(res.err)
				failures = append(failures, f)
				if f.word == wordEpoch {
					refused = append(refused, ReplicaOutcome{
						Node: res.node, Name: c.name(e)(res.node), Role: role(true), Outcome: f.word, Detail: f.detail,
					})
				}
				continue
			}
			replies = append(replies, res.reply)
		case <-ctx.Done():
			return nil, c.uncovered(r, q.Bucket, replies, want, refused, ctxKind(ctx), "the time was over before enough replicas had listed their keys")
		}
	}
	return replies, nil
}

func (c *Coordinator) uncovered(
	r *ring.Ring, bucket string, replies []listReply, want int, refused []ReplicaOutcome, kind Kind, reason string,
) error {
	from, end := r.PartitionsOf(bucket)
	return &QuorumError{
		Kind: kind, Parameter: "r", Required: want, Acked: leastCovered(r, from, end, replies), N: r.NOf(from), Replicas: refused, Reason: reason,
	}
}

// leastCovered is the number of primaries that answered for the partition with the fewest, from one to before end.
func leastCovered(r *ring.Ring, from, end int, replies []listReply) int {
	least := r.NOf(from)
	for p := from; p < end; p++ {
		n := 0
		for _, id := range r.Primaries(p) {
			if slices.ContainsFunc(replies, func(l listReply) bool { return l.node == id }) {
				n++
			}
		}
		least = min(least, n)
	}
	return least
}

func covered(r *ring.Ring, from, end int, replies []listReply, want int) bool {
	return len(replies) >= want && leastCovered(r, from, end, replies) >= want
}

func (c *Coordinator) listOne(ctx context.Context, r *ring.Ring, id ring.NodeID, q ListQuery, body []byte) (listReply, error) {
	if id == c.deps.Self {
		return c.listLocal(ctx, r, q)
	}
	b, err := c.call(ctx, id, EndpointList, body)
	if err != nil {
		return listReply{}, err
	}
	return decodeListReply(b)
}

func (c *Coordinator) listLocal(ctx context.Context, r *ring.Ring, q ListQuery) (listReply, error) {
	q.Partitions = nil
	for p, end := r.PartitionsOf(q.Bucket); p < end; p++ {
		if r.IsPrimary(p, c.deps.Self) {
			q.Partitions = append(q.Partitions, p)
		}
	}
	entries, more, err := c.deps.Local.List(ctx, q)
	if err == nil {
		err = c.stillLive(r.Epoch())
	}
	return listReply{entries: entries, more: more}, err
}

func (c *Coordinator) serveList(ctx context.Context, from ring.NodeID, body []byte) ([]byte, error) {
	m, err := decodeList(body)
	if err != nil {
		return nil, badRequest(err)
	}
	r, err := c.readable(ctx, from, m.epoch)
	if err != nil {
		return nil, err
	}
	reply, err := c.listLocal(ctx, r, m.query)
	if err != nil {
		return nil, coded(err)
	}
	return reply.encode(), nil
}
