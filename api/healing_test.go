package api

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/coordinator"
	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// fakeHealing has something to tell of everything.
type fakeHealing struct{}

func (fakeHealing) Handoff() []Handoff {
	return []Handoff{{Target: otherID, Hints: 3, Bytes: 300, Age: 5 * time.Second, Dropped: []int{7}}}
}

func (fakeHealing) Digests() (map[int][16]byte, bool) { return map[int][16]byte{5: {0xab}}, true }
func (fakeHealing) Repair() Repair {
	return Repair{State: "running", Done: 2, Total: 8, Waiting: []ring.NodeID{otherID}}
}
func (fakeHealing) StartRepair(p *int) error {
	if p != nil {
		return errors.New("another repair is running")
	}
	return nil
}

// fakeExplainer tells of two replicas that differ.
type fakeExplainer struct{}

func (fakeExplainer) Explain(_ context.Context, bucket, key string) ([]coordinator.Explanation, error) {
	d := vclock.Dot{Actor: vclock.Actor{Node: selfID, Birth: vclock.Birth{Millis: 1}}, Counter: 2}
	o := vclock.Object{Context: vclock.VersionVector{d}, Siblings: []vclock.Sibling{{Dot: d, ContentType: "text/plain"}}}
	return []coordinator.Explanation{
		{Node: selfID, Role: "primary", Alive: true, Epoch: 1, Copy: coordinator.Holding{
			Found: true, Digest: o.Digest(bucket, key), Object: o, Sizes: []int{42},
		}},
		{Node: otherID, Role: "primary", Err: "unreachable"},
		{Node: thirdID, Role: "primary", Alive: true, Epoch: 1},
	}, nil
}

func TestExplainShowsEveryReplica(t *testing.T) {
	w := newWorld(t, Options{})
	var doc struct {
		Agree    bool
		Replicas []struct {
			Role, Error string
			Copy        *struct {
				Found, Deleted bool
				Size           int
				Digest         string
				Context        string
				Siblings       []struct{ Dot string }
			}
		}
	}
	if err := json.Unmarshal(w.want(200, "GET", "/cluster/explain/b/k", "").Body.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	c := doc.Replicas[0].Copy
	if doc.Agree || len(doc.Replicas) != 3 || c == nil || c.Size != 42 || c.Deleted || len(c.Digest) != 32 || len(c.Siblings) != 1 {
		t.Fatalf("%+v", doc)
	}
	if doc.Replicas[1].Error != "unreachable" || doc.Replicas[2].Copy.Found {
		t.Fatalf("%+v", doc.Replicas)
	}
	// The context is one that a write takes.
	w.want(204, "PUT", "/kv/b/k", "v", "Dunlin-Context", c.Context)
	w.want(400, "GET", "/cluster/explain/b/k?r=1", "")
}

func TestHealingRoutes(t *testing.T) {
	w := newWorld(t, Options{})
	for path, want := range map[string]string{
		"/cluster/handoff": `"hints":3,"bytes":300`,
		"/cluster/digest":  `{"5":"ab000000000000000000000000000000"}`,
		"/cluster/repair":  `"waiting_for":["n2"]`,
	} {
		if got := w.want(200, "GET", path, "").Body.String(); !strings.Contains(got, want) {
			t.Errorf("%s: %s", path, got)
		}
	}
	rec := w.want(202, "POST", "/cluster/repair", "")
	if rec.Header().Get("Location") != "/cluster/repair" || !strings.Contains(rec.Body.String(), "running") {
		t.Errorf("%v %s", rec.Header(), rec.Body)
	}
	if got := w.want(409, "POST", "/cluster/repair?partition=3", "").Body.String(); !strings.Contains(got, "another repair") {
		t.Error(got)
	}
	for _, bad := range []string{"partition=-1", "partition=x", "partition=99999999", "all=1"} {
		w.want(400, "POST", "/cluster/repair?"+bad, "")
	}
	w.want(405, "POST", "/cluster/digest", "")
}

func TestTraceInHeaderOrBody(t *testing.T) {
	w := newWorld(t, Options{})
	for _, tc := range []struct {
		status                       int
		method, target, body, accept string
		inBody                       string
	}{
		{204, "PUT", "/kv/b/k?trace=1", "v", "", ""},
		{200, "PUT", "/kv/b/k?trace=1&returnbody=1", "v", "application/json", `"siblings"`},
		{300, "GET", "/kv/b/k?trace=1", "", "application/json", `"siblings"`},
		{204, "DELETE", "/kv/b/k?trace=true", "", "", ""},
		{200, "PUT", "/kv/b/other?trace=1", "v", "application/json", `"trace"`},
		{200, "GET", "/kv/b/other?trace=1", "", "application/json", `"value":"v"`},
		{404, "GET", "/kv/b/none?trace=1", "", "", ""},
		{404, "GET", "/kv/b/none?trace=1", "", "application/json", `"status":404`},
	} {
		if tc.status == 200 && tc.target == "/kv/b/k?trace=1&returnbody=1" {
			tc.status = 300 // the second write without a context
		}
		rec := w.want(tc.status, tc.method, tc.target, tc.body, "Accept", tc.accept)
		header := rec.Header().Get("Dunlin-Trace")
		switch {
		case tc.accept == "" && (!json.Valid([]byte(header)) || strings.Contains(header, "\n")):
			t.Errorf("%s %s: header %q", tc.method, tc.target, header)
		case tc.accept != "" && !strings.Contains(rec.Body.String(), tc.inBody):
			t.Errorf("%s %s: body %s, want %s", tc.method, tc.target, rec.Body, tc.inBody)
		}
	}
	if h := w.want(404, "GET", "/kv/b/k?trace=0", "").Header().Get("Dunlin-Trace"); h != "" {
		t.Errorf("a trace that nobody asked for: %s", h)
	}
}
