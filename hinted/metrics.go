package hinted

import "github.com/prometheus/client_golang/prometheus"

var statusNames = [statuses]string{stored: "stored", stale: "stale", refused: "refused", failed: "failed"}

type metrics struct {
	replayed prometheus.Counter
	sent     prometheus.Counter
	failed   *prometheus.CounterVec // by reason
	marked   prometheus.Counter
	received *prometheus.CounterVec // by result
	refused  prometheus.Counter
}

func newMetrics(r prometheus.Registerer, w *Worker) *metrics {
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "dunlin", Subsystem: "hinted", Name: name, Help: help}
	}
	gauge := func(name, help string, value func(totals) float64) prometheus.Collector {
		o := prometheus.GaugeOpts{Namespace: "dunlin", Subsystem: "hinted", Name: name, Help: help}
		return prometheus.NewGaugeFunc(o, func() float64 { return value(w.totals()) })
	}
	m := &metrics{
		replayed: prometheus.NewCounter(counter("replayed_total", "Hints that their target stored.")),
		sent:     prometheus.NewCounter(counter("sent_bytes_total", "Bytes of hints sent.")),
		failed:   prometheus.NewCounterVec(counter("failed_total", "Hints (stale, refused, failed), batches (call) and reads or deletes (store) that have to be repeated, by reason."), []string{"reason"}),
		marked:   prometheus.NewCounter(counter("marked_partitions_total", "Partitions that targets marked behind because hints were dropped here.")),
		received: prometheus.NewCounterVec(counter("received_total", "Hints received from other nodes, by result."), []string{"result"}),
		refused:  prometheus.NewCounter(counter("batches_refused_total", "Batches of hints refused because too many were being received.")),
	}
	if r != nil {
		r.MustRegister(m.replayed, m.sent, m.failed, m.marked, m.received, m.refused,
			gauge("pending", "Hints held for other nodes.", func(t totals) float64 { return t.pending }),
			gauge("bytes", "Bytes of hints held for other nodes.", func(t totals) float64 { return t.bytes }),
			gauge("oldest_age_seconds", "Age of the oldest hint.", func(t totals) float64 { return t.oldest }),
			gauge("dropped_partitions", "Partitions of which hints were dropped and the target does not know it yet.", func(t totals) float64 { return t.dropped }),
			gauge("orphaned", "Hints whose target is no member.", func(t totals) float64 { return t.orphaned }))
	}
	return m
}
