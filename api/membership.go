package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/gorilla/mux"

	"github.com/dunlindb/dunlin/coordinator"
	"github.com/dunlindb/dunlin/ring"
)

// Membership changes the members of the cluster, and tells how far a change has come.
type Membership interface {
	// Plan returns what a change would move. Nothing changes.
	Plan(ctx context.Context, c MemberChange) (MemberPlan, error)
	// Apply makes a change: it is decided when Apply returns, and goes on in the background.
	Apply(ctx context.Context, c MemberChange) (epoch uint64, err error)
	// Transfers returns how far the present change has come, as this node knows.
	Transfers() Transfers
}

// Errors of Membership. Others mean that it is not known whether the change was made.
var (
	// ErrChangeInvalid: no cluster could make that change.
	ErrChangeInvalid = errors.New("invalid change")
	// ErrChangeConflict: the cluster cannot make it as it is now, or another change was made instead.
	ErrChangeConflict = errors.New("change not possible now")
)

// MemberChange is what an operator asks for.
type MemberChange struct {
	Action string  // join (plans only), leave, remove, replace, update, cancel, bucket
	Node   string  // name or id
	Weight int     // 0: as it is
	Zone   *string // nil: as it is
	Force  bool    // of remove: Node is a comma list, a majority is lost, and those that are left go on alone
	Bucket string  // of bucket: whose number of replicas becomes N
	N      int
}

// MemberPlan is what a change would do. That of a bucket's n is about the bucket's partitions alone.
type MemberPlan struct {
	Epoch      uint64 // that would be decided
	Moved      int    // primary slots that would have to be filled
	Slots      int    // in all
	Bytes      int64  // estimate of what is copied
	Duration   time.Duration
	Nodes      []MemberShare
	SharedZone int   // partitions that would have two replicas in one zone
	AtRisk     []int // partitions with fewer old owners that answer than a quorum: writes acknowledged by the others alone are lost
	Lost       []int // of these, the partitions with none: everything in them is lost
}

// MemberShare is what a change would do to one node.
type MemberShare struct {
	ID                          ring.NodeID
	Name, Zone                  string
	Weight                      int
	Before, After, Gains, Loses int // partitions
}

// Transfers is how far a change of the members has come.
type Transfers struct {
	Epoch   uint64
	Live    []uint64 // epochs, oldest first; one: no change is under way
	Settled uint64
	Waiting []string // what the change waits for
	// Of this node.
	ToFill, Copied, Filled int // partitions: to fill, copied from an old owner, and from all of them
	Objects, Bytes         int64
	BytesPerS              float64
	Remaining              time.Duration
	From                   []ring.NodeID // who it copies from
	Silent                 []ring.NodeID // of these, who does not answer
	ToDrop                 int           // partitions that it no longer owns and has not yet dropped
}

var changeParams = []string{"weight", "zone"}

// changeOf reads a change's parameters.
func changeOf(action, node string, q query) (MemberChange, *problem) {
	c := MemberChange{Action: action, Node: node}
	var p *problem
	if c.Weight, p = q.number("weight", 0, 1, ring.MaxWeight); p != nil {
		return c, p
	}
	if zone, given := q.get("zone"); given {
		c.Zone = &zone
	}
	if action == "update" && c.Weight == 0 && c.Zone == nil {
		return c, badParameter("weight", "give a weight, a zone, or both, such as ?weight=2")
	}
	return c, nil
}

var planActions = []string{"join", "leave", "remove", "replace", "update", "cancel", "bucket"}

// planned reads what a plan is about.
func planned(r *http.Request) (MemberChange, *problem) {
	q, p := parseQuery(r.URL.RawQuery, append([]string{"action", "node", "force", "bucket", "n"}, changeParams...))
	if p != nil {
		return MemberChange{}, p
	}
	action := q.value("action")
	switch {
	case !slices.Contains(planActions, action):
		return MemberChange{}, badParameter("action", "action="+shorten(action)+"; use join, leave, remove, replace, update, cancel or bucket")
	case action == "bucket":
		return plannedBucket(q)
	case q.value("bucket") != "" || q.value("n") != "":
		return MemberChange{}, badParameter("bucket", "bucket and n are for action=bucket")
	case q.value("node") == "" && action != "cancel":
		return MemberChange{}, badParameter("node", "node is missing: the name of the node that the plan is about")
	}
	c, p := changeOf(action, q.value("node"), q)
	if p != nil {
		return c, p
	}
	if c.Force, p = q.boolean("force", false); p == nil && c.Force && c.Action != "remove" {
		p = badParameter("force", "force is for remove")
	}
	return c, p
}

// plannedBucket reads what a plan of another n of a bucket is about. Without n it is the cluster's again.
func plannedBucket(q query) (MemberChange, *problem) {
	for _, other := range append([]string{"node", "force"}, changeParams...) {
		if _, given := q.get(other); given {
			return MemberChange{}, badParameter(other, other+" is not for action=bucket")
		}
	}
	if p := checkBucket(q.value("bucket")); p != nil {
		return MemberChange{}, p
	}
	n, p := q.number("n", 0, 1, maxN)
	return MemberChange{Action: "bucket", Bucket: q.value("bucket"), N: n}, p
}

