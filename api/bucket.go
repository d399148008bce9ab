package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/dunlindb/dunlin/coordinator"
	"github.com/dunlindb/dunlin/internal/buckets"
	"github.com/dunlindb/dunlin/ring"
)

// propertiesJSON is what GET shows and PUT takes back. R and W are what applies, also where it is the node's default.
type propertiesJSON struct {
	Bucket string `json:"bucket"`
	N      int    `json:"n"`
	// ReadN is what reads go by yet, while n is being changed.
	ReadN    int     `json:"n_of_reads,omitempty"`
	R        string  `json:"r"`
	W        string  `json:"w"`
	Conflict string  `json:"conflict"`
	TTL      *string `json:"ttl"` // null: values do not expire
	// Missing, of an answer 202: the live members that have not confirmed the change yet.
	Missing []string `json:"missing,omitempty"`
	// Epoch and Progress, of an answer 202: n was changed with this epoch of the layout.
	Epoch    uint64 `json:"epoch,omitempty"`
	Progress string `json:"progress,omitempty"`
}

func (a *api) properties(bucket string) propertiesJSON {
	p := a.deps.Buckets.Get(bucket)
	e := a.deps.Cluster.Epochs()
	j := propertiesJSON{Bucket: bucket, N: e.Newest().Layout().NFor(bucket), R: p.R, W: p.W, Conflict: p.Conflict()}
	if now := e.Reading().Layout().NFor(bucket); now != j.N {
		j.ReadN = now
	}
	def(&j.R, a.opt.R)
	def(&j.W, a.opt.W)
	if p.TTL > 0 {
		ttl := p.TTL.String()
		j.TTL = &ttl
	}
	return j
}

// listBuckets shows the buckets that have properties, or of which this node holds records.
func (a *api) listBuckets(w http.ResponseWriter, r *http.Request) *problem {
	if _, p := parseQuery(r.URL.RawQuery, nil); p != nil {
		return p
	}
	names := slices.Concat(a.deps.Buckets.Names(), a.deps.Holding())
	slices.Sort(names)
	list := []propertiesJSON{}
	for _, name := range slices.Compact(names) {
		list = append(list, a.properties(name))
	}
	return writeJSON(w, http.StatusOK, struct {
		Buckets []propertiesJSON `json:"buckets"`
	}{list})
}

func (a *api) getBucket(w http.ResponseWriter, r *http.Request) *problem {
	bucket, p := bucketOf(r)
	if p != nil {
		return p
	}
	if _, p := parseQuery(r.URL.RawQuery, nil); p != nil {
		return p
	}
	return writeJSON(w, http.StatusOK, a.properties(bucket))
}

const maxProperties = 64 << 10 // bytes of a PUT of properties

func (a *api) putBucket(w http.ResponseWriter, r *http.Request) *problem {
	bucket, p := bucketOf(r)
	if p != nil {
		return p
	}
	q, p := parseQuery(r.URL.RawQuery, []string{"timeout"})
	if p != nil {
		return p
	}
	timeout, p := q.timeout(a.opt.DefaultTimeout)
	if p != nil {
		return p
	}
	if p := readableBody(r); p != nil {
		return p
	}
	body, p := a.readBody(w, r, maxProperties)
	if p != nil {
		return p
	}
	patch, n, p := a.parsePatch(body, bucket)
	if p != nil {
		return p
	}
	ctx, cancel := a.working(r.Context(), timeout)
	defer cancel()
	epoch, p := a.changeN(ctx, bucket, n) // first: it may be refused, with nothing done
	if p != nil {
		return p
	}
	var missing []ring.NodeID
	if patch != (buckets.Patch{}) || epoch == 0 {
		ctx, cancel := a.working(r.Context(), timeout) // the change of n may have taken all of the first one
		defer cancel()
		var err error
		if missing, err = a.deps.Buckets.Set(ctx, bucket, patch); err != nil {
			return a.bucketFailure(err)
		}
	}
	j := a.properties(bucket)
	if epoch > 0 {
		if j.N != *n { // this node is not prepared for it yet
			j.N, j.ReadN = *n, j.N
		}
		j.Epoch, j.Progress = epoch, "/cluster/transfers"
		w.Header().Set("Location", j.Progress)
	}
	if len(missing) == 0 && epoch == 0 {
		return writeJSON(w, http.StatusOK, j)
	}
	if len(missing) == 0 {
		return writeJSON(w, http.StatusAccepted, j)
	}
	for _, id := range missing {
		j.Missing = append(j.Missing, a.nameOf(id))
	}
	w.Header().Set(headerMissing, strings.Join(j.Missing, ", "))
	return writeJSON(w, http.StatusAccepted, j)
}

