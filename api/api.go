package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/mux"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/dunlindb/dunlin/coordinator"
	"github.com/dunlindb/dunlin/internal/admission"
	"github.com/dunlindb/dunlin/internal/buckets"
	"github.com/dunlindb/dunlin/ring"
)

// KV coordinates reads and writes. Each call ends when its context does.
type KV interface {
	Put(ctx context.Context, req coordinator.PutRequest) (coordinator.PutResult, error)
	Get(ctx context.Context, req coordinator.GetRequest) (coordinator.GetResult, error)
	List(ctx context.Context, req coordinator.ListRequest) (coordinator.ListPage, error)
}

// Buckets keeps bucket properties; buckets.Registry satisfies it.
type Buckets interface {
	// Get returns a bucket's properties; it is called for every request.
	Get(bucket string) buckets.Properties
	// Set changes them and returns the live members that have not confirmed.
	Set(ctx context.Context, bucket string, patch buckets.Patch) (missing []ring.NodeID, err error)
	// Names returns the buckets that have properties, sorted.
	Names() []string
}

// Cluster tells who is in the cluster and who answers.
type Cluster interface {
	// Ready returns nil when this node may serve, otherwise the reason why not.
	Ready() error
	// Degraded says, a line each, what this node refuses although it is ready.
	Degraded() []string
	// Ring returns the ownership map that reads go by. It may be nil while Ready is not.
	Ring() *ring.Ring
	// Epochs returns all that live: Ring's, and newer and older ones while something changes. It may be nil while Ready is
	// not.
	Epochs() *ring.Epochs
	// Members returns the members and every other node that is known, in the order to show them.
	Members() []Member
	Alive(id ring.NodeID) bool
	// Name returns a node's name, or "" when it is not known.
	Name(id ring.NodeID) string
}

// Member is one node as others see it.
type Member struct {
	ID                ring.NodeID
	Name              string
	HTTP, RPC, Gossip string // addresses, host:port; "" where unknown
	Zone              string
	Weight            int
	State             string
	Alive             bool
	Epoch             uint64 // newest that it published
}

// Deps are what the interface is built on. All but Holding, Explain, Healing, Membership, Log and Now are
// required.
type Deps struct {
	KV      KV
	Buckets Buckets
	Cluster Cluster
	// Holding returns the buckets of which this node holds records. Nil: none are known.
	Holding func() []string
	// Explain, Healing and Membership serve their routes; nil: those routes are not there.
	Explain    Explainer
	Healing    Healing
	Membership Membership
	// Admission lets requests in; nil: up to Options.MaxInFlight at once.
	Admission *admission.Limit
	Self      ring.NodeID
	Name      string // of this node
	Version   string // of the program
	// Registry is what /metrics shows, and where New registers its own metrics.
	Registry *prometheus.Registry
	Log      *slog.Logger     // nil: slog.Default
	Now      func() time.Time // nil: time.Now
}

// The durabilities of Options.
const (
	Fsync = "fsync" // an ack means: on the disk
	OS    = "os"    // an ack means: in the operating system's cache
)

// Limits that no option changes.
const (
	MaxTimeout = 60 * time.Second // of the timeout parameter
	MaxKey     = 1024             // bytes of a key
	MaxLimit   = 10_000           // keys of one page of a listing
)

// Options are the settings of the interface. The zero value of each means its default.
type Options struct {
	MaxValue       int           // bytes of the largest value; 1 MiB
	DefaultTimeout time.Duration // of a request that gives none; 5 s
	MaxInFlight    int           // requests worked on at once, if no Deps.Admission says; 1024
	Durability     string        // Fsync or OS; Fsync
	R, W           string        // a number, one, quorum or all, where neither request nor bucket says; quorum

	BodyTimeout   time.Duration // for a client to send a body, or one line of a batch; 30 s
	HeaderTimeout time.Duration // for a client to send a request's header; 10 s
	IdleTimeout   time.Duration // between requests of one connection; 2 min
	WriteTimeout  time.Duration // for a client to take an answer, beyond MaxTimeout; 60 s
	MaxConns      int           // open connections, see Limit; 16384
	// GoneGrace is how long a request is worked on after its connection was closed or half-closed: one that is done
	// by then is answered, which serves clients that close their sending side early; 1 s.
	GoneGrace time.Duration
}

func (o Options) withDefaults() Options {
	def(&o.MaxValue, 1<<20)
	def(&o.DefaultTimeout, 5*time.Second)
	def(&o.MaxInFlight, 1024)
	def(&o.Durability, Fsync)
	def(&o.R, "quorum")
	def(&o.W, "quorum")
	def(&o.BodyTimeout, 30*time.Second)
	def(&o.HeaderTimeout, 10*time.Second)
	def(&o.IdleTimeout, 2*time.Minute)
	def(&o.WriteTimeout, time.Minute)
	def(&o.MaxConns, 16384)
	def(&o.GoneGrace, time.Second)
	return o
}

