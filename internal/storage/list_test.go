package storage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/dunlindb/dunlin/vclock"
)

// modelList says what a listing must give, from the entries that are stored.
func modelList(all map[Key]ListEntry, r ListRequest) []ListEntry {
	var out []ListEntry
	for k, e := range all {
		if k.Bucket == r.Bucket && slices.Contains(r.Partitions, k.Partition) &&
			strings.HasPrefix(k.Key, r.Prefix) && (r.After == "" || k.Key > r.After) {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b ListEntry) int { return cmp.Compare(a.Key, b.Key) })
	return out
}

func TestListAgainstAModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s, err := Open(nil, Options{InMemory: true})
		if err != nil {
			rt.Fatal(err)
		}
		defer s.Close()
		buckets := rapid.SampledFrom([]string{"b", "ba", "c"})
		// Few letters, so that keys are prefixes of each other, and the lowest and highest bytes.
		keys := rapid.StringOfN(rapid.SampledFrom([]rune{0, 'a', 'b', 'ÿ'}), 1, 4, -1)
		raw := rapid.Map(keys, func(k string) string { return strings.ReplaceAll(k, "ÿ", "\xff") })
		prefix := rapid.OneOf(rapid.Just(""), raw)

		all := make(map[Key]ListEntry)
		names := make(map[[2]string]int) // a key has one partition
		for range rapid.IntRange(0, 40).Draw(rt, "writes") {
			k := Key{rapid.IntRange(0, 6).Draw(rt, "partition"), buckets.Draw(rt, "bucket"), raw.Draw(rt, "key")}
			if p, ok := names[[2]string{k.Bucket, k.Key}]; ok {
				k.Partition = p
			}
			names[[2]string{k.Bucket, k.Key}] = k.Partition
			w := vclock.Write{
				Value: []byte("v"), Deleted: rapid.Bool().Draw(rt, "deleted"),
				Expiry: rapid.Int64Range(0, 2).Draw(rt, "expiry"), LastWriteWins: rapid.Bool().Draw(rt, "lww"),
			}
			_, ack, err := s.Mint(context.Background(), k, w, nil)
			if err != nil {
				rt.Fatal(err)
			}
			all[k] = ListEntry{
				Key: k.Key, Digest: ack.Digest, Life: lifeOf(ack.Object.Siblings), Winner: winnerOf(ack.Object),
				Size: len(encodeObject(ack.Object)),
			}
		}
		partitions := rapid.SliceOfDistinct(rapid.IntRange(0, 7), rapid.ID[int]).Draw(rt, "partitions")
		slices.Sort(partitions)
		r := ListRequest{
			Partitions: partitions, Bucket: buckets.Draw(rt, "list bucket"), Prefix: prefix.Draw(rt, "prefix"),
			After: prefix.Draw(rt, "after"), Limit: rapid.IntRange(1, 20).Draw(rt, "limit"),
		}
		if rapid.Bool().Draw(rt, "few bytes") {
			r.MaxBytes = rapid.IntRange(1, 200).Draw(rt, "max bytes")
		}
		// Page by page to the end.
		want := modelList(all, r)
		for {
			page, err := s.List(context.Background(), r)
			if err != nil {
				rt.Fatal(err)
			}
			n := len(page.Entries)
			if n > r.Limit || n == 0 && len(want) > 0 || n > len(want) || r.MaxBytes == 0 && n < min(r.Limit, len(want)) {
				rt.Fatalf("%+v: a page of %d entries, %d are left", r, n, len(want))
			}
			if !slices.Equal(page.Entries, want[:n]) {
				rt.Fatalf("%+v:\n%+v\nwant\n%+v", r, page.Entries, want[:n])
			}
			want = want[n:]
			if page.More != (len(want) > 0) {
				rt.Fatalf("%+v: More = %v with %d left", r, page.More, len(want))
			}
			if !page.More {
				return
			}
			r.After = page.Entries[n-1].Key
		}
	})
}

// Runs that are much shorter than a partition's share of the page are refilled in place.
func TestListRefillsRuns(t *testing.T) {
	s := openMemory(t, Options{})
	want := make([]string, 0, 500)
	for i := range 500 {
		k := Key{i * i % 3 * 100, "b", fmt.Sprintf("%06d", i*7919%500)}
		put(t, s, k, "")
		want = append(want, k.Key)
	}
	slices.Sort(want)
	partitions := make([]int, 1024)
	for i := range partitions {
		partitions[i] = i
	}
	page, err := s.List(t.Context(), ListRequest{Partitions: partitions, Bucket: "b", Limit: 450})
	if err != nil || len(page.Entries) != 450 || !page.More {
		t.Fatal(len(page.Entries), page.More, err)
	}
	for i, e := range page.Entries {
		if e.Key != want[i] {
			t.Fatalf("entry %d is %q, want %q", i, e.Key, want[i])
		}
	}
}

