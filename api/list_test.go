package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/dunlindb/dunlin/coordinator"
)

type pageDoc struct {
	Keys         []json.RawMessage
	Next         string
	NextEncoding string `json:"next_encoding"`
}

func (w *world) page(target string) (doc pageDoc) {
	w.t.Helper()
	res := w.want(200, "GET", target, "")
	if err := json.Unmarshal(res.Body.Bytes(), &doc); err != nil || res.Header().Get("Content-Type") != "application/json" {
		w.t.Fatalf("%s: %v: %s", target, err, res.Body)
	}
	if doc.Keys == nil {
		w.t.Fatalf("%s: keys is no list: %s", target, res.Body)
	}
	return doc
}

func TestList(t *testing.T) {
	w := newWorld(t, Options{})
	var all []string
	for i := range 250 {
		key := fmt.Sprintf("k%03d", i)
		all = append(all, key)
		w.put("/kv/b/"+key, "v")
	}
	w.put("/kv/b/other", "v")
	w.put("/kv/c/k", "v")
	w.put("/kv/b/k0gone", "v")
	w.want(204, "DELETE", "/kv/b/k0gone", "")
	w.kv.pages = 7
	var got []string
	after := ""
	for n := 0; ; n++ {
		doc := w.page("/kv/b?prefix=k&limit=60&after=" + url.QueryEscape(after))
		for _, k := range doc.Keys {
			got = append(got, strings.Trim(string(k), `"`))
		}
		if doc.Next == "" {
			break
		}
		if len(doc.Keys) != 60 || n > 10 {
			t.Fatalf("page %d has %d keys", n, len(doc.Keys))
		}
		after = doc.Next
	}
	if !slices.Equal(got, all) {
		t.Errorf("%d keys, want %d: %q", len(got), len(all), got)
	}
	if doc := w.page("/kv/b"); len(doc.Keys) != defaultLimit {
		t.Errorf("%d keys without a limit, want %d", len(doc.Keys), defaultLimit)
	}
	if doc := w.page("/kv/empty"); len(doc.Keys) != 0 || doc.Next != "" {
		t.Errorf("an empty bucket: %+v", doc)
	}
	for _, bad := range []string{"limit=0", "limit=10001", "limit=x", "values=maybe", "w=1", "pr=4", "sloppy=x", "r=4", "after=" + strings.Repeat("x", 1025), "prefix=a&prefix=b", "x=1"} {
		w.want(400, "GET", "/kv/b?"+bad, "")
	}
	w.want(200, "GET", "/kv/b?limit=10000&r=all", "")
	if got := w.kv.lists[len(w.kv.lists)-1].R; got != coordinator.All {
		t.Errorf("listed with R=%d", got)
	}
	w.want(200, "GET", "/kv/b?pr=3&sloppy=false", "")
	if got := w.kv.lists[len(w.kv.lists)-1].R; got != 3 {
		t.Errorf("pr=3 listed with R=%d", got)
	}
	link := w.want(200, "GET", "/kv/b?limit=2&prefix=k", "").Header().Get("Link")
	if link != `</kv/b?after=k001&limit=2&prefix=k>; rel="next"` {
		t.Errorf("Link %s", link)
	}
}

func TestListLines(t *testing.T) {
	w := newWorld(t, Options{})
	for _, k := range []string{"a", "b", "%ff", "c%0a"} {
		w.put("/kv/b/"+k, "value "+k)
	}
	lines := func(target string) (out []string) {
		res := w.want(200, "GET", target, "", "Accept", "application/x-ndjson")
		if got := res.Header().Get("Content-Type"); got != ndjson {
			t.Fatalf("came as %s", got)
		}
		for s := bufio.NewScanner(res.Body); s.Scan(); {
			out = append(out, s.Text())
		}
		return out
	}
	if got, want := lines("/kv/b"), []string{`{"key":"a"}`, `{"key":"b"}`, `{"key":"c\n"}`, `{"key":"/w==","key_encoding":"base64"}`}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if got, want := lines("/kv/b?limit=1"), []string{`{"key":"a"}`, `{"next":"a"}`}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if got := w.page("/kv/b"); string(got.Keys[3]) != `{"key":"/w==","key_encoding":"base64"}` {
		t.Errorf("a key that is not UTF-8: %s", got.Keys[3])
	}
	if got := lines("/kv/b?values=true&limit=1"); !strings.Contains(got[0], `"key":"a"`) || !strings.Contains(got[0], `"value":"value a","encoding":"utf-8"`) {
		t.Errorf("%q", got)
	}
}

func TestListValues(t *testing.T) {
	w := newWorld(t, Options{})
	big := strings.Repeat("x", 1<<20)
	for i := range 20 {
		w.put(fmt.Sprintf("/kv/b/%02d", i), big)
	}
	w.put("/kv/b/00", "sibling")
	doc := w.page("/kv/b?values=true")
	if len(doc.Keys) != 8 || doc.Next != "07" {
		t.Errorf("a page of %d values, next %q: it must end at %d bytes", len(doc.Keys), doc.Next, maxPageValues)
	}
	var first struct {
		Key, Context string
		Siblings     []any
		SiblingCount int `json:"sibling_count"`
	}
	if err := json.Unmarshal(doc.Keys[0], &first); err != nil || first.Key != "00" || len(first.Siblings) != 2 || first.SiblingCount != 2 || first.Context == "" {
		t.Errorf("%v: key %q, %d siblings", err, first.Key, len(first.Siblings))
	}
	if doc = w.page("/kv/b?values=true&after=12"); len(doc.Keys) != 7 || doc.Next != "" {
		t.Errorf("the rest: %d values, next %q", len(doc.Keys), doc.Next)
	}
}

// A listing whose time runs out gives what it has: the client goes on from there.
func TestListOutOfTime(t *testing.T) {
	w := newWorld(t, Options{})
	for _, k := range []string{"a", "b", "c"} {
		w.put("/kv/b/"+k, "v")
	}
	w.kv.pages = 1
	calls := 0
	w.kv.block = func(ctx context.Context) {
		if calls++; calls == 3 {
			<-ctx.Done()
		}
	}
	if doc := w.page("/kv/b?timeout=50ms"); len(doc.Keys) != 2 || doc.Next != "b" {
		t.Errorf("%d keys, next %q", len(doc.Keys), doc.Next)
	}
	w.kv.block = func(ctx context.Context) { <-ctx.Done() }
	problemOf(t, w.want(504, "GET", "/kv/b?timeout=10ms", ""))
}
