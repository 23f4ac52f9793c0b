package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"github.com/prometheus/client_golang/prometheus"

	"modelgate/api"
)

// doors are the ports that are open, and the certificate they show.
type doors struct {
	http, grpc net.Listener  // grpc is nil where there is none
	pair       *keyPair      // nil: no TLS
	bounds     []*connBounds // of the ports that are open
}

// openDoors opens the ports, with TLS where a certificate is given.
func openDoors(ctx context.Context, cfg *Config, log *slog.Logger) (d doors, err error) {
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if cfg.TLS() {
		if d.pair, err = openKeyPair(cfg.TLSCert, cfg.TLSKey, log); err != nil {
			return d, fmt.Errorf("--tls-cert and --tls-key can't be used: %w", err)
		}
	}
	if d.http, err = d.open(ctx, cfg, "listen", cfg.Listen, "h2", "http/1.1"); err != nil {
		return d, err
	}
	if cfg.GRPCListen != "" {
		d.grpc, err = d.open(ctx, cfg, "grpc-listen", cfg.GRPCListen, "h2")
	}
	return d, err
}

// open opens one port.
func (d *doors) open(ctx context.Context, cfg *Config, flag, address string, protocols ...string) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("can't listen on %s: %w; free it, or choose another with --%s", address, pathReason(err), flag)
	}
	trusted, err := api.TrustedPeers(cfg.TrustedProxies)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	unbounded := trusted
	if cfg.MaxPerAddress == 0 { // a stranger does not come from this machine
		unbounded = func(a netip.Addr) bool { return a.IsLoopback() || trusted(a) }
	}
	b := newConnBounds(flag, cfg.connections(), cfg.connectionsOfOne(), unbounded)
	d.bounds = append(d.bounds, b)
	bounded := newBoundedListener(l, b)
	if d.pair == nil {
		return api.Listener(bounded), nil
	}
	return tls.NewListener(bounded, &tls.Config{
		GetCertificate: d.pair.get, MinVersion: tls.VersionTLS12, NextProtos: protocols,
	}), nil
}

func (d *doors) close() error {
	for _, l := range []net.Listener{d.http, d.grpc} {
		if l != nil {
			l.Close() // a server that drained has closed it already
		}
	}
	return nil
}

// run looks after the certificate until ctx ends.
func (d *doors) run(ctx context.Context) error {
	if d.pair == nil {
		return nil
	}
	return d.pair.run(ctx)
}

func (d *doors) collectors() (list []prometheus.Collector) {
	for _, b := range d.bounds {
		list = append(list, b.open, b.cut)
	}
	if d.pair != nil {
		list = append(list, d.pair.notAfter, d.pair.failures)
	}
	return list
}
