package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// values reads all live values of a key from all its replicas.
func values(t *testing.T, p *process, path string) (out []string, context string) {
	t.Helper()
	got := send(t, "GET", p.url(path+"?r=3"), "", "Accept", "application/json")
	switch got.status {
	case 200:
		return []string{got.body}, got.context()
	case 404:
		return nil, got.context()
	case 300:
	default:
		t.Errorf("GET %s: %d %s", path, got.status, got.body)
		return nil, ""
	}
	var doc struct {
		Siblings []struct {
			Value   string
			Deleted bool
		}
	}
	decode(t, got.body, &doc)
	for _, s := range doc.Siblings {
		if !s.Deleted {
			out = append(out, s.Value)
		}
	}
	return out, got.context()
}

// union reads the JSON lists that a key's siblings are.
func union(t *testing.T, siblings []string) map[string]bool {
	all := map[string]bool{}
	for _, s := range siblings {
		var list []string
		if err := json.Unmarshal([]byte(s), &list); err != nil {
			t.Errorf("%v: %q", err, s)
		}
		for _, e := range list {
			all[e] = true
		}
	}
	return all
}

func races(t *testing.T, f *flock) {
	t.Run("read and write", func(t *testing.T) { readAndWrite(t, f) })
	t.Run("blind writes", func(t *testing.T) { blindWrites(t, f) })
	t.Run("one request at every node", func(t *testing.T) { oneRequestEverywhere(t, f) })
}

// Clients add to a list with read, context, write. Whatever was acknowledged is in the end in one sibling or another.
func readAndWrite(t *testing.T, f *flock) {
	const path = "/kv/races/list"
	var mu sync.Mutex
	var acked []string
	var wg sync.WaitGroup
	for c := range 64 {
		wg.Go(func() {
			for round := range 3 {
				siblings, context := values(t, f.nodes[(c+round)%len(f.nodes)], path)
				mine := fmt.Sprintf("%d.%d", c, round)
				list := []string{mine}
				for e := range union(t, siblings) {
					list = append(list, e)
				}
				slices.Sort(list)
				body, err := json.Marshal(list)
				if err != nil {
					t.Error(err)
				}
				var headers []string
				if context != "" {
					headers = []string{"Dunlin-Context", context}
				}
				switch put := send(t, "PUT", f.nodes[(7*c+round)%len(f.nodes)].url(path), string(body), headers...); put.status {
				case 204:
					mu.Lock()
					acked = append(acked, mine)
					mu.Unlock()
				case 409: // the cap on siblings, with nothing stored
				default:
					t.Errorf("PUT: %d %s", put.status, put.body)
				}
			}
		})
	}
	wg.Wait()
	siblings, _ := values(t, f.nodes[0], path)
	kept := union(t, siblings)
	for _, e := range acked {
		if !kept[e] {
			t.Errorf("the acknowledged write %s is lost", e)
		}
	}
	if len(acked) < 64 {
		t.Errorf("only %d writes were acknowledged", len(acked))
	}
}

// Writes without a context all survive, up to the cap, from which a client comes back with what it read.
func blindWrites(t *testing.T, f *flock) {
	const path = "/kv/races/blind"
	acked := map[string]bool{}
	refused := 0
	for i := 0; refused < len(f.nodes) && i < 500; i++ {
		value := fmt.Sprint(i)
		put := send(t, "PUT", f.nodes[i%len(f.nodes)].url(path), value)
		if put.status == 204 {
			acked[value] = true
			continue
		}
		refused++
		p := put.problem(t)
		if put.status != 409 || p.Outcome != "none" || !strings.Contains(p.Detail, "Dunlin-Context") || put.header.Get("Dunlin-Siblings") == "" {
			t.Errorf("at the cap: %d %v %s", put.status, put.header, put.body)
		}
	}
	if refused == 0 {
		t.Error("siblings without end")
	}
	kept, context := values(t, f.nodes[1], path)
	for _, v := range kept {
		delete(acked, v)
	}
	if len(acked) > 0 {
		t.Errorf("acknowledged and lost: %v", acked)
	}
	want(t, 204, "PUT", f.nodes[2].url(path), "one", "Dunlin-Context", context)
	if got := want(t, 200, "GET", f.nodes[3].url(path), ""); got.body != "one" {
		t.Errorf("reconciled to %q", got.body)
	}
}

