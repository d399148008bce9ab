package main

import (
	"context"
	"io"
	"path/filepath"
	"sync/atomic"

	"github.com/dunlindb/dunlin/internal/loadgen"
)

// ward is a cluster of Dunlin that is measured alone. Where a node suffers, it is the last one.
type ward struct {
	settings settings
	server   *server
	cluster  *cluster // nil before launch
	dir      string
	progress io.Writer
	remove   func()
}

// newWard prepares a cluster, which launch or start starts; the caller closes it.
func newWard(ctx context.Context, s settings, name string, progress io.Writer) (*ward, error) {
	remove, err := s.ownData()
	if err != nil {
		return nil, err
	}
	v, err := dunlin(ctx, s)
	if err != nil {
		remove()
		return nil, err
	}
	v.name = base
	return &ward{settings: s, server: v, dir: filepath.Join(s.data, name), progress: progress, remove: remove}, nil
}

// start starts the nodes and writes all keys.
func (w *ward) start(ctx context.Context) error {
	if err := w.launch(ctx); err != nil {
		return err
	}
	return w.fill(ctx)
}

func (w *ward) launch(ctx context.Context) (err error) {
	w.cluster, err = startCluster(ctx, w.server, w.dir)
	return err
}

func (w *ward) fill(ctx context.Context) error {
	return loadgen.Preload(ctx, w.spec(), w.server.loads[0].dial, new(atomic.Int64))
}

func (w *ward) close() error {
	defer w.remove()
	if w.cluster == nil {
		return nil
	}
	return w.cluster.stop()
}

// spec is an open loop of clients that leave the nodes most of their time.
func (w *ward) spec() loadgen.Spec {
	return loadgen.Spec{
		Connections: w.settings.Connections, Dist: loadgen.Uniform, Keys: w.settings.Keys, Warmup: w.settings.Warmup, Duration: w.settings.Window,
		Mix: loadgen.Mix{loadgen.Put: 1, loadgen.Get: 1}, Rate: background * w.settings.Rate, Arrivals: loadgen.Poisson, Verify: true,
		ValueSize: loadgen.SizeRange{Min: w.settings.Value, Max: w.settings.Value}, Seed: 1,
	}
}

// closedLoop is a spec of clients that take all they can get.
func (w *ward) closedLoop() loadgen.Spec {
	spec := w.spec()
	spec.Rate, spec.Arrivals = 0, ""
	return spec
}
