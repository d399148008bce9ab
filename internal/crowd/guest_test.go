package crowd

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dunlindb/dunlin/internal/referee"
)

// answerer answers every request at once.
type answerer func(*http.Request) int

func (f answerer) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: f(r), Header: http.Header{}, Body: io.NopCloser(strings.NewReader("")), Request: r}, nil
}

func crowdAt(clients int, f answerer) *Crowd {
	return Start(Options{
		Nodes:  []Node{{Name: "other", URL: func() string { return "http://other" }}},
		Client: func(int) *http.Client { return &http.Client{Transport: f} }, Clients: clients,
		Keys: 1, Bucket: "b", Pause: time.Second, N: 3, StrictR: 2, StrictW: 2, Timeout: time.Second,
	}, &referee.History{})
}

// What a guest writes is asked of the node that it was told, and judged.
func TestGuestsAreJudged(t *testing.T) {
	var asked []string
	c := crowdAt(0, func(r *http.Request) int {
		asked = append(asked, r.URL.String())
		return map[bool]int{true: 204, false: 503}[len(asked) == 1]
	})
	g := c.Guest()
	key := g.Key("b", func(key string) bool { return strings.HasSuffix(key, "7") })
	if next := g.Key("b", func(string) bool { return true }); next == key || !strings.HasSuffix(key, "7") {
		t.Errorf("keys %s and %s", key, next)
	}
	x := Wish{At: Node{Name: "n", URL: func() string { return "http://n" }}, Bucket: "b", Key: key, W: 1, Strict: true, Timeout: 3 * time.Second}
	if !g.Put(x) || g.Put(x) {
		t.Error("the first write was not acknowledged, or the second one was")
	}
	c.Finish()
	if want := "http://n/kv/b/" + key + "?w=1&timeout=3s&sloppy=false"; asked[0] != want {
		t.Errorf("asked for %s, want %s", asked[0], want)
	}
	if !slices.Contains(c.Places(), [2]string{"b", key}) {
		t.Errorf("%s is not looked at in the end", key)
	}
	c.history.Final.Keys = map[string]referee.FinalKey{referee.KeyName("b", key): {}}
	if got := c.history.Judge(); len(got) != 1 || got[0].Rule != referee.Lost {
		t.Errorf("what was acknowledged is gone, and the referee says %v", got)
	}
}

// Clients that are to rest begin nothing until all who wanted it have them resume.
func TestClientsRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int32
		c := crowdAt(2, func(*http.Request) int { n.Add(1); return 404 })
		defer c.Finish()
		moves := func() bool {
			before := n.Load()
			time.Sleep(time.Minute)
			return n.Load() > before
		}
		if !moves() {
			t.Fatal("nobody does anything")
		}
		first, second := c.Rest(), c.Rest()
		time.Sleep(time.Minute)
		if moves() {
			t.Error("clients that rest do something")
		}
		if first(); moves() {
			t.Error("one still wants them to rest")
		}
		if second(); !moves() {
			t.Error("they rest for ever")
		}
		stuck := c.Rest()
		defer stuck()
	})
}
