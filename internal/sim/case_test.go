package sim

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/datadriven"
)

// Each file in testdata/cases tells one story of a cluster, with what must be seen at each step. It speaks of the nodes
// by their role for the key: p1, p2, p3 are its primaries, f1 and f2 the fallbacks. go test ./internal/sim -run
// TestCases -rewrite writes what is seen into the files.
func TestCases(t *testing.T) {
	datadriven.Walk(t, "testdata/cases", func(t *testing.T, path string) {
		synctest.Test(t, func(t *testing.T) {
			s := &story{tokens: map[string]string{}}
			defer func() {
				if s.w == nil {
					return
				}
				if err := s.w.close(); err != nil {
					t.Error(err)
				}
			}()
			datadriven.RunTest(t, path, s.run)
		})
	})
}

// story is a cluster that a script plays with.
type story struct {
	w      *world
	roles  map[string]*member
	tokens map[string]string // contexts by the names that the script gives them
	heal   func()
}

const storyPath = "/kv/b/k"

func (s *story) run(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	commands := map[string]func(*datadriven.TestData) (string, error){
		"cluster": s.cluster, "put": s.put, "get": s.get, "delete": s.remove, "dump": s.dump, "settle": s.settle,
		"cut": s.cut, "heal": s.healed, "crash": s.crash, "stop": s.stop, "start": s.start, "wait": s.wait, "clock": s.clock,
		"bucket": s.bucket, "hints": s.hints, "join": s.join, "wipe": s.wipe, "lose": s.lose, "change": s.change, "rivals": s.rivals,
		"through": s.through, "roles": s.readRoles, "left": s.left, "force": s.force,
	}
	f := commands[d.Cmd]
	if f == nil {
		t.Fatalf("%s: unknown command %s", d.Pos, d.Cmd)
	}
	out, err := f(d)
	if err != nil {
		out = "error: " + err.Error()
	}
	return strings.TrimSuffix(out, "\n") + "\n"
}

// arg is the value of an argument, or what is usual.
func arg(d *datadriven.TestData, name, usual string) string {
	for _, a := range d.CmdArgs {
		if a.Key == name && len(a.Vals) > 0 {
			return a.Vals[0]
		}
	}
	return usual
}

// members are the nodes that the arguments name; none: all.
func (s *story) members(d *datadriven.TestData) (out []*member) {
	for _, a := range d.CmdArgs {
		if m := s.roles[a.Key]; m != nil {
			out = append(out, m)
		}
	}
	if out == nil {
		return s.w.present()
	}
	return out
}

// cluster starts five nodes and waits until they serve.
func (s *story) cluster(d *datadriven.TestData) (string, error) {
	p := Plan{Seed: 1, Nodes: 5, Spares: 1, Zones: 1, Parts: 8, Clients: 1, Keys: 1, R: 2, W: 2, Weather: weather{least: time.Millisecond, most: 2 * time.Millisecond}}
	p.OS = arg(d, "durability", "fsync") == "os"
	p.Move = arg(d, "addresses", "stay") == "change"
	if after := arg(d, "reap", ""); after != "" {
		var err error
		if p.Reap, err = time.ParseDuration(after); err != nil {
			return "", err
		}
	}
	if _, err := fmt.Sscan(arg(d, "hintbytes", "0"), &p.HintBytes); err != nil {
		return "", err
	}
	s.w = newWorld(p, slog.New(slog.DiscardHandler))
	if err := s.w.startAll(); err != nil {
		return "", err
	}
	if err := s.w.ready(); err != nil {
		return "", err
	}
	return s.readRoles(d)
}

// readRoles finds out which node has which role for the key now.
func (s *story) readRoles(*datadriven.TestData) (string, error) {
	var doc struct {
		Preference []struct{ Node, Role string }
	}
	body, err := get(s.w.observer, s.w.present()[0].url()+"/cluster/ring/b/k")
	if err == nil {
		err = json.Unmarshal([]byte(body), &doc)
	}
	joined := s.roles["new"]
	s.roles = map[string]*member{"new": joined}
	n := map[string]int{}
	for _, p := range doc.Preference {
		n[p.Role]++
		for _, m := range s.w.present() {
			if m.name == p.Node {
				s.roles[fmt.Sprintf("%c%d", p.Role[0], n[p.Role])] = m
			}
		}
	}
	return fmt.Sprintf("%d primaries, %d fallbacks", n["primary"], n["fallback"]), err
}

