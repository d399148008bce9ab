package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

type resultDoc struct {
	Status                         int
	Context, Value, Encoding, Node string
	ContentType                    string `json:"content_type"`
	Siblings                       []siblingJSON
	SiblingCount                   int `json:"sibling_count"`
	Acks                           string
	Repeated                       bool
	Problem                        *problem
}

func (w *world) batch(target, body string, headers ...string) (out []resultDoc) {
	w.t.Helper()
	res := w.want(200, "POST", target, body, headers...)
	if got := res.Header().Get("Content-Type"); got != ndjson {
		w.t.Fatalf("came as %s", got)
	}
	for dec := json.NewDecoder(res.Body); ; {
		var r resultDoc
		if err := dec.Decode(&r); err == io.EOF {
			return out
		} else if err != nil {
			w.t.Fatal(err)
		}
		out = append(out, r)
	}
}

func TestBatch(t *testing.T) {
	w := newWorld(t, Options{})
	token := w.put("/kv/b/old", "v")
	foreign := w.put("/kv/b/foreign", "v")
	got := w.batch("/batch?w=1&r=3", strings.Join([]string{
		`{"op":"put","bucket":"b","key":"k","value":"v1","content_type":"text/x"}`,
		`{"op":"get","bucket":"b","key":"k"}`,
		``,
		`{"op":"put","bucket":"b","key":"k","value":"/w==","encoding":"base64"}`,
		`{"op":"get","bucket":"b","key":"k"}`,
		`{"op":"delete","bucket":"b","key":"k"}`,
		`{"op":"get","bucket":"b","key":"k"}`,
		`{"op":"put","bucket":"b","key":"old","value":"w","context":"` + token + `"}`,
		`{"op":"get","bucket":"b","key":"old"}`,
		`{"op":"put","bucket":"b","key":"old","value":"w","context":"` + foreign + `"}`,
		`{"op":"put","bucket":"b","key":"/w==","key_encoding":"base64","value":""}`,
		`{"op":"put","bucket":"b","key":"idem","value":"v","idempotency_key":"x"}`,
		`{"op":"put","bucket":"b","key":"idem","value":"v","idempotency_key":"x"}`,
		`{"op":"put","bucket":"b","key":"idem","value":"other","idempotency_key":"x"}`,
	}, "\n"))
	want := []int{204, 200, 204, 300, 204, 404, 204, 200, 400, 204, 204, 204, 422}
	if len(got) != len(want) {
		t.Fatalf("%d results, want %d: %+v", len(got), len(want), got)
	}
	for i, r := range got {
		if r.Status != want[i] || (r.Problem != nil) != (want[i] >= 400) {
			t.Errorf("result %d: %+v, want %d", i, r, want[i])
		}
		if r.Problem != nil && r.Problem.Status != r.Status {
			t.Errorf("result %d: problem %+v", i, r.Problem)
		}
	}
	if r := got[0]; r.Context == "" || r.Acks != "1/3" || r.Node != "n2" {
		t.Errorf("put: %+v", r)
	}
	if r := got[1]; r.Value != "v1" || r.Encoding != "utf-8" || r.ContentType != "text/x" || r.Acks != "3/3" {
		t.Errorf("get: %+v", r)
	}
	if r := got[3]; len(r.Siblings) != 2 || r.SiblingCount != 2 || *r.Siblings[1].Value != "/w==" || r.Siblings[1].Encoding != "base64" {
		t.Errorf("get of siblings: %+v", r)
	}
	if r := got[7]; r.Value != "w" {
		t.Errorf("after a put with a context: %+v", r)
	}
	if !got[11].Repeated || got[8].Problem.Outcome != "none" {
		t.Errorf("repeated: %+v; foreign: %+v", got[11], got[8].Problem)
	}
	if w.want(200, "GET", "/kv/b/%ff", "").Body.Len() != 0 {
		t.Error("the key of a line in base64")
	}
}

