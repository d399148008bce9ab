package api

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestMembers(t *testing.T) {
	w := newWorld(t, Options{})
	var doc struct {
		Epoch   int
		Members []memberJSON
	}
	if err := json.Unmarshal(w.want(200, "GET", "/cluster/members", "").Body.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Epoch != 1 || len(doc.Members) != 3 {
		t.Fatalf("%+v", doc)
	}
	m := doc.Members[0]
	if m.ID != selfID.String() || m.Name != "n1" || m.Addresses != (addressJSON{"h1:8000", "h1:8100", "h1:8200"}) || m.Partitions != 16 || !m.Alive || m.State != "member" || m.Zone != "a" {
		t.Errorf("%+v", m)
	}
	w.want(400, "GET", "/cluster/members?x=1", "")
}

func TestRing(t *testing.T) {
	w := newWorld(t, Options{})
	var doc struct {
		Epoch, N, Partitions int
		Members              []struct{ ID, Name string }
		Owners               [][]int
	}
	if err := json.Unmarshal(w.want(200, "GET", "/cluster/ring", "").Body.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	if doc.N != 3 || doc.Partitions != 16 || len(doc.Owners) != 16 || len(doc.Members) != 3 {
		t.Fatalf("%+v", doc)
	}
	for p, owners := range doc.Owners {
		for i, id := range w.cluster.ring.Primaries(p) {
			if doc.Members[owners[i]].ID != id.String() {
				t.Errorf("partition %d: owners %v", p, owners)
			}
		}
	}
	var of struct {
		Bucket, Key  string
		Partition, N int
		Preference   []struct {
			Node, Role string
			Alive      bool
		}
		Writes []struct {
			Epoch     int
			Primaries []string
		}
	}
	if err := json.Unmarshal(w.want(200, "GET", "/cluster/ring/b/a%2Fb", "").Body.Bytes(), &of); err != nil {
		t.Fatal(err)
	}
	if len(of.Writes) != 1 || of.Writes[0].Epoch != 1 || len(of.Writes[0].Primaries) != 3 {
		t.Errorf("%+v", of.Writes)
	}
	if of.Key != "a/b" || of.Partition != w.cluster.ring.Partition("b", "a/b") || len(of.Preference) != 3 {
		t.Fatalf("%+v", of)
	}
	for _, p := range of.Preference {
		if p.Role != "primary" || p.Alive != (p.Node != "n3") {
			t.Errorf("%+v", p)
		}
	}
	w.want(400, "GET", "/cluster/ring/b/", "")
	w.want(400, "GET", "/cluster/ring/b/k?x=1", "")
}

func TestHealthAndMetrics(t *testing.T) {
	w := newWorld(t, Options{})
	if got := w.want(200, "GET", "/livez", "").Body.String(); got != "ok\n" {
		t.Errorf("livez %q", got)
	}
	if got := w.want(200, "GET", "/readyz", "").Body.String(); got != "ok\n" {
		t.Errorf("readyz %q", got)
	}
	w.cluster.degraded = []string{"disk full: so and so"}
	if got := w.want(200, "GET", "/readyz", "").Body.String(); got != "ok\ndegraded: disk full: so and so\n" {
		t.Errorf("readyz %q", got)
	}
	if got := w.want(200, "GET", "/version", ""); !strings.Contains(got.Body.String(), `"version":"1.2.3"`) || got.Header().Get("Server") != "dunlin/1.2.3" {
		t.Errorf("version %s", got.Body)
	}
	w.put("/kv/b/k", "v")
	w.want(404, "GET", "/kv/b/none", "")
	w.do("FROB", "/anything/at/all", "")
	text := w.want(200, "GET", "/metrics", "").Body.String()
	for _, want := range []string{
		`dunlin_http_requests_total{code="204",method="PUT",route="/kv/{bucket}/{key}"} 1`,
		`dunlin_http_requests_total{code="404",method="GET",route="/kv/{bucket}/{key}"} 1`,
		`dunlin_http_requests_total{code="404",method="other",route="none"} 1`,
		`dunlin_http_request_seconds_count{method="PUT",route="/kv/{bucket}/{key}"} 1`,
		`dunlin_http_in_flight 0`, `dunlin_http_siblings_count 2`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
}
