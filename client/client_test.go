package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// script answers requests without a network, so that waits pass in virtual time.
type script func(*http.Request) (*http.Response, error)

func (s script) RoundTrip(r *http.Request) (*http.Response, error) { return s(r) }

func reply(status int, body string, header ...string) *http.Response {
	h := http.Header{}
	for i := 0; i+1 < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body))}
}

func scripted(t *testing.T, opt Options, hosts []string, s script) *Client {
	t.Helper()
	opt.HTTPClient = &http.Client{Transport: s}
	c, err := New(hosts, opt)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func refused() error {
	return &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
}

func TestNewRefusesWhatIsNoURL(t *testing.T) {
	for _, bad := range [][]string{nil, {""}, {"ftp://h"}, {"http://"}, {"http://h/?x=1"}, {"http://h h"}} {
		if _, err := New(bad, Options{}); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	c, err := New([]string{"127.0.0.1:8001/"}, Options{})
	if err != nil || c.Endpoints()[0] != "http://127.0.0.1:8001" {
		t.Fatalf("%v, %v", c, err)
	}
}

func TestKeysTravelEscapedOnce(t *testing.T) {
	for _, key := range []string{"a", "a/b", "a%2Fb", "ä ö?#&+", "a\nb", ".", "..", "\xff\x00", "a//b"} {
		var got string
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			escaped := strings.TrimPrefix(r.URL.EscapedPath(), "/kv/b/")
			got, _ = url.PathUnescape(escaped)
			w.WriteHeader(http.StatusNoContent)
		}))
		c, _ := New([]string{srv.URL}, Options{})
		if _, err := c.Bucket("b").Put(t.Context(), key, nil, Write{}); err != nil {
			t.Error(err)
		}
		srv.Close()
		if got != key {
			t.Errorf("key %q arrived as %q", key, got)
		}
	}
}

func TestWriteIsRepeatedAtTheNextNodeUnderOneIdempotencyKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hosts, keys, bodies []string
		retried := 0
		c := scripted(t, Options{FirstFirst: true, OnRetry: func(error) { retried++ }}, []string{"a", "b", "c"}, func(r *http.Request) (*http.Response, error) {
			body, _ := io.ReadAll(r.Body)
			hosts, keys, bodies = append(hosts, r.URL.Host), append(keys, r.Header.Get("Idempotency-Key")), append(bodies, string(body))
			switch r.URL.Host {
			case "a":
				return nil, refused()
			case "b":
				return reply(504, `{"title":"late","outcome":"indeterminate"}`, "Content-Type", "application/problem+json"), nil
			}
			return reply(204, "", "Dunlin-Context", "ctx", "Dunlin-Node", "c", "Dunlin-Acks", "2/3", "Dunlin-Siblings", "2"), nil
		})
		w, err := c.Bucket("b").Put(t.Context(), "k", []byte("v"), Write{W: "2", TTL: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&Written{Context: "ctx", Siblings: 2, Node: "c", Acks: "2/3"}, w); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]string{"a", "b", "c"}, hosts); diff != "" {
			t.Error(diff)
		}
		if keys[0] == "" || keys[0] != keys[1] || keys[1] != keys[2] || bodies[2] != "v" || retried != 2 {
			t.Errorf("keys %q, bodies %q, %d repetitions", keys, bodies, retried)
		}
	})
}

func TestRetryAfterIsHonouredButOtherNodesAreAskedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var at []time.Duration
		c := scripted(t, Options{FirstFirst: true}, []string{"a", "b"}, func(r *http.Request) (*http.Response, error) {
			at = append(at, time.Since(begin))
			if len(at) <= 2 {
				return reply(503, "", "Retry-After", map[string]string{"a": "3", "b": "30"}[r.URL.Host]), nil
			}
			return reply(200, "v from "+r.URL.Host), nil
		})
		o, err := c.Bucket("b").Get(t.Context(), "k", Read{})
		if err != nil {
			t.Fatal(err)
		}
		if v, _ := o.Value(); string(v) != "v from a" {
			t.Errorf("value %q", v)
		}
		if at[1] > 200*time.Millisecond {
			t.Errorf("the other node was asked only after %v", at[1])
		}
		if at[2] < 3*time.Second || at[2] > 4*time.Second {
			t.Errorf("the first node was asked again after %v, want its 3s", at[2])
		}
	})
}

