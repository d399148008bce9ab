package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dunlindb/dunlin/internal/loadgen"
)

func TestRatiosArePairedByRound(t *testing.T) {
	r := &report{Settings: settings{Rounds: 3, Rate: 1500}}
	for round, cpu := range [][2]float64{{100, 200}, {50, 150}, {400, 400}} {
		r.Runs = append(r.Runs, measurement{Round: round, Server: base, Load: loadPut, CPU: cpu[0]}, measurement{Round: round, Server: "other", Load: loadPut, CPU: cpu[1], Errors: 2, Missed: 1})
	}
	if got := spread(r.ratios("other", loadPut)); got != "2.00 [1.00 to 3.00]" { // of the medians it would be 200/100
		t.Errorf("ratios: %s", got)
	}
	text := r.markdown()
	if !strings.Contains(text, "| other | 200 [150 to 400] | 2.00 [1.00 to 3.00] |") || !strings.Contains(text, "| 9 |\n") {
		t.Error(text)
	}
	if strings.Contains(text, "Preliminary") || strings.Contains(text, loadGet) {
		t.Error("says more than was measured:", text)
	}
	r.Runs[0].Other, r.Runs[1].Other, r.Runs[2].Other, r.Runs[3].Other = 0.5, 0.5, 0.5, 0.5
	if !strings.Contains(r.markdown(), "Preliminary:** other work used 50%") {
		t.Error("does not tell that it was disturbed")
	}
}

func TestMedian(t *testing.T) {
	for want, values := range map[float64][]float64{2: {3, 1, 2}, 2.5: {4, 1, 2, 3}, 7: {7}} {
		if got := median(values); got != want {
			t.Errorf("%v: %v", values, got)
		}
	}
}

func TestInsertKeepsTheRest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.md")
	beginMark, endMark := marks("bench")
	if err := os.WriteFile(path, []byte("before\n"+beginMark+"\nold\n"+endMark+"\nafter\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := insert(path, "bench", "new\n"); err != nil {
			t.Fatal(err)
		}
	}
	if b, _ := os.ReadFile(path); string(b) != "before\n"+beginMark+"\n\nnew\n\n"+endMark+"\nafter\n" {
		t.Errorf("%q", b)
	}
	if err := insert(os.DevNull, "bench", "new"); err == nil {
		t.Error("a file without marks is written")
	}
	for _, mode := range []string{"--rounds=1", "--overload", "--growth"} {
		// Else the test would measure for minutes.
		if err := run(t.Context(), []string{mode, "--write", os.DevNull}, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), "has no lines") {
			t.Errorf("%s: a file without marks is noticed when all was measured: %v", mode, err)
		}
	}
}

// A report that was written is rendered again without measuring.
func TestReportIsReadBack(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "in.json")
	text := `{"settings":{"rounds":1,"connections":8},"versions":["v"],"runs":[{"round":1,"server":"dunlin","load":"PUT","server_cpu_us_per_op":12.5}]}`
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := run(t.Context(), []string{"--from", path}, &out, io.Discard); err != nil || !strings.Contains(out.String(), "| dunlin | 12.5 [12.5 to 12.5] | 1.00") {
		t.Errorf("%v: %s", err, out.String())
	}
	for _, args := range [][]string{{"--rounds", "0"}, {"--window", "1ms"}, {"x"}, {"--from", dir}, {"--servers", "mongodb"}} {
		if err := run(t.Context(), args, io.Discard, io.Discard); err == nil {
			t.Errorf("%v passes", args)
		}
	}
}

// serveText answers each connection by a script of what is expected and what
// is then sent.
func serveText(t *testing.T, talk func(r *bufio.Reader, w io.Writer)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			talk(bufio.NewReader(c), c)
			_ = c.Close()
		}
	}()
	return l.Addr().String()
}

// lines reads n lines.
func lines(r *bufio.Reader, n int) string {
	var b strings.Builder
	for range n {
		line, err := r.ReadString('\n')
		b.WriteString(line)
		if err != nil {
			break
		}
	}
	return b.String()
}

func put(key, value string) *loadgen.Op {
	return &loadgen.Op{Kind: loadgen.Put, Key: []byte(key), Value: []byte(value)}
}

func get(key string) *loadgen.Op { return &loadgen.Op{Kind: loadgen.Get, Key: []byte(key)} }

