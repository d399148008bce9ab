package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dunlindb/dunlin/internal/cluster"
	"github.com/dunlindb/dunlin/ring"
)

const (
	leavePause  = 200 * time.Millisecond // between looks at how far the leave is
	decideLimit = 5 * time.Second        // for one attempt to have it decided
)

// leaveOnStop lets the node leave its cluster, if the settings say so, and waits until it has handed over what it holds.
// Nil means that the disk holds nothing that the cluster needs. A node that cannot go on meanwhile returns that error.
func (n *Node) leaveOnStop() error {
	if !n.cfg.LeaveOnStop {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), n.cfg.LeaveTimeout)
	defer cancel()
	left := make(chan error, 1)
	go func() { left <- n.leave(ctx) }()
	select {
	case err := <-left:
		return err
	case err := <-n.Failed():
		cancel()
		<-left
		return err
	}
}

// leave has the layout without this node decided and waits until it is through.
func (n *Node) leave(ctx context.Context) error {
	told := ""
	var last error
	for {
		e := n.cluster.Epochs()
		if n.cluster.Gone() || e == nil && n.cluster.Heard() == 0 {
			return nil // it is no member: not any more, or not yet
		}
		if err := n.cluster.Ready(); e != nil && err != nil { // until it is started again: the others do not hear it
			return fmt.Errorf("--leave-on-stop: this node stays a member: %w", err)
		}
		var text string
		switch {
		case e == nil:
			text = "becoming a member first"
		case isMember(e.Newest(), n.self()):
			if err := mustStay(e.Newest()); err != nil {
				return fmt.Errorf("--leave-on-stop: this node stays a member: %w", err)
			}
			if told == "" {
				told = "a decision"
				n.log.Info("leaving the cluster; a second signal ends at once", "op", "leave", "timeout", n.cfg.LeaveTimeout)
			}
			attempt, cancel := context.WithTimeout(ctx, decideLimit)
			_, err := n.cluster.Apply(attempt, cluster.Request{Action: cluster.ActionLeave, Node: n.self().String()})
			cancel()
			if last = err; err == nil || conflicts(err) {
				continue
			}
			text = "not decided yet: " + err.Error()
		default:
			last = nil
			text = n.leavingWaits()
		}
		if text != told {
			n.log.Info("leaving the cluster", "op", "leave", "waiting", text)
			told = text
		}
		select {
		case <-time.After(leavePause):
		case <-ctx.Done():
			return n.notLeft(text, last)
		}
	}
}

// conflicts reports whether another change was made first, which is no reason to wait.
func conflicts(err error) bool {
	_, is := errors.AsType[*cluster.ConflictError](err)
	return is
}

func isMember(r *ring.Ring, id ring.NodeID) bool {
	_, is := r.Layout().Member(id)
	return is
}

// mustStay tells why a node may not go unasked: with less members than replicas are wanted, of all buckets or of one,
// keys would have a replica less.
func mustStay(r *ring.Ring) error {
	members, l := len(r.Members()), r.Layout()
	if members <= l.N {
		return fmt.Errorf("the cluster has %d members, and N=%d replicas of each key need as many; stop it for a while, or let it go with dunlin leave", members, l.N)
	}
	for _, b := range l.Buckets {
		if members <= b.N {
			return fmt.Errorf("the cluster has %d members, and the n=%d replicas of bucket %s need as many; stop it for a while, or let it go with dunlin leave", members, b.N, b.Bucket)
		}
	}
	return nil
}

// leavingWaits says what the leave waits for.
func (n *Node) leavingWaits() string {
	waiting := n.cluster.Progress().Waiting
	if err := n.cluster.Incomplete(); err != nil {
		waiting = append(waiting, "this node: "+err.Error())
	}
	if len(waiting) == 0 {
		return "the others to go on without it"
	}
	return strings.Join(waiting, "; ")
}

// notLeft is the error after the time for the leave.
func (n *Node) notLeft(waiting string, last error) error {
	if last != nil {
		return fmt.Errorf("--leave-timeout (DUNLIN_LEAVE_TIMEOUT): this node is still a member after %s, because its leave could not be decided: %w; start it again with its data, or remove it", n.cfg.LeaveTimeout, last)
	}
	return fmt.Errorf("--leave-timeout (DUNLIN_LEAVE_TIMEOUT): this node has not handed over after %s: %s; start it again with its data and it goes on, or remove it", n.cfg.LeaveTimeout, waiting)
}
