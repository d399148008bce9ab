package coordinator

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	requests *prometheus.CounterVec // by op and outcome
	forwards prometheus.Counter
	hedges   prometheus.Counter
	repairs  *prometheus.CounterVec // by cause
	dropped  prometheus.Counter
	replicas *prometheus.CounterVec // replica requests by endpoint
	fetches  prometheus.Counter
	reads    map[locality]prometheus.Counter // fixed after newMetrics
}

func newMetrics(r prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "dunlin", Subsystem: "coordinator", Name: name, Help: help}
	}
	m := &metrics{
		requests: prometheus.NewCounterVec(counter("requests_total", "Requests coordinated by this node, by operation and outcome."), []string{"op", "outcome"}),
		forwards: prometheus.NewCounter(counter("forwards_total", "Writes forwarded to a primary, because this node is none of the key.")),
		hedges:   prometheus.NewCounter(counter("hedges_total", "Replica reads sent because an earlier one was slow.")),
		repairs:  prometheus.NewCounterVec(counter("read_repairs_total", "Replicas repaired after a read, by cause (stale, damaged) and result."), []string{"cause", "result"}),
		dropped:  prometheus.NewCounter(counter("read_repairs_dropped_total", "Read repairs dropped because too many were waiting.")),
		replicas: prometheus.NewCounterVec(counter("replica_requests_total", "Replica requests sent to other nodes, by endpoint."), []string{"endpoint"}),
		fetches:  prometheus.NewCounter(counter("fetches_total", "Objects fetched in a second round trip, because digests differed.")),
	}
	reads := prometheus.NewCounterVec(counter("replica_reads_total", "Copies asked for by reads, by where they are: on this node (self), in its zone (own), elsewhere (other); no zone: this node names none."), []string{"zone"})
	m.reads = map[locality]prometheus.Counter{}
	for _, p := range []locality{atSelf, atOwn, atOther, atNoZone} {
		m.reads[p] = reads.WithLabelValues(string(p))
	}
	if r != nil {
		r.MustRegister(reads, m.requests, m.forwards, m.hedges, m.repairs, m.dropped, m.replicas, m.fetches)
	}
	return m
}

func (m *metrics) done(op string, err error) {
	outcome := "ok"
	if err != nil {
		outcome = "failed"
	}
	m.requests.WithLabelValues(op, outcome).Inc()
}