// changeN has another n decided, if it is another, and returns the epoch; 0: nothing is to be changed.
func (a *api) changeN(ctx context.Context, bucket string, n *int) (epoch uint64, p *problem) {
	l := a.deps.Cluster.Epochs().Newest().Layout()
	if n == nil || *n == l.NFor(bucket) {
		return 0, nil
	}
	if a.deps.Membership == nil {
		p := newProblem(http.StatusNotImplemented, "not-implemented", "the layout cannot be changed here")
		p.Parameter = "n"
		return 0, p
	}
	epoch, err := a.deps.Membership.Apply(ctx, MemberChange{Action: "bucket", Bucket: bucket, N: *n})
	if err != nil {
		p := changeProblem(err)
		p.Parameter = "n"
		return 0, p
	}
	return epoch, nil
}

func (a *api) bucketFailure(err error) *problem {
	var invalid *buckets.InvalidError
	switch {
	case errors.As(err, &invalid):
		return badParameter(invalid.Property, err.Error())
	case errors.Is(err, buckets.ErrTooMany):
		return newProblem(http.StatusConflict, "too-many-buckets", err.Error())
	case errors.Is(err, coordinator.ErrFull):
		p := newProblem(http.StatusInsufficientStorage, "disk-full", err.Error())
		p.Outcome = coordinator.Indeterminate // n may have been changed
		return p
	}
	a.log.Error("bucket properties not stored", "err", err)
	p := newProblem(http.StatusInternalServerError, "internal", err.Error())
	p.Outcome = coordinator.Indeterminate
	return p
}

// readableBody refuses what is certainly no JSON. What curl -d says of a body counts as nothing said.
func readableBody(r *http.Request) *problem {
	if e := r.Header.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return newProblem(http.StatusUnsupportedMediaType, "media-type", "a body with a Content-Encoding is not read here")
	}
	media, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	switch strings.ToLower(strings.TrimSpace(media)) {
	case "", "application/json", ndjson, "application/ndjson", "application/jsonl", "application/x-www-form-urlencoded",
		"text/plain", anyBytes:
		return nil
	}
	return newProblem(http.StatusUnsupportedMediaType, "media-type", fmt.Sprintf("%q is not read here; send JSON", shorten(media)))
}

// parsePatch reads the JSON object of a PUT. null sets a property back to its default. n is nil where it is not named.
func (a *api) parsePatch(body []byte, bucket string) (c buckets.Patch, n *int, p *problem) {
	l := a.deps.Cluster.Epochs().Newest().Layout()
	fields := map[string]json.RawMessage{}
	if p := parseObject(body, func(name string, value json.RawMessage) *problem {
		if _, twice := fields[name]; twice {
			return badParameter(name, "property "+name+" is given twice")
		}
		fields[name] = value
		return nil
	}); p != nil {
		return c, nil, p
	}
	replicas := l.NFor(bucket)
	if value, named := fields["n"]; named {
		if n, p = numberOfReplicas(value, l.N); p != nil {
			return c, nil, p
		}
		replicas = *n
	}
	for name, value := range fields {
		var p *problem
		switch name {
		case "r":
			c.R, p = quorumProperty(name, value, replicas)
		case "w":
			c.W, p = quorumProperty(name, value, replicas)
		case "conflict":
			c.Conflict, p = textProperty(name, value)
		case "ttl":
			c.TTL, p = ttlProperty(value)
		case "n":
		case "bucket":
			var s *string
			if s, p = textProperty(name, value); p == nil && *s != bucket {
				p = badParameter(name, "the body names another bucket than the path")
			}
		default:
			p = badParameter(shorten(name), fmt.Sprintf("unknown property %q; there are r, w, conflict, ttl and n", shorten(name)))
		}
		if p != nil {
			return c, nil, p
		}
	}
	if n != nil {
		p = a.fitsN(bucket, c, *n)
	}
	return c, n, p
}

