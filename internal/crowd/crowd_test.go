package crowd

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/dunlindb/dunlin/internal/referee"
)

// A key that is worn out is left alone, and is still judged.
func TestKeysWearOut(t *testing.T) {
	c := &Crowd{opt: Options{Keys: 2, Bucket: "b", LWW: "l", Wear: 3}, slots: make([]slot, 2)}
	var names []string
	for range 7 {
		names = append(names, c.use(1))
	}
	if want := []string{"k001", "k001", "k001", "k001.1", "k001.1", "k001.1", "k001.2"}; !slices.Equal(names, want) {
		t.Errorf("%q, want %q", names, want)
	}
	if c.Key(0) != "k000" || c.Key(1) != "k001.2" {
		t.Errorf("now %s and %s", c.Key(0), c.Key(1))
	}
	if got := c.Places(); len(got) != 8 || !slices.Contains(got, [2]string{"b", "k001.1"}) || !slices.Contains(got, [2]string{"l", "k001.2"}) {
		t.Errorf("%v", got)
	}
	c = &Crowd{opt: Options{Keys: 1, Bucket: "b"}, slots: make([]slot, 1)}
	for range 1000 {
		c.use(0)
	}
	if len(c.Places()) != 1 {
		t.Errorf("%d keys, though they are to stay", len(c.Places()))
	}
}

// A listing of several pages is read to its end, and one key too many or too few is a breach.
func TestListingOfPages(t *testing.T) {
	var all []string
	live := map[string]bool{}
	for i := range 2500 {
		all = append(all, fmt.Sprintf("k%04d", i))
		live[all[i]] = true
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, _ := slices.BinarySearch(all, r.URL.Query().Get("after")+"\x00")
		keys, next := all[from:min(from+1000, len(all))], ""
		if from+1000 < len(all) {
			next = keys[len(keys)-1]
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": keys, "next": next})
	}))
	defer s.Close()
	c := &Crowd{opt: Options{Nodes: []Node{{Name: "n1", URL: func() string { return s.URL }}}}, history: &referee.History{}}
	if err := c.list(s.Client(), "b", live); err != nil {
		t.Errorf("%.200s", err)
	}
	delete(live, "k2400")
	if c.list(s.Client(), "b", live) == nil {
		t.Error("a deleted key was listed, and nobody noticed")
	}
	live["k2400"], live["k2500"] = true, true
	if c.list(s.Client(), "b", live) == nil {
		t.Error("a key is missing, and nobody noticed")
	}
}

// A key of which some hold a tombstone still is looked at again; one of which some hold a value is not.
func TestAKeyThatIsBeingReapedIsLookedAtAgain(t *testing.T) {
	for deleted, want := range map[bool]int{true: 2, false: 1} {
		asked := 0
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			type copied struct {
				Found, Deleted bool
				Digest         string
			}
			type replica struct {
				Role string
				Copy copied
			}
			rs := []replica{{"primary", copied{}}, {"primary", copied{}}}
			if asked++; asked == 1 {
				rs[1].Copy = copied{true, deleted, "d"}
			}
			_ = json.NewEncoder(w).Encode(map[string]any{"Agree": asked > 1, "Replicas": rs})
		}))
		c := &Crowd{}
		err := c.patiently(func() error {
			_, err := Inspect(s.Client(), s.URL, "b", "k")
			return err
		})
		if asked != want || (err == nil) != deleted {
			t.Errorf("deleted %v: asked %d times, %v", deleted, asked, err)
		}
		s.Close()
	}
}

// Where nobody knows what is left, nothing is said to be lost; what was seen to be broken is.
func TestAbandonedRunsAreJudgedByWhatWasSeen(t *testing.T) {
	h := &referee.History{Options: referee.Options{N: 3}}
	c := &Crowd{opt: Options{Keys: 2, Bucket: "b"}, slots: make([]slot, 2), history: h}
	h.Record(&referee.Operation{Kind: referee.Put, Bucket: "b", Key: "k000", Value: "v", Outcome: referee.Acked, Start: 1, End: 2})
	if got := h.Judge(); len(got) != 1 || got[0].Rule != referee.Lost {
		t.Errorf("before: %v", got)
	}
	c.Abandon()
	if got := h.Judge(); len(got) != 0 {
		t.Errorf("abandoned: %v", got)
	}
	h.Record(&referee.Operation{Kind: referee.Get, Bucket: "b", Key: "k001", Got: []string{"x"}, Outcome: referee.Acked, Start: 1, End: 2})
	if got := h.Judge(); len(got) != 1 || got[0].Rule != referee.Invented {
		t.Errorf("invented: %v", got)
	}
}
