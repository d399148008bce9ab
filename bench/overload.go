package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dunlindb/dunlin/internal/loadgen"
)

const (
	floodConnections = loadgen.MaxConnections // more than all nodes work on at once
	probePause       = 50 * time.Millisecond
	calmTime         = 7 * time.Second // probed after the load
	recoveryTime     = 2 * time.Second // after which probes are compared with those before
	promptly         = 50 * time.Millisecond
)

// overloads is what happens when clients want twice what there is.
type overloads struct {
	Settings settings   `json:"settings"`
	Machine  machine    `json:"machine"`
	Version  string     `json:"version"`
	Split    bool       `json:"split"` // the servers have half of the processors, the client the other
	Floods   []overload `json:"floods"`
}

// overload is one round.
type overload struct {
	Peak     float64         `json:"peak_ops_per_s"` // of a closed loop
	PeakLat  loadgen.Latency `json:"peak_latency"`
	Rate     float64         `json:"asked_ops_per_s"`
	Goodput  float64         `json:"good_ops_per_s"`
	Good     loadgen.Latency `json:"good_latency"`
	Refused  loadgen.Latency `json:"refused_latency"` // of writes and reads, whichever is worse
	Answers  answers         `json:"answers"`
	Unsent   int64           `json:"unsent"`
	RSS      [2]float64      `json:"peak_rss_bytes"` // of all nodes, before and after
	Probes   probed          `json:"probes"`
	Machine  loadgen.Machine `json:"machine"`
	Failures map[string]string
}

// answers counts by status.
type answers map[string]int64

// probed is what single requests met, sent now and then over connections of their own.
type probed struct {
	Before      float64 `json:"before_p99_us"`
	Refused     int     `json:"refused"`
	RefusedP99  float64 `json:"refused_p99_us"`
	RefusedMax  float64 `json:"refused_max_us"`
	Late        int     `json:"refused_late"`   // after more than promptly
	NoWait      int     `json:"no_retry_after"` // 503 without Retry-After
	LastRefusal float64 `json:"last_refusal_s"` // after the load has stopped; 0: none
	After       float64 `json:"after_p99_us"`   // from recoveryTime on
	OtherFailed int     `json:"failed_otherwise"`
}

// probe is one request.
type probe struct {
	at     time.Time
	took   time.Duration
	status int // 0: no answer
	wait   bool
}

func measureOverload(ctx context.Context, s settings, progress io.Writer) (_ *overloads, err error) {
	w, err := newWard(ctx, s, "overload", progress)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	out := &overloads{Settings: s, Machine: thisMachine(), Version: w.server.version}
	if out.Split, err = apart(func() error { return w.launch(ctx) }); err != nil {
		return nil, err
	}
	if err := w.fill(ctx); err != nil {
		return nil, err
	}
	for range s.Rounds {
		o, err := w.flood(ctx)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(progress, "overload: peak %.0f/s, asked for %.0f/s, %.0f/s good (p99 %.0f us), %v, refused p99 %.0f us, unsent %d, probes %+v, other %.0f%% %v\n",
			o.Peak, o.Rate, o.Goodput, o.Good.P99, o.Answers, o.Refused.P99, o.Unsent, o.Probes, 100*o.Machine.Other, o.Failures)
		out.Floods = append(out.Floods, o)
	}
	return out, nil
}

// flood finds the peak, then asks for twice as much.
func (w *ward) flood(ctx context.Context) (o overload, err error) {
	v, pids, spec := w.server, w.cluster.pids(), w.closedLoop()
	peak, err := loadgen.Run(ctx, spec, v.loads[0].dial, loadgen.Options{PIDs: pids})
	if err != nil {
		return o, err
	}
	o.Peak, o.PeakLat, o.Rate = peak.PerSecond, peak.Latency, 2*peak.PerSecond
	pctx, stop := context.WithCancel(ctx)
	defer stop()
	p := startProbes(pctx, v.urls)
	if err := sleep(ctx, calmTime); err != nil { // as long as after it
		return o, err
	}
	begin := time.Now()
	spec.Rate, spec.Arrivals, spec.Connections, spec.Duration = o.Rate, loadgen.Poisson, floodConnections, w.settings.Flood
	r, err := loadgen.Run(ctx, spec, v.loads[0].dial, loadgen.Options{PIDs: pids})
	if err != nil {
		return o, err
	}
	end := r.Started.Add(spec.Warmup + spec.Duration)
	if err := sleep(ctx, time.Until(end.Add(calmTime))); err != nil {
		return o, err
	}
	stop()
	o.Probes = judge(p.wait(), begin, end)
	o.Goodput, o.Unsent, o.Failures, o.Good = r.PerSecond, r.Unsent, r.Failures, r.Kinds["put"].Latency
	if get := r.Kinds["get"].Latency; get.P99 > o.Good.P99 {
		o.Good = get
	}
	o.Answers = answers{}
	for _, k := range r.Kinds {
		for reason, n := range k.Answers {
			o.Answers[reason] += n
		}
		if k.Failed.P99 > o.Refused.P99 {
			o.Refused = k.Failed
		}
	}
	for i, b := range peak.Servers.PeakRSS {
		o.RSS[0] += float64(b)
		o.RSS[1] += float64(r.Servers.PeakRSS[i])
	}
	if r.Machine != nil {
		o.Machine = *r.Machine
	}
	return o, nil
}

// probes ask every node now and then, in turn for a value and with one.
type probes struct {
	wg  sync.WaitGroup
	mu  sync.Mutex
	all []probe
}

func startProbes(ctx context.Context, urls []string) *probes {
	p := &probes{}
	for _, u := range urls {
		p.wg.Go(func() { p.run(ctx, u) })
	}
	return p
}

