package api

import (
	"net/http"
	"slices"
	"strings"
)

// conditions are If-Match and If-None-Match.
type conditions struct {
	match, noneMatch etags
}

// etags is a condition's list. The zero value is a condition that was not given.
type etags struct {
	any  bool // *
	tags []etag
}

type etag struct {
	weak bool
	tag  string
}

func (e etags) given() bool { return e.any || len(e.tags) > 0 }

func (c conditions) given() bool { return c.match.given() || c.noneMatch.given() }

func conditionsOf(h http.Header) (c conditions, p *problem) {
	if c.match, p = parseETags(h, "If-Match"); p != nil {
		return c, p
	}
	c.noneMatch, p = parseETags(h, "If-None-Match")
	return c, p
}

// parseETags reads * or a list of entity tags (RFC 9110, 8.8.3).
func parseETags(h http.Header, name string) (etags, *problem) {
	values := h.Values(name)
	if len(values) == 0 {
		return etags{}, nil
	}
	bad := func() (etags, *problem) {
		p := badRequest(name + ` is neither * nor a list of ETags, which are in double quotes`)
		p.Parameter = name
		return etags{}, p
	}
	rest := strings.TrimSpace(strings.Join(values, ","))
	if rest == "*" {
		return etags{any: true}, nil
	}
	var out etags
	for {
		rest = strings.TrimLeft(rest, " \t,")
		if rest == "" {
			break
		}
		var e etag
		rest, e.weak = strings.CutPrefix(rest, "W/")
		opened, ok := strings.CutPrefix(rest, `"`)
		if !ok {
			return bad()
		}
		if e.tag, rest, ok = strings.Cut(opened, `"`); !ok {
			return bad()
		}
		if rest = strings.TrimLeft(rest, " \t"); rest != "" && rest[0] != ',' {
			return bad()
		}
		out.tags = append(out.tags, e)
	}
	if len(out.tags) == 0 {
		return bad()
	}
	return out, nil
}

// names reports whether a tag of the list is that of s, in either form.
func (e etags) names(s shown, weak bool) bool {
	return s.Found() && slices.ContainsFunc(e.tags, func(t etag) bool {
		return (weak || !t.weak) && strings.TrimSuffix(t.tag, jsonSuffix) == s.etag
	})
}

// matchHolds judges If-Match.
func (c conditions) matchHolds(s shown) bool {
	return !c.match.given() || c.match.any && s.Found() || c.match.names(s, false)
}

// noneMatchHolds judges If-None-Match.
func (c conditions) noneMatchHolds(s shown) bool {
	return !(c.noneMatch.any && s.Found()) && !c.noneMatch.names(s, true)
}

// failed is the answer when one does not hold.
func (c conditions) failed() *problem {
	return newProblem(http.StatusPreconditionFailed, "precondition",
		"the key is not, or no longer, what the condition says; read it again")
}
