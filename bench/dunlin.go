package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/dunlindb/dunlin/client"
	"github.com/dunlindb/dunlin/internal/fleet"
	"github.com/dunlindb/dunlin/internal/loadgen"
)

// opTime bounds one operation on any server.
const opTime = 20 * time.Second

func dunlin(ctx context.Context, s settings) (*server, error) {
	return dunlinWith(ctx, s, "fsync", nodes)
}

func dunlinOS(ctx context.Context, s settings) (*server, error) {
	return dunlinWith(ctx, s, "os", nodes)
}

// dunlinWith is a number of nodes with w=2; reads are r=2 and r=1.
func dunlinWith(ctx context.Context, s settings, durability string, size int) (*server, error) {
	program := s.dunlin
	if program == "" {
		root, err := firstLine(ctx, "go", "list", "-m", "-f", "{{.Dir}}")
		if err != nil {
			return nil, err
		}
		program = filepath.Join(s.data, "dunlin-program")
		build := exec.CommandContext(ctx, "go", "build", "-pgo", filepath.Join(root, "cmd", "dunlin", "load.pgo"), "-o", program, "github.com/dunlindb/dunlin/cmd/dunlin")
		if b, err := build.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("go build: %w: %s", err, b)
		}
	}
	version, err := firstLine(ctx, program, "version")
	if err != nil {
		return nil, err
	}
	ports, err := fleet.FreePorts("127.0.0.1", 4*size)
	if err != nil {
		return nil, err
	}
	address := func(node, which int) string { return fmt.Sprintf("127.0.0.1:%d", ports[4*node+which]) }
	var seeds, urls, profiles []string
	target := loadgen.HTTPTarget{Bucket: "bench", Timeout: opTime, Write: url.Values{"w": {"2"}}, Read: url.Values{"r": {"2"}}}
	for i := range size {
		seeds = append(seeds, fmt.Sprintf("n%d@%s", i+1, address(i, 2)))
		u := &url.URL{Scheme: "http", Host: address(i, 0)}
		profiles = append(profiles, address(i, 3))
		urls, target.URLs = append(urls, u.String()), append(target.URLs, u)
	}
	one := target
	one.Read = url.Values{"r": {"1"}}
	others := target
	others.URLs = target.URLs[:size-1]
	return &server{
		size:    size,
		version: fmt.Sprintf("%s, durability %s; PUT w=2, newest r=2, one replica r=1; bucket conflict=lww", version, durability),
		command: func(node int, dir string) (*exec.Cmd, error) {
			cmd := exec.Command(program, "serve")
			cmd.Env = append(os.Environ(), fmt.Sprintf("DUNLIN_NAME=n%d", node+1), "DUNLIN_DATA="+dir, "DUNLIN_HTTP="+address(node, 0), "DUNLIN_RPC="+address(node, 1),
				"DUNLIN_GOSSIP="+address(node, 2), "DUNLIN_ADVERTISE=127.0.0.1", "DUNLIN_SEEDS="+strings.Join(seeds, ","), "DUNLIN_CLUSTER=bench", "DUNLIN_DURABILITY="+durability)
			if s.profile {
				cmd.Env = append(cmd.Env, "DUNLIN_PPROF="+profiles[node])
			}
			return cmd, nil
		},
		ready: func(ctx context.Context) error { return dunlinReady(ctx, urls) },
		loads: loadsOf(s, target.Dialer(), target.Dialer(), one.Dialer()),
		urls:  urls, target: target, others: others.Dialer(), profiles: profiles,
	}, nil
}

// dunlinReady tells whether all nodes serve, and makes the bucket keep one
// value for each key, as the other servers do.
func dunlinReady(ctx context.Context, urls []string) error {
	for _, u := range urls {
		c, err := client.New([]string{u}, client.Options{Tries: 1})
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.Ready(ctx); err != nil {
			return err
		}
		if _, err := c.Bucket("bench").SetProperties(ctx, client.Properties{"conflict": "lww"}); err != nil {
			return err
		}
	}
	return nil
}