func (p *probes) wait() []probe {
	p.wg.Wait()
	return p.all
}

func (p *probes) run(ctx context.Context, at string) {
	base, err := url.Parse(at)
	if err != nil {
		return // it was made by this program
	}
	get := []byte("GET /kv/bench/probe?r=2 HTTP/1.1\r\nHost: " + base.Host + "\r\n\r\n")
	put := []byte("PUT /kv/bench/probe?w=2 HTTP/1.1\r\nHost: " + base.Host + "\r\nContent-Length: 2\r\n\r\nok")
	var conn *loadgen.HTTPConn
	for i := 0; sleep(ctx, probePause) == nil; i++ {
		x := probe{at: time.Now()}
		if conn == nil {
			conn, _ = loadgen.DialHTTP(context.WithoutCancel(ctx), base, opTime, "Retry-After")
		}
		if conn != nil {
			request := put
			if i%2 == 1 {
				request = get
			}
			var a loadgen.HTTPAnswer
			if a, err = conn.Do(request); err != nil || a.Close {
				conn.Close()
				conn = nil
			}
			x.status, x.wait = a.Status, len(a.Kept) > 0
		}
		x.took = time.Since(x.at)
		p.mu.Lock()
		p.all = append(p.all, x)
		p.mu.Unlock()
	}
	if conn != nil {
		conn.Close()
	}
}

// judge sums up probes around a load from begin to end.
func judge(all []probe, begin, end time.Time) (out probed) {
	var before, refused, after []float64
	for _, x := range all {
		took := float64(x.took) / 1e3
		ok := x.status >= 200 && x.status < 300
		switch {
		case x.status == http.StatusServiceUnavailable:
			refused = append(refused, took)
			if x.took > promptly {
				out.Late++
			}
			if !x.wait {
				out.NoWait++
			}
		case !ok:
			out.OtherFailed++
		case x.at.Before(begin):
			before = append(before, took)
		case x.at.After(end.Add(recoveryTime)):
			after = append(after, took)
		}
		if !ok && x.at.After(end) {
			out.LastRefusal = max(out.LastRefusal, x.at.Add(x.took).Sub(end).Seconds())
		}
	}
	out.Before, out.After, out.Refused = percentile(before, 99), percentile(after, 99), len(refused)
	out.RefusedP99, out.RefusedMax = percentile(refused, 99), percentile(refused, 100)
	return out
}

// percentile of values in any order; 0 of none.
func percentile(values []float64, p int) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[max(0, (len(sorted)*p+99)/100-1)]
}

func (o *overloads) markdown() string {
	var b strings.Builder
	s := o.Settings
	fmt.Fprintf(&b, "Measured on %v. %s. Three nodes, %d keys with values of %d bytes, PUT and GET in equal parts, %s. Median [least to most].\n\n", o.Machine, o.Version, s.Keys, s.Value, s.inRounds())
	if o.Split {
		b.WriteString("The servers had half of the processors, the client the other half.\n\n")
	}
	if other := median(over(o.Floods, func(x overload) float64 { return x.Machine.Other })); other > disturbed {
		fmt.Fprintf(&b, "**Preliminary:** other work used %.0f%% of the machine meanwhile (median).\n\n", 100*other)
	}
	b.WriteString("| what | measured |\n| --- | --- |\n")
	row := func(what string, of func(overload) float64) {
		fmt.Fprintf(&b, "| %s | %s |\n", what, spread(over(o.Floods, of)))
	}
	share := func(of func(overload) int64) func(overload) float64 {
		return func(x overload) float64 {
			all := x.Unsent
			for _, n := range x.Answers {
				all += n
			}
			return 100 * float64(of(x)) / float64(all)
		}
	}
	row(fmt.Sprintf("peak: closed loop of %d connections, operations/s", s.Connections), func(x overload) float64 { return x.Peak })
	row(fmt.Sprintf("asked for: open loop of twice as much over %d connections for %v, operations/s", floodConnections, s.Flood), func(x overload) float64 { return x.Rate })
	row("done, operations/s", func(x overload) float64 { return x.Goodput })
	row("done, of the peak", func(x overload) float64 { return x.Goodput / x.Peak })
	row("p99 of what was done, ms", func(x overload) float64 { return x.Good.P99 / 1e3 })
	row("refused with 503, % of what was asked for", share(func(x overload) int64 { return x.Answers["503"] }))
	row("failed otherwise, %", share(func(x overload) int64 {
		n := int64(0)
		for reason, m := range x.Answers {
			if reason != "503" && reason != "404" && !strings.HasPrefix(reason, "2") {
				n += m
			}
		}
		return n
	}))
	row("not even sent by the client, %", share(func(x overload) int64 { return x.Unsent }))
	row("refusals: p50 from when it was due, ms", func(x overload) float64 { return x.Refused.P50 / 1e3 })
	row("refusals: p99 from when it was due, ms", func(x overload) float64 { return x.Refused.P99 / 1e3 })
	row("single requests beside the load: p99 of refusals, ms", func(x overload) float64 { return x.Probes.RefusedP99 / 1e3 })
	row("of them refused without `Retry-After`", func(x overload) float64 { return float64(x.Probes.NoWait) })
	row("the last refusal after the load, s", func(x overload) float64 { return x.Probes.LastRefusal })
	row("p99 of single requests before the load, ms", func(x overload) float64 { return x.Probes.Before / 1e3 })
	row(fmt.Sprintf("and from %v after it, ms", recoveryTime), func(x overload) float64 { return x.Probes.After / 1e3 })
	row("peak memory of three nodes before, MiB", func(x overload) float64 { return x.RSS[0] / (1 << 20) })
	row("and after, MiB", func(x overload) float64 { return x.RSS[1] / (1 << 20) })
	return b.String()
}