func TestListErrors(t *testing.T) {
	s := openMemory(t, Options{})
	put(t, s, Key{1, "b", "k"}, "")
	for name, r := range map[string]ListRequest{
		"descending":    {Bucket: "b", Partitions: []int{2, 1}},
		"twice":         {Bucket: "b", Partitions: []int{1, 1}},
		"out of bounds": {Bucket: "b", Partitions: []int{1 << 16}},
		"no bucket":     {Partitions: []int{1}},
	} {
		if _, err := s.List(t.Context(), r); !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v, want ErrKey", name, err)
		}
	}
	if page, err := s.List(t.Context(), ListRequest{Bucket: "b"}); err != nil || page.More || page.Entries != nil {
		t.Errorf("no partition: %+v, %v", page, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.List(ctx, ListRequest{Bucket: "b", Partitions: []int{1}}); !errors.Is(err, context.Canceled) {
		t.Errorf("ended context: %v", err)
	}
}

func TestListShowsIncomplete(t *testing.T) {
	s := openMemory(t, Options{})
	k := Key{1, "b", "k"}
	put(t, s, k, "x")
	edit(t, s, k.encode(), func(b []byte) []byte { return b[:9] })
	if _, err := s.Merge(t.Context(), k, peerObject(7, 1, "y"), MergeOptions{}); err != nil {
		t.Fatal(err)
	}
	page, err := s.List(t.Context(), ListRequest{Bucket: "b", Partitions: []int{1}})
	if err != nil || len(page.Entries) != 1 || !page.Entries[0].Incomplete || page.Entries[0].Corrupt {
		t.Errorf("%+v, %v", page, err)
	}
}

func TestBucketsAndMetaSurviveARestart(t *testing.T) {
	path := t.TempDir()
	s, d := openTest(t, path, Options{})
	for i, bucket := range []string{"z", "a", "a", "\xff"} {
		put(t, s, Key{i, bucket, fmt.Sprint(i)}, "")
	}
	metas := map[string]string{"bucket/a": "1", "bucket/b": "", "bucket/\xff": "3", "other": "4"}
	for _, name := range slices.Sorted(maps.Keys(metas)) {
		if err := s.PutMeta(name, []byte(metas[name]+"old")); err != nil {
			t.Fatal(err)
		}
		if err := s.PutMeta(name, []byte(metas[name])); err != nil {
			t.Fatal(err)
		}
	}
	closeTest(t, s, d)
	s, _ = openTest(t, path, Options{})
	if got := s.Buckets(); !slices.Equal(got, []string{"a", "z", "\xff"}) {
		t.Errorf("buckets %q", got)
	}
	for name, want := range metas {
		if v, found, err := s.GetMeta(name); err != nil || !found || string(v) != want {
			t.Errorf("meta %q = %q, %v, %v", name, v, found, err)
		}
	}
	if _, found, err := s.GetMeta("bucket/"); found || err != nil {
		t.Errorf("absent meta: %v, %v", found, err)
	}
	list, err := s.ListMeta("bucket/")
	var names []string
	for _, m := range list {
		names = append(names, m.Name)
		if string(m.Value) != metas[m.Name] {
			t.Errorf("listed %q = %q", m.Name, m.Value)
		}
	}
	if err != nil || !slices.Equal(names, []string{"bucket/a", "bucket/b", "bucket/\xff"}) {
		t.Errorf("names %q, %v", names, err)
	}
	if err := s.PutMeta("", nil); !errors.Is(err, ErrKey) {
		t.Error(err)
	}
	if err := s.PutMeta("large", make([]byte, MaxMetaValue+1)); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	if err := s.PutMeta("large", make([]byte, MaxMetaValue)); err != nil {
		t.Error(err)
	}
	edit(t, s, metaKey("other"), func(b []byte) []byte { b[len(b)-1] ^= 1; return b })
	if _, found, err := s.GetMeta("other"); found || !errors.Is(err, ErrCorrupt) {
		t.Errorf("damaged meta: %v, %v", found, err)
	}
	if _, err := s.ListMeta(""); !errors.Is(err, ErrCorrupt) {
		t.Errorf("listing a damaged meta: %v", err)
	}
}

// A bucket whose first record could not be committed is not there.
func TestBucketOfAFailedCommit(t *testing.T) {
	var f faults
	s := openMemory(t, Options{Commit: f.commit})
	f.set(func(func() error) error { return errDisk })
	if _, err := s.Merge(t.Context(), Key{1, "b", "k"}, peerObject(7, 1, ""), MergeOptions{}); !errors.Is(err, ErrCommit) {
		t.Fatal(err)
	}
	if got := s.Buckets(); len(got) != 0 {
		t.Errorf("buckets %q after a failed commit", got)
	}
	f.set(nil)
	put(t, s, Key{1, "b", "k"}, "")
	if got := rawKeys(t, s, spaceBucket); len(got) != 1 {
		t.Errorf("bucket markers %q", got)
	}
}
