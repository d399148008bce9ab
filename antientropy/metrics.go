package antientropy

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	exchanges   *prometheus.CounterVec   // by result
	duration    *prometheus.HistogramVec // by result
	keys        *prometheus.CounterVec   // by direction
	compared    prometheus.Counter
	left        prometheus.Counter
	bytes       *prometheus.CounterVec // by direction
	recounts    *prometheus.CounterVec // by cause
	differences *prometheus.CounterVec // by cause
	heals       *prometheus.CounterVec // by result
	cleared     prometheus.Counter
	marked      prometheus.Gauge
	notReady    prometheus.Gauge
	unfilled    prometheus.Gauge
	filled      prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "dunlin", Subsystem: "antientropy", Name: name, Help: help}
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "dunlin", Subsystem: "antientropy", Name: name, Help: help})
	}
	m := &metrics{
		exchanges: prometheus.NewCounterVec(counter("exchanges_total", "Exchanges begun by this node, by result (same, synced, partial, refused, failed)."), []string{"result"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "dunlin", Subsystem: "antientropy", Name: "exchange_seconds", Help: "Time of the exchanges begun by this node, by result.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 9),
		}, []string{"result"}),
		keys:        prometheus.NewCounterVec(counter("objects_total", "Objects moved in exchanges begun by this node, by direction."), []string{"direction"}),
		compared:    prometheus.NewCounter(counter("keys_compared_total", "Keys compared in exchanges begun by this node.")),
		left:        prometheus.NewCounter(counter("keys_left_total", "Differing keys that an exchange left for a later one.")),
		bytes:       prometheus.NewCounterVec(counter("bytes_total", "Bytes of requests (out) and answers (in) of exchanges begun by this node."), []string{"direction"}),
		recounts:    prometheus.NewCounterVec(counter("recounts_total", "Partitions recounted from their records, by cause (scrub, exchange, repair)."), []string{"cause"}),
		differences: prometheus.NewCounterVec(counter("recount_differences_total", "Leaf sums that a recount found wrong and corrected, by cause."), []string{"cause"}),
		heals:       prometheus.NewCounterVec(counter("heals_total", "Damaged records of this node that were made whole (ok), and attempts that failed."), []string{"result"}),
		cleared:     prometheus.NewCounter(counter("marks_cleared_total", "Partitions whose marks were taken off after full exchanges.")),
		marked:      gauge("marked_partitions", "Partitions of this node that are marked damaged, behind or filling."),
		unfilled:    gauge("unfilled_partitions", "Partitions that this node gains and does not hold whole yet."),
		filled:      prometheus.NewCounter(counter("filled_objects_total", "Objects brought over for partitions that this node gains.")),
		notReady:    gauge("unready_partitions", "Partitions of this node whose Merkle tree is being built."),
	}
	if r != nil {
		r.MustRegister(m.exchanges, m.duration, m.keys, m.compared, m.left, m.bytes, m.recounts, m.differences,
			m.heals, m.cleared, m.marked, m.notReady, m.unfilled, m.filled)
	}
	return m
}

// done counts an exchange that ended.
func (m *metrics) done(x *exchange, result string, took time.Duration) {
	m.exchanges.WithLabelValues(result).Inc()
	m.duration.WithLabelValues(result).Observe(took.Seconds())
	m.keys.WithLabelValues("out").Add(float64(x.moved.Sent))
	m.keys.WithLabelValues("in").Add(float64(x.moved.Received))
	m.compared.Add(float64(x.moved.Compared))
	m.left.Add(float64(x.moved.Left))
}
