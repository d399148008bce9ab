package antientropy

import (
	"context"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/dunlindb/dunlin/vclock"
)

// pages is a Replica that lists fixed keys in pages of any size.
type pages struct {
	Replica
	all  []KeyEntry
	size int
}

func (p *pages) Keys(_ context.Context, q KeyQuery) ([]KeyEntry, bool, error) {
	var out []KeyEntry
	for _, k := range p.all {
		if (Cursor{k.Bucket, k.Key}).compare(q.After) > 0 {
			out = append(out, k)
		}
	}
	n := min(p.size, q.Limit, len(out))
	return out[:n], n < len(out), nil
}

func drawSet(t *rapid.T, name string) (map[Cursor]byte, []KeyEntry) {
	set := rapid.MapOf(rapid.Custom(func(t *rapid.T) Cursor {
		return Cursor{rapid.SampledFrom([]string{"a", "ab", "b"}).Draw(t, "bucket"), rapid.StringMatching(`[a-c]{1,3}`).Draw(t, "key")}
	}), rapid.ByteRange(1, 3)).Draw(t, name)
	var list []KeyEntry
	for c, v := range set {
		list = append(list, KeyEntry{Bucket: c.Bucket, Key: c.Key, Digest: vclock.Digest{v}})
	}
	slices.SortFunc(list, func(a, b KeyEntry) int { return Cursor{a.Bucket, a.Key}.compare(Cursor{b.Bucket, b.Key}) })
	return set, list
}

// Walking two paged lists together finds exactly the difference of the two sets, whatever the pages.
func TestJoinIsTheDifferenceOfSets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mine, mineList := drawSet(t, "mine")
		theirs, theirList := drawSet(t, "theirs")
		own := newLocalList(&pages{all: mineList, size: rapid.IntRange(1, 5).Draw(t, "own page")}, span{}, func(*KeyEntry) {})
		remote := &pages{all: theirList, size: rapid.IntRange(1, 5).Draw(t, "their page")}

		type pair struct{ mine, theirs byte }
		got := make(map[Cursor]pair)
		for after, more := (Cursor{}), true; more; {
			var l list
			l.entries, l.more, _ = remote.Keys(context.Background(), KeyQuery{After: after, Limit: 100})
			err := join(context.Background(), own, l, func(m, o *KeyEntry) {
				var c Cursor
				var p pair
				if m != nil {
					c, p.mine = Cursor{m.Bucket, m.Key}, m.Digest[0]
				}
				if o != nil {
					c, p.theirs = Cursor{o.Bucket, o.Key}, o.Digest[0]
				}
				if _, twice := got[c]; twice {
					t.Fatalf("%v came twice", c)
				}
				got[c] = p
			})
			if err != nil {
				t.Fatal(err)
			}
			if more = l.more; more {
				last := l.entries[len(l.entries)-1]
				after = Cursor{last.Bucket, last.Key}
			}
		}
		all := make(map[Cursor]pair)
		for c, v := range mine {
			all[c] = pair{mine: v, theirs: theirs[c]}
		}
		for c, v := range theirs {
			all[c] = pair{mine: mine[c], theirs: v}
		}
		if len(all) != len(got) {
			t.Fatalf("%d keys, want %d", len(got), len(all))
		}
		for c, p := range all {
			if got[c] != p {
				t.Fatalf("%v: %v, want %v", c, got[c], p)
			}
		}
	})
}
