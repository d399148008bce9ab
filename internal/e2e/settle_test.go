package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/internal/crowd"
	"github.com/dunlindb/dunlin/internal/torture"
)

// settled waits, without reading a key, until all nodes know each other, no hint waits, and every partition has the
// same digest on its three owners.
func settled(t *testing.T, f *flock, limit time.Duration) {
	t.Helper()
	begin := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if _, err := torture.Settle(ctx, http.DefaultClient, reachable(f.nodes), 3); err != nil {
		t.Fatalf("after %v: %v", limit, err)
	}
	t.Logf("at rest %.1f s after the last fault", time.Since(begin).Seconds())
}

// quiet reports whether the cluster is at rest now.
func quiet(f *flock) error {
	_, err := torture.Quiet(http.DefaultClient, reachable(f.nodes), 3)
	return err
}

func reachable(nodes []*process) (out []crowd.Node) {
	for _, p := range nodes {
		out = append(out, crowd.Node{Name: p.name, URL: func() string { return p.url("") }})
	}
	return out
}

func fetch(t *testing.T, url string, into any) error {
	status, body, err := try(t.Context(), "GET", url, "")
	if err != nil {
		return err
	}
	if status != 200 {
		return fmt.Errorf("%d %s", status, body)
	}
	return json.Unmarshal([]byte(body), into)
}

// explanation is the answer of /cluster/explain.
type explanation struct {
	Agree    bool
	Replicas []struct {
		Node, Role, Error string
		Copy, Hint        *holding
	}
}

type holding struct {
	Found, Damaged, Behind, Deleted bool
	Digest                          string
	Clock                           []string
	Siblings                        []struct{ Dot string }
}

// report shows at most some violations; none of them is tolerated.
func report(t *testing.T, seed uint64, violations []string) {
	t.Helper()
	for i, v := range violations {
		if i == 20 {
			t.Errorf("… and %d more", len(violations)-i)
			break
		}
		t.Errorf("seed %d: %s", seed, v)
	}
}

// text is what the nodes have logged.
func (f *flock) text() string {
	b, err := os.ReadFile(f.log.Name())
	if err != nil {
		f.t.Fatal(err)
	}
	return string(b)
}