// One request sent through all nodes at once is one write, which one delete ends for good.
func oneRequestEverywhere(t *testing.T, f *flock) {
	const path = "/kv/races/once"
	var wg sync.WaitGroup
	for range 3 {
		for _, p := range f.nodes {
			wg.Go(func() {
				if put := send(t, "PUT", p.url(path), "v", "Idempotency-Key", "once"); put.status != 204 {
					t.Errorf("PUT: %d %s", put.status, put.body)
				}
			})
		}
	}
	wg.Wait()
	seen := ""
	for _, p := range f.nodes {
		got := want(t, 200, "GET", p.url(path+"?r=3"), "")
		if got.body != "v" || got.header.Get("Dunlin-Siblings") != "" {
			t.Errorf("%s shows %v %q", p.name, got.header, got.body)
		}
		seen = got.context()
	}
	want(t, 204, "DELETE", f.nodes[1].url(path), "", "Dunlin-Context", seen)
	for _, p := range f.nodes {
		want(t, 204, "PUT", p.url(path), "v", "Idempotency-Key", "once")
		want(t, 404, "GET", p.url(path+"?r=3"), "")
	}
}

// talk sends bytes on a connection of its own and returns all that comes back until the node closes it.
func talk(t *testing.T, p *process, text string) string {
	t.Helper()
	c, err := net.DialTimeout("tcp", p.http, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	_ = c.(*net.TCPConn).CloseWrite()
	b, err := io.ReadAll(c)
	if err != nil {
		t.Errorf("after %.60q: %v", text, err)
	}
	return string(b)
}

func connections(t *testing.T, f *flock) {
	for _, p := range f.nodes {
		path := "/kv/raw/" + p.name
		for name, c := range map[string]struct{ send, begins, ends string }{
			"chunked": {
				"PUT " + path + " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n" +
					"GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 204 ", "\r\n\r\nabcde",
			},
			"cut chunk":  {"PUT " + path + "cut HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc", "HTTP/1.1 400 ", `"outcome":"none"}` + "\n"},
			"cut body":   {"PUT " + path + "cut HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc", "HTTP/1.1 400 ", `"outcome":"none"}` + "\n"},
			"too large":  {"PUT " + path + "cut HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\nExpect: 100-continue\r\n\r\n", "HTTP/1.1 413 ", ""},
			"no sending": {"PUT " + path + "cut?w=9 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n", "HTTP/1.1 400 ", ""},
			"continue":   {"PUT " + path + "go HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc", "HTTP/1.1 100 ", ""},
			"HTTP/1.0":   {"PUT " + path + "old HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc", "HTTP/1.0 204 ", ""},
			"garbage":    {"\x16\x03\x01\x02\r\n\r\n", "HTTP/1.1 400 ", ""},
		} {
			if got := talk(t, p, c.send); !strings.HasPrefix(got, c.begins) || !strings.HasSuffix(got, c.ends) {
				t.Errorf("%s: %q", name, got)
			}
		}
		want(t, 404, "GET", p.url(path+"cut"), "")
		if head := talk(t, p, "HEAD "+path+" HTTP/1.1\r\nHost: x\r\n\r\n"); !strings.Contains(head, "Content-Length: 5\r\n") || !strings.HasSuffix(head, "\r\n\r\n") {
			t.Errorf("HEAD: %q", head)
		}
	}
}

func methods(t *testing.T, f *flock) {
	p := f.nodes[0]
	for path, allow := range map[string]string{
		"/kv/m/k": "DELETE, GET, HEAD, PUT", "/kv/m": "GET, HEAD, POST", "/batch": "POST", "/buckets": "GET, HEAD",
		"/buckets/m": "GET, HEAD, PUT", "/cluster/members": "GET, HEAD", "/metrics": "GET, HEAD", "/readyz": "GET, HEAD",
	} {
		for _, method := range []string{"PATCH", "OPTIONS"} {
			if no := send(t, method, p.url(path), ""); no.status != 405 || no.header.Get("Allow") != allow {
				t.Errorf("%s %s: %d, Allow %q", method, path, no.status, no.header.Get("Allow"))
			}
		}
	}
	for _, path := range []string{"/livez", "/readyz", "/version", "/metrics", "/cluster/members", "/cluster/ring", "/cluster/ring/m/k", "/buckets", "/kv/m"} {
		for _, p := range f.nodes {
			got, head := want(t, 200, "GET", p.url(path), ""), want(t, 200, "HEAD", p.url(path), "")
			if head.header.Get("Content-Type") != got.header.Get("Content-Type") {
				t.Errorf("%s: HEAD %v, GET %v", path, head.header, got.header)
			}
		}
	}
	want(t, 404, http.MethodGet, p.url("/nothing/here"), "")
}