// fitsN refuses an n that the bucket's r and w, as they will be, do not fit.
func (a *api) fitsN(bucket string, c buckets.Patch, n int) *problem {
	now := a.deps.Buckets.Get(bucket)
	for _, x := range []struct {
		name, now, node string
		then            *string
	}{{"r", now.R, a.opt.R, c.R}, {"w", now.W, a.opt.W, c.W}} {
		s, whose := x.now, "the bucket's"
		if x.then != nil {
			s = *x.then
		}
		if s == "" {
			s, whose = x.node, "this node's default"
		}
		if _, err := parseQuorum(s, n); err != nil {
			return badParameter("n", fmt.Sprintf("n=%d is less than %s=%s, which is %s; set %s in the same request", n, x.name, s, whose, x.name))
		}
	}
	return nil
}

// parseObject calls field for each member of the one JSON object that body is.
func parseObject(body []byte, field func(name string, value json.RawMessage) *problem) *problem {
	bad := func(err error) *problem { return badRequest("the body is no JSON object: " + err.Error()) }
	dec := json.NewDecoder(bytes.NewReader(body))
	open, err := dec.Token()
	if err != nil {
		return bad(err)
	}
	if open != json.Delim('{') {
		return bad(errors.New("it does not begin with a brace"))
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return bad(err)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return bad(err)
		}
		if p := field(name.(string), value); p != nil { // the decoder lets only a string be a name
			return p
		}
	}
	if _, err := dec.Token(); err != nil {
		return bad(err)
	}
	if len(bytes.TrimSpace(body[dec.InputOffset():])) > 0 {
		return bad(errors.New("more follows it"))
	}
	return nil
}

func textProperty(name string, value json.RawMessage) (*string, *problem) {
	var s *string
	if err := json.Unmarshal(value, &s); err != nil {
		return nil, badParameter(name, name+" is not a string")
	}
	if s == nil {
		s = new(string)
	}
	return s, nil
}

// quorumProperty takes a string, or a number as a number.
func quorumProperty(name string, value json.RawMessage, n int) (*string, *problem) {
	var s *string
	var k int
	if json.Unmarshal(value, &k) == nil && string(value) != "null" {
		s = new(fmt.Sprint(k))
	} else {
		var p *problem
		if s, p = textProperty(name, value); p != nil {
			return nil, badParameter(name, name+" is neither a number nor one, quorum or all")
		}
	}
	if *s == "" {
		return s, nil
	}
	if _, err := parseQuorum(*s, n); err != nil {
		return nil, badParameter(name, name+"="+err.Error())
	}
	return s, nil
}

func ttlProperty(value json.RawMessage) (*time.Duration, *problem) {
	s, p := textProperty("ttl", value)
	if p != nil {
		return nil, badParameter("ttl", "ttl is not a string such as 30s or 24h")
	}
	if *s == "" || *s == "none" {
		return new(time.Duration), nil
	}
	d, p := query{{"ttl", *s}}.duration("ttl", 0, buckets.MinTTL, buckets.MaxTTL)
	return &d, p
}

// numberOfReplicas reads n; null is the cluster's.
func numberOfReplicas(value json.RawMessage, n int) (*int, *problem) {
	var k *int
	if err := json.Unmarshal(value, &k); err != nil {
		return nil, badParameter("n", "n is not a number")
	}
	if k == nil {
		return &n, nil
	}
	if *k < 1 || *k > maxN {
		return nil, badParameter("n", fmt.Sprintf("n=%d is out of range: use 1 to %d", *k, maxN))
	}
	return k, nil
}

// maxN is the most replicas of a key.
const maxN = 15
