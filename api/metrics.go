package api

import (
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dunlindb/dunlin/internal/admission"
)

type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	refused  prometheus.Counter
	siblings prometheus.Histogram
	batch    *prometheus.CounterVec
}

// newMetrics declares all metrics of this package.
func newMetrics(reg *prometheus.Registry, l *admission.Limit) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dunlin_http_requests_total", Help: "Requests answered, by route, method and status (499: client gone).",
		}, []string{"route", "method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "dunlin_http_request_seconds", Help: "Time from a request's header to its answer, by route and method.",
			Buckets:                        []float64{.0005, .001, .0025, .005, .01, .025, .1, .5, 1, 5, 30},
			NativeHistogramBucketFactor:    1.1,
			NativeHistogramMaxBucketNumber: 100,
		}, []string{"route", "method"}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "dunlin_http_refused_total", Help: "Requests refused at once because too many were worked on.",
		}),
		siblings: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "dunlin_http_siblings", Help: "Live siblings of the keys that were answered.",
			Buckets: []float64{0, 1, 2, 3, 5, 10, 25, 50, 100},
		}),
		batch: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dunlin_http_batch_operations_total", Help: "Operations of batches, by kind and status.",
		}, []string{"op", "code"}),
	}
	inFlight := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "dunlin_http_in_flight", Help: "Requests worked on now, and writes that other nodes have handed to this one.",
	}, func() float64 { return float64(l.InFlight()) })
	limit := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "dunlin_http_in_flight_limit", Help: "How many may be worked on now: less than --max-in-flight while processors do not keep up.",
	}, func() float64 { return float64(l.Now()) })
	for _, c := range []prometheus.Collector{m.requests, m.seconds, m.refused, m.siblings, m.batch, inFlight, limit} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("api: metrics: %w", err)
		}
	}
	return m, nil
}

// otherMethod stands for what anyone can make up.
const otherMethod = "other"

// routeMetrics are a route's, by method.
type routeMetrics map[string]*methodMetrics

// methodMetrics are what is counted of one method of a route. Each is looked up by its labels once, when it is there for
// the first time.
type methodMetrics struct {
	all           *metrics
	route, method string

	mu      sync.Mutex // of who adds one
	known   atomic.Pointer[map[int]prometheus.Counter]
	seconds atomic.Pointer[prometheus.Observer]
}

func (m *metrics) route(path string) routeMetrics {
	out := make(routeMetrics)
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodDelete, otherMethod} {
		out[method] = &methodMetrics{all: m, route: path, method: method}
	}
	return out
}

func (r routeMetrics) of(method string) *methodMetrics {
	if m := r[method]; m != nil {
		return m
	}
	return r[otherMethod]
}

// observe counts an answer.
func (m *methodMetrics) observe(code int, took time.Duration) {
	known := m.known.Load()
	if known == nil || (*known)[code] == nil {
		known = m.add(code)
	}
	(*known)[code].Inc()
	(*m.seconds.Load()).Observe(took.Seconds())
}

func (m *methodMetrics) add(code int) *map[int]prometheus.Counter {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := make(map[int]prometheus.Counter)
	if known := m.known.Load(); known != nil {
		maps.Copy(next, *known)
	}
	next[code] = m.all.requests.WithLabelValues(m.route, m.method, strconv.Itoa(code))
	seconds := m.all.seconds.WithLabelValues(m.route, m.method)
	m.seconds.Store(&seconds)
	m.known.Store(&next)
	return &next
}