func TestBatchBadLines(t *testing.T) {
	w := newWorld(t, Options{MaxValue: 100})
	lines := []string{
		`nonsense`, `[]`, `null`, `"x"`, `{}`, `{"op":"put"`, `{"op":"put","bucket":"b","key":"k","value":"v"}}`,
		`{"op":"put","bucket":"b","key":"k","value":"v"} {"op":"get"}`,
		`{"op":"cas","bucket":"b","key":"k"}`, `{"OP":"put","bucket":"b","key":"k","value":"v"}`,
		`{"op":"put","op":"get","bucket":"b","key":"k"}`, `{"op":"put","bucket":"b","key":"k","value":"v","ttl":"1s"}`,
		`{"op":"put","bucket":"","key":"k","value":"v"}`, `{"op":"put","bucket":"b c","key":"k","value":"v"}`,
		`{"op":"put","bucket":"b","key":"","value":"v"}`, `{"op":"put","bucket":"b","key":"` + strings.Repeat("k", 1025) + `","value":"v"}`,
		`{"op":"put","bucket":"b","key":"k"}`, `{"op":"put","bucket":"b","key":"k","value":1}`, `{"op":"put","bucket":"b","key":"k","value":null}`,
		`{"op":"put","bucket":"b","key":"k","value":"*","encoding":"base64"}`, `{"op":"put","bucket":"b","key":"k","value":"v","encoding":"hex"}`,
		`{"op":"put","bucket":"b","key":"k","value":"v","context":"x"}`, `{"op":"delete","bucket":"b","key":"k","value":"v"}`,
		`{"op":"put","bucket":"b","key":"k","value":"v","idempotency_key":""}`,
		"{\"op\":\"put\",\"bucket\":\"b\",\"key\":\"k\",\"value\":\"\xff\"}",
		`{"op":"put","bucket":"b","key":"k","value":"\ud800"}`, `{"op":"put","bucket":"b","key":"k","value":"x\udc00\ud800"}`,
	}
	for _, line := range lines {
		got := w.batch("/batch", line+"\n"+`{"op":"get","bucket":"b","key":"k"}`)
		if len(got) != 2 || got[0].Status != 400 || got[0].Problem == nil || got[0].Problem.Outcome == "indeterminate" || got[1].Status != 404 {
			t.Errorf("%s: %+v", line, got)
		}
	}
	big := strings.Repeat("x", 101)
	if got := w.batch("/batch", `{"op":"put","bucket":"b","key":"k","value":"`+big+`"}`); got[0].Status != 413 {
		t.Errorf("a value that is too large: %+v", got[0])
	}
	huge := strings.Repeat("x", 200_000)
	got := w.batch("/batch", huge+"\n"+`{"op":"put","bucket":"b","key":"k","value":"\ud83d\ude00\\ud800"}`+"\n"+huge)
	if len(got) != 3 || got[0].Status != 413 || got[1].Status != 204 || got[2].Status != 413 {
		t.Errorf("lines that are too long: %+v", got)
	}
	if got := w.want(200, "GET", "/kv/b/k", ""); got.Body.String() != `😀\ud800` {
		t.Errorf("escapes: %q", got.Body)
	}
	if w.kv.written() != 1 {
		t.Errorf("%d writes, want the good one", w.kv.written())
	}
}

func TestBatchRefused(t *testing.T) {
	w := newWorld(t, Options{})
	line := `{"op":"put","bucket":"b","key":"k","value":"v"}`
	w.want(415, "POST", "/batch", line, "Content-Type", "text/html")
	w.want(415, "POST", "/batch", line, "Content-Encoding", "gzip")
	for _, name := range []string{headerContext, headerIdempotency, "If-Match", "If-None-Match"} {
		w.want(400, "POST", "/batch", line, name, "*")
	}
	w.want(501, "POST", "/batch?trace=1", line)
	if w.kv.written() != 0 {
		t.Error("a refused batch was done")
	}
	if got := w.batch("/batch", ""); len(got) != 0 {
		t.Errorf("no line: %+v", got)
	}
	w.batch("/batch", line, "Content-Type", "application/x-www-form-urlencoded")
}

