package api

import (
	"encoding/hex"
	"net/http"
	"slices"

	"github.com/dunlindb/dunlin/ring"
)

type memberJSON struct {
	ID         string      `json:"id"`
	Name       string      `json:"name"`
	Addresses  addressJSON `json:"addresses"`
	Zone       string      `json:"zone"`
	Weight     int         `json:"weight"`
	State      string      `json:"state"`
	Alive      bool        `json:"alive"`
	Partitions int         `json:"partitions"` // of which it is a primary
	Epoch      uint64      `json:"epoch"`
}

type addressJSON struct {
	HTTP   string `json:"http"`
	RPC    string `json:"rpc"`
	Gossip string `json:"gossip"`
}

func (a *api) members(w http.ResponseWriter, r *http.Request) *problem {
	if _, p := parseQuery(r.URL.RawQuery, nil); p != nil {
		return p
	}
	rg := a.deps.Cluster.Ring()
	owned := map[ring.NodeID]int{}
	doc := struct {
		Epoch   uint64       `json:"epoch"` // of the layout that this node uses; 0: none yet
		Members []memberJSON `json:"members"`
	}{Members: []memberJSON{}}
	if rg != nil {
		doc.Epoch = rg.Epoch()
		for p := range rg.Partitions() {
			for _, id := range rg.Primaries(p) {
				owned[id]++
			}
		}
	}
	for _, m := range a.deps.Cluster.Members() {
		doc.Members = append(doc.Members, memberJSON{
			ID: m.ID.String(), Name: m.Name, Addresses: addressJSON{m.HTTP, m.RPC, m.Gossip}, Zone: m.Zone,
			Weight: m.Weight, State: m.State, Alive: m.Alive, Partitions: owned[m.ID], Epoch: m.Epoch,
		})
	}
	return writeJSON(w, http.StatusOK, doc)
}

// ring shows who owns what. Owners are places in the list of members, in preference order: ids would make it long.
func (a *api) ring(w http.ResponseWriter, r *http.Request) *problem {
	if _, p := parseQuery(r.URL.RawQuery, nil); p != nil {
		return p
	}
	type owner struct {
		ID     string `json:"id"`
		Name   string `json:"name"`
		Zone   string `json:"zone"`
		Weight int    `json:"weight"`
	}
	type numbered struct {
		Bucket string `json:"bucket"`
		N      int    `json:"n"`
		First  int    `json:"first_partition"`
	}
	rg := a.deps.Cluster.Ring()
	l := rg.Layout()
	doc := struct {
		Epoch      uint64  `json:"epoch"`
		Cluster    string  `json:"cluster"`
		ClusterID  string  `json:"cluster_id"`
		N          int     `json:"n"`
		Partitions int     `json:"partitions"`
		Members    []owner `json:"members"`
		Owners     [][]int `json:"owners"`
		// Buckets have partitions of their own, from First on.
		Buckets []numbered `json:"buckets"`
	}{
		Epoch: l.Epoch, Cluster: l.Cluster, ClusterID: hex.EncodeToString(l.ClusterID[:]), N: rg.N(),
		Partitions: l.Partitions, Owners: make([][]int, rg.Partitions()), Buckets: []numbered{},
	}
	for _, b := range l.Buckets {
		first, _ := rg.PartitionsOf(b.Bucket)
		doc.Buckets = append(doc.Buckets, numbered{b.Bucket, rg.NOf(first), first})
	}
	place := map[ring.NodeID]int{}
	for i, m := range rg.Members() {
		place[m.ID] = i
		doc.Members = append(doc.Members, owner{m.ID.String(), m.Name, m.Zone, m.Weight})
	}
	for p := range doc.Owners {
		for _, id := range rg.Primaries(p) {
			doc.Owners[p] = append(doc.Owners[p], place[id])
		}
	}
	return writeJSON(w, http.StatusOK, doc)
}

// ringOfKey shows a key's partition and preference list, and who has to have a write of it.
func (a *api) ringOfKey(w http.ResponseWriter, r *http.Request) *problem {
	t, p := a.targetOf(r)
	if p != nil {
		return p
	}
	if _, p := parseQuery(r.URL.RawQuery, nil); p != nil {
		return p
	}
	type preferred struct {
		Node  string `json:"node"`
		ID    string `json:"id"`
		Role  string `json:"role"`
		Alive bool   `json:"alive"`
	}
	type quorum struct {
		Epoch     uint64   `json:"epoch"`
		Primaries []string `json:"primaries"`
	}
	doc := struct {
		Bucket string `json:"bucket"`
		keyText
		Partition  int         `json:"partition"`
		Epoch      uint64      `json:"epoch"`
		N          int         `json:"n"`
		Preference []preferred `json:"preference"`
		Writes     []quorum    `json:"writes"` // each needs its quorum; several while members change
	}{Bucket: t.bucket, keyText: textOfKey(t.key), Partition: t.ring.Partition(t.bucket, t.key), Epoch: t.ring.Epoch(), N: t.n}
	primaries := t.ring.Primaries(doc.Partition)
	for _, id := range t.ring.Walk(doc.Partition) {
		role := "fallback"
		if slices.Contains(primaries, id) {
			role = "primary"
		}
		alive := id == a.deps.Self || a.deps.Cluster.Alive(id)
		doc.Preference = append(doc.Preference, preferred{a.nameOf(id), id.String(), role, alive})
	}
	epochs := a.deps.Cluster.Epochs()
	for _, rg := range epochs.Rings() {
		q := quorum{Epoch: rg.Epoch()}
		for _, id := range rg.Primaries(epochs.Partition(t.bucket, t.key)) {
			q.Primaries = append(q.Primaries, a.nameOf(id))
		}
		doc.Writes = append(doc.Writes, q)
	}
	return writeJSON(w, http.StatusOK, doc)
}
