package api

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/dunlindb/dunlin/ring"
)

// fakeMembership takes every change, but for some nodes.
type fakeMembership struct {
	applied []MemberChange
	planned MemberChange
}

func (f *fakeMembership) Plan(_ context.Context, c MemberChange) (MemberPlan, error) {
	f.planned = c
	if c.Bucket == "toomany" {
		return MemberPlan{}, fmt.Errorf("%w: too few members", ErrChangeConflict)
	}
	if c.Node == "nobody" {
		return MemberPlan{}, fmt.Errorf("%w: no member is called nobody", ErrChangeConflict)
	}
	return MemberPlan{Epoch: 2, Moved: 10, Slots: 30, AtRisk: []int{3}, Nodes: []MemberShare{{ID: otherID, Name: "other", Before: 4, After: 0, Loses: 4}}}, nil
}

func (f *fakeMembership) Apply(_ context.Context, c MemberChange) (uint64, error) {
	if c.Bucket == "toomany" {
		return 0, fmt.Errorf("%w: too few members", ErrChangeConflict)
	}
	switch c.Node {
	case "nobody":
		return 0, fmt.Errorf("%w: no member is called nobody", ErrChangeConflict)
	case "bad":
		return 0, fmt.Errorf("%w: Weight", ErrChangeInvalid)
	case "lost":
		return 0, fmt.Errorf("no majority answers")
	}
	f.applied = append(f.applied, c)
	return 2, nil
}

func (f *fakeMembership) Transfers() Transfers {
	return Transfers{Epoch: 2, Live: []uint64{1, 2}, Settled: 1, Waiting: []string{"other"}, From: []ring.NodeID{otherID}, ToFill: 5}
}

func TestMembershipRoutes(t *testing.T) {
	w := newWorld(t, Options{})
	var plan struct {
		Epoch  int
		AtRisk []int `json:"partitions_at_risk"`
		Nodes  []struct{ Name string }
	}
	if err := json.Unmarshal(w.want(200, "GET", "/cluster/plan?action=leave&node=other", "").Body.Bytes(), &plan); err != nil {
		t.Fatal(err)
	}
	if plan.Epoch != 2 || len(plan.AtRisk) != 1 || len(plan.Nodes) != 1 {
		t.Errorf("%+v", plan)
	}
	for path, status := range map[string]int{
		"/cluster/plan":                                    400,
		"/cluster/plan?action=explode&node=x":              400,
		"/cluster/plan?action=leave":                       400,
		"/cluster/plan?action=update&node=other":           400,
		"/cluster/plan?action=join&node=new&weight=0":      400,
		"/cluster/plan?action=join&node=new&weight=2":      200,
		"/cluster/plan?action=cancel":                      200,
		"/cluster/plan?action=leave&node=nobody":           409,
		"/cluster/plan?action=leave&node=other&sloppy=yes": 400,
		"/cluster/plan?action=bucket&bucket=b&n=5":         200,
		"/cluster/plan?action=bucket&bucket=toomany&n=5":   409,
		"/cluster/plan?action=bucket&n=5":                  400,
		"/cluster/plan?action=bucket&bucket=a%2Fb&n=5":     400,
		"/cluster/plan?action=bucket&bucket=b&n=16":        400,
		"/cluster/plan?action=bucket&bucket=b&n=0":         400,
		"/cluster/plan?action=bucket&bucket=b&weight=2":    400,
		"/cluster/plan?action=bucket&bucket=b&node=other":  400,
		"/cluster/plan?action=leave&node=other&n=5":        400,
		"/cluster/transfers?x=1":                           400,
	} {
		w.want(status, "GET", path, "")
	}
	for query, want := range map[string]MemberChange{
		"action=bucket&bucket=b&n=5":      {Action: "bucket", Bucket: "b", N: 5},
		"action=bucket&bucket=b":          {Action: "bucket", Bucket: "b"},
		"action=join&node=new&weight=2":   {Action: "join", Node: "new", Weight: 2},
		"action=remove&node=x&force=true": {Action: "remove", Node: "x", Force: true},
	} {
		if w.want(200, "GET", "/cluster/plan?"+query, ""); w.membership.planned != want {
			t.Errorf("%s plans %+v", query, w.membership.planned)
		}
	}
	for path, status := range map[string]int{
		"/cluster/remove/other":            202,
		"/cluster/replace/other":           202,
		"/cluster/leave/other":             202,
		"/cluster/cancel":                  202,
		"/cluster/update/other?weight=3":   202,
		"/cluster/update/other?zone=z":     202,
		"/cluster/update/other":            400,
		"/cluster/update/other?weight=x":   400,
		"/cluster/remove/other?weight=3":   400,
		"/cluster/remove/other?timeout=0s": 400,
		"/cluster/remove/nobody":           409,
		"/cluster/remove/bad":              400,
		"/cluster/remove/lost":             503,
	} {
		body := w.want(status, "POST", path, "").Body.String()
		if unsure := strings.Contains(body, "indeterminate"); unsure != (status == 503) {
			t.Errorf("%s: %s", path, body)
		}
	}
	w.want(405, "GET", "/cluster/leave", "")
	w.membership.applied = nil
	w.want(202, "POST", "/cluster/leave", "")
	if got := w.membership.applied; len(got) != 1 || got[0].Node != selfID.String() {
		t.Errorf("leave without a name is of %+v", got)
	}
	if body := w.want(200, "GET", "/cluster/transfers", "").Body.String(); !strings.Contains(body, `"changing":true`) && !strings.Contains(body, `"changing": true`) {
		t.Error(body)
	}
}

// A removal is forced only by who says how many partitions its plan puts at risk.
func TestForcedRemoval(t *testing.T) {
	w := newWorld(t, Options{})
	var plan struct {
		AtRisk []int `json:"partitions_at_risk"`
		Lost   []int `json:"partitions_lost"`
	}
	if err := json.Unmarshal(w.want(200, "GET", "/cluster/plan?action=remove&node=n2,n3&force=true", "").Body.Bytes(), &plan); err != nil || len(plan.AtRisk) != 1 || plan.Lost == nil {
		t.Errorf("%+v, %v", plan, err)
	}
	w.want(400, "GET", "/cluster/plan?action=leave&node=n2&force=true", "")
	for path, status := range map[string]int{
		"/cluster/remove/n2%2Cn3?force=true": 409, "/cluster/remove/n2,n3?force=true&at_risk=0": 409, "/cluster/remove/n2,n3?force=true&at_risk=2": 409,
		"/cluster/remove/n2,n3?force=maybe&at_risk=1": 400, "/cluster/remove/n2,n3?force=true&at_risk=-1": 400, "/cluster/leave/n2?force=true": 400,
		"/cluster/remove/nobody?force=true&at_risk=1": 409,
	} {
		if p := problemOf(t, w.want(status, "POST", path, "")); status == 409 && !strings.Contains(path, "nobody") && (p.Parameter != "at_risk" || !strings.Contains(p.Detail, "at_risk=1")) {
			t.Errorf("%s: %+v", path, p)
		}
	}
	if len(w.membership.applied) > 0 {
		t.Fatalf("%+v", w.membership.applied)
	}
	w.want(202, "POST", "/cluster/remove/n2%2Cn3?force=true&at_risk=1", "")
	w.want(202, "POST", "/cluster/remove/n2", "")
	want := []MemberChange{{Action: "remove", Node: "n2,n3", Force: true}, {Action: "remove", Node: "n2"}}
	if !slices.Equal(w.membership.applied, want) {
		t.Errorf("%+v", w.membership.applied)
	}
}
