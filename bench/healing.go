package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/dunlindb/dunlin/client"
	"github.com/dunlindb/dunlin/internal/loadgen"
)

const (
	idleTime   = time.Minute
	different  = 10              // keys that one node has missed
	healTime   = 5 * time.Minute // how long a difference or a refill may take
	healPause  = 5 * time.Second // after which writes under way, hints and repairs are done
	background = 0.2             // of --rate: load while a node is filled again
)

// healing is what it costs to keep replicas equal, to make them equal, and to fill an empty disk.
type healing struct {
	Settings settings  `json:"settings"`
	Machine  machine   `json:"machine"`
	Version  string    `json:"version"`
	Idle     idleCost  `json:"idle"`
	Differ   differing `json:"differ"`
	Refills  []refill  `json:"refills"`
}

// idleCost is of exchanges that find no difference, and of all that nodes without clients do.
type idleCost struct {
	Exchanges float64 `json:"exchanges"`
	Bytes     float64 `json:"bytes_per_exchange"` // request and answer
	Micros    float64 `json:"us_per_exchange"`    // from begin to end
	CPU       float64 `json:"cpu_share_per_node"` // of one processor
	Seconds   float64 `json:"seconds"`
}

// differing is of exchanges from the start of a node that missed a few writes until all nodes hold the same.
type differing struct {
	Bytes float64 `json:"bytes"` // of all exchanges that all nodes began, those that found nothing included
	Own   float64 `json:"own_bytes"`
}

// refill is of one node whose disk was lost.
type refill struct {
	Seconds float64         `json:"seconds"` // from the decision until it holds everything
	Objects int64           `json:"objects"`
	Bytes   int64           `json:"bytes"`
	Before  loadgen.Latency `json:"before"` // of clients, with all nodes
	Away    loadgen.Latency `json:"away"`   // with the node away, so that requests need both of the others
	During  loadgen.Latency `json:"during"`
	Errors  int64           `json:"errors"`
	Other   float64         `json:"other_cpu"`
}

func measureHealing(ctx context.Context, s settings, progress io.Writer) (_ *healing, err error) {
	w, err := newWard(ctx, s, "healing", progress)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	if err := w.start(ctx); err != nil {
		return nil, err
	}
	h := &healing{Settings: s, Machine: thisMachine(), Version: w.server.version}
	for _, step := range []func(context.Context, *healing) error{w.idle, w.differ} {
		if err := step(ctx, h); err != nil {
			return nil, err
		}
	}
	for range s.Rounds {
		r, err := w.refill(ctx)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(progress, "refill: %d objects in %.1f s, p99 %.0f us before, %.0f us with the node away, %.0f us during\n", r.Objects, r.Seconds, r.Before.P99, r.Away.P99, r.During.P99)
		h.Refills = append(h.Refills, r)
	}
	return h, nil
}

// counters are sums of metrics over some nodes.
type counters map[string]float64

func sumOf(ctx context.Context, urls []string) (counters, error) {
	out := counters{}
	for _, u := range urls {
		body, err := fetch(ctx, u+"/metrics")
		if err != nil {
			return nil, err
		}
		lines := bufio.NewScanner(bytes.NewReader(body))
		for lines.Scan() {
			name, value, _ := strings.Cut(lines.Text(), " ")
			if n, err := strconv.ParseFloat(value, 64); err == nil {
				out[name] += n
			}
		}
	}
	return out, nil
}

const (
	bytesOut     = `dunlin_antientropy_bytes_total{direction="out"}`
	bytesIn      = `dunlin_antientropy_bytes_total{direction="in"}`
	sameCount    = `dunlin_antientropy_exchange_seconds_count{result="same"}`
	sameSeconds  = `dunlin_antientropy_exchange_seconds_sum{result="same"}`
	processorUse = "process_cpu_seconds_total"
)

