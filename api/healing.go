package api

import (
	"context"
	"encoding/hex"
	"net/http"
	"strconv"
	"time"

	"github.com/dunlindb/dunlin/coordinator"
	"github.com/dunlindb/dunlin/ring"
)

// Healing tells of what brings replicas together again, and starts it.
type Healing interface {
	// Handoff returns what waits here for other nodes.
	Handoff() []Handoff
	// Digests returns the digest of each partition that this node owns; ready is false while some are not known yet.
	Digests() (digests map[int][16]byte, ready bool)
	// Repair returns what the last full repair did, or does.
	Repair() Repair
	// StartRepair begins a full repair of all partitions that this node owns, or of one. It fails when another repair
	// runs.
	StartRepair(partition *int) error
}

// Handoff is what waits for one node.
type Handoff struct {
	Target    ring.NodeID
	State     string
	Hints     int64
	Bytes     int64
	Age       time.Duration // of the oldest; 0: none waits
	BytesPerS float64       // that it gets at most
	Dropped   []int         // partitions of which hints were dropped, which anti-entropy must make good
	Replayed  uint64        // since the start
	LastError string
}

// Repair is the progress of a full repair, and what else anti-entropy counts.
type Repair struct {
	State                      string // none, running, stopped, done
	Started, Finished          time.Time
	Done, Total                int   // partitions compared with all their other primaries
	Compared, Sent, Received   int64 // keys
	Bytes                      int64
	Unrepaired                 int           // partitions that were given up with a peer
	Remaining                  time.Duration // estimate
	LastError                  string
	Waiting                    []ring.NodeID // members that the rest waits for, because they do not answer
	Marked                     int           // partitions of this node that wait for full exchanges before they count
	NotReady                   int           // partitions whose tree is being counted
	Scrubbed, ScrubDifferences int64
}

// Explainer tells what every member holds of a key.
type Explainer interface {
	Explain(ctx context.Context, bucket, key string) ([]coordinator.Explanation, error)
}

func (a *api) handoff(w http.ResponseWriter, r *http.Request) *problem {
	if _, p := parseQuery(r.URL.RawQuery, nil); p != nil {
		return p
	}
	type target struct {
		Node      string  `json:"node"`
		ID        string  `json:"id"`
		Alive     bool    `json:"alive"`
		State     string  `json:"state"`
		Hints     int64   `json:"hints"`
		Bytes     int64   `json:"bytes"`
		OldestS   float64 `json:"oldest_seconds"`
		BytesPerS float64 `json:"bytes_per_second"`
		Dropped   []int   `json:"dropped_partitions"`
		Replayed  uint64  `json:"replayed"`
		LastError string  `json:"last_error,omitempty"`
	}
	doc := struct {
		Hints   int64    `json:"hints"`
		Bytes   int64    `json:"bytes"`
		Targets []target `json:"targets"`
	}{Targets: []target{}}
	for _, h := range a.deps.Healing.Handoff() {
		doc.Hints, doc.Bytes = doc.Hints+h.Hints, doc.Bytes+h.Bytes
		doc.Targets = append(doc.Targets, target{
			Node: a.nameOf(h.Target), ID: h.Target.String(), Alive: a.deps.Cluster.Alive(h.Target), State: h.State, Hints: h.Hints,
			Bytes: h.Bytes, OldestS: h.Age.Seconds(), BytesPerS: h.BytesPerS, Dropped: append([]int{}, h.Dropped...),
			Replayed: h.Replayed, LastError: h.LastError,
		})
	}
	return writeJSON(w, http.StatusOK, doc)
}

// digest shows the digest of each partition that this node owns, by partition number.
func (a *api) digest(w http.ResponseWriter, r *http.Request) *problem {
	if _, p := parseQuery(r.URL.RawQuery, nil); p != nil {
		return p
	}
	digests, ready := a.deps.Healing.Digests()
	if !ready {
		return newProblem(http.StatusServiceUnavailable, "not-ready", "the digests are still being counted from the disk; ask again")
	}
	doc := make(map[string]string, len(digests))
	for p, d := range digests {
		doc[strconv.Itoa(p)] = hex.EncodeToString(d[:])
	}
	return writeJSON(w, http.StatusOK, doc)
}

func (a *api) repair(w http.ResponseWriter, r *http.Request) *problem {
	if _, p := parseQuery(r.URL.RawQuery, nil); p != nil {
		return p
	}
	s := a.deps.Healing.Repair()
	at := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.UTC().Format(time.RFC3339)
	}
	waiting := []string{}
	for _, id := range s.Waiting {
		waiting = append(waiting, a.nameOf(id))
	}
	return writeJSON(w, http.StatusOK, struct {
		State      string   `json:"state"`
		Started    string   `json:"started,omitempty"`
		Finished   string   `json:"finished,omitempty"`
		Done       int      `json:"done"`
		Total      int      `json:"total"`
		Compared   int64    `json:"keys_compared"`
		Sent       int64    `json:"keys_sent"`
		Received   int64    `json:"keys_received"`
		Bytes      int64    `json:"bytes"`
		Unrepaired int      `json:"unrepaired"`
		RemainingS float64  `json:"remaining_seconds"`
		LastError  string   `json:"last_error,omitempty"`
		Waiting    []string `json:"waiting_for"`
		Marked     int      `json:"marked_partitions"`
		NotReady   int      `json:"partitions_not_counted"`
		Scrubbed   int64    `json:"scrubbed_partitions"`
		Differ     int64    `json:"scrub_differences"`
	}{
		s.State, at(s.Started), at(s.Finished), s.Done, s.Total, s.Compared, s.Sent, s.Received, s.Bytes, s.Unrepaired,
		s.Remaining.Seconds(), s.LastError, waiting, s.Marked, s.NotReady, s.Scrubbed, s.ScrubDifferences,
	})
}

func (a *api) startRepair(w http.ResponseWriter, r *http.Request) *problem {
	q, p := parseQuery(r.URL.RawQuery, []string{"partition"})
	if p != nil {
		return p
	}
	var partition *int
	if _, given := q.get("partition"); given {
		n, p := q.number("partition", 0, 0, a.deps.Cluster.Ring().Partitions()-1)
		if p != nil {
			return p
		}
		partition = &n
	}
	if err := a.deps.Healing.StartRepair(partition); err != nil {
		return newProblem(http.StatusConflict, "repair", err.Error())
	}
	w.Header().Set("Location", "/cluster/repair")
	return writeJSON(w, http.StatusAccepted, map[string]string{"repair": "running", "progress": "/cluster/repair"})
}