// send makes a request to the node at=…, with the quorum and the context that the arguments give.
func (s *story) send(d *datadriven.TestData, method, letter, body string) (*http.Response, string, error) {
	query := "?" + letter + "=" + arg(d, letter, "2") + "&timeout=2s&sloppy=" + arg(d, "sloppy", "true")
	m := s.roles[arg(d, "at", "p1")]
	if m == nil {
		return nil, "", fmt.Errorf("no node %s", arg(d, "at", "p1"))
	}
	req, err := http.NewRequest(method, m.url()+storyPath+query, strings.NewReader(body))
	if err != nil {
		return nil, "", err
	}
	req.Header.Set("Accept", "application/json")
	if name := arg(d, "context", ""); name != "" {
		if s.tokens[name] == "" {
			return nil, "", fmt.Errorf("no context %s", name)
		}
		req.Header.Set("Dunlin-Context", s.tokens[name])
	}
	if key := arg(d, "idempotency", ""); key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	resp, err := s.w.observer.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if name := arg(d, "save", ""); name != "" {
		s.tokens[name] = resp.Header.Get("Dunlin-Context")
	}
	return resp, string(b), err
}

// put writes the first argument.
func (s *story) put(d *datadriven.TestData) (string, error) {
	resp, body, err := s.send(d, "PUT", "w", d.CmdArgs[0].Key)
	if err != nil {
		return "", err
	}
	return told(resp, body), nil
}

func (s *story) remove(d *datadriven.TestData) (string, error) {
	resp, body, err := s.send(d, "DELETE", "w", "")
	if err != nil {
		return "", err
	}
	return told(resp, body), nil
}

// told is what a client is told of a write.
func told(resp *http.Response, body string) string {
	if resp.StatusCode < 300 {
		return "ok"
	}
	var p struct {
		Outcome  string
		Acked    int
		Required int
	}
	_ = json.Unmarshal([]byte(body), &p) // what is no problem shows as zeroes
	return fmt.Sprintf("%d, outcome %s", resp.StatusCode, p.Outcome)
}

func (s *story) get(d *datadriven.TestData) (string, error) {
	resp, body, err := s.send(d, "GET", "r", "")
	if err != nil {
		return "", err
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return body, nil
	case http.StatusNotFound:
		return "absent", nil
	case http.StatusMultipleChoices:
		var doc struct {
			Siblings []struct {
				Value   string
				Deleted bool
			}
		}
		if err := json.Unmarshal([]byte(body), &doc); err != nil {
			return "", err
		}
		var values []string
		for _, x := range doc.Siblings {
			if x.Deleted {
				x.Value = "deleted"
			}
			values = append(values, x.Value)
		}
		slices.Sort(values)
		return "siblings: " + strings.Join(values, ", "), nil
	}
	return fmt.Sprint(resp.StatusCode), nil
}

// dump shows what each node holds of the key, by roles: how many siblings, and whether primaries agree.
func (s *story) dump(d *datadriven.TestData) (string, error) {
	var doc struct {
		Agree    bool
		Replicas []struct {
			Node, Error string
			Alive       bool
			Copy, Hint  *struct {
				Found, Deleted, Damaged, Behind bool
				Siblings                        []struct{ Deleted bool }
			}
		}
	}
	body, err := get(s.w.observer, s.roles[arg(d, "at", "p1")].url()+"/cluster/explain"+strings.TrimPrefix(storyPath, "/kv")+"?timeout=2s")
	if err == nil {
		err = json.Unmarshal([]byte(body), &doc)
	}
	if err != nil {
		return "", err
	}
	held := func(found, deleted bool, n int) string {
		switch {
		case !found:
			return "nothing"
		case deleted:
			return "a tombstone"
		}
		return fmt.Sprintf("%d live", n)
	}
	var out strings.Builder
	for _, role := range []string{"p1", "p2", "p3", "p4", "p5", "f1", "f2", "f3"} {
		for _, r := range doc.Replicas {
			if s.roles[role] == nil || s.roles[role].name != r.Node {
				continue
			}
			switch {
			case r.Error != "":
				fmt.Fprintf(&out, "%s: silent\n", role)
			case r.Hint != nil:
				fmt.Fprintf(&out, "%s: a hint with %s\n", role, held(r.Hint.Found, r.Hint.Deleted, len(r.Hint.Siblings)))
			case r.Copy != nil:
				text := held(r.Copy.Found, r.Copy.Deleted, len(r.Copy.Siblings))
				if r.Copy.Behind {
					text += ", behind"
				}
				if r.Copy.Damaged {
					text += ", damaged"
				}
				fmt.Fprintf(&out, "%s: %s\n", role, text)
			}
		}
	}
	fmt.Fprintf(&out, "agree: %v", doc.Agree)
	return out.String(), nil
}