func def[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (o Options) validate() error {
	for name, s := range map[string]string{"R": o.R, "W": o.W} {
		if _, err := parseQuorum(s, ring.MaxN); err != nil {
			return fmt.Errorf("api: option %s: %w", name, err)
		}
	}
	switch {
	case o.Durability != Fsync && o.Durability != OS:
		return fmt.Errorf("api: option Durability: %q, want %s or %s", o.Durability, Fsync, OS)
	case o.MaxValue < 0 || o.MaxInFlight < 0 || o.MaxConns < 0:
		return errors.New("api: an option that counts is negative")
	case o.DefaultTimeout < 0 || o.DefaultTimeout > MaxTimeout:
		return fmt.Errorf("api: option DefaultTimeout: %s, want at most %s", o.DefaultTimeout, MaxTimeout)
	}
	return nil
}

// api is the handler's state.
type api struct {
	deps    Deps
	opt     Options
	log     *slog.Logger
	metrics *metrics
}

// New returns the handler of all routes. It starts nothing. It fails when a dependency is missing, an option is out
// of range, or the registry has another's metrics of the same names.
func New(d Deps, opt Options) (*Handler, error) {
	opt = opt.withDefaults()
	if err := opt.validate(); err != nil {
		return nil, err
	}
	if d.KV == nil || d.Buckets == nil || d.Cluster == nil || d.Registry == nil {
		return nil, errors.New("api: a dependency is missing")
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Log == nil {
		d.Log = slog.Default()
	}
	if d.Holding == nil {
		d.Holding = func() []string { return nil }
	}
	if d.Admission == nil {
		d.Admission = admission.New(opt.MaxInFlight, nil)
	}
	a := &api{deps: d, opt: opt, log: d.Log}
	var err error
	if a.metrics, err = newMetrics(d.Registry, d.Admission); err != nil {
		return nil, err
	}
	shed := newShedder(a)
	return &Handler{a.outermost(a.routes(), shed), shed}, nil
}

// Handler answers the requests of all routes.
type Handler struct {
	http.Handler
	shed *shedder
}

// handler does one request of a known route and method. A *problem that it returns becomes the answer.
type handler func(w http.ResponseWriter, r *http.Request) *problem

// route is a path of the interface.
type route struct {
	path    string
	methods map[string]handler // a GET serves HEAD as well
	// free routes are answered also by a node that is not ready or has too much to do.
	free bool
}

func (a *api) routes() http.Handler {
	prometheusText := promhttp.HandlerFor(a.deps.Registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
	metrics := func(w http.ResponseWriter, r *http.Request) *problem {
		prometheusText.ServeHTTP(w, r)
		return nil
	}
	get := func(h handler) map[string]handler { return map[string]handler{http.MethodGet: h} }
	// The most used first: the router tries them in order.
	all := []route{
		{path: keyRoute, methods: map[string]handler{
			http.MethodGet: a.traced(a.get), http.MethodPut: a.traced(a.put), http.MethodDelete: a.traced(a.remove),
		}},
		{path: bucketRoute, methods: map[string]handler{http.MethodGet: a.list, http.MethodPost: a.traced(a.create)}},
		{path: "/batch", methods: map[string]handler{http.MethodPost: a.batch}},
		{path: "/buckets", methods: get(a.listBuckets)},
		{path: "/buckets/{bucket}", methods: map[string]handler{
			http.MethodGet: a.getBucket, http.MethodPut: a.putBucket,
		}},
		{path: "/cluster/members", methods: get(a.members), free: true},
		{path: "/cluster/ring", methods: get(a.ring)},
		{path: "/cluster/ring/{bucket}/{key}", methods: get(a.ringOfKey)},
		{path: "/livez", methods: get(a.livez), free: true},
		{path: "/readyz", methods: get(a.readyz), free: true},
		{path: "/version", methods: get(a.version), free: true},
		{path: "/metrics", methods: get(metrics), free: true},
	}
	if a.deps.Explain != nil {
		all = append(all, route{path: "/cluster/explain/{bucket}/{key}", methods: get(a.explain)})
	}
	if a.deps.Healing != nil {
		all = append(all,
			route{path: "/cluster/handoff", methods: get(a.handoff)},
			route{path: "/cluster/digest", methods: get(a.digest)},
			route{path: "/cluster/repair", methods: map[string]handler{http.MethodGet: a.repair, http.MethodPost: a.startRepair}})
	}
	if a.deps.Membership != nil {
		post := func(action string) map[string]handler { return map[string]handler{http.MethodPost: a.change(action)} }
		all = append(all,
			route{path: "/cluster/plan", methods: get(a.plan)},
			route{path: "/cluster/transfers", methods: get(a.transfers)},
			route{path: "/cluster/leave", methods: post("leave")},
			route{path: "/cluster/leave/{node}", methods: post("leave")},
			route{path: "/cluster/remove/{node}", methods: post("remove")},
			route{path: "/cluster/replace/{node}", methods: post("replace")},
			route{path: "/cluster/update/{node}", methods: post("update")},
			route{path: "/cluster/cancel", methods: post("cancel")})
	}
	router := mux.NewRouter().UseEncodedPath().SkipClean(true)
	for _, rt := range all {
		router.Handle(patterns.Replace(rt.path), a.serve(rt))
	}
	router.NotFoundHandler = a.serve(route{path: "none", free: true})
	return router
}

// patterns says what the variables of a path match: an empty bucket or key too, so that it gets a better answer than
// 404, and any byte in a key.
var patterns = strings.NewReplacer("{bucket}", "{bucket:[^/]*}", "{key}", "{key:(?s:.*)}")
