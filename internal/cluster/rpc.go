package cluster

import (
	"context"
	"fmt"
	"slices"

	"github.com/dunlindb/dunlin/internal/paxos"
	"github.com/dunlindb/dunlin/internal/wire"
	"github.com/dunlindb/dunlin/ring"
)

// Endpoints that this package serves to other nodes.
const (
	EndpointLive = "layout.live" // the live epochs and how far everybody has come
	EndpointNews = "layout.news" // there is something to ask the sender for
	EndpointVote = "layout.vote" // one message of the register that decides the next epoch
	EndpointJoin = "layout.join" // the sender wants to become a member
)

// Caller sends a request to another node and returns its answer.
type Caller interface {
	Call(ctx context.Context, to ring.NodeID, endpoint string, body []byte) ([]byte, error)
}

// Handler answers another node's call.
type Handler = func(ctx context.Context, from ring.NodeID, body []byte) ([]byte, error)

// Handlers are what this node serves to others, by endpoint. They work from New on.
func (c *Cluster) Handlers() map[string]Handler {
	return map[string]Handler{
		EndpointLive: c.serveLive, EndpointNews: c.serveNews, EndpointVote: c.serveVote, EndpointJoin: c.serveJoin,
		EndpointForce: c.serveForce,
	}
}

// Connect gives the cluster the way to call other nodes. It is called once, before Start.
func (c *Cluster) Connect(peers Caller) { c.peersRPC = peers }

func (c *Cluster) serveLive(context.Context, ring.NodeID, []byte) ([]byte, error) {
	c.mu.Lock()
	s := c.state
	if c.heard != nil && (len(s.layouts) == 0 || c.heard.newest().Epoch > s.newest().Epoch) {
		s = *c.heard
	}
	c.mu.Unlock()
	if len(s.layouts) == 0 {
		return nil, errNoLayout
	}
	return s.encode(), nil
}

// serveNews returns at once: the sender does not wait for what this node does with its news.
func (c *Cluster) serveNews(_ context.Context, from ring.NodeID, _ []byte) ([]byte, error) {
	c.askSoon(from)
	return nil, nil
}

// askSoon has the node asked for its live epochs, in the background.
func (c *Cluster) askSoon(id ring.NodeID) {
	select {
	case c.asks <- id:
	default: // gossip tells again
	}
}

func (c *Cluster) asker(ctx context.Context) {
	defer c.running.Done()
	for {
		select {
		case <-ctx.Done():
			return
		case id := <-c.asks:
			if err := c.fetch(ctx, id); err != nil && ctx.Err() == nil {
				c.log.Debug("a peer's layout could not be had", "op", "epoch", "peer", id, "error", err)
			}
		}
	}
}

// fetch asks a node for its live epochs and hands them to the adopter.
func (c *Cluster) fetch(ctx context.Context, from ring.NodeID) error {
	if c.peersRPC == nil {
		return errNotStarted
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timing.StreamTimeout)
	defer cancel()
	b, err := c.peersRPC.Call(ctx, from, EndpointLive, nil)
	if err != nil {
		return err
	}
	s, err := decodeEpochs(b)
	if err != nil {
		return err
	}
	c.hear(s)
	return nil
}

// hear takes a peer's word on the live epochs.
func (c *Cluster) hear(s epochState) {
	c.mu.Lock()
	c.hearProgress(s.table)
	if c.layout != nil && s.layouts[0].ClusterID == c.layout.ClusterID && s.newest().Epoch <= c.layout.Epoch {
		c.heardBase = max(c.heardBase, s.layouts[0].Epoch)
	}
	newer := c.layout == nil || s.newest().Epoch > c.layout.Epoch
	if newer {
		c.heardEpoch, c.heardLayout = true, s.newest()
	}
	c.mu.Unlock()
	if newer {
		nudge(c.hasHeard)
		c.offer(s)
	}
	c.inbox.kick()
}

// serveVote answers as an acceptor of the epoch after this node's newest one. What it promised or accepted is on the disk
// before the answer leaves.
func (c *Cluster) serveVote(ctx context.Context, from ring.NodeID, body []byte) ([]byte, error) {
	d := wire.NewDecoder(body)
	req := paxos.DecodeRequest(d)
	if err := d.Done(); err != nil {
		return nil, err
	}
	reply, err := c.voteOn(ctx, from, req)
	if err != nil {
		return nil, err
	}
	e := wire.NewEncoder()
	defer e.Free()
	reply.Encode(e)
	return e.Copy(), nil
}

func (c *Cluster) voteOn(ctx context.Context, from ring.NodeID, req paxos.Request) (paxos.Reply, error) {
	if err := c.mayVote(); err != nil {
		return paxos.Reply{}, err
	}
	if req.Epoch > 1 && from != c.cfg.Self {
		if err := c.Learn(ctx, from, req.Epoch-1); err != nil {
			return paxos.Reply{}, err
		}
	}
	c.voteMu.Lock()
	defer c.voteMu.Unlock()
	if err := c.mayVote(); err != nil { // a promise may have come meanwhile
		return paxos.Reply{}, err
	}
	s := c.live()
	newest := s.newest()
	if req.Epoch <= newest.Epoch {
		i := slices.IndexFunc(s.layouts, func(l ring.Layout) bool { return l.Epoch == req.Epoch })
		if i < 0 {
			return paxos.Reply{}, fmt.Errorf("epoch %d is long decided; this node is at %d", req.Epoch, newest.Epoch)
		}
		return paxos.Reply{Kind: paxos.KindDecided, Epoch: req.Epoch, Ballot: req.Ballot, Value: s.layouts[i].Encode()}, nil
	}
	if _, ok := newest.Member(c.cfg.Self); !ok || req.Epoch != newest.Epoch+1 {
		return paxos.Reply{}, fmt.Errorf("this node has no vote on epoch %d; it is at %d", req.Epoch, newest.Epoch)
	}
	if c.register.Epoch != req.Epoch {
		c.register = paxos.State{Epoch: req.Epoch}
	}
	next, reply, err := c.register.Handle(req)
	if err != nil {
		return paxos.Reply{}, err
	}
	if !next.Equal(c.register) {
		if err := c.cfg.State.Save(keyRegister, next.Encode()); err != nil {
			return paxos.Reply{}, fmt.Errorf("storing a vote on epoch %d: %w", req.Epoch, err)
		}
		c.register = next
	}
	if next.Decided {
		return reply, c.hearDecided(next.Value)
	}
	return reply, nil
}

// mayVote returns an error for a node that is not sure of its past.
func (c *Cluster) mayVote() error {
	if c.cfg.MayVote != nil {
		if err := c.cfg.MayVote(); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.poison != "":
		return fmt.Errorf("this node does not vote: %s", c.poison)
	case c.gone != "":
		return fmt.Errorf("this node does not vote: %s", c.gone)
	case c.layout == nil:
		return errNoLayout
	case c.promise.outstanding(*c.layout):
		return fmt.Errorf("this node does not vote: %w", errPromised)
	}
	return nil
}

// hearDecided takes a decided layout for the live epochs of this node.
func (c *Cluster) hearDecided(value []byte) error {
	l, err := ring.DecodeLayout(value)
	if err != nil {
		return fmt.Errorf("a decided layout: %w", err)
	}
	s := c.live().clone()
	if len(s.layouts) == 0 || l.Epoch != s.newest().Epoch+1 {
		return nil // an older one; a later one is asked for
	}
	s.layouts = append(s.layouts, l)
	c.offer(s)
	return nil
}
