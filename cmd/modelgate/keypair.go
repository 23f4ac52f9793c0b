package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// keyPair is the pair of --tls-cert and --tls-key. What is written in its
// place is shown to clients soon after, without a restart. The two files can't
// be replaced at one moment, and one may be half written: until they fit, the
// pair of before is shown.
type keyPair struct {
	certFile, keyFile string
	log               *slog.Logger
	shown             atomic.Pointer[tls.Certificate]
	seen              [sha256.Size]byte // hash of the files as last looked at; owned by run
	warned            time.Time         // of the end; owned by run

	notAfter prometheus.GaugeFunc
	failures prometheus.Counter
}

const (
	certificatePoll = 5 * time.Second
	expiresSoon     = 14 * 24 * time.Hour
)

// openKeyPair loads the pair.
func openKeyPair(certFile, keyFile string, log *slog.Logger) (*keyPair, error) {
	c := &keyPair{certFile: certFile, keyFile: keyFile, log: log, failures: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "modelgate_tls_reload_failures_total", Help: "Changes of the certificate or its key that could not be used."})}
	c.notAfter = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "modelgate_tls_certificate_not_after_seconds", Help: "When the certificate ends, in seconds since 1970.",
	}, func() float64 { return float64(c.shown.Load().Leaf.NotAfter.Unix()) })
	pair, seen, err := c.load()
	if err != nil {
		return nil, err
	}
	c.seen = seen
	c.show(pair)
	return c, nil
}

// get is tls.Config's GetCertificate.
func (c *keyPair) get(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.shown.Load(), nil }

// run looks at the files until ctx ends. It compares what is in them: their
// times and places say little where links are switched, as Kubernetes does.
func (c *keyPair) run(ctx context.Context) error {
	tick := time.NewTicker(certificatePoll)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			c.look()
			c.remind(now)
		case <-ctx.Done():
			return nil
		}
	}
}

// look shows what has changed. What can't be used is told once.
func (c *keyPair) look() {
	pair, seen, err := c.load()
	if seen == c.seen {
		return
	}
	c.seen = seen
	if err != nil {
		c.failures.Inc()
		c.log.Error("the certificate changed and can't be used; the one of before is still shown", "cause", err)
		return
	}
	c.show(pair)
}

func (c *keyPair) show(pair *tls.Certificate) {
	c.shown.Store(pair)
	c.warned = time.Time{}
	c.log.Info("showing a certificate", "names", pair.Leaf.DNSNames, "serial", pair.Leaf.SerialNumber.String(), "not_after", pair.Leaf.NotAfter.UTC())
	c.remind(time.Now())
}

// remind tells once a day that the certificate ends soon.
func (c *keyPair) remind(now time.Time) {
	end := c.shown.Load().Leaf.NotAfter
	if now.Add(expiresSoon).Before(end) || now.Sub(c.warned) < 24*time.Hour {
		return
	}
	c.warned = now
	if now.After(end) {
		c.log.Error("the certificate has ended: clients refuse it; replace the files", "not_after", end.UTC())
		return
	}
	c.log.Warn("the certificate ends soon", "not_after", end.UTC())
}

// load reads the pair, and hashes what it found, be it good or not.
func (c *keyPair) load() (pair *tls.Certificate, seen [sha256.Size]byte, err error) {
	cert, certErr := os.ReadFile(c.certFile)
	key, keyErr := os.ReadFile(c.keyFile)
	private := checkPrivate(c.keyFile)
	seen = sha256.Sum256(bytes.Join([][]byte{cert, key, fmt.Append(nil, certErr, keyErr, private)}, []byte{0}))
	for _, err := range []error{certErr, keyErr, private} {
		if err != nil {
			return nil, seen, err
		}
	}
	parsed, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, seen, err
	}
	return &parsed, seen, nil
}
