package api

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dunlindb/dunlin/coordinator"
	"github.com/dunlindb/dunlin/internal/buckets"
)

// query is a request's parameters, each at most once and each known to its route. There are few.
type query []parameter

type parameter struct{ name, value string }

func (q query) get(name string) (value string, given bool) {
	for i := range q {
		if q[i].name == name {
			return q[i].value, true
		}
	}
	return "", false
}

func (q query) value(name string) string {
	value, _ := q.get(name)
	return value
}

// The parameters of each sort of request.
var (
	readParams = []string{"r", "pr", "sloppy", "timeout", "trace"}
	// r is what a write reads first: for a delete without a context, a precondition, an Idempotency-Key.
	deleteParams = []string{"w", "dw", "pw", "r", "sloppy", "timeout", "trace"}
	putParams    = append(slices.Clone(deleteParams), "ttl", "returnbody")
	listParams   = append(slices.Clone(readParams), "prefix", "after", "limit", "values")
	batchParams  = append(slices.Clone(putParams), "pr")
)

// aliases are other spellings of a parameter: both together are the same one given twice.
var aliases = map[string]string{"W": "w", "R": "r"}

// parseQuery reads the query of a URL, in which only the allowed parameters may be, each once.
func parseQuery(raw string, allowed []string) (query, *problem) {
	var q query
	for raw != "" {
		var part string
		if part, raw, _ = strings.Cut(raw, "&"); part == "" {
			continue
		}
		given, value, err := readParameter(part)
		if err != nil {
			return nil, badParameter("", "the query cannot be read: "+err.Error())
		}
		name := given
		if alias, ok := aliases[given]; ok {
			name = alias
		}
		if !slices.Contains(allowed, name) {
			return nil, badParameter(shorten(given), fmt.Sprintf("unknown parameter %q; this request takes %s",
				shorten(given), strings.Join(allowed, ", ")))
		}
		if _, twice := q.get(name); twice {
			return nil, badParameter(name, "parameter "+name+" is given twice")
		}
		q = append(q, parameter{name, value})
	}
	if _, p := q.boolean("trace", false); p != nil {
		return nil, p
	}
	return q, nil
}

// readParameter reads name=value, as url.ParseQuery does.
func readParameter(part string) (name, value string, err error) {
	if strings.Contains(part, ";") {
		return "", "", errors.New("invalid semicolon separator in query")
	}
	name, value, _ = strings.Cut(part, "=")
	if name, err = url.QueryUnescape(name); err != nil {
		return "", "", err
	}
	value, err = url.QueryUnescape(value)
	return name, value, err
}

// untraced refuses trace where one answer stands for many requests.
func (q query) untraced() *problem {
	if on, _ := q.boolean("trace", false); !on {
		return nil
	}
	p := newProblem(http.StatusNotImplemented, "not-implemented", "trace is available for requests of one key only")
	p.Parameter = "trace"
	return p
}