func (w *ward) idle(ctx context.Context, h *healing) error {
	if err := w.equal(ctx); err != nil {
		return err
	}
	before, err := sumOf(ctx, w.server.urls)
	if err != nil {
		return err
	}
	if err := sleep(ctx, idleTime); err != nil {
		return err
	}
	after, err := sumOf(ctx, w.server.urls)
	if err != nil {
		return err
	}
	grew := func(name string) float64 { return after[name] - before[name] }
	n := max(grew(sameCount), 1)
	h.Idle = idleCost{
		Exchanges: n, Bytes: (grew(bytesOut) + grew(bytesIn)) / n, Micros: 1e6 * grew(sameSeconds) / n,
		CPU: grew(processorUse) / idleTime.Seconds() / nodes, Seconds: idleTime.Seconds(),
	}
	fmt.Fprintf(w.progress, "idle: %+v\n", h.Idle)
	return nil
}

// differ lets the last node miss some writes, without hints, so that only exchanges can tell it.
func (w *ward) differ(ctx context.Context, h *healing) error {
	last := nodes - 1
	if err := w.cluster.kill(last); err != nil {
		return err
	}
	for i := range different {
		// Keys of the load, far from each other, with values that no load writes.
		key := fmt.Sprintf("key-%012d", i*w.settings.Keys/different)
		url := w.server.urls[0] + "/kv/healing/" + key + "?w=2&sloppy=false"
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, url, bytes.NewReader(bytes.Repeat([]byte{byte('a' + i)}, w.settings.Value)))
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		res.Body.Close()
		if res.StatusCode != http.StatusNoContent {
			return fmt.Errorf("PUT %s: %s", url, res.Status)
		}
	}
	before, err := sumOf(ctx, w.server.urls[:last])
	if err != nil {
		return err
	}
	if err := w.restart(ctx, last); err != nil {
		return err
	}
	if err := w.equal(ctx); err != nil {
		return err
	}
	after, err := sumOf(ctx, w.server.urls)
	if err != nil {
		return err
	}
	h.Differ = differing{
		Bytes: after[bytesIn] + after[bytesOut] - before[bytesIn] - before[bytesOut], Own: float64(different * w.settings.Value),
	}
	fmt.Fprintf(w.progress, "%d different keys: %+v\n", different, h.Differ)
	return nil
}

// refill loses the last node's disk and lets the empty node take its place, with clients at the others.
func (w *ward) refill(ctx context.Context) (r refill, err error) {
	last := nodes - 1
	if r.Before, _, _, err = w.load(ctx); err != nil {
		return r, err
	}
	if err := w.cluster.kill(last); err != nil {
		return r, err
	}
	if err := sleep(ctx, healPause); err != nil {
		return r, err
	}
	if r.Away, _, _, err = w.load(ctx); err != nil {
		return r, err
	}
	if err := os.RemoveAll(nodeDir(w.dir, last)); err != nil {
		return r, err
	}
	if err := w.cluster.launch(w.server, w.dir, last); err != nil {
		return r, err
	}
	admin, err := client.New(w.server.urls[:1], client.Options{Tries: 1})
	if err != nil {
		return r, err
	}
	defer admin.Close()
	filled, err := client.New(w.server.urls[last:], client.Options{Tries: 1})
	if err != nil {
		return r, err
	}
	defer filled.Close()
	if err := until(ctx, func() error {
		_, err := admin.Apply(ctx, client.Change{Action: "replace", Node: "n3"})
		return err // until the empty node has been heard of
	}); err != nil {
		return r, err
	}
	began := time.Now()
	ended := make(chan error, 1)
	go func() {
		ended <- until(ctx, func() error {
			t, err := filled.Transfers(ctx)
			if err == nil && (t.Changing || t.PartitionsToFill > t.PartitionsFilled || t.Epoch < 2) {
				err = fmt.Errorf("%d of %d partitions are filled", t.PartitionsFilled, t.PartitionsToFill)
			}
			if err == nil {
				r.Seconds, r.Objects, r.Bytes = time.Since(began).Seconds(), t.Objects, t.Bytes
			}
			return err
		})
	}()
	r.During, r.Errors, r.Other, err = w.load(ctx)
	return r, errors.Join(err, <-ended, w.equal(ctx))
}

func (w *ward) load(ctx context.Context) (l loadgen.Latency, failed int64, other float64, err error) {
	result, err := loadgen.Run(ctx, w.spec(), w.server.others, loadgen.Options{PIDs: w.cluster.pids()[:nodes-1]})
	if err != nil {
		return l, 0, 0, err
	}
	if result.Machine != nil {
		other = result.Machine.Other
	}
	return result.Latency, result.Errors + result.Unsent, other, nil
}