func TestWhoWasRefusedAtOnceDoesNotComeBackAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const clients = 64
		begin := time.Now()
		var mu sync.Mutex
		back := map[time.Duration]bool{}
		c := scripted(t, Options{}, []string{"a"}, func(*http.Request) (*http.Response, error) {
			mu.Lock()
			defer mu.Unlock()
			since := time.Since(begin)
			if since == 0 {
				return reply(503, "", "Retry-After", "1"), nil
			}
			back[since] = true
			return reply(200, "v"), nil
		})
		var wg sync.WaitGroup
		for range clients {
			wg.Go(func() {
				if _, err := c.Bucket("b").Get(t.Context(), "k", Read{}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for since := range back {
			if since < time.Second || since > 1500*time.Millisecond {
				t.Errorf("came back after %v", since)
			}
		}
		if len(back) < clients/2 {
			t.Errorf("%d clients came back at %d times", clients, len(back))
		}
	})
}

func TestRetriesEndWithTheContextAndKeepTheReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := scripted(t, Options{Tries: 1000}, []string{"a"}, func(*http.Request) (*http.Response, error) {
			return reply(503, "no quorum", "Retry-After", "2"), nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		begin := time.Now()
		_, err := c.Bucket("b").Get(ctx, "k", Read{})
		var p *Problem
		if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &p) || p.Status != 503 {
			t.Errorf("error %v", err)
		}
		if since := time.Since(begin); since != 5*time.Second {
			t.Errorf("gave up after %v", since)
		}
	})
}

func TestATryCutOffByTheContextKeepsTheReasonOfTheOneBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		c := scripted(t, Options{Tries: 1000}, []string{"a"}, func(r *http.Request) (*http.Response, error) {
			if tries++; tries == 1 {
				return reply(503, "no quorum", "Retry-After", "1"), nil
			}
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := c.Bucket("b").Get(ctx, "k", Read{})
		var p *Problem
		if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &p) || p.Status != 503 || tries != 2 {
			t.Errorf("error %v after %d tries", err, tries)
		}
	})
}

func TestTriesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		c := scripted(t, Options{Tries: 3}, []string{"a", "b"}, func(*http.Request) (*http.Response, error) {
			n++
			return nil, errors.New("reset")
		})
		if _, err := c.Bucket("b").Delete(t.Context(), "k", Write{}); err == nil || n != 3 {
			t.Errorf("%d tries, error %v", n, err)
		}
	})
}

func TestFinalAnswersAreNotRepeated(t *testing.T) {
	for _, status := range []int{400, 404, 409, 412, 413, 422, 507} {
		n := 0
		c := scripted(t, Options{}, []string{"a"}, func(*http.Request) (*http.Response, error) {
			n++
			return reply(status, ""), nil
		})
		_, err := c.Bucket("b").Put(t.Context(), "k", nil, Write{})
		var p *Problem
		if !errors.As(err, &p) || p.Status != status || n != 1 {
			t.Errorf("status %d: %d tries, error %v", status, n, err)
		}
	}
}

func TestBatchIsRepeatedUnderTheSameIdempotencyKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent []string
		c := scripted(t, Options{}, []string{"a", "b"}, func(r *http.Request) (*http.Response, error) {
			body, _ := io.ReadAll(r.Body)
			if sent = append(sent, string(body)); len(sent) == 1 {
				return nil, errors.New("reset")
			}
			return reply(200, "{\"status\":204}\n{\"status\":200}\n{\"status\":204}\n"), nil
		})
		ops := []Op{{Op: "put", Bucket: "b", Key: "k"}, {Op: "get", Bucket: "b", Key: "k"}, {Op: "delete", Bucket: "b", Key: "k", IdempotencyKey: "mine"}}
		if _, err := c.Batch(t.Context(), ops, Batch{}); err != nil {
			t.Fatal(err)
		}
		if len(sent) != 2 || sent[0] != sent[1] || strings.Count(sent[0], `"idempotency_key":"`) != 2 || !strings.Contains(sent[0], `"idempotency_key":"mine"`) {
			t.Errorf("sent %q", sent)
		}
	})
}

