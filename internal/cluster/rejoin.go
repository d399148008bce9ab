package cluster

import (
	"context"
	"net"
	"slices"
	"time"
)

// memberlist never heals a cut by itself: it forgets dead nodes after half a minute, and then both sides are
// whole in their own eyes. It also leaves a node dead that came back while others hold an old accusation. Both
// are cured by an exchange of states with whoever is missing, again and again.

const (
	eagerRounds  = 10 // first rounds, five times as fast: nodes that start together find each other soon
	seedEveryNth = 6  // how often seeds without a name are asked although others are alive
)

func (c *Cluster) rejoin(ctx context.Context) {
	defer c.running.Done()
	for round := 0; ; round++ {
		for _, addr := range c.targets(round) {
			for _, ip := range c.resolve(ctx, addr) {
				if ctx.Err() != nil {
					return
				}
				c.join(ip)
			}
		}
		pause := c.cfg.Timing.RejoinInterval
		if round < eagerRounds && c.Ready() != nil {
			pause /= 5
		}
		pause += c.jitter(pause*2/5) - pause/5
		if !c.meet(ctx, time.After(pause)) {
			return
		}
	}
}

// meet exchanges states with nodes that have connected although they seem dead, until the next round. It returns false when
// ctx ends.
func (c *Cluster) meet(ctx context.Context, next <-chan time.Time) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-next:
			return true
		case addr := <-c.met:
			c.join(addr)
		}
	}
}

// join exchanges states with one address, for at most the stream timeout or so. The number of successes that
// memberlist reports says nothing: reaching oneself is one of them.
func (c *Cluster) join(addr string) {
	c.mu.Lock()
	members := c.members
	c.mu.Unlock()
	if members == nil {
		return
	}
	c.counts.rejoins.Add(1)
	if _, err := members.Join([]string{addr}); err != nil {
		c.log.Debug("no exchange of states", "op", "rejoin", "addr", addr, "error", err)
		return
	}
	c.counts.rejoined.Add(1)
}

// targets lists the addresses to try in this round: seeds, peers that do not answer, and peers that are alive
// but whose readable state is wanted. They come in random order, so that a row of dead ones starves nobody.
func (c *Cluster) targets(round int) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	alive := map[string]bool{}
	for _, p := range c.peers {
		if p.alive {
			alive[p.Name] = true
		}
	}
	var out []string
	for _, s := range c.cfg.Seeds {
		switch {
		case s.Name == c.cfg.Name:
		case s.Name != "" && alive[s.Name]:
		case s.Name == "" && len(alive) > 0 && round%seedEveryNth != 0:
		default:
			out = append(out, s.Addr)
		}
	}
	for _, p := range c.peers {
		if !p.alive && p.GossipAddr != "" {
			out = append(out, p.GossipAddr)
		}
	}
	for addr := range c.want {
		out = append(out, addr)
	}
	if c.ownElsewhere != "" {
		out = append(out, c.ownElsewhere)
		c.ownElsewhere = ""
	}
	slices.Sort(out)
	out = slices.Compact(out)
	out = slices.DeleteFunc(out, func(a string) bool { return a == c.gossipAddr })
	c.cfg.Rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// resolve turns host:port into IP:port, one for each address of the host, without this node's own. Hosts are
// resolved anew each time: containers change addresses.
func (c *Cluster) resolve(ctx context.Context, addr string) []string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil
	}
	if net.ParseIP(host) != nil {
		return []string{addr}
	}
	ips, err := lookup(ctx, host)
	if err != nil {
		c.log.Debug("a seed's host is unknown now", "op", "rejoin", "addr", addr, "error", err)
		return nil
	}
	c.mu.Lock()
	own := c.gossipAddr
	c.mu.Unlock()
	var out []string
	for _, ip := range ips {
		if a := net.JoinHostPort(ip.String(), port); a != own {
			out = append(out, a)
		}
	}
	return out
}
