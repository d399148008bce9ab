package api

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	refused  prometheus.Counter
	siblings prometheus.Histogram
	batch    *prometheus.CounterVec
}

// newMetrics declares all metrics of this package.
func newMetrics(reg *prometheus.Registry, f *flight) (*metrics, error) {
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
		Name: "dunlin_http_in_flight", Help: "Requests worked on now.",
	}, func() float64 { return float64(f.n.Load()) })
	for _, c := range []prometheus.Collector{m.requests, m.seconds, m.refused, m.siblings, m.batch, inFlight} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("api: metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) observe(route, method string, code int, took time.Duration) {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodDelete:
	default:
		method = "other" // anyone can make up methods
	}
	m.requests.WithLabelValues(route, method, strconv.Itoa(code)).Inc()
	m.seconds.WithLabelValues(route, method).Observe(took.Seconds())
}
