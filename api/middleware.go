package api

import (
	"errors"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/dunlindb/dunlin/coordinator"
)

// Headers of our own.
const (
	headerContext      = "Dunlin-Context"
	headerSiblings     = "Dunlin-Siblings"
	headerNode         = "Dunlin-Node"
	headerAcks         = "Dunlin-Acks"
	headerDot          = "Dunlin-Dot"
	headerDeleted      = "Dunlin-Deleted"
	headerPrecondition = "Dunlin-Precondition"
	headerRepeated     = "Dunlin-Repeated"
	headerMissing      = "Dunlin-Missing"
)

// Headers of others that every answer has.
const (
	headerServer = "Server"
	headerSniff  = "X-Content-Type-Options"
)

// recorder remembers what was answered.
type recorder struct {
	http.ResponseWriter
	code int // 0: nothing yet
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// WriteHeader notes the status.
func (r *recorder) WriteHeader(code int) {
	if r.code == 0 && code >= http.StatusOK {
		r.code = code
	}
	r.ResponseWriter.WriteHeader(code)
}

// Write notes that a status was implied.
func (r *recorder) Write(b []byte) (int, error) {
	if r.code == 0 {
		r.code = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

// statusGone stands in the metrics for a request whose client went away.
const statusGone = 499

// outermost sets what every answer has, bounds how long a body may take, and answers a panic.
func (a *api) outermost(next http.Handler, shed *shedder) http.Handler {
	// Values that all answers share, so that none has to make them.
	server, nosniff, node := a.always()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h[headerServer], h[headerSniff], h[headerNode] = server, nosniff, node
		if r.Body != nil && r.Body != http.NoBody {
			// Also for a body that no handler reads: net/http waits for its end. Not every writer can.
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(a.opt.BodyTimeout))
		}
		if shed.answered(w, r) {
			return
		}
		rec := &recorder{ResponseWriter: w}
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(v)
			}
			a.log.Error("a request handler panicked", "op", r.Method+" "+r.URL.Path, "err", v, "stack", string(debug.Stack()))
			if rec.code != 0 {
				panic(http.ErrAbortHandler) // half an answer must not look like a whole one
			}
			p := newProblem(http.StatusInternalServerError, "internal", "this node failed; its log says how")
			if writes(r.Method) {
				p.Outcome = coordinator.Indeterminate
			}
			p.write(rec)
		}()
		next.ServeHTTP(rec, r)
	})
}

// always are the values of headerServer, headerSniff and headerNode of every answer.
func (a *api) always() (server, nosniff, node []string) {
	return []string{"dunlin/" + a.deps.Version}, []string{"nosniff"}, []string{a.deps.Name}
}

func writes(method string) bool {
	return method != http.MethodGet && method != http.MethodHead
}

// serve makes the handler of a route: it finds the method's, refuses what this node cannot do now, and counts.
func (a *api) serve(rt route) http.Handler {
	allow := allowed(rt.methods)
	observed := a.metrics.route(rt.path)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		rec, ok := w.(*recorder)
		if !ok {
			rec = &recorder{ResponseWriter: w}
		}
		h, known := rt.methods[r.Method]
		if !known && r.Method == http.MethodHead {
			h = rt.methods[http.MethodGet]
		}
		// Also when the handler panics: what is on its way up becomes a 500.
		code := http.StatusInternalServerError
		defer func() { observed.of(r.Method).observe(code, time.Since(start)) }()
		var p *problem
		switch {
		case rt.methods == nil:
			p = newProblem(http.StatusNotFound, "not-found", "no such path")
		case h == nil:
			rec.Header().Set("Allow", allow)
			p = newProblem(http.StatusMethodNotAllowed, "method", r.Method+" is not allowed here; use "+allow)
		default:
			p = a.admit(rt, h, rec, r)
		}
		if p != nil {
			if writes(r.Method) {
				p.nothingStored()
			}
			p.write(rec)
		}
		code = rec.code
		if p != nil && p.gone {
			code = statusGone
		}
	})
}

func (a *api) admit(rt route, h handler, w http.ResponseWriter, r *http.Request) *problem {
	if rt.free {
		return h(w, r)
	}
	if !a.deps.Admission.Enter() {
		a.metrics.refused.Inc()
		return overloaded()
	}
	defer a.deps.Admission.Leave()
	if err := a.deps.Cluster.Ready(); err != nil {
		return newProblem(http.StatusServiceUnavailable, "not-ready", err.Error())
	}
	if a.deps.Cluster.Ring() == nil {
		return newProblem(http.StatusServiceUnavailable, "not-ready", "no layout is known yet")
	}
	return h(w, r)
}

func allowed(methods map[string]handler) string {
	var names []string
	for m := range methods {
		names = append(names, m)
		if m == http.MethodGet {
			names = append(names, http.MethodHead)
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