// Results come in the order of the lines also when operations end in another, and those of one key are done in order.
func TestBatchOrder(t *testing.T) {
	for _, inFlight := range []int{1, 5, 100} {
		w := newWorld(t, Options{MaxInFlight: inFlight})
		var body strings.Builder
		const n = 300
		for i := range n {
			fmt.Fprintf(&body, `{"op":"put","bucket":"b","key":"k%d","value":"%d"}`+"\n", i%50, i)
			fmt.Fprintf(&body, `{"op":"get","bucket":"b","key":"k%d"}`+"\n", i%50)
			fmt.Fprintf(&body, `{"op":"delete","bucket":"b","key":"k%d"}`+"\n", i%50)
		}
		got := w.batch("/batch", body.String())
		if len(got) != 3*n {
			t.Fatalf("%d results", len(got))
		}
		for i := range n {
			if got[3*i].Status != 204 || got[3*i+1].Value != fmt.Sprint(i) || got[3*i+2].Status != 204 {
				t.Fatalf("in flight %d, line %d: %+v", inFlight, 3*i, got[3*i:3*i+3])
			}
		}
		if w.flight() != 0 {
			t.Errorf("%d requests in flight for ever", w.flight())
		}
	}
}

// One batch must not take more than its share.
func TestBatchConcurrency(t *testing.T) {
	w := newWorld(t, Options{})
	entered, release := make(chan struct{}, 100), make(chan struct{})
	w.kv.block = func(context.Context) { entered <- struct{}{}; <-release }
	var body strings.Builder
	for i := range 50 {
		fmt.Fprintf(&body, `{"op":"get","bucket":"b","key":"k%d"}`+"\n", i)
	}
	done := make(chan int)
	go func() {
		rec := httptest.NewRecorder()
		w.handler.ServeHTTP(rec, httptest.NewRequest("POST", "/batch", strings.NewReader(body.String())))
		done <- bytes.Count(rec.Body.Bytes(), []byte("\n"))
	}()
	for range batchWorkers {
		<-entered
	}
	if n := len(entered); n != 0 {
		t.Errorf("%d operations more than %d at once", n, batchWorkers)
	}
	close(release)
	if n := <-done; n != 50 {
		t.Errorf("%d results", n)
	}
}

// The result of a line comes before the next line is sent.
func TestBatchStreams(t *testing.T) {
	w := newWorld(t, Options{})
	srv := httptest.NewServer(w.handler)
	defer srv.Close()
	in, out := io.Pipe()
	req, err := http.NewRequest("POST", srv.URL+"/batch", in)
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	next := make(chan struct{})
	go func() {
		for i := range 5 {
			if _, err := fmt.Fprintf(out, `{"op":"put","bucket":"b","key":"k%d","value":"v"}`+"\n", i); err != nil {
				sent <- err
				return
			}
			<-next
		}
		sent <- out.Close()
	}()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	s := bufio.NewScanner(res.Body)
	for i := range 5 {
		if !s.Scan() || !strings.Contains(s.Text(), `"status":204`) {
			t.Fatalf("line %d: %q, %v", i, s.Text(), s.Err())
		}
		next <- struct{}{}
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if s.Scan() {
		t.Errorf("one result too many: %s", s.Text())
	}
}

func FuzzOperation(f *testing.F) {
	for _, s := range []string{`{"op":"put","bucket":"b","key":"k","value":"v","encoding":"base64"}`, `{"op":"get","bucket":"b","key":"/w==","key_encoding":"base64"}`, `{"op":"delete","bucket":"b","key":"\ud83d\ude00"}`, `{`, `{"op":null}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		o, p := parseOperation(line)
		if p != nil {
			return
		}
		if checkBucket(o.bucket) != nil || checkKey(o.key) != nil || !json.Valid(line) {
			t.Fatalf("%q gave %+v", line, o)
		}
		// Text comes through as it is, or not at all.
		if o.value != nil && strings.ContainsRune(*o.value, '\ufffd') && !bytes.Contains(line, []byte("\ufffd")) && !bytes.Contains(bytes.ToLower(line), []byte(`\ufffd`)) {
			t.Fatalf("%q gave the value %q", line, *o.value)
		}
	})
}
