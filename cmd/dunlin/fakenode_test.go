package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dunlindb/dunlin/internal/config"
)

// fakeCluster is what the commands see of a cluster: keys with siblings and
// contexts over HTTP, without any of the machinery behind.
type fakeCluster struct {
	mu       sync.Mutex
	keys     map[string][]fakeValue // by "bucket/key"
	seen     map[string]bool        // Idempotency-Keys
	lww      map[string]bool        // paths of buckets whose last write wins
	clock    int
	fail     int // answer so many writes with 503 first
	writes   int
	stall    chan struct{} // writes behind stallAt wait for it
	stallAt  int
	requests []string
	members  string // JSON of /cluster/members
	notReady string
}

type fakeValue struct {
	dot         int
	contentType string
	text        string
}

func newFakeCluster() *fakeCluster {
	return &fakeCluster{keys: map[string][]fakeValue{}, seen: map[string]bool{}, lww: map[string]bool{}, members: `{"members":[]}`}
}

func (f *fakeCluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, r.Method+" "+r.URL.RequestURI())
	w.Header().Set("Dunlin-Node", "fake")
	w.Header().Set("Dunlin-Acks", "2/3")
	path := r.URL.EscapedPath()
	bucket, key, isKey := strings.Cut(strings.TrimPrefix(path, "/kv/"), "/")
	switch {
	case path == "/readyz" && f.notReady != "":
		problem(w, 503, f.notReady)
	case path == "/readyz":
	case path == "/cluster/members":
		fmt.Fprint(w, f.members)
	case path == "/buckets":
		fmt.Fprint(w, `{"buckets":["demo"]}`)
	case strings.HasPrefix(path, "/buckets/"):
		f.bucket(w, r, path)
	case strings.HasPrefix(path, "/kv/") && !isKey:
		f.list(w, r, bucket)
	case strings.HasPrefix(path, "/kv/"):
		key, _ = url.PathUnescape(key)
		f.key(w, r, bucket+"/"+key)
	default:
		problem(w, 404, "no such route")
	}
}

// bucket keeps one property, conflict.
func (f *fakeCluster) bucket(w http.ResponseWriter, r *http.Request, path string) {
	if r.Method == http.MethodPut {
		var p struct{ Conflict string }
		if err := json.NewDecoder(r.Body).Decode(&p); err != nil {
			problem(w, 400, err.Error())
			return
		}
		f.lww[path] = p.Conflict == "lww"
	}
	conflict := "siblings"
	if f.lww[path] {
		conflict = "lww"
	}
	fmt.Fprintf(w, `{"conflict":%q}`, conflict)
}

func problem(w http.ResponseWriter, status int, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"title": http.StatusText(status), "status": status, "detail": detail})
}

func (f *fakeCluster) key(w http.ResponseWriter, r *http.Request, key string) {
	switch r.Method {
	case http.MethodGet:
		f.get(w, f.keys[key])
	case http.MethodDelete:
		delete(f.keys, key)
		w.WriteHeader(http.StatusNoContent)
	case http.MethodPut:
		f.put(w, r, key)
	}
}

func (f *fakeCluster) put(w http.ResponseWriter, r *http.Request, key string) {
	body, _ := io.ReadAll(r.Body)
	f.writes++
	if f.stall != nil && f.writes > f.stallAt {
		stall := f.stall
		f.mu.Unlock()
		select {
		case <-stall:
		case <-r.Context().Done():
		}
		f.mu.Lock()
		if r.Context().Err() != nil {
			return
		}
	}
	switch {
	case f.fail > 0:
		f.fail--
		problem(w, 503, "no quorum")
		return
	case strings.Contains(key, "bad"):
		problem(w, 400, "this key is bad")
		return
	}
	id := r.Header.Get("Idempotency-Key")
	if id == "" || !f.seen[id] {
		f.seen[id] = id != ""
		f.clock++
		upTo, _ := strconv.Atoi(r.Header.Get("Dunlin-Context"))
		bucket, _, _ := strings.Cut(key, "/")
		left := slices.DeleteFunc(f.keys[key], func(v fakeValue) bool { return v.dot <= upTo || f.lww["/buckets/"+bucket] })
		f.keys[key] = append(left, fakeValue{f.clock, r.Header.Get("Content-Type"), string(body)})
	}
	if n := len(f.keys[key]); n == 1 {
		w.Header().Set("Dunlin-Context", strconv.Itoa(f.keys[key][0].dot))
	} else {
		w.Header().Set("Dunlin-Siblings", strconv.Itoa(n))
	}
	w.WriteHeader(http.StatusNoContent)
}

func (f *fakeCluster) get(w http.ResponseWriter, values []fakeValue) {
	if len(values) == 0 {
		problem(w, 404, "")
		return
	}
	w.Header().Set("Dunlin-Context", strconv.Itoa(values[len(values)-1].dot))
	if len(values) == 1 {
		w.Header().Set("Content-Type", values[0].contentType)
		fmt.Fprint(w, values[0].text)
		return
	}
	w.Header().Set("Content-Type", `multipart/mixed; boundary=x`)
	w.WriteHeader(http.StatusMultipleChoices)
	for _, v := range values {
		fmt.Fprintf(w, "--x\r\nContent-Type: %s\r\nDunlin-Dot: %d\r\n\r\n%s\r\n", v.contentType, v.dot, v.text)
	}
	fmt.Fprint(w, "--x--\r\n")
}

func (f *fakeCluster) list(w http.ResponseWriter, r *http.Request, bucket string) {
	q := r.URL.Query()
	limit, _ := strconv.Atoi(q.Get("limit"))
	limit = min(limit, 2) // small pages
	var keys []string
	for k := range f.keys {
		key, ok := strings.CutPrefix(k, bucket+"/")
		if ok && strings.HasPrefix(key, q.Get("prefix")) && key > q.Get("after") {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	next := ""
	if len(keys) > limit {
		keys, next = keys[:limit], keys[limit-1]
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"keys": keys, "next": next})
}

// runFakeNode stands for a node in the processes that dev starts. It keeps its
// count of starts and its keys in the data directory.
func runFakeNode(ctx context.Context, cfg config.Config, log *slog.Logger) error {
	if err := os.MkdirAll(cfg.Data, 0o755); err != nil {
		return config.Problem("data", err)
	}
	if text, err := os.ReadFile(filepath.Join(cfg.Data, "fail")); err == nil {
		return config.Problem("data", fmt.Errorf("%s", strings.TrimSpace(string(text))))
	}
	started, err := os.OpenFile(filepath.Join(cfg.Data, "starts"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	fmt.Fprintf(started, "pid %d variables %v seeds %v\n", os.Getpid(), strangeVariables(os.Environ()), cfg.Seeds)
	_ = started.Close()
	listener, err := net.Listen("tcp", cfg.HTTP)
	if err != nil {
		return config.Problem("http", err)
	}
	log.Info("started")
	server := &http.Server{Handler: newFakeCluster(), ReadHeaderTimeout: time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	<-ctx.Done()
	_ = server.Close()
	<-served
	stopped := filepath.Join(cfg.Data, "stopped")
	return os.WriteFile(stopped, []byte(strconv.Itoa(os.Getpid())), 0o644)
}
