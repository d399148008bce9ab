package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/dunlindb/dunlin/client"
)

const healthTimeout = time.Second

type healthCmd struct {
	HTTP string `name:"http" env:"DUNLIN_HTTP" default:":8000" placeholder:"HOST:PORT" help:"Listen address of the node."`
}

// Run asks /readyz once.
func (c *healthCmd) Run(ctx context.Context, s *streams) error {
	host, port, err := net.SplitHostPort(c.HTTP)
	if err != nil {
		return fmt.Errorf("--http (DUNLIN_HTTP): %q is no address; use host:port or :port, e.g. :8000", c.HTTP)
	}
	if host == "" || host == "0.0.0.0" || host == "::" {
		host = "127.0.0.1"
	}
	node, err := client.New([]string{"http://" + net.JoinHostPort(host, port)}, client.Options{UserAgent: "dunlin-health"})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	if err := node.Ready(ctx); err != nil {
		return fmt.Errorf("not ready: %w", err)
	}
	_, err = fmt.Fprintln(s.out, "ready")
	return err
}
