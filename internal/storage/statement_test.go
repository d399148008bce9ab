package storage

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/vclock"
)

func TestStatements(t *testing.T) {
	now := time.UnixMilli(1_800_000_000_000)
	var f faults
	s := openMemory(t, Options{Shards: 1, Now: func() time.Time { return now }, Commit: f.commit})
	key := func(name string) Key { return Key{1, "b", name} }
	mint := func(name string, w vclock.Write) Statement {
		_, ack, err := s.Mint(t.Context(), key(name), w, nil)
		if err != nil {
			t.Fatal(err)
		}
		return Statement{key(name), ack.Digest}
	}
	expiry := now.UnixMilli()
	ks := []Statement{
		tombstone(t, s, key("tombstone")),
		mint("expired", vclock.Write{Expiry: expiry}),
		mint("not yet", vclock.Write{Expiry: expiry + 1}),
		mint("live", vclock.Write{}),
		{key("absent"), vclock.Digest{}},
		tombstone(t, s, key("another digest")),
		tombstone(t, s, key("corrupt")),
		tombstone(t, s, key("incomplete")),
		tombstone(t, s, key("hinted")),
		tombstone(t, s, key("corruptly hinted")),
		tombstone(t, s, key("failed")),
		{key("failed and absent"), vclock.Digest{}},
		{key("hinted and absent"), vclock.Digest{}},
	}
	mint("another digest", vclock.Write{Deleted: true})
	o := get(t, s, key("incomplete")).Record.Object
	for _, name := range []string{"corrupt", "incomplete"} {
		edit(t, s, key(name).encode(), func(b []byte) []byte { b[recordSum] ^= 1; return b })
	}
	if _, err := s.Merge(t.Context(), key("incomplete"), o, MergeOptions{}); err != nil {
		t.Fatal(err)
	}
	putHint(t, s, nodeA, key("hinted"), peerObject(7, 1, "x"))
	putHint(t, s, nodeB, key("corruptly hinted"), peerObject(7, 1, "x"))
	putHint(t, s, nodeB, key("hinted and absent"), peerObject(7, 1, "x"))
	edit(t, s, hintKey(nodeB, key("corruptly hinted").encode()), func(b []byte) []byte { return b[:1] })
	check := func(what string, primary bool, want ...int) {
		t.Helper()
		got, err := s.Confirm(t.Context(), 1, primary, ks)
		if err != nil {
			t.Fatal(err)
		}
		expected := make([]bool, len(ks))
		for _, i := range want {
			expected[i] = true
		}
		for i := range got {
			if got[i] != expected[i] {
				t.Errorf("%s, primary %v, %q: %v", what, primary, ks[i].Key.Key, got[i])
			}
		}
	}
	check("quiet", true, 0, 1, 10)
	check("quiet", false, 4, 11)
	// What a failed commit concerned may or may not be on the disk: the hint's deletion shows, and may come back.
	hint := putHint(t, s, nodeA, key("failed"), peerObject(7, 1, "x"))
	f.set(func(commit func() error) error { return errors.Join(commit(), errDisk) })
	if _, err := s.DeleteHint(t.Context(), nodeA, key("failed"), hint.Digest); !errors.Is(err, ErrCommit) {
		t.Fatal(err)
	}
	f.set(func(func() error) error { return errDisk })
	if _, err := s.Merge(t.Context(), key("failed and absent"), peerObject(7, 1, "x"), MergeOptions{}); !errors.Is(err, ErrCommit) {
		t.Fatal(err)
	}
	f.set(nil)
	check("after failed commits", true, 0, 1)
	check("after failed commits", false, 4)
	if _, err := s.DeleteHint(t.Context(), nodeA, key("failed"), hint.Digest); err != nil {
		t.Fatal(err)
	}
	check("the deletion once more", true, 0, 1, 10)
	s.shards[0].allSuspects = true // nothing runs
	check("all suspect", true)
	check("all suspect", false)
	s.shards[0].allSuspects = false
	for _, m := range []Mark{MarkBehind, MarkDamaged} {
		if err := s.SetMark(t.Context(), []int{1}, m); err != nil {
			t.Fatal(err)
		}
		check("marked", true)
		check("marked", false, 4)
		_, since := s.Marks(1)
		if err := s.ClearMark(t.Context(), 1, m, since); err != nil {
			t.Fatal(err)
		}
	}
	check("cleared", true, 0, 1, 10)
	if confirmed := enter(t, s, 1, 1, true, ks...); !confirmed[0] || !confirmed[1] || confirmed[2] || confirmed[8] {
		t.Errorf("EnterRound: %v", confirmed)
	}
}

