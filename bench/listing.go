package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// listingPage is the largest page that there is.
const listingPage = 10_000

// listing is of all keys of a bucket through the first node, page after page.
type listing struct {
	Keys    int      `json:"keys"`
	Pages   int      `json:"pages"`
	Bytes   int64    `json:"bytes"` // of the answers' bodies
	Seconds float64  `json:"seconds"`
	CPU     float64  `json:"server_cpu_us_per_key"`
	Memory  []memory `json:"memory"` // of each node
}

// memory is what a process had resident, in bytes.
type memory struct {
	Before int64 `json:"before_bytes"`
	Peak   int64 `json:"peak_bytes"` // meanwhile
}

// list lists all keys, of which there must be so many.
func (g *grower) list(ctx context.Context, p *site, keys int) (*listing, error) {
	if err := p.rest(ctx); err != nil {
		return nil, err
	}
	pids := p.cluster.pids()
	l := &listing{Memory: make([]memory, len(pids))}
	for i, pid := range pids {
		// The kernel forgets the peak until now.
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0o200); err != nil {
			return nil, err
		}
		var err error
		if l.Memory[i].Before, err = statusOf(pid, "VmRSS"); err != nil {
			return nil, err
		}
	}
	before, err := sumOf(ctx, p.server.urls)
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	if err := l.pages(ctx, p.server.urls[0]+"/kv/"+p.server.target.Bucket); err != nil {
		return nil, fmt.Errorf("listing: %w", err)
	}
	l.Seconds = time.Since(begin).Seconds()
	after, err := sumOf(ctx, p.server.urls)
	if err != nil {
		return nil, err
	}
	l.CPU = 1e6 * (after[processorUse] - before[processorUse]) / float64(max(l.Keys, 1))
	for i, pid := range pids {
		if l.Memory[i].Peak, err = statusOf(pid, "VmHWM"); err != nil {
			return nil, err
		}
	}
	if l.Keys != keys {
		return nil, fmt.Errorf("listing: %d keys instead of %d", l.Keys, keys)
	}
	fmt.Fprintf(g.progress, "listing: %+v\n", *l)
	return l, nil
}

// pages turns all pages and keeps none.
func (l *listing) pages(ctx context.Context, bucket string) error {
	for after, more := "", true; more; l.Pages++ {
		q := url.Values{"limit": {strconv.Itoa(listingPage)}}
		if l.Pages > 0 {
			q.Set("after", after)
		}
		last := after
		var err error
		if after, more, err = l.page(ctx, bucket+"?"+q.Encode(), last); err != nil {
			return err
		}
	}
	return nil
}

// page reads one page, whose keys must come in order behind after, and returns where the next one begins.
func (l *listing) page(ctx context.Context, url, after string) (next string, more bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", false, err
	}
	req.Header.Set("Accept", "application/x-ndjson")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", false, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(res.Body, 500)) // what there is of a reason
		return "", false, fmt.Errorf("%s: %s: %s", url, res.Status, b)
	}
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		l.Bytes += int64(len(lines.Bytes())) + 1
		var line struct{ Key, Next *string }
		switch err := json.Unmarshal(lines.Bytes(), &line); {
		case err != nil:
			return "", false, fmt.Errorf("%s: %q: %w", url, lines.Text(), err)
		case line.Next != nil:
			return *line.Next, true, lines.Err()
		case line.Key == nil || *line.Key <= after:
			return "", false, fmt.Errorf("%s: after %q comes %s", url, after, lines.Text())
		}
		after = *line.Key
		l.Keys++
	}
	return "", false, lines.Err()
}

// statusOf is a field of /proc/PID/status that is given in kB, in bytes.
func statusOf(pid int, field string) (int64, error) {
	path := fmt.Sprintf("/proc/%d/status", pid)
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("%s says no %s", path, field)
}