func (a *api) plan(w http.ResponseWriter, r *http.Request) *problem {
	c, p := planned(r)
	if p != nil {
		return p
	}
	plan, err := a.deps.Membership.Plan(r.Context(), c)
	if err != nil {
		return changeProblem(err)
	}
	type share struct {
		ID     string `json:"id"`
		Name   string `json:"name"`
		Zone   string `json:"zone"`
		Weight int    `json:"weight"`
		Before int    `json:"partitions_before"`
		After  int    `json:"partitions_after"`
		Gains  int    `json:"gains"`
		Loses  int    `json:"loses"`
	}
	doc := struct {
		Epoch      uint64  `json:"epoch"`
		Moved      int     `json:"moved"`
		Slots      int     `json:"slots"`
		Bytes      int64   `json:"bytes"`
		Seconds    float64 `json:"seconds"`
		SharedZone int     `json:"partitions_sharing_a_zone"`
		AtRisk     []int   `json:"partitions_at_risk"`
		Lost       []int   `json:"partitions_lost"`
		Nodes      []share `json:"nodes"`
	}{plan.Epoch, plan.Moved, plan.Slots, plan.Bytes, plan.Duration.Seconds(), plan.SharedZone, append([]int{}, plan.AtRisk...), append([]int{}, plan.Lost...), []share{}}
	for _, n := range plan.Nodes {
		doc.Nodes = append(doc.Nodes, share{n.ID.String(), n.Name, n.Zone, n.Weight, n.Before, n.After, n.Gains, n.Loses})
	}
	return writeJSON(w, http.StatusOK, doc)
}

// change returns the handler of one action.
func (a *api) change(action string) handler {
	return func(w http.ResponseWriter, r *http.Request) *problem {
		var allowed []string
		switch action {
		case "update":
			allowed = changeParams
		case "remove":
			allowed = []string{"force", "at_risk"}
		}
		q, p := parseQuery(r.URL.RawQuery, append([]string{"timeout"}, allowed...))
		if p != nil {
			return p
		}
		timeout, p := q.duration("timeout", 15*time.Second, time.Millisecond, MaxTimeout)
		if p != nil {
			return p
		}
		node, err := url.PathUnescape(mux.Vars(r)["node"])
		if err != nil {
			return badParameter("node", "the path cannot be read: "+err.Error())
		}
		if node == "" && action == "leave" {
			node = a.deps.Self.String()
		}
		c, p := changeOf(action, node, q)
		if p != nil {
			return p
		}
		if p := a.forced(r.Context(), q, &c); p != nil {
			return p
		}
		ctx, cancel := context.WithTimeout(r.Context(), timeout)
		defer cancel()
		epoch, err := a.deps.Membership.Apply(ctx, c)
		if err != nil {
			return changeProblem(err)
		}
		w.Header().Set("Location", "/cluster/transfers")
		return writeJSON(w, http.StatusAccepted, struct {
			Epoch    uint64 `json:"epoch"`
			Progress string `json:"progress"`
		}{epoch, "/cluster/transfers"})
	}
}

// forced lets a removal be forced only by who has seen what it costs: at_risk is how many partitions the plan names.
func (a *api) forced(ctx context.Context, q query, c *MemberChange) (p *problem) {
	if c.Force, p = q.boolean("force", false); p != nil || !c.Force {
		return p
	}
	said, p := q.number("at_risk", -1, 0, ring.MaxNumbered)
	if p != nil {
		return p
	}
	plan, err := a.deps.Membership.Plan(ctx, *c)
	if err != nil {
		return changeProblem(err)
	}
	if said != len(plan.AtRisk) {
		p := newProblem(http.StatusConflict, "membership", fmt.Sprintf("a forced removal loses data: of %d partitions fewer replicas are left than a quorum, of %d none. Look at /cluster/plan?action=remove&node=%s&force=true, and go on with at_risk=%d",
			len(plan.AtRisk), len(plan.Lost), c.Node, len(plan.AtRisk)))
		p.Parameter = "at_risk"
		return p
	}
	return nil
}

func changeProblem(err error) *problem {
	switch {
	case errors.Is(err, ErrChangeInvalid):
		return newProblem(http.StatusBadRequest, "membership", err.Error())
	case errors.Is(err, ErrChangeConflict):
		return newProblem(http.StatusConflict, "membership", err.Error())
	}
	p := newProblem(http.StatusServiceUnavailable, "membership", err.Error())
	p.Outcome = coordinator.Indeterminate // it may have been decided
	return p
}

func (a *api) transfers(w http.ResponseWriter, r *http.Request) *problem {
	if _, p := parseQuery(r.URL.RawQuery, nil); p != nil {
		return p
	}
	t := a.deps.Membership.Transfers()
	names := func(ids []ring.NodeID) []string {
		out := []string{}
		for _, id := range ids {
			out = append(out, a.nameOf(id))
		}
		return out
	}
	return writeJSON(w, http.StatusOK, struct {
		Epoch     uint64   `json:"epoch"`
		Live      []uint64 `json:"live_epochs"`
		Settled   uint64   `json:"settled_epoch"`
		Changing  bool     `json:"changing"`
		Waiting   []string `json:"waiting_for"`
		ToFill    int      `json:"partitions_to_fill"`
		Copied    int      `json:"partitions_copied"`
		Filled    int      `json:"partitions_filled"`
		Objects   int64    `json:"objects"`
		Bytes     int64    `json:"bytes"`
		BytesPerS float64  `json:"bytes_per_second"`
		Remaining float64  `json:"remaining_seconds"`
		From      []string `json:"from"`
		Silent    []string `json:"not_answering"`
		ToDrop    int      `json:"partitions_to_drop"`
	}{
		t.Epoch, append([]uint64{}, t.Live...), t.Settled, len(t.Live) > 1, append([]string{}, t.Waiting...), t.ToFill, t.Copied, t.Filled, t.Objects,
		t.Bytes, t.BytesPerS, t.Remaining.Seconds(), names(t.From), names(t.Silent), t.ToDrop,
	})
}
