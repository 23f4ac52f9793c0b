package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

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
	b := newConnBounds(flag, cfg.MaxConnections)
	d.bounds = append(d.bounds, b)
	bounded := &boundedListener{Listener: l, bounds: b, closed: make(chan struct{})}
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
		list = append(list, b.open)
	}
	if d.pair != nil {
		list = append(list, d.pair.notAfter, d.pair.failures)
	}
	return list
}

// connBounds bounds the connections of a port. Without it a flood of them takes
// every descriptor that the process may have, and with them the database, the
// audit log and the models' processes.
type connBounds struct {
	slots chan struct{} // one element for each connection
	open  prometheus.GaugeFunc
	// crowded is called, once in a crowdedFor, while somebody waits for a place.
	crowded func() // nil: nothing is done
}

// crowdedFor is how long a connection waits before places are made.
const crowdedFor = time.Second

// makeRoom lets the server close what is idle while others wait for a place, so
// that connections on which nothing is asked don't keep anybody out until their
// time is over. Those of HTTP/2 stay: net/http does not know when they are idle.
// Call it before the server serves.
func (b *connBounds) makeRoom(server *http.Server) {
	b.crowded = func() {
		server.SetKeepAlivesEnabled(false) // closes those that are idle, or have asked nothing for 5 s
		server.SetKeepAlivesEnabled(true)
	}
}

// enter waits for a place, and reports whether it has one.
func (b *connBounds) enter(closed <-chan struct{}) bool {
	select {
	case b.slots <- struct{}{}:
		return true
	default:
	}
	tick := time.NewTicker(crowdedFor)
	defer tick.Stop()
	for {
		select {
		case b.slots <- struct{}{}:
			return true
		case <-closed:
			return false
		case <-tick.C:
			if b.crowded != nil {
				b.crowded()
			}
		}
	}
}

func newConnBounds(port string, most int) *connBounds {
	b := &connBounds{slots: make(chan struct{}, most)}
	b.open = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "modelgate_connections", Help: "Open connections of clients, by the setting that names the port.",
		ConstLabels: prometheus.Labels{"port": port},
	}, func() float64 { return float64(len(b.slots)) })
	return b
}

// boundedListener leaves connections beyond the bound in the kernel's queue.
type boundedListener struct {
	net.Listener
	bounds *connBounds
	once   sync.Once
	closed chan struct{}
}

// Accept implements net.Listener.
func (l *boundedListener) Accept() (net.Conn, error) {
	if !l.bounds.enter(l.closed) {
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.bounds.slots
		return nil, err
	}
	return &boundedConn{Conn: c, bounds: l.bounds}, nil
}

// Close implements net.Listener.
func (l *boundedListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// boundedConn gives its place back when it is closed.
type boundedConn struct {
	net.Conn
	bounds *connBounds
	once   sync.Once
}

// Close implements net.Conn.
func (c *boundedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { <-c.bounds.slots })
	return err
}

// CloseWrite lets the server end its side first, as a TCP connection does.
func (c *boundedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
