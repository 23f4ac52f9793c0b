package auth

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	watchFirst = askEvery // more often no provider is asked
	watchMost  = 10 * time.Minute
)

// watchProviders asks each provider at the start, so that a wrong setting shows
// before somebody wants to sign in, and again with a growing pause until it
// answers. It returns when all have, or ctx ends.
func (s *Service) watchProviders(ctx context.Context) {
	var all sync.WaitGroup
	for _, p := range s.providers.list {
		all.Go(func() { s.watchProvider(ctx, p) })
	}
	all.Wait()
}

func (s *Service) watchProvider(ctx context.Context, p *provider) {
	for pause := s.watchFirst; ; pause = min(2*pause, watchMost) {
		_, err := p.source.facts(ctx)
		if err == nil {
			s.cfg.Logger.Info("the identity provider answers", "provider", p.Name)
			return
		}
		if ctx.Err() != nil {
			return
		}
		s.cfg.Logger.Warn("an identity provider can't be used, and nobody comes in by it; "+p.source.advice(), "provider", p.Name, "again_in", pause.String(), "cause", err)
		again := time.NewTimer(pause)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return
		}
	}
}

// adviceFor says what to do about a provider that gave no metadata or keys.
func adviceFor(err error) string {
	certificate := (*tls.CertificateVerificationError)(nil)
	network := (*net.OpError)(nil)
	timeout := net.Error(nil)
	switch {
	case err == nil:
		return ""
	case errors.As(err, &certificate):
		return "its certificate is not trusted here: name the file of your CA in SSL_CERT_FILE"
	case strings.Contains(err.Error(), "did not match the issuer URL"): // go-oidc has no name for it
		return "its metadata names another issuer: write issuer exactly as it does there"
	case errors.As(err, &network), errors.As(err, &timeout) && timeout.Timeout():
		return "it can't be reached: check issuer, the network, and HTTPS_PROXY"
	}
	return "its metadata or keys are not what they must be: check issuer, and see cause in the protected log"
}

// up says whether the provider answered the last time that it was asked.
func (s *keySource) up() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known != nil && s.failure == nil {
		return 1
	}
	return 0
}

func (s *keySource) advice() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.todo
}

// collectors are the metrics of the providers.
func (ps *providers) collectors() (list []prometheus.Collector) {
	for _, p := range ps.list {
		list = append(list, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "modelgate_identity_provider_up", Help: "1 when the identity provider gave its metadata and keys the last time that it was asked, else 0.",
			ConstLabels: prometheus.Labels{"provider": p.Name},
		}, p.source.up))
	}
	return list
}