// shorten keeps what a client made up from filling its answer.
func shorten(s string) string {
	const most = 64
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

func (q query) boolean(name string, def bool) (bool, *problem) {
	s, given := q.get(name)
	if !given {
		return def, nil
	}
	switch s {
	case "true", "1":
		return true, nil
	case "false", "0":
		return false, nil
	}
	return false, badParameter(name, fmt.Sprintf("%s=%q; use true or false", name, shorten(s)))
}

func (q query) duration(name string, def, least, most time.Duration) (time.Duration, *problem) {
	s, given := q.get(name)
	if !given {
		return def, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < least || d > most {
		return 0, badParameter(name, fmt.Sprintf("%s=%q; use a duration from %s to %s, such as 500ms, 30s or 24h",
			name, shorten(s), least, most))
	}
	return d, nil
}

// number reads a plain decimal number from least to most.
func (q query) number(name string, def, least, most int) (int, *problem) {
	s, given := q.get(name)
	if !given {
		return def, nil
	}
	n, err := decimal(s)
	if err != nil || n < least || n > most {
		return 0, badParameter(name, fmt.Sprintf("%s=%q; use a number from %d to %d", name, shorten(s), least, most))
	}
	return n, nil
}

// decimal is stricter than strconv: no sign.
func decimal(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	return int(n), err
}

// parseQuorum reads a number of replicas of a key that has n.
func parseQuorum(s string, n int) (int, error) {
	switch strings.ToLower(s) {
	case "one":
		return 1, nil
	case "quorum":
		return n/2 + 1, nil
	case "all":
		return n, nil
	}
	k, err := decimal(s)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%q is no number of replicas; use 1 to %d, one, quorum or all", shorten(s), n)
	case k < 1 || k > n:
		return 0, fmt.Errorf("%s is out of range: a key has N=%d replicas; use 1 to %d, one, quorum or all", shorten(s), n, n)
	}
	return k, nil
}

// asked is a number of replicas that a request asks for.
type asked struct {
	k    int // of those that reads go by now
	word int // the number, or the coordinator's word for it, which is resolved anew for each live ring
}

func askedFor(s string, k int) asked {
	switch strings.ToLower(s) {
	case "quorum":
		return asked{k, coordinator.Quorum}
	case "all":
		return asked{k, coordinator.All}
	}
	return asked{k, k}
}

// quorum resolves r or w: the request's, else the bucket's, else the node's. A request's that does not fit N is its
// client's fault; another's is nobody's that could be corrected by asking differently. While a bucket's n is being
// changed its properties may be for the old one or for the new one.
func (q query) quorum(name, bucket, node string, n replicas) (asked, *problem) {
	if s, given := q.get(name); given {
		k, err := parseQuorum(s, n.n)
		if err != nil {
			return asked{}, badParameter(name, name+"="+err.Error())
		}
		return askedFor(s, k), nil
	}
	from, s := "the bucket's properties", bucket
	if s == "" {
		from, s = "the node's settings", node
	}
	k, err := parseQuorum(s, n.n)
	if number, bad := parseQuorum(s, n.most()); err != nil && bad == nil {
		return asked{n.n, number}, nil
	}
	if err != nil {
		p := newProblem(http.StatusServiceUnavailable, "quorum-unavailable", name+" of "+from+" cannot be met: "+err.Error())
		p.Parameter = name
		return asked{}, p
	}
	return askedFor(s, k), nil
}

// reading is how to read, resolved.
type reading struct {
	r       asked
	pr      int
	sloppy  bool
	timeout time.Duration
}

func (a *api) reading(q query, props buckets.Properties, n replicas) (c reading, p *problem) {
	if c.r, p = q.quorum("r", props.R, a.opt.R, n); p != nil {
		return c, p
	}
	if c.pr, p = q.number("pr", 0, 0, n.n); p != nil {
		return c, p
	}
	if c.sloppy, p = q.boolean("sloppy", true); p != nil {
		return c, p
	}
	c.timeout, p = q.timeout(a.opt.DefaultTimeout)
	return c, p
}

func (q query) timeout(def time.Duration) (time.Duration, *problem) {
	return q.duration("timeout", def, time.Millisecond, MaxTimeout)
}

// writing is how to write, resolved.
type writing struct {
	w, r       asked
	dw         int // a number, or coordinator.AsW
	pw         int
	sloppy     bool
	returnBody bool
	timeout    time.Duration
	ttl        time.Duration // 0: never expires
}

func (a *api) writing(q query, props buckets.Properties, n replicas) (c writing, p *problem) {
	if c.w, p = q.quorum("w", props.W, a.opt.W, n); p != nil {
		return c, p
	}
	if c.dw, p = a.durable(q, c.w.k); p != nil {
		return c, p
	}
	if c.pw, p = q.number("pw", 0, 0, n.n); p != nil {
		return c, p
	}
	if c.r, p = q.quorum("r", props.R, a.opt.R, n); p != nil {
		return c, p
	}
	if c.sloppy, p = q.boolean("sloppy", true); p != nil {
		return c, p
	}
	if c.returnBody, p = q.boolean("returnbody", false); p != nil {
		return c, p
	}
	if c.timeout, p = q.timeout(a.opt.DefaultTimeout); p != nil {
		return c, p
	}
	if q.value("ttl") == "none" { // overrides the bucket's
		return c, nil
	}
	c.ttl, p = q.duration("ttl", props.TTL, buckets.MinTTL, buckets.MaxTTL)
	return c, p
}

// durable resolves dw, of which the default is all of w where nodes fsync.
func (a *api) durable(q query, w int) (int, *problem) {
	if _, given := q.get("dw"); a.opt.Durability == Fsync && !given {
		return coordinator.AsW, nil
	}
	if a.opt.Durability == Fsync {
		return q.number("dw", w, 0, w)
	}
	dw, p := q.number("dw", 0, 0, w)
	if p == nil && dw > 0 {
		p = badParameter("dw", "dw above 0: this node runs with durability os and fsyncs no write")
	}
	return dw, p
}
