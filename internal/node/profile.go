package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/dunlindb/dunlin/internal/config"
	"github.com/dunlindb/dunlin/internal/transport"
)

// serveProfiles serves the process's profiles where the settings ask for it, on a listener of its own: what clients can
// reach shows nothing of the process.
func (n *Node) serveProfiles(ctx context.Context) error {
	if n.cfg.Pprof == "" {
		return nil
	}
	l, err := transport.TCP().Listen(ctx, n.cfg.Pprof)
	if err != nil {
		return config.Problem("pprof", fmt.Errorf("cannot listen on %s: %w", n.cfg.Pprof, err))
	}
	routes := http.NewServeMux()
	routes.HandleFunc("/debug/pprof/", pprof.Index)
	routes.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	routes.HandleFunc("/debug/pprof/profile", pprof.Profile)
	routes.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	routes.HandleFunc("/debug/pprof/trace", pprof.Trace)
	server := &http.Server{Handler: routes, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			n.log.Warn("profiles are no longer served", "op", "pprof", "err", err)
		}
	}()
	n.onStop(func() {
		_ = server.Close() // a profile under way is not worth waiting for
		<-served
	})
	n.log.Info("serving profiles", "pprof", l.Addr().String())
	return nil
}