func TestWriteIsNotRepeatedWhenItMayNot(t *testing.T) {
	n := 0
	c := scripted(t, Options{}, []string{"a", "b"}, func(*http.Request) (*http.Response, error) {
		n++
		return nil, errors.New("reset")
	})
	if _, err := c.do(t.Context(), &request{method: http.MethodPost, path: "/x"}); err == nil || n != 1 {
		t.Errorf("sent %d times, error %v", n, err)
	}
}

func TestProblemIsReadCompletely(t *testing.T) {
	body := `{"type":"about:blank","title":"quorum not reached","status":503,"detail":"w=2","parameter":"w","required":2,"acked":1,
		"replicas":[{"node":"n2","role":"primary","outcome":"timeout"}],"retryable":true,"outcome":"indeterminate"}`
	c := scripted(t, Options{Tries: 1}, []string{"a"}, func(*http.Request) (*http.Response, error) {
		return reply(503, body, "Content-Type", "application/problem+json", "Dunlin-Node", "n1", "Retry-After", "1"), nil
	})
	_, err := c.Bucket("b").Put(t.Context(), "k", nil, Write{})
	two, one := 2, 1
	want := &Problem{
		Type: "about:blank", Title: "quorum not reached", Status: 503, Detail: "w=2", Parameter: "w", Required: &two, Acked: &one,
		Replicas: []Replica{{"n2", "primary", "timeout"}}, Retryable: true, Outcome: OutcomeIndeterminate,
		Node: "n1", Endpoint: "http://a", RetryAfter: time.Second,
	}
	var got *Problem
	if !errors.As(err, &got) {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	const line = "503 quorum not reached: w=2 [1 of 2 acks]; replicas: n2 timeout; it may or may not have been stored"
	if got.Error() != line {
		t.Errorf("%s", got)
	}
}

func TestForeignErrorPagesKeepOneLine(t *testing.T) {
	p := newProblem(&answer{status: 502, header: http.Header{"Content-Type": {"text/html"}}, body: []byte("<html>" + strings.Repeat("x", 1000) + "\nmore")})
	if p.Status != 502 || strings.Contains(p.Error(), "more") || len(p.Detail) > 210 {
		t.Errorf("%v", p)
	}
}

func TestGet(t *testing.T) {
	multi := "--B\r\nContent-Type: text/plain\r\nDunlin-Dot: d1\r\nLast-Modified: Tue, 24 Nov 2026 16:00:00 GMT\r\n\r\none\r\n\r\n" +
		"--B\r\nDunlin-Dot: d2\r\nDunlin-Deleted: true\r\n\r\n\r\n--B--\r\n"
	asJSON := `{"context":"c","siblings":[{"dot":"d1","content_type":"text/plain","value":"b25l","encoding":"base64","modified":"2026-11-24T16:00:00Z"},{"dot":"d2","value":"","deleted":true}]}`
	at := time.Date(2026, 11, 24, 16, 0, 0, 0, time.UTC)
	siblings := []Sibling{{Dot: "d1", ContentType: "text/plain", Value: []byte("one\r\n"), Modified: at}, {Dot: "d2", Value: []byte{}, Deleted: true}}
	cases := []struct {
		name string
		resp *http.Response
		want []Sibling
		err  error
	}{
		{"one", reply(200, "v\n", "Content-Type", "text/x", "Dunlin-Context", "c"), []Sibling{{ContentType: "text/x", Value: []byte("v\n")}}, nil},
		{"multipart", reply(300, multi, "Content-Type", `multipart/mixed; boundary="B"`, "Dunlin-Context", "c"), siblings, ErrSiblings},
		{"json", reply(300, asJSON, "Content-Type", "application/json"), nil, ErrSiblings},
		{"deleted", reply(404, "", "Dunlin-Context", "c"), nil, ErrNotFound},
	}
	for _, tc := range cases {
		c := scripted(t, Options{}, []string{"a"}, func(*http.Request) (*http.Response, error) { return tc.resp, nil })
		o, err := c.Bucket("b").Get(t.Context(), "k", Read{})
		if o == nil || o.Context != "c" {
			t.Errorf("%s: object %+v, error %v", tc.name, o, err)
			continue
		}
		if err == nil {
			_, err = o.Value()
		}
		if !errors.Is(err, tc.err) {
			t.Errorf("%s: error %v, want %v", tc.name, err, tc.err)
		}
		if tc.name == "json" {
			tc.want = []Sibling{{Dot: "d1", ContentType: "text/plain", Value: []byte("one"), Modified: at}, {Dot: "d2", Value: []byte{}, Deleted: true}}
		}
		if diff := cmp.Diff(tc.want, o.Siblings); diff != "" {
			t.Errorf("%s: %s", tc.name, diff)
		}
	}
}

func TestParametersOfReadAndWrite(t *testing.T) {
	var got *http.Request
	c := scripted(t, Options{Token: "secret"}, []string{"a"}, func(r *http.Request) (*http.Response, error) {
		got = r
		return reply(204, ""), nil
	})
	opt := Write{Context: "c", ContentType: "text/plain", W: "all", DW: "0", PW: "1", Strict: true, Timeout: 500 * time.Millisecond, TTL: 30 * time.Second, Trace: true, IfNoneMatch: "*", IdempotencyKey: "id"}
	if _, err := c.Bucket("b").Put(t.Context(), "k", nil, opt); err != nil {
		t.Fatal(err)
	}
	if q := got.URL.RawQuery; q != "dw=0&pw=1&sloppy=false&timeout=500ms&trace=1&ttl=30s&w=all" {
		t.Errorf("query %s", q)
	}
	for name, want := range map[string]string{"Dunlin-Context": "c", "Content-Type": "text/plain", "If-None-Match": "*", "Idempotency-Key": "id", "Authorization": "Bearer secret"} {
		if got.Header.Get(name) != want {
			t.Errorf("header %s is %q, want %q", name, got.Header.Get(name), want)
		}
	}
	if _, err := c.Bucket("b").Get(t.Context(), "k", Read{R: "1", PR: "1"}); err != nil {
		t.Fatal(err)
	}
	if got.URL.RawQuery != "pr=1&r=1" || got.Header.Get("Idempotency-Key") != "" {
		t.Errorf("query %s, header %v", got.URL.RawQuery, got.Header)
	}
}

func TestCreateNamesTheFreshKey(t *testing.T) {
	c := scripted(t, Options{}, []string{"a"}, func(*http.Request) (*http.Response, error) {
		return reply(201, "", "Location", "/kv/b/0190%2Fx"), nil
	})
	w, err := c.Bucket("b").Create(t.Context(), []byte("v"), Write{})
	if err != nil || w.Key != "0190/x" {
		t.Fatalf("%+v, %v", w, err)
	}
}

func TestAllReadsPageAfterPage(t *testing.T) {
	pages := map[string]string{
		"":     `{"keys":["a",{"key":"b","value":"eA==","encoding":"base64"}],"next":"b"}`,
		"b":    `{"keys":["c"],"next":"/w==","next_encoding":"base64"}`,
		"\xff": `{"keys":[{"key":"/w==","key_encoding":"base64","siblings":[{"value":"1"},{"value":"2"}]}]}`,
	}
	c := scripted(t, Options{}, []string{"a"}, func(r *http.Request) (*http.Response, error) {
		return reply(200, pages[r.URL.Query().Get("after")]), nil
	})
	var keys []string
	for e, err := range c.Bucket("b").All(t.Context(), List{Prefix: "p", Limit: 2}) {
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range e.Siblings {
			e.Value = append(e.Value, s.Value...)
		}
		keys = append(keys, e.Key+"="+string(e.Value))
	}
	if diff := cmp.Diff([]string{"a=", "b=x", "c=", "\xff=12"}, keys); diff != "" {
		t.Error(diff)
	}
	stuck := scripted(t, Options{}, []string{"a"}, func(*http.Request) (*http.Response, error) {
		return reply(200, `{"keys":["a"],"next":"a"}`), nil
	})
	var last error
	for _, err := range stuck.Bucket("b").All(t.Context(), List{}) {
		last = err
	}
	if last == nil {
		t.Error("a listing that does not advance went on without an error")
	}
}

func TestBatch(t *testing.T) {
	var sent string
	c := scripted(t, Options{}, []string{"a"}, func(r *http.Request) (*http.Response, error) {
		body, _ := io.ReadAll(r.Body)
		sent = string(body)
		return reply(200, `{"status":204,"context":"c"}
{"status":200,"value":"/w==","encoding":"base64"}
{"status":400,"problem":{"title":"bad key"}}
{"status":503,"title":"no quorum","outcome":"none"}
`), nil
	})
	ops := []Op{{Op: "put", Bucket: "b", Key: "k", Value: []byte{0xff}}, {Op: "get", Bucket: "b", Key: "<"}, {Op: "delete", Bucket: "b", Key: "x"}, {Op: "delete", Bucket: "b", Key: "y", Context: "c"}}
	got, err := c.Batch(t.Context(), ops, Batch{})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(sent, `{"op":"put","bucket":"b","key":"k","value":"/w==","encoding":"base64","idempotency_key":"`) || strings.Count(sent, "\n") != 4 || !strings.Contains(sent, `"<"`) {
		t.Errorf("sent %s", sent)
	}
	if got[0].Context != "c" || !bytes.Equal(got[1].Value, []byte{0xff}) || got[2].Problem.Status != 400 || got[3].Problem.Title != "no quorum" || got[3].Problem.Outcome != OutcomeNone {
		t.Errorf("%+v", got)
	}
	odd := []Op{{Op: "put", Bucket: "b", Key: "\xff", IdempotencyKey: "i"}}
	if _, err := c.Batch(t.Context(), odd, Batch{}); err == nil || sent != `{"op":"put","bucket":"b","key":"/w==","key_encoding":"base64","value":"","encoding":"utf-8","idempotency_key":"i"}`+"\n" {
		t.Errorf("sent %s", sent)
	}
	if _, err := c.Batch(t.Context(), ops[:2], Batch{}); err == nil {
		t.Error("more results than operations were accepted")
	}
}

func TestMembersAndBuckets(t *testing.T) {
	answers := map[string]string{
		"/cluster/members": `{"members":[{"id":"1","name":"n1","addresses":{"http":"127.0.0.1:8001"},"alive":true,"partitions":7,"epoch":1}]}`,
		"/buckets":         `["a",{"name":"b"}]`,
		"/buckets/a":       `{"n":3,"w":"quorum"}`,
		"/readyz":          "",
	}
	c := scripted(t, Options{}, []string{"a"}, func(r *http.Request) (*http.Response, error) {
		if r.Method == http.MethodPut {
			return reply(202, "{}"), nil
		}
		if r.URL.Path == "/readyz" {
			return reply(503, "joining"), nil
		}
		return reply(200, answers[r.URL.Path]), nil
	})
	members, err := c.Members(t.Context())
	if err != nil || len(members) != 1 || members[0].BaseURL() != "http://127.0.0.1:8001" || members[0].Partitions != 7 {
		t.Errorf("%+v, %v", members, err)
	}
	buckets, err := c.Buckets(t.Context())
	if diff := cmp.Diff([]string{"a", "b"}, buckets); diff != "" || err != nil {
		t.Error(diff, err)
	}
	props, err := c.Bucket("a").Properties(t.Context())
	if err != nil || props["w"] != "quorum" {
		t.Errorf("%v, %v", props, err)
	}
	if everywhere, err := c.Bucket("a").SetProperties(t.Context(), Properties{"w": "all"}); err != nil || everywhere {
		t.Errorf("%v, %v", everywhere, err)
	}
	if err := c.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "joining") {
		t.Errorf("%v", err)
	}
}

func FuzzObjectParts(f *testing.F) {
	f.Add([]byte("--B\r\n\r\nv\r\n--B--\r\n"), "B")
	f.Add([]byte("--B\r\nDunlin-Deleted: true\r\n\r\n"), "")
	f.Fuzz(func(t *testing.T, body []byte, boundary string) {
		var o Object
		if err := o.readParts(body, boundary); err == nil && len(o.Siblings) > maxSiblings {
			t.Fatal("unbounded siblings")
		}
	})
}
