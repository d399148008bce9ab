package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/dunlindb/dunlin/internal/config"
)

// advertised is the host that others reach this node by, and its address for gossip, which takes no names.
func advertised(ctx context.Context, cfg config.Config) (host string, ip net.IP, err error) {
	host = cfg.Advertise
	if host == "" {
		host, err = ownHost(ctx, cfg.RPC, cfg.Gossip)
		if err != nil {
			return "", nil, config.Problem("advertise", err)
		}
	}
	if ip = net.ParseIP(host); ip != nil {
		return host, ip, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	ips, err := net.DefaultResolver.LookupIP(ctx, "ip", host)
	if err != nil {
		return "", nil, config.Problem("advertise", fmt.Errorf("%q cannot be resolved (%w); give an address", host, err))
	}
	for _, candidate := range ips {
		if ip == nil || ip.To4() == nil && candidate.To4() != nil {
			ip = candidate
		}
	}
	return host, ip, nil
}

// ownHost finds the address that others most likely reach: the one listened on if it is a certain one, else what
// this host's name means, else the first address of an interface that is no loopback.
func ownHost(ctx context.Context, listens ...string) (string, error) {
	for _, l := range listens {
		if host, _, err := net.SplitHostPort(l); err == nil && host != "" {
			if ip := net.ParseIP(host); ip == nil || !ip.IsUnspecified() {
				return host, nil
			}
		}
	}
	if name, err := os.Hostname(); err == nil {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		if ips, err := net.DefaultResolver.LookupIP(ctx, "ip4", name); err == nil {
			for _, ip := range ips {
				if !ip.IsLoopback() {
					return ip.String(), nil
				}
			}
		}
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return "", err
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && n.IP.To4() != nil {
			return n.IP.String(), nil
		}
	}
	return "", errors.New("no interface has an address that others could reach; give the host")
}

// withPort joins the advertised host with the port that is listened on.
func withPort(host string, listen net.Addr) string {
	port := 0
	if a, ok := listen.(*net.TCPAddr); ok {
		port = a.Port
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}
