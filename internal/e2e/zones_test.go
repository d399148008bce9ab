package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// zoneNodes are the founders in docker-compose.zones.yml.
var zoneNodes = []string{"n1", "n2", "n3", "n4", "n5", "n6"}

// joinerStory runs docker-compose.zones.yml with a node that joins from the beginning: enough to see that another
// composer understands the file in the same way.
func joinerStory(t *testing.T, composer []string) {
	c := newCompose(t, composer, "docker-compose.zones.yml")
	c.do(15*time.Minute, "up", "-d", "--scale", "joiner-b=1")
	base := "http://127.0.0.1:8001"
	until(t, time.Minute, "ready", func() error {
		status, body, err := try(t.Context(), "GET", base+"/readyz", "")
		if err == nil && status != 200 {
			err = errors.New(body)
		}
		return err
	})
	joined(t, base)
	replicasInDistinctZones(t, base+"/cluster/ring", 7)
}

// zonesStory runs docker-compose.zones.yml, whose nodes n1 and n4 are zone a, n2 and n5 b, n3 and n6 c: replicas in
// distinct zones, a whole zone killed, members that come and go by --scale. It uses the file's ports, 8001 to 8006.
func zonesStory(t *testing.T, composer []string) {
	begin := time.Now()
	step := func(what string) { t.Logf("%s after %.1f s", what, time.Since(begin).Seconds()) }
	c := newCompose(t, composer, "docker-compose.zones.yml")
	c.do(15*time.Minute, "up", "-d")
	c.healthy(zoneNodes...)
	step("healthy")
	url := func(node int, path string) string { return fmt.Sprintf("http://127.0.0.1:%d%s", 8000+node, path) }
	replicasInDistinctZones(t, url(1, "/cluster/ring"), 6)

	acked := map[string]string{}
	write := func(key string, node int) {
		t.Helper()
		until(t, 30*time.Second, "written", func() error { // the first write that meets a dead node may be refused
			status, body, err := try(t.Context(), "PUT", url(node, "/kv/b/"+key+"?w=2"), "value of "+key)
			if err == nil && status != 204 {
				err = errors.New(body)
			}
			return err
		})
		acked[key] = "value of " + key
	}
	// A read may be refused while the coordinator finds out who is dead, but never show anything else.
	read := func(base string) {
		t.Helper()
		for key, value := range acked {
			until(t, 30*time.Second, "read", func() error {
				status, body, err := try(t.Context(), "GET", base+"/kv/b/"+key+"?r=2", "")
				switch {
				case err != nil:
					return err
				case status == 503 || status == 504:
					return errors.New(body)
				case status != 200 || body != value:
					t.Fatalf("%s at %s: %d %s", key, base, status, body)
				}
				return nil
			})
		}
	}
	for i := range 30 {
		write(fmt.Sprint("before", i), 1+i%6)
	}

	c.do(time.Minute, "kill", "-s", "SIGKILL", "n1", "n4") // zone a
	for _, node := range []int{2, 3, 5, 6} {
		read(url(node, ""))
		for i := range 10 {
			write(fmt.Sprintf("without-a-%d-%d", node, i), node)
		}
	}
	for _, node := range []int{2, 3, 5, 6} {
		read(url(node, ""))
	}

	step("a zone was killed, and everything is there")

	// up starts what was killed, and a node that joins.
	c.do(2*time.Minute, "up", "-d", "--scale", "joiner-b=1")
	name := joined(t, url(2, ""))
	replicasInDistinctZones(t, url(3, "/cluster/ring"), 7)
	read("http://" + strings.TrimSpace(c.do(time.Minute, "port", "joiner-b", "8000")))

	step("a node has joined")

	// Without it again: it leaves before it ends.
	c.do(3*time.Minute, "up", "-d", "--scale", "joiner-b=0")
	replicasInDistinctZones(t, url(1, "/cluster/ring"), 6)
	for _, m := range membersAt(t, url(1, "")) {
		if m.Name == name && m.State != "left" {
			t.Errorf("%s is %s", name, m.State)
		}
	}
	read(url(1, ""))
	step("it has left")
}

type zoneMember struct {
	Name, Zone, State string
	Partitions        int
}

func membersAt(t *testing.T, base string) []zoneMember {
	t.Helper()
	var doc struct{ Members []zoneMember }
	if err := fetch(t, base+"/cluster/members", &doc); err != nil {
		t.Fatal(err)
	}
	return doc.Members
}

// joined waits until a new member of zone b owns partitions and no change is under way, and returns its name.
func joined(t *testing.T, base string) (name string) {
	t.Helper()
	until(t, 2*time.Minute, "joined", func() error {
		for _, m := range membersAt(t, base) {
			if slices.Contains(zoneNodes, m.Name) {
				continue
			}
			if m.State != "member" || m.Partitions == 0 || m.Zone != "b" {
				return fmt.Errorf("%+v", m)
			}
			var tr transfers
			if err := fetch(t, base+"/cluster/transfers", &tr); err != nil || tr.Changing {
				return fmt.Errorf("%+v %w", tr, err)
			}
			name = m.Name
			return nil
		}
		return errors.New("nobody new")
	})
	return name
}

// replicasInDistinctZones checks who owns what.
func replicasInDistinctZones(t *testing.T, url string, members int) {
	t.Helper()
	var ring struct {
		N       int
		Members []zoneMember
		Owners  [][]int
	}
	if err := json.Unmarshal([]byte(expect(t, 200, "GET", url, "")), &ring); err != nil {
		t.Fatal(err)
	}
	if len(ring.Members) != members || ring.N != 3 || len(ring.Owners) == 0 {
		t.Fatalf("%d members, N=%d, %d partitions", len(ring.Members), ring.N, len(ring.Owners))
	}
	for p, owners := range ring.Owners {
		zones := map[string]bool{}
		for _, i := range owners {
			zones[ring.Members[i].Zone] = true
		}
		if len(owners) != 3 || len(zones) != 3 {
			t.Fatalf("partition %d: %d replicas in zones %v", p, len(owners), zones)
		}
	}
}
