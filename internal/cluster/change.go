package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/dunlindb/dunlin/internal/paxos"
	"github.com/dunlindb/dunlin/internal/wire"
	"github.com/dunlindb/dunlin/ring"
)

// ConflictError says that another change became the next epoch.
type ConflictError struct{ Layout ring.Layout }

func (e *ConflictError) Error() string {
	return fmt.Sprintf("another change was made at the same time and is epoch %d now: look at it, and ask again if yours is still wanted", e.Layout.Epoch)
}

// Errors of Change.
var (
	// ErrTooMany: too many epochs live; the oldest change has to end first.
	ErrTooMany = errors.New("too many changes are under way")
	// ErrNotPrepared: the change was made. This node goes by it when it is prepared, which takes longer than the caller
	// waited.
	ErrNotPrepared = errors.New("the change is decided, but this node is not prepared for it yet")
	// ErrNoMajority: it is not known whether the change was made.
	ErrNoMajority = errors.New("no majority of the members answered in time")
)

// voteTimeout bounds one message of the register.
const voteTimeout = 2 * time.Second

// Change decides the next epoch. plan makes its layout from the newest one; live are all that live, oldest first. It
// returns the layout that was decided, once this node has adopted it. Errors are plan's, with nothing changed, a
// *ConflictError, ErrTooMany (nothing changed), or wrap ErrNoMajority or ErrNotPrepared.
func (c *Cluster) Change(ctx context.Context, plan func(newest ring.Layout, live []ring.Layout) (ring.Layout, error)) (ring.Layout, error) {
	select {
	case c.changes <- struct{}{}:
		defer func() { <-c.changes }()
	case <-ctx.Done():
		return ring.Layout{}, ctx.Err()
	}
	if err := c.mayVote(); err != nil {
		return ring.Layout{}, err
	}
	s := c.live()
	next, err := plan(*s.newest(), s.layouts)
	if err != nil {
		return ring.Layout{}, err
	}
	most := maxLive
	if len(next.Removed) > len(s.newest().Removed) {
		most = maxWithRemovals
	}
	if len(s.layouts) >= most {
		return ring.Layout{}, fmt.Errorf("%w (epochs %d to %d): %v", ErrTooMany, s.layouts[0].Epoch, s.newest().Epoch, c.Progress().Waiting)
	}
	if next.Epoch != s.newest().Epoch+1 {
		return ring.Layout{}, fmt.Errorf("a plan for epoch %d after epoch %d", next.Epoch, s.newest().Epoch)
	}
	res, err := c.decideNext(ctx, *s.newest(), next.Encode())
	if err != nil {
		return ring.Layout{}, err
	}
	won, err := ring.DecodeLayout(res.Value)
	if err != nil {
		return ring.Layout{}, fmt.Errorf("the decided layout: %w", err)
	}
	if err := c.hearDecided(res.Value); err != nil {
		return ring.Layout{}, err
	}
	// Others are told even if this node itself cannot adopt it yet.
	defer c.tell(ctx, s, won)
	err = c.awaitEpoch(ctx, won.Epoch)
	switch {
	case !res.Mine:
		return won, &ConflictError{won}
	case err != nil:
		return won, fmt.Errorf("%w: epoch %d: %w", ErrNotPrepared, won.Epoch, err)
	}
	return won, nil
}

// tell has everybody whom the new epoch concerns ask for it at once; gossip would tell them later.
func (c *Cluster) tell(ctx context.Context, s epochState, won ring.Layout) {
	if c.peersRPC == nil {
		return
	}
	s.layouts = append(s.layouts[:len(s.layouts):len(s.layouts)], won)
	for _, id := range s.waitedFor() {
		if id != c.cfg.Self {
			c.spawn(func() {
				ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), voteTimeout)
				defer cancel()
				_, _ = c.peersRPC.Call(ctx, id, EndpointNews, nil)
			})
		}
	}
}

// decideNext brings a value through the register of the epoch after l, or finds out what was decided there.
func (c *Cluster) decideNext(ctx context.Context, l ring.Layout, value []byte) (paxos.Result, error) {
	var run [16]byte
	_, _ = rand.Read(run[:]) // never fails
	acceptors := make([][16]byte, len(l.Members))
	for i, m := range l.Members {
		acceptors[i] = m.ID
	}
	p, err := paxos.New(l.Epoch+1, run, acceptors, value, 0)
	if err != nil {
		return paxos.Result{}, err
	}
	pause := 20 * time.Millisecond
	for {
		res := c.round(ctx, p)
		if res.Outcome == paxos.Decided {
			c.sendDecided(ctx, p)
			return res, nil
		}
		pause = min(2*pause, time.Second)
		select {
		case <-time.After(pause/2 + c.jitter(pause)):
		case <-ctx.Done():
			return paxos.Result{}, fmt.Errorf("%w: epoch %d needs %d of %d members; whether it was decided shows once they answer. If so many are lost for good, see dunlin remove --force", ErrNoMajority, l.Epoch+1, len(acceptors)/2+1, len(acceptors))
		}
		if err := p.Restart(); err != nil {
			return paxos.Result{}, err
		}
	}
}

type vote struct {
	from  ring.NodeID
	req   paxos.Request
	reply paxos.Reply
	err   error
}

// round sends a ballot's messages until it is decided, refused or out of reach.
func (c *Cluster) round(ctx context.Context, p *paxos.Proposer) paxos.Result {
	votes := make(chan vote, 2*len(p.Acceptors()))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.sendVotes(ctx, p, votes)
	for {
		var res paxos.Result
		select {
		case v := <-votes:
			if v.err != nil {
				res = p.Lost(v.from, v.req)
			} else {
				res = p.On(v.from, v.reply)
			}
		case <-ctx.Done():
			return paxos.Result{Outcome: paxos.Unreachable}
		}
		switch res.Outcome {
		case paxos.Send:
			c.sendVotes(ctx, p, votes)
		case paxos.Decided, paxos.Refused, paxos.Unreachable:
			return res
		}
	}
}

func (c *Cluster) sendVotes(ctx context.Context, p *paxos.Proposer, votes chan<- vote) {
	req := p.Request()
	for _, id := range p.Acceptors() {
		c.spawn(func() {
			v := vote{from: id, req: req}
			v.reply, v.err = c.callVote(ctx, id, req)
			votes <- v
		})
	}
}

// sendDecided tells the acceptors, and does not wait for them.
func (c *Cluster) sendDecided(ctx context.Context, p *paxos.Proposer) {
	req := p.Request()
	for _, id := range p.Acceptors() {
		if id != c.cfg.Self {
			c.spawn(func() { _, _ = c.callVote(context.WithoutCancel(ctx), id, req) })
		}
	}
}

func (c *Cluster) callVote(ctx context.Context, to ring.NodeID, req paxos.Request) (paxos.Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, voteTimeout)
	defer cancel()
	if to == c.cfg.Self {
		return c.voteOn(ctx, to, req)
	}
	if c.peersRPC == nil {
		return paxos.Reply{}, errNotStarted
	}
	e := wire.NewEncoder()
	defer e.Free()
	req.Encode(e)
	b, err := c.peersRPC.Call(ctx, to, EndpointVote, e.Copy())
	if err != nil {
		return paxos.Reply{}, err
	}
	d := wire.NewDecoder(b)
	reply := paxos.DecodeReply(d)
	return reply, d.Done()
}

func (c *Cluster) jitter(d time.Duration) time.Duration { return time.Duration(c.intN(int(d))) }

// intN draws a number below n.
func (c *Cluster) intN(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cfg.Rand.IntN(n)
}