func TestStatementBounds(t *testing.T) {
	s := openMemory(t, Options{})
	many := make([]Statement, MaxStatements+1)
	for i := range many {
		many[i].Key = Key{1, "b", fmt.Sprint(i)}
	}
	large := make([]Statement, MaxStatementBytes/MaxKey+1)
	for i := range large {
		large[i].Key = Key{1, "b", fmt.Sprintf("%0*d", MaxKey, i)}
	}
	for name, c := range map[string]struct {
		ks   []Statement
		want error
	}{
		"too many":            {many, ErrTooLarge},
		"too large":           {large, ErrTooLarge},
		"another partition":   {[]Statement{{Key: Key{2, "b", "k"}}}, ErrKey},
		"no key":              {[]Statement{{Key: Key{1, "b", ""}}}, ErrKey},
		"as many as may be":   {many[1:], nil},
		"as large as may be":  {large[2:], nil},
		"as many, once more":  {many[1:], nil},
		"as large, once more": {large[2:], nil},
	} {
		round := s.Round(1) + 1
		_, confirm := s.Confirm(t.Context(), 1, false, c.ks)
		_, enter := s.EnterRound(t.Context(), 1, round, false, c.ks)
		_, remove := s.Remove(t.Context(), 1, 0, c.ks)
		for i, err := range []error{confirm, enter, remove, s.Unmark(t.Context(), 1, 0, c.ks)} {
			if !errors.Is(err, c.want) {
				t.Errorf("%s: call %d: %v, want %v", name, i, err, c.want)
			}
		}
	}
	if n := s.Round(1); n != 4 || len(s.Removing(1)) == 0 {
		t.Errorf("round %d with %d keys", n, len(s.Removing(1)))
	}
}

func TestCandidates(t *testing.T) {
	now := time.UnixMilli(1_800_000_000_000)
	limits := vclock.DefaultLimits(100)
	limits.Window = time.Hour
	s := openMemory(t, Options{Now: func() time.Time { return now }, Limits: limits})
	stamp := vclock.StampAt(now.UnixMilli())
	id := vclock.WriteID{Key: [16]byte{1}, Client: true}
	merge := func(name string, change func(*vclock.Object)) {
		o := peerObject(7, 1, "")
		o.Siblings[0].Stamp, o.Siblings[0].Deleted = stamp, true
		o.Context[0].Actor.Birth.Millis = uint64(now.UnixMilli())
		o.Siblings[0].Dot.Actor = o.Context[0].Actor
		if change != nil {
			change(&o)
		}
		if _, err := s.Merge(t.Context(), Key{1, "b", name}, o, MergeOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	merge("deleted", nil)
	merge("expires", func(o *vclock.Object) {
		o.Siblings[0].Deleted, o.Siblings[0].Expiry = false, now.Add(2*time.Minute).UnixMilli()
	})
	merge("live", func(o *vclock.Object) { o.Siblings[0].Deleted = false })
	merge("by a client", func(o *vclock.Object) { o.Siblings[0].ID = id })
	merge("retired", func(o *vclock.Object) { o.Retired = []vclock.Retired{{ID: id, At: now.UnixMilli()}} })
	merge("no sibling", func(o *vclock.Object) { o.Siblings = nil })
	merge("corrupt", nil)
	edit(t, s, Key{1, "b", "corrupt"}.encode(), func(b []byte) []byte { return b[:9] })
	merge("incomplete", nil)
	edit(t, s, Key{1, "b", "incomplete"}.encode(), func(b []byte) []byte { return b[:9] })
	merge("incomplete", nil)
	for after, want := range map[time.Duration]string{
		59 * time.Second: "[]",
		time.Minute:      "[deleted no sibling]",
		2 * time.Minute:  "[deleted expires no sibling]",
		time.Hour:        "[by a client deleted expires no sibling retired]",
	} {
		got, err := s.Candidates(t.Context(), 1, 0, now.Add(after), time.Minute)
		names := make([]string, len(got))
		for i, st := range got {
			names[i] = st.Key.Key
			if st.Key.Partition != 1 || st.Key.Bucket != "b" || st.Digest != get(t, s, st.Key).Digest {
				t.Errorf("%+v", st)
			}
		}
		if err != nil || fmt.Sprint(names) != want {
			t.Errorf("after %v: %v, %v, want %v", after, names, err, want)
		}
	}
	got, err := s.Candidates(t.Context(), 1, 2, now.Add(time.Hour), 0)
	if err != nil || len(got) != 2 {
		t.Errorf("limit 2: %v, %v", got, err)
	}
	if got, err := s.Candidates(t.Context(), 2, 2, now.Add(time.Hour), 0); err != nil || len(got) != 0 {
		t.Errorf("another partition: %v, %v", got, err)
	}
}
