package coordinator

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	requests map[string][2]prometheus.Counter // by op: done well, failed; fixed after newMetrics
	forwards prometheus.Counter
	refused  prometheus.Counter
	hedges   prometheus.Counter
	repairs  *prometheus.CounterVec // by cause
	dropped  prometheus.Counter
	replicas map[string]prometheus.Counter // replica requests by endpoint; fixed after newMetrics
	fetches  prometheus.Counter
	reads    map[locality]prometheus.Counter // fixed after newMetrics
}

// The operations that are counted.
const (
	opPut  = "put"
	opGet  = "get"
	opList = "list"
)

func newMetrics(r prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "dunlin", Subsystem: "coordinator", Name: name, Help: help}
	}
	requests := prometheus.NewCounterVec(counter("requests_total", "Requests coordinated by this node, by operation and outcome."), []string{"op", "outcome"})
	replicas := prometheus.NewCounterVec(counter("replica_requests_total", "Replica requests sent to other nodes, by endpoint."), []string{"endpoint"})
	m := &metrics{
		requests: map[string][2]prometheus.Counter{}, replicas: map[string]prometheus.Counter{},
		forwards: prometheus.NewCounter(counter("forwards_total", "Writes forwarded to a primary, because this node is none of the key.")),
		refused:  prometheus.NewCounter(counter("forwards_refused_total", "Writes of other nodes that this one refused to coordinate because it had too much to do.")),
		hedges:   prometheus.NewCounter(counter("hedges_total", "Replica reads sent because an earlier one was slow.")),
		repairs:  prometheus.NewCounterVec(counter("read_repairs_total", "Replicas repaired after a read, by cause (stale, damaged) and result."), []string{"cause", "result"}),
		dropped:  prometheus.NewCounter(counter("read_repairs_dropped_total", "Read repairs dropped because too many were waiting.")),
		fetches:  prometheus.NewCounter(counter("fetches_total", "Objects fetched in a second round trip, because digests differed.")),
	}
	reads := prometheus.NewCounterVec(counter("replica_reads_total", "Copies asked for by reads, by where they are: on this node (self), in its zone (own), elsewhere (other); no zone: this node names none."), []string{"zone"})
	m.reads = map[locality]prometheus.Counter{}
	for _, p := range []locality{atSelf, atOwn, atOther, atNoZone} {
		m.reads[p] = reads.WithLabelValues(string(p))
	}
	for _, op := range []string{opPut, opGet, opList} {
		m.requests[op] = [2]prometheus.Counter{requests.WithLabelValues(op, "ok"), requests.WithLabelValues(op, "failed")}
	}
	for _, endpoint := range []string{EndpointPut, EndpointMerge, EndpointRead, EndpointList, EndpointHint, EndpointPing, EndpointExplain} {
		m.replicas[endpoint] = replicas.WithLabelValues(endpoint)
	}
	if r != nil {
		r.MustRegister(reads, requests, m.forwards, m.refused, m.hedges, m.repairs, m.dropped, replicas, m.fetches)
	}
	return m
}

func (m *metrics) done(op string, err error) {
	outcome := 0
	if err != nil {
		outcome = 1
	}
	m.requests[op][outcome].Inc()
}