func (w *ward) restart(ctx context.Context, node int) error {
	if err := w.cluster.launch(w.server, w.dir, node); err != nil {
		return err
	}
	return until(ctx, func() error { return w.server.ready(ctx) })
}

// equal waits until all nodes, which all hold all keys, have the same digests.
func (w *ward) equal(ctx context.Context) error {
	if err := sleep(ctx, healPause); err != nil {
		return err
	}
	return until(ctx, func() error {
		var digests [][]byte
		for _, u := range w.server.urls {
			d, err := fetch(ctx, u+"/cluster/digest")
			if err != nil {
				return err
			}
			digests = append(digests, d)
		}
		if !slices.EqualFunc(digests[1:], digests[:len(digests)-1], bytes.Equal) {
			return errors.New("digests differ")
		}
		return nil
	})
}

// until tries again and again, up to healTime.
func until(ctx context.Context, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, healTime)
	defer cancel()
	for {
		err := try()
		if err == nil {
			return nil
		}
		if late := sleep(ctx, 200*time.Millisecond); late != nil {
			return fmt.Errorf("%w; the last try: %w", late, err)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func fetch(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %s", url, res.Status, body)
	}
	return body, err
}

// kill ends a process as a crash would.
func (c *cluster) kill(node int) error {
	if err := c.procs[node].Process.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	ended := <-c.ended[node]
	c.ended[node] <- ended
	return nil
}

func (h *healing) markdown() string {
	var b strings.Builder
	s := h.Settings
	fmt.Fprintf(&b, "Measured on %v. %s. Three nodes that hold all of %d keys with values of %d bytes.\n\n", h.Machine, h.Version, s.Keys, s.Value)
	other := median(over(h.Refills, func(r refill) float64 { return r.Other }))
	if other > disturbed {
		fmt.Fprintf(&b, "**Preliminary:** other work, and the node that is filled, used %.0f%% of the machine meanwhile (median).\n\n", 100*other)
	}
	b.WriteString("| what | measured |\n| --- | --- |\n")
	row := func(what, format string, args ...any) {
		fmt.Fprintf(&b, "| %s | "+format+" |\n", append([]any{what}, args...)...)
	}
	row("an exchange that finds no difference", "%.1f KB there and back, %.1f ms (%.0f exchanges in %.0f s)", h.Idle.Bytes/1e3, h.Idle.Micros/1e3, h.Idle.Exchanges, h.Idle.Seconds)
	row("CPU of a node without clients, all included", "%.1f %% of one processor", 100*h.Idle.CPU)
	row(fmt.Sprintf("%d keys that a node missed while it was down", different), "%.0f KB in all exchanges until all are equal, %.0f × the values' own bytes", h.Differ.Bytes/1e3, h.Differ.Bytes/h.Differ.Own)
	row("filling an empty disk", "%s s; %s MB/s, %s objects/s", spread(over(h.Refills, func(r refill) float64 { return r.Seconds })),
		spread(over(h.Refills, func(r refill) float64 { return float64(r.Bytes) / 1e6 / r.Seconds })), spread(over(h.Refills, func(r refill) float64 { return float64(r.Objects) / r.Seconds })))
	ms := func(us float64) float64 { return us / 1e3 }
	row(fmt.Sprintf("clients' p99 at %.0f/s with all nodes", background*s.Rate), "%s ms", spread(over(h.Refills, func(r refill) float64 { return ms(r.Before.P99) })))
	row("with the node away", "%s ms", spread(over(h.Refills, func(r refill) float64 { return ms(r.Away.P99) })))
	row("while it is filled", "%s ms", spread(over(h.Refills, func(r refill) float64 { return ms(r.During.P99) })))
	row("ratio of each round, to all nodes and to the node away", "%s and %s", spread(over(h.Refills, func(r refill) float64 { return r.During.P99 / r.Before.P99 })),
		spread(over(h.Refills, func(r refill) float64 { return r.During.P99 / r.Away.P99 })))
	failed := int64(0)
	for _, r := range h.Refills {
		failed += r.Errors
	}
	row("operations that failed meanwhile", "%d", failed)
	return b.String()
}

func over[T any](from []T, of func(T) float64) (out []float64) {
	for _, x := range from {
		out = append(out, of(x))
	}
	return out
}
