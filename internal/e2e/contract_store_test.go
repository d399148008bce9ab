package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
)

var strangeKeys = []string{
	"\x00", "a/b", "a\nb", "\xff\xfe", "..", ".", "../..", "a//b", "/", " ", "%2F", "%", "a?b#c", "+", "é漢",
	strings.Repeat("x", 1024), "\r\nX: y", `"`, `\`, "\x7f",
}

func oddKeys(t *testing.T, f *flock) {
	for i, key := range strangeKeys {
		path := "/kv/odd/" + url.PathEscape(key)
		want(t, 204, "PUT", f.nodes[i%len(f.nodes)].url(path), key)
		for _, p := range f.nodes {
			if got := want(t, 200, "GET", p.url(path), ""); got.body != key {
				t.Errorf("%q holds %q", key, got.body)
			}
			want(t, 200, "GET", p.url("/cluster/ring/odd/"+url.PathEscape(key)), "")
		}
	}
	for _, p := range f.nodes {
		if got := want(t, 200, "GET", p.url("/kv/odd/a/b"), ""); got.body != "a/b" {
			t.Errorf("a slash in a key names %q", got.body)
		}
		for _, path := range []string{"/kv/odd/", "/kv/odd/" + strings.Repeat("x", 1025), "/kv/a!b/k", "/kv//k", "/kv/" + strings.Repeat("b", 129) + "/k"} {
			want(t, 400, "PUT", p.url(path), "v")
		}
		for _, query := range []string{"r=1", "r=3", "values=true"} {
			if got := keysOf(t, p, "odd", query+"&limit=3"); !slices.Equal(got, slices.Sorted(slices.Values(strangeKeys))) {
				t.Errorf("listed with %s: %q", query, got)
			}
		}
		for _, prefix := range []string{"a", "\xff", "/", "%", "\x00", "none"} {
			var within []string
			for _, key := range slices.Sorted(slices.Values(strangeKeys)) {
				if strings.HasPrefix(key, prefix) {
					within = append(within, key)
				}
			}
			if got := keysOf(t, p, "odd", "prefix="+url.QueryEscape(prefix)); !slices.Equal(got, within) {
				t.Errorf("prefix %q: %q, want %q", prefix, got, within)
			}
		}
	}
}

// jsonKey is a key as a listing shows it: a string, or an object.
type jsonKey struct {
	key   string
	value *string
}

func (k *jsonKey) UnmarshalJSON(b []byte) error {
	if json.Unmarshal(b, &k.key) == nil {
		return nil
	}
	var o struct {
		Key      string
		Encoding string `json:"key_encoding"`
		Value    *string
	}
	err := json.Unmarshal(b, &o)
	if k.key, k.value = o.Key, o.Value; err == nil && o.Encoding == "base64" {
		var raw []byte
		raw, err = base64.StdEncoding.DecodeString(o.Key)
		k.key = string(raw)
	}
	return err
}

// keysOf lists a bucket to its end, page by page along the links.
func keysOf(t *testing.T, p *process, bucket, query string) (keys []string) {
	t.Helper()
	path := "/kv/" + bucket + "?" + query
	for range 1000 {
		page := want(t, 200, "GET", p.url(path), "")
		var doc struct{ Keys []jsonKey }
		decode(t, page.body, &doc)
		for _, k := range doc.Keys {
			keys = append(keys, k.key)
			if strings.Contains(query, "values") && k.value == nil {
				t.Errorf("%q has no value", k.key)
			}
		}
		link := page.header.Get("Link")
		if link == "" {
			return keys
		}
		path = link[strings.Index(link, "<")+1 : strings.Index(link, ">")]
	}
	t.Fatal("a listing without end")
	return nil
}

type batchResult struct {
	Status                    int
	Context, Value, Encoding  string
	Acks                      string
	SiblingCount              int `json:"sibling_count"`
	Siblings                  []struct{ Value string }
	Problem                   *problem
	Repeated                  bool
	Modified, Node, Dot, ETag string
}

func runBatch(t *testing.T, p *process, query string, lines ...string) (out []batchResult) {
	t.Helper()
	got := want(t, 200, "POST", p.url("/batch"+query), strings.Join(lines, "\n"))
	if ct := got.header.Get("Content-Type"); ct != "application/x-ndjson" {
		t.Errorf("a batch of type %q", ct)
	}
	for line := range strings.Lines(got.body) {
		var r batchResult
		decode(t, line, &r)
		out = append(out, r)
	}
	if len(out) != len(lines) {
		t.Fatalf("%d results of %d lines", len(out), len(lines))
	}
	return out
}

func statuses(results []batchResult) (out []int) {
	for _, r := range results {
		out = append(out, r.Status)
	}
	return out
}

func listing(t *testing.T, f *flock) {
	const keys = 5000
	var puts, deletes, all, kept []string
	for i := range keys {
		key := fmt.Sprintf("%04d", i)
		all = append(all, key)
		puts = append(puts, fmt.Sprintf(`{"op":"put","bucket":"many","key":%q,"value":""}`, key))
		if i%10 == 0 {
			kept = append(kept, key)
			continue
		}
		deletes = append(deletes, fmt.Sprintf(`{"op":"delete","bucket":"many","key":%q}`, key))
	}
	runBatch(t, f.nodes[0], "", puts...)
	for _, p := range f.nodes {
		if got := keysOf(t, p, "many", "limit=997"); !slices.Equal(got, all) {
			t.Errorf("%s lists %d keys", p.name, len(got))
		}
	}
	runBatch(t, f.nodes[1], "", deletes...)
	for _, p := range f.nodes {
		for _, query := range []string{"limit=10000", "limit=300&r=3"} {
			if got := keysOf(t, p, "many", query); !slices.Equal(got, kept) {
				t.Errorf("%s lists %d keys beside tombstones with %s, want %d", p.name, len(got), query, len(kept))
			}
		}
		lines := want(t, 200, "GET", p.url("/kv/many?limit=3&after=0005"), "", "Accept", "application/x-ndjson")
		if lines.body != `{"key":"0010"}`+"\n"+`{"key":"0020"}`+"\n"+`{"key":"0030"}`+"\n"+`{"next":"0030"}`+"\n" {
			t.Errorf("as lines: %s", lines.body)
		}
	}
}

func batches(t *testing.T, f *flock) {
	for i, p := range f.nodes {
		b := fmt.Sprintf("batch%d", i)
		line := func(op, key, more string) string {
			return fmt.Sprintf(`{"op":%q,"bucket":%q,"key":%q%s}`, op, b, key, more)
		}
		got := runBatch(t, p, "?w=3&r=3",
			line("put", "k", `,"value":"one"`), line("get", "k", ""), line("put", "k", `,"value":"AP8=","encoding":"base64"`),
			line("get", "k", ""), line("delete", "k", ""), line("get", "k", ""),
			line("put", "id", `,"value":"1","idempotency_key":"x"`), line("put", "id", `,"value":"1","idempotency_key":"x"`),
			line("put", "id", `,"value":"2","idempotency_key":"x"`), line("put", "big", `,"value":"`+strings.Repeat("v", 1<<20+1)+`"`))
		if s := statuses(got); !slices.Equal(s, []int{204, 200, 204, 300, 204, 404, 204, 204, 422, 413}) {
			t.Fatalf("%s: statuses %v", p.name, s)
		}
		if got[0].Acks != "3/3" || got[1].Acks != "3/3" || got[1].Value != "one" || got[2].SiblingCount != 2 ||
			len(got[3].Siblings) != 2 || got[5].Context == "" || !got[7].Repeated || got[9].Problem.Outcome != "none" {
			t.Errorf("%s: %+v", p.name, got[:9])
		}
		broken := []string{
			`{`, `null`, `[]`, `{}`, `{"op":"nope","bucket":"b","key":"k"}`, line("put", "k", ""), line("put", "", `,"value":""`),
			line("put", "k", `,"value":1`), line("put", "k", `,"value":"!","encoding":"base64"`), line("put", "k", `,"value":"","encoding":"hex"`),
			line("put", "other", `,"value":"","context":"`+got[0].Context+`"`), line("delete", "k", `,"value":""`), line("get", "k", `,"value":""`),
			line("put", "k", `,"value":"","foo":1`), line("put", "k", `,"value":"","value":""`), line("put", "k", `,"value":"\ud800"`),
			line("put", "k", `,"value":"`+"\xff"+`"`),
		}
		for j, r := range runBatch(t, p, "", broken...) {
			if r.Status != 400 || r.Problem == nil || r.Problem.Status != 400 || r.Problem.Outcome == "indeterminate" {
				t.Errorf("%s: %s", broken[j], fmt.Sprint(r))
			}
		}
		want(t, 404, "GET", p.url("/kv/"+b+"/k"), "")
		want(t, 415, "POST", p.url("/batch"), "x", "Content-Type", "text/html")
		want(t, 400, "POST", p.url("/batch?w=4"), line("put", "k", `,"value":""`))
	}
}

func bucketProperties(t *testing.T, f *flock) {
	for i, p := range f.nodes {
		path := fmt.Sprintf("/buckets/prop%d", i)
		fresh := want(t, 200, "GET", p.url(path), "").body
		for _, body := range []string{
			`{"r":0}`, `{"w":4}`, `{"r":1.5}`, `{"conflict":"x"}`, `{"ttl":"-1s"}`, `{"ttl":5}`, `{"x":1}`, `{"r":1,"r":1}`,
			`[]`, ``, `null`, `{}x`, `{"bucket":"other"}`, `{"n":0}`, `{"n":1.5}`, `{"n":99}`,
		} {
			want(t, 400, "PUT", p.url(path), body)
		}
		want(t, 409, "PUT", p.url(path), `{"n":6}`) // there are five nodes
		if got := want(t, 200, "GET", p.url(path), "").body; got != fresh {
			t.Errorf("changed by a refused PUT: %s", got)
		}
		set := want(t, 200, "PUT", p.url(path), `{"n":3,"r":1,"w":"all","conflict":"lww"}`).body
		for _, q := range f.nodes {
			if got := want(t, 200, "GET", q.url(path), "").body; got != set {
				t.Errorf("%s has %s, want %s", q.name, got, set)
			}
			key := fmt.Sprintf("/kv/prop%d/k", i)
			if put := want(t, 204, "PUT", q.url(key), q.name); put.header.Get("Dunlin-Acks") != "3/3" || put.header.Get("Dunlin-Siblings") != "" {
				t.Errorf("w=all, lww: %v", put.header)
			}
			for _, r := range f.nodes {
				if got := want(t, 200, "GET", r.url(key), ""); got.body != q.name || got.header.Get("Dunlin-Acks") != "1/3" {
					t.Errorf("r=1, lww: %v %q, want %q", got.header, got.body, q.name)
				}
			}
		}
		if !strings.Contains(want(t, 200, "GET", p.url("/buckets"), "").body, strings.TrimSpace(set)) {
			t.Error("not in the list of buckets")
		}
		if got := want(t, 200, "PUT", p.url(path), `{"r":null,"w":null,"conflict":null}`).body; got != fresh {
			t.Errorf("set back: %s", got)
		}
	}
}

func sizes(t *testing.T, f *flock) {
	largest := strings.Repeat("0123456789abcdef", 1<<16)
	for i, p := range f.nodes {
		path := fmt.Sprintf("/kv/size/%d", i)
		want(t, 204, "PUT", p.url(path), "")
		if got := want(t, 200, "GET", p.url(path), ""); got.body != "" || got.header.Get("Content-Length") != "0" {
			t.Errorf("an empty value: %v %q", got.header, got.body)
		}
		want(t, 204, "DELETE", p.url(path), "")
		want(t, 204, "PUT", p.url(path), largest)
		for _, body := range []string{largest + "x", strings.Repeat(largest, 10)} {
			if no := want(t, 413, "PUT", p.url(path), body).problem(t); no.Outcome != "none" {
				t.Errorf("too large: %+v", no)
			}
		}
		for _, q := range f.nodes {
			if got := want(t, 200, "GET", q.url(path), ""); got.body != largest {
				t.Errorf("%d bytes of the largest value", len(got.body))
			}
		}
	}
	// Forms that curl -d makes up are stored as they came.
	for given, stored := range map[string]string{"a=1&b": "text/plain; charset=utf-8", "\xff": "application/octet-stream"} {
		path := "/kv/size/form" + url.PathEscape(given)
		want(t, 204, "PUT", f.nodes[0].url(path), given, "Content-Type", "application/x-www-form-urlencoded")
		if got := want(t, 200, "GET", f.nodes[1].url(path), ""); got.body != given || got.header.Get("Content-Type") != stored {
			t.Errorf("a form: %v %q", got.header, got.body)
		}
	}
}
