package api

import (
	"encoding/hex"
	"net/http"
	"time"

	"github.com/dunlindb/dunlin/coordinator"
	"github.com/dunlindb/dunlin/vclock"
)

type heldJSON struct {
	Found    bool              `json:"found"`
	Damaged  bool              `json:"damaged,omitempty"`
	Behind   bool              `json:"behind,omitempty"`
	Digest   string            `json:"digest,omitempty"`
	Size     int               `json:"size"` // bytes of all values
	Deleted  bool              `json:"deleted"`
	Context  string            `json:"context,omitempty"`
	Clock    []string          `json:"clock,omitempty"` // the context's dots, readable
	Siblings []heldSiblingJSON `json:"siblings,omitempty"`
}

type heldSiblingJSON struct {
	Dot         string `json:"dot"`
	Size        int    `json:"size"`
	ContentType string `json:"content_type,omitempty"`
	Modified    string `json:"modified"`
	Expires     string `json:"expires,omitempty"`
	Deleted     bool   `json:"deleted"`
}

// explain shows, for every member, what it holds of a key, asked for without a quorum.
func (a *api) explain(w http.ResponseWriter, r *http.Request) *problem {
	t, p := a.targetOf(r)
	if p != nil {
		return p
	}
	q, p := parseQuery(r.URL.RawQuery, []string{"timeout"})
	if p != nil {
		return p
	}
	timeout, p := q.duration("timeout", a.opt.DefaultTimeout, time.Millisecond, MaxTimeout)
	if p != nil {
		return p
	}
	ctx, cancel := a.working(r.Context(), timeout)
	defer cancel()
	all, err := a.deps.Explain.Explain(ctx, t.bucket, t.key)
	if err != nil {
		return a.failure(err, false)
	}
	type replica struct {
		Node  string    `json:"node"`
		ID    string    `json:"id"`
		Role  string    `json:"role"`
		Alive bool      `json:"alive"`
		Error string    `json:"error,omitempty"`
		Epoch uint64    `json:"epoch"`
		Round uint64    `json:"round"`
		Copy  *heldJSON `json:"copy,omitempty"`
		Hint  *heldJSON `json:"hint,omitempty"`
	}
	doc := struct {
		Bucket string `json:"bucket"`
		keyText
		Partition int `json:"partition"`
		// Agree: every primary was heard and holds the same.
		Agree    bool      `json:"agree"`
		Replicas []replica `json:"replicas"`
	}{Bucket: t.bucket, keyText: textOfKey(t.key), Partition: t.ring.Partition(t.bucket, t.key), Agree: true}
	for _, x := range all {
		rep := replica{
			Node: a.nameOf(x.Node), ID: x.Node.String(), Role: x.Role, Alive: x.Alive, Error: x.Err, Epoch: x.Epoch, Round: x.Round,
		}
		if x.Err == "" && (x.Role == "primary" || x.Copy.Found) {
			rep.Copy = t.held(x.Copy)
		}
		if x.Hinted.Found {
			rep.Hint = t.held(x.Hinted)
		}
		if x.Role == "primary" && (x.Err != "" || x.Copy.Damaged || x.Copy.Digest != all[0].Copy.Digest) {
			doc.Agree = false
		}
		doc.Replicas = append(doc.Replicas, rep)
	}
	return writeJSON(w, http.StatusOK, doc)
}

func (t target) held(h coordinator.Holding) *heldJSON {
	out := &heldJSON{Found: h.Found, Damaged: h.Damaged, Behind: h.Behind}
	if !h.Found || h.Object.IsZero() {
		return out
	}
	out.Digest = hex.EncodeToString(h.Digest[:])
	out.Context = t.tokenOf(vclock.Context{Vector: h.Object.Context})
	out.Deleted = true
	for _, d := range h.Object.Context {
		out.Clock = append(out.Clock, d.String())
	}
	for i, s := range h.Object.Siblings {
		x := heldSiblingJSON{
			Dot: s.Dot.String(), Size: h.Sizes[i], ContentType: s.ContentType, Deleted: s.Deleted,
			Modified: s.Stamp.Time().Format(time.RFC3339Nano),
		}
		if s.Expiry != 0 {
			x.Expires = time.UnixMilli(s.Expiry).UTC().Format(time.RFC3339Nano)
		}
		out.Size += x.Size
		out.Deleted = out.Deleted && s.Deleted
		out.Siblings = append(out.Siblings, x)
	}
	return out
}
