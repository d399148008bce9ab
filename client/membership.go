package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
)

// Change is a change of the members of a cluster.
type Change struct {
	Action string  // join and bucket (plans only), leave, remove, replace, update or cancel
	Node   string  // name or id of the node that it is about; of a forced removal, several with commas between
	Weight int     // of update and join; 0: as it is
	Zone   *string // of update and join; nil: as it is
	// Force, of remove: a majority of the members is lost for good, and those that are left go on alone. AtRisk has to be
	// the number of partitions that the plan of it names.
	Force  bool
	AtRisk int
	// Bucket and N, of bucket: its number of replicas becomes N; 0: the cluster's. A PUT of its properties makes the change.
	Bucket string
	N      int
}

// Plan is what a change would do. That of a bucket's n is about the bucket's partitions alone.
type Plan struct {
	Epoch      uint64      `json:"epoch"`   // that would be decided
	Moved      int         `json:"moved"`   // replicas of partitions that would have to be copied
	Slots      int         `json:"slots"`   // replicas of partitions in all
	Bytes      int64       `json:"bytes"`   // estimate of what is copied
	Seconds    float64     `json:"seconds"` // estimate
	SharedZone int         `json:"partitions_sharing_a_zone"`
	AtRisk     []int       `json:"partitions_at_risk"` // fewer of their old replicas answer than a quorum
	Lost       []int       `json:"partitions_lost"`    // of these, none answers
	Nodes      []PlanShare `json:"nodes"`
}

// PlanShare is what a change would do to one node, in partitions.
type PlanShare struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Zone   string `json:"zone"`
	Weight int    `json:"weight"`
	Before int    `json:"partitions_before"`
	After  int    `json:"partitions_after"`
	Gains  int    `json:"gains"`
	Loses  int    `json:"loses"`
}

// Transfers is how far a change of the members has come, as one node knows.
type Transfers struct {
	Epoch            uint64   `json:"epoch"`
	LiveEpochs       []uint64 `json:"live_epochs"`
	SettledEpoch     uint64   `json:"settled_epoch"`
	Changing         bool     `json:"changing"`
	WaitingFor       []string `json:"waiting_for"`
	PartitionsToFill int      `json:"partitions_to_fill"` // of that node, as what follows
	PartitionsCopied int      `json:"partitions_copied"`  // from one old owner
	PartitionsFilled int      `json:"partitions_filled"`
	Objects          int64    `json:"objects"`
	Bytes            int64    `json:"bytes"`
	BytesPerSecond   float64  `json:"bytes_per_second"`
	RemainingSeconds float64  `json:"remaining_seconds"`
	From             []string `json:"from"`
	NotAnswering     []string `json:"not_answering"`
	PartitionsToDrop int      `json:"partitions_to_drop"`
}

func (c Change) query() url.Values {
	q := url.Values{}
	if c.Weight != 0 {
		q.Set("weight", strconv.Itoa(c.Weight))
	}
	if c.Zone != nil {
		q.Set("zone", *c.Zone)
	}
	if c.Force {
		q.Set("force", "true")
	}
	if c.Bucket != "" {
		q.Set("bucket", c.Bucket)
	}
	if c.N != 0 {
		q.Set("n", strconv.Itoa(c.N))
	}
	return q
}

// Plan asks what a change would move. Nothing changes.
func (c *Client) Plan(ctx context.Context, ch Change) (Plan, error) {
	q := ch.query()
	q.Set("action", ch.Action)
	if ch.Node != "" {
		q.Set("node", ch.Node)
	}
	var out Plan
	return out, c.getInto(ctx, "/cluster/plan", q, &out)
}

// Apply makes a change and returns the epoch that was decided; the change goes on in the background. It is sent once: where
// the outcome is not known, look at Transfers.
func (c *Client) Apply(ctx context.Context, ch Change) (epoch uint64, err error) {
	path := "/cluster/" + ch.Action
	if ch.Node != "" {
		path += "/" + url.PathEscape(ch.Node)
	}
	q := ch.query()
	if ch.Force {
		q.Set("at_risk", strconv.Itoa(ch.AtRisk))
	}
	a, err := c.do(ctx, &request{method: http.MethodPost, path: path, query: q})
	if err != nil {
		return 0, err
	}
	var doc struct{ Epoch uint64 }
	if err := json.Unmarshal(a.body, &doc); err != nil {
		return 0, fmt.Errorf("client: %s: %w", path, err)
	}
	return doc.Epoch, nil
}

// Transfers returns how far the present change has come, as the first endpoint's node knows.
func (c *Client) Transfers(ctx context.Context) (Transfers, error) {
	var out Transfers
	return out, c.getInto(ctx, "/cluster/transfers", nil, &out)
}

func (c *Client) getInto(ctx context.Context, path string, q url.Values, out any) error {
	a, err := c.do(ctx, &request{method: http.MethodGet, path: path, query: q})
	if err != nil {
		return err
	}
	if err := json.Unmarshal(a.body, out); err != nil {
		return fmt.Errorf("client: %s: %w", path, err)
	}
	return nil
}
