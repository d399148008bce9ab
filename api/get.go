package api

import (
	"net/http"
)

// get answers GET and HEAD of a key; net/http leaves the body of the latter out.
func (a *api) get(w http.ResponseWriter, r *http.Request) *problem {
	t, p := a.targetOf(r)
	if p != nil {
		return p
	}
	q, p := parseQuery(r.URL.RawQuery, readParams)
	if p != nil {
		return p
	}
	c, p := a.reading(q, t.props, t.replicas)
	if p != nil {
		return p
	}
	cond, p := conditionsOf(r.Header)
	if p != nil {
		return p
	}
	ctx, cancel := a.working(r.Context(), c.timeout)
	defer cancel()
	s, p := a.read(ctx, t, c)
	if p != nil {
		return p
	}
	if !cond.matchHolds(s) {
		return cond.failed().of(s)
	}
	if s.Found() && !cond.noneMatchHolds(s) {
		s.headers(w.Header())
		suffix := ""
		if len(s.Live) > 1 && wantsJSON(r) {
			suffix = jsonSuffix
		}
		s.validators(w.Header(), suffix)
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	if !s.Found() {
		s.headers(w.Header())
		return absent(s)
	}
	s.write(w, r, http.StatusOK)
	return nil
}

func absent(s shown) *problem {
	if s.token == "" {
		return newProblem(http.StatusNotFound, "absent", "the key was never written")
	}
	return newProblem(http.StatusNotFound, "absent", "the key was deleted, or has expired")
}
