package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
)

// Repair is how far the full repair of one node has come.
type Repair struct {
	State            string  `json:"state"` // none, running, stopped or done
	Started          string  `json:"started"`
	Finished         string  `json:"finished"`
	Done             int     `json:"done"`  // partitions compared with all their other replicas
	Total            int     `json:"total"` // partitions
	KeysCompared     int64   `json:"keys_compared"`
	KeysSent         int64   `json:"keys_sent"`
	KeysReceived     int64   `json:"keys_received"`
	Bytes            int64   `json:"bytes"`
	Unrepaired       int     `json:"unrepaired"`
	RemainingSeconds float64 `json:"remaining_seconds"` // an estimate
	LastError        string  `json:"last_error"`
	// WaitingFor are the members that the rest waits for, because they do not answer.
	WaitingFor       []string `json:"waiting_for"`
	MarkedPartitions int      `json:"marked_partitions"`
}

// StartRepair makes the first endpoint's node compare all keys of its partitions, or of one, with their other
// replicas. A negative partition is all of them. One that runs already with the same partitions goes on.
func (c *Client) StartRepair(ctx context.Context, partition int) error {
	r := &request{method: http.MethodPost, path: "/cluster/repair", repeat: true}
	if partition >= 0 {
		r.query = url.Values{"partition": {strconv.Itoa(partition)}}
	}
	_, err := c.do(ctx, r)
	return err
}

// RepairProgress returns how far the repair of the first endpoint's node has come.
func (c *Client) RepairProgress(ctx context.Context) (Repair, error) {
	var out Repair
	a, err := c.do(ctx, &request{method: http.MethodGet, path: "/cluster/repair"})
	if err != nil {
		return out, err
	}
	if err := json.Unmarshal(a.body, &out); err != nil {
		return out, fmt.Errorf("client: /cluster/repair: %w", err)
	}
	return out, nil
}
