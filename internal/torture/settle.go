package torture

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/dunlindb/dunlin/internal/crowd"
	"github.com/dunlindb/dunlin/internal/referee"
)

const (
	settleLimit = 3 * time.Minute // of a run
	settleFor   = 3 * time.Second // what the last writes still do in the background must be through
)

// Quiet looks at all nodes, without reading a key, and says why the cluster is not at rest yet: a node takes another
// for dead, and would refuse reads of all replicas; hints wait; the n replicas of a partition differ, or do not count.
func Quiet(client *http.Client, at []crowd.Node, n int) ([]referee.Node, error) {
	for _, x := range at {
		var doc struct {
			Members []struct {
				Name  string
				Alive bool
			}
			NotReady int `json:"partitions_not_counted"`
		}
		for _, path := range []string{"/cluster/members", "/cluster/repair"} {
			if err := fetch(client, x.URL()+path, &doc); err != nil {
				return nil, fmt.Errorf("%s: %w", x.Name, err)
			}
		}
		for _, m := range doc.Members {
			if !m.Alive {
				return nil, fmt.Errorf("%s takes %s for dead", x.Name, m.Name)
			}
		}
		if doc.NotReady > 0 {
			return nil, fmt.Errorf("%s: %d partitions count in no quorum", x.Name, doc.NotReady)
		}
	}
	nodes, err := crowd.Options{Nodes: at}.Look(client)
	if err != nil {
		return nil, err
	}
	return nodes, referee.Settled(referee.Final{Nodes: nodes}, n)
}

func fetch(client *http.Client, url string, into any) error {
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

// Settle waits until the cluster is at rest, as Quiet says, and stays so for some seconds. It returns what the nodes
// held as a whole when it last could ask them, and when ctx ends, why it is not.
func Settle(ctx context.Context, client *http.Client, at []crowd.Node, n int) (last []referee.Node, err error) {
	var since time.Time
	for {
		nodes, err := Quiet(client, at, n)
		if nodes != nil {
			last = nodes
		}
		switch {
		case err != nil:
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
			fallthrough
		case time.Since(since) < settleFor:
			err = errors.New("only just")
		default:
			return last, nil
		}
		if !pause(ctx, 2*pollPause) {
			return last, fmt.Errorf("not at rest: %w", err)
		}
	}
}