func TestRedisConn(t *testing.T) {
	asked := make(chan string, 10)
	addr := serveText(t, func(r *bufio.Reader, w io.Writer) {
		for _, step := range []struct {
			lines  int
			answer string
		}{
			{14, "+OK\r\n:1\r\n"}, {14, "+OK\r\n:0\r\n"}, {5, "$3\r\nabc\r\n"}, {5, "$-1\r\n"}, {5, "-ERR no\r\n"}, {5, "$x\r\n"},
		} {
			asked <- lines(r, step.lines)
			_, _ = io.WriteString(w, step.answer)
		}
	})
	c, err := dialRedis(addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if a := c.Do(put("k", "vv")); a.Class != loadgen.OK {
		t.Errorf("SET: %+v", a)
	}
	if got := <-asked; got != "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\nvv\r\n*3\r\n$4\r\nWAIT\r\n$1\r\n1\r\n$1\r\n0\r\n" {
		t.Errorf("sent %q", got)
	}
	for i, want := range []loadgen.Class{loadgen.Failed, loadgen.OK, loadgen.Missing, loadgen.Failed, loadgen.Broken} {
		op := get("k")
		if i == 0 {
			op = put("k", "vv")
		}
		if a := c.Do(op); a.Class != want || i == 1 && string(a.Value) != "abc" {
			t.Errorf("answer %d: %+v, want class %d", i, a, want)
		}
	}
}

func TestNATSConn(t *testing.T) {
	addr := serveText(t, func(r *bufio.Reader, w io.Writer) {
		fmt.Fprint(w, "INFO {}\r\n")
		hello := strings.Fields(lines(r, 2))
		inbox := strings.TrimSuffix(hello[len(hello)-2], "*")
		for i, answer := range []string{
			"PING\r\nMSG %s1 1 27\r\n{\"stream\":\"KV_bench\",\"s\":1}\r\n",
			"MSG %s1 1 4\r\nlate\r\nHMSG %s2 1 12 15\r\nNATS/1.0\r\n\r\nabc\r\n",
			"HMSG %s3 1 16 16\r\nNATS/1.0 404\r\n\r\n\r\n",
			"HMSG %s4 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n",
			"MSG %s5 1 36\r\n{\"error\":{\"description\":\"no quorum\"}}\r\n",
			"MSG %s6 1 -5\r\n",
		} {
			_ = lines(r, 2) // PUB and its payload
			_, _ = io.WriteString(w, strings.ReplaceAll(answer, "%s", inbox))
			if i == 0 {
				if got := lines(r, 1); got != "PONG\r\n" {
					t.Errorf("a PING is answered %q", got)
				}
			}
		}
	})
	c, err := dialNATS(addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i, step := range []struct {
		op   *loadgen.Op
		want loadgen.Class
	}{{put("k", "v"), loadgen.OK}, {get("k"), loadgen.OK}, {get("k"), loadgen.Missing}, {get("k"), loadgen.Failed}, {put("k", "v"), loadgen.Failed}, {get("k"), loadgen.Broken}} {
		if a := c.Do(step.op); a.Class != step.want || i == 1 && string(a.Value) != "abc" {
			t.Errorf("answer %d: %+v, want class %d", i, a, step.want)
		}
	}
}

func TestEtcdConn(t *testing.T) {
	var asked []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		asked = append(asked, r.URL.Path+" "+string(b))
		switch len(asked) {
		case 1:
			_, _ = io.WriteString(w, `{"header":{}}`)
		case 2:
			_, _ = io.WriteString(w, `{"kvs":[{"key":"aw==","value":"YWJj"}],"count":"1"}`)
		case 3:
			_, _ = io.WriteString(w, `{"header":{}}`)
		default:
			http.Error(w, "no leader", http.StatusServiceUnavailable)
		}
	}))
	defer s.Close()
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	h, err := loadgen.DialHTTP(context.Background(), u, opTime, "")
	if err != nil {
		t.Fatal(err)
	}
	c := &etcdConn{http: h, host: u.Host, serializable: true}
	defer c.Close()
	for i, step := range []struct {
		op   *loadgen.Op
		want loadgen.Class
	}{{put("k", "abc"), loadgen.OK}, {get("k"), loadgen.OK}, {get("k"), loadgen.Missing}, {put("k", "abc"), loadgen.Failed}} {
		if a := c.Do(step.op); a.Class != step.want || i == 1 && string(a.Value) != "abc" {
			t.Errorf("answer %d: %+v, want class %d", i, a, step.want)
		}
	}
	if asked[0] != `/v3/kv/put {"key":"aw==","value":"YWJj"}` || asked[1] != `/v3/kv/range {"key":"aw==","serializable":true}` {
		t.Errorf("asked: %q", asked)
	}
}