// hints tells how many hints wait on the nodes named, together.
func (s *story) hints(d *datadriven.TestData) (string, error) {
	total := 0
	for _, m := range s.members(d) {
		var doc struct{ Hints int }
		body, err := get(s.w.observer, m.url()+"/cluster/handoff")
		if err == nil {
			err = json.Unmarshal([]byte(body), &doc)
		}
		if err != nil {
			return "", err
		}
		total += doc.Hints
	}
	return fmt.Sprintf("%d hints wait", total), nil
}

// cut separates the nodes named from the rest, for as long as nodes need to notice.
func (s *story) cut(d *datadriven.TestData) (string, error) {
	var ls []link
	named := s.members(d)
	for _, a := range named {
		for _, b := range s.w.present() {
			if !slices.Contains(named, b) {
				ls = append(ls, link{a.name, b.name}, link{b.name, a.name})
			}
		}
	}
	s.heal = s.w.cut(ls...)
	time.Sleep(30 * time.Second)
	return fmt.Sprintf("%d from %d", len(named), len(s.w.present())-len(named)), nil
}

func (s *story) healed(*datadriven.TestData) (string, error) {
	s.heal()
	return "healed", nil
}

// crash cuts the power of nodes, and waits until the others have noticed.
func (s *story) crash(d *datadriven.TestData) (string, error) {
	for _, m := range s.members(d) {
		if err := m.crash(true); err != nil {
			return "", err
		}
	}
	time.Sleep(30 * time.Second)
	return "down", nil
}

func (s *story) stop(d *datadriven.TestData) (string, error) {
	for _, m := range s.members(d) {
		if err := m.stop(); err != nil {
			return "", err
		}
	}
	time.Sleep(5 * time.Second)
	return "stopped", nil
}

func (s *story) start(d *datadriven.TestData) (string, error) {
	for _, m := range s.members(d) {
		if err := m.start(s.w.plan.Move); err != nil {
			return "", err
		}
	}
	time.Sleep(10 * time.Second)
	return "up", nil
}

func (s *story) wait(d *datadriven.TestData) (string, error) {
	length, err := time.ParseDuration(d.CmdArgs[0].Key)
	time.Sleep(length)
	return "waited", err
}

// clock puts a node's clock forward or back.
func (s *story) clock(d *datadriven.TestData) (string, error) {
	by, err := time.ParseDuration(arg(d, "by", ""))
	for _, m := range s.members(d) {
		m.set(func() { m.offset += by })
	}
	return "set", err
}

// bucket sets the bucket's properties.
func (s *story) bucket(d *datadriven.TestData) (string, error) {
	body := fmt.Sprintf(`{"conflict":%q}`, arg(d, "conflict", ""))
	if n := arg(d, "n", ""); n != "" {
		body = `{"n":` + n + `}`
	}
	_, err := call(s.w.observer, "PUT", s.roles[arg(d, "at", "p1")].url()+"/buckets/b?timeout=20s", body)
	time.Sleep(5 * time.Second)
	return "ok", err
}

// settle waits until all replicas are equal and no hint waits.
func (s *story) settle(*datadriven.TestData) (string, error) {
	s.w.history.Options.N = min(3, len(s.w.present()))
	if err := s.w.settle(s.w.crowdOptions()); err != nil {
		return "", err
	}
	return "settled", nil
}
