package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vbauerster/cupwriter"

	"github.com/dunlindb/dunlin/client"
)

// moving is a node that answers what a member does while members come and go.
type moving struct {
	mu        sync.Mutex
	members   string
	transfers string
	failing   bool
}

func (m *moving) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.failing:
		problem(w, 503, "out of order")
	case r.URL.Path == "/cluster/members":
		fmt.Fprint(w, m.members)
	case r.URL.Path == "/cluster/transfers":
		fmt.Fprint(w, m.transfers)
	}
}

func (m *moving) set(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}

// text collects what a command prints while it runs.
type text struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *text) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *text) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// await waits until everything was printed.
func (o *text) await(t *testing.T, wants ...string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		missing := ""
		for _, want := range wants {
			if !strings.Contains(o.String(), want) {
				missing = want
			}
		}
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%q is not in\n%s", missing, o)
		}
		<-time.After(10 * time.Millisecond)
	}
}

const (
	idle    = `{"epoch":1,"live_epochs":[1],"changing":false,"waiting_for":[]}`
	filling = `{"epoch":2,"live_epochs":[1,2],"changing":true,"waiting_for":["to hold everything that is theirs: n2"],"partitions_to_fill":40,
		"partitions_filled":10,"objects":7,"bytes":3145728,"bytes_per_second":1048576,"remaining_seconds":9,"from":["n1"],"not_answering":["n3"]}`
)

func TestStatusWatch(t *testing.T) {
	node := &moving{transfers: idle}
	server := httptest.NewServer(node)
	defer server.Close()
	node.members = fmt.Sprintf(`{"members":[{"name":"n2","addresses":{"http":%q},"state":"member","alive":true,"partitions":40},
		{"name":"n3","state":"member","alive":false,"partitions":2}]}`, strings.TrimPrefix(server.URL, "http://"))
	cmd := &statusCmd{nodes: nodes{URL: []string{server.URL}}, Output: "table", Timeout: time.Minute, Watch: true, Interval: leastInterval}
	out := &text{}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Run(ctx, &streams{out: out, err: out}) }()

	out.await(t, "1 of 2 alive: n2 (member, 40 partitions), n3 (member, NOT ALIVE, 2 partitions)")
	node.set(func() { node.transfers = filling })
	out.await(t, "epoch 2 is under way, waiting for those to hold everything that is theirs: n2",
		"n2: [#####---------------] 10 of 40 partitions filled, 3.0 MiB, 1.0 MiB/s, about 9s left, from n1, no answer from n3")
	node.set(func() { node.transfers = idle })
	out.await(t, "epoch 2: through", "n2: done")
	node.set(func() { node.failing = true })
	out.await(t, "no answer from "+server.URL+": out of order")
	node.set(func() { node.failing = false })
	out.await(t, "answers again")
	stop()
	if err := <-ended; err != nil {
		t.Errorf("Ctrl-C is no failure: %v", err)
	}
	if n := strings.Count(out.String(), "1 of 2 alive"); n != 1 {
		t.Errorf("what has not changed was printed %d times:\n%s", n, out)
	}

	server.Close()
	if err := cmd.Run(t.Context(), &streams{out: out, err: out}); err == nil || !strings.Contains(err.Error(), "is the node running?") {
		t.Errorf("without a node: %v", err)
	}
	cmd.Interval = time.Millisecond
	if err := cmd.Run(t.Context(), &streams{out: out, err: out}); err == nil || !strings.Contains(err.Error(), "--interval: 1ms is too short") {
		t.Errorf("%v", err)
	}
}

func TestStatusWatchJSON(t *testing.T) {
	node := &moving{transfers: filling}
	server := httptest.NewServer(node)
	defer server.Close()
	node.members = fmt.Sprintf(`{"members":[{"name":"n2","addresses":{"http":%q},"alive":true}]}`, strings.TrimPrefix(server.URL, "http://"))
	cmd := &statusCmd{nodes: nodes{URL: []string{server.URL}}, Output: "json", Timeout: time.Minute, Watch: true, Interval: leastInterval}
	out := &text{}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Run(ctx, &streams{out: out, err: out}) }()
	out.await(t, "}\n{")
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(out.String(), "\n")
	var st clusterStatus
	if err := json.Unmarshal([]byte(first), &st); err != nil {
		t.Fatalf("%v: %s", err, first)
	}
	if len(st.Transfers) != 1 || st.Transfers[0].Node != "n2" || st.Transfers[0].PartitionsToFill != 40 || !st.Change.Changing || st.Time.IsZero() {
		t.Errorf("%s", first)
	}
}

// What is drawn later stands in the place of what was drawn before, and never makes the terminal scroll or wrap.
func TestStatusIsDrawnInPlace(t *testing.T) {
	var out bytes.Buffer
	w := &watcher{screen: cupwriter.New(&out, true)}
	st := clusterStatus{URL: "http://n1", Ready: true, Change: &client.Transfers{Epoch: 7, Changing: true}}
	for i := range 30 {
		st.Members = append(st.Members, client.Member{Name: fmt.Sprintf("node-%02d", i), Alive: true, State: "member"})
	}
	for range 2 {
		if err := w.draw(st, 40, 10); err != nil {
			t.Fatal(err)
		}
	}
	before, after, moved := strings.Cut(out.String(), "\x1b[9A\x1b[J")
	if !moved || before != after {
		t.Fatalf("%q", out.String())
	}
	lines := strings.Split(strings.TrimSuffix(before, "\n"), "\n")
	if len(lines) != 9 || !strings.HasPrefix(lines[1], "node-00") || lines[7] != "… 26 lines more" || lines[8] != "epoch 7 is under way" {
		t.Errorf("%d lines: %q", len(lines), lines)
	}
	for _, line := range lines {
		if n := len([]rune(line)); n > 40 {
			t.Errorf("%d columns: %q", n, line)
		}
	}
}
