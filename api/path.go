package api

import (
	"fmt"
	"net/http"
	"net/url"

	"github.com/gorilla/mux"

	"github.com/dunlindb/dunlin/internal/buckets"
	"github.com/dunlindb/dunlin/ring"
)

// target is the bucket of a request, and the key where it has one, with what applies to them: one snapshot, used to
// the request's end.
type target struct {
	bucket, key string
	props       buckets.Properties
	ring        *ring.Ring // that reads go by
	replicas
}

// replicas are the numbers of replicas of a bucket's keys.
type replicas struct {
	n    int // that reads go by
	next int // that has been decided: another one while the bucket's n is being changed
}

// most is what a setting may ask for that was made for either.
func (n replicas) most() int { return max(n.n, n.next) }

func replicasOf(e *ring.Epochs, bucket string) replicas {
	of := func(r *ring.Ring) int {
		p, _ := r.PartitionsOf(bucket)
		return r.NOf(p)
	}
	return replicas{of(e.Reading()), of(e.Newest())}
}

// bucketOf reads the bucket of a path.
func bucketOf(r *http.Request) (string, *problem) {
	bucket, err := url.PathUnescape(mux.Vars(r)["bucket"])
	if err != nil {
		return "", badParameter("bucket", "the path cannot be read: "+err.Error())
	}
	return bucket, checkBucket(bucket)
}

func checkBucket(bucket string) *problem {
	if err := buckets.CheckName(bucket); err != nil {
		return badParameter("bucket", err.Error())
	}
	return nil
}

// keyOf reads the key of a path: everything after the bucket's slash, percent-decoded once.
func keyOf(r *http.Request) (string, *problem) {
	key, err := url.PathUnescape(mux.Vars(r)["key"])
	if err != nil {
		return "", badParameter("key", "the path cannot be read: "+err.Error())
	}
	return key, checkKey(key)
}

func checkKey(key string) *problem {
	if len(key) < 1 || len(key) > MaxKey {
		return badParameter("key", fmt.Sprintf("a key of %d bytes; use 1 to %d", len(key), MaxKey))
	}
	return nil
}

// target puts together what applies to a key.
func (a *api) target(bucket, key string) (target, *problem) {
	t := target{bucket: bucket, key: key, props: a.deps.Buckets.Get(bucket)}
	e := a.deps.Cluster.Epochs()
	if e == nil {
		return t, newProblem(http.StatusServiceUnavailable, "not-ready", "no layout is known yet")
	}
	t.ring, t.replicas = e.Reading(), replicasOf(e, bucket)
	return t, nil
}

// targetOf reads bucket and key of a path.
func (a *api) targetOf(r *http.Request) (target, *problem) {
	bucket, p := bucketOf(r)
	if p != nil {
		return target{}, p
	}
	key, p := keyOf(r)
	if p != nil {
		return target{}, p
	}
	return a.target(bucket, key)
}
