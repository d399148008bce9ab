package api

import (
	"net/http"
	"runtime"
)

func (a *api) livez(w http.ResponseWriter, _ *http.Request) *problem { return writeText(w, "ok\n") }

// readyz is 200 also where a disk is full: a load balancer that took the node away would take its reads, too, and
// writes that come here are coordinated by replicas that have room.
func (a *api) readyz(w http.ResponseWriter, _ *http.Request) *problem {
	if err := a.deps.Cluster.Ready(); err != nil {
		return newProblem(http.StatusServiceUnavailable, "not-ready", err.Error())
	}
	text := "ok\n"
	for _, line := range a.deps.Cluster.Degraded() {
		text += "degraded: " + line + "\n"
	}
	return writeText(w, text)
}

func writeText(w http.ResponseWriter, text string) *problem {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write([]byte(text)) // a client that has gone away needs no answer
	return nil
}

func (a *api) version(w http.ResponseWriter, _ *http.Request) *problem {
	return writeJSON(w, http.StatusOK, struct {
		Version string `json:"version"`
		Go      string `json:"go"`
		Node    string `json:"node"`
		ID      string `json:"id"`
	}{a.deps.Version, runtime.Version(), a.deps.Name, a.deps.Self.String()})
}
