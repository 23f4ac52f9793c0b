package auth

import (
	"errors"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the counters of the room. Labels take few values, none of them
// chosen by a caller.
type metrics struct {
	failures    *prometheus.CounterVec // by action and reason
	rejections  *prometheus.CounterVec // by reason
	lookups     *prometheus.CounterVec
	hits        prometheus.Counter // of lookups
	misses      prometheus.Counter // of lookups
	hashWait    prometheus.Histogram
	hashRefused prometheus.Counter
	// pollFailures are questions to the Store what others changed, without answer.
	pollFailures prometheus.Counter

	budgetLeases  prometheus.Counter
	budgetRefused prometheus.Counter
}

// failureReasons are why an action fails, by action.
var failureReasons = map[string][]string{
	"user.login": {"unknown_user", "service_account", "wrong_password", "expired_password", "disabled", "no_code", "wrong_code", "used_code", "too_many_codes",
		"sign_in", "token", "unknown_identity", "mail", "claims", "no_second_factor"}, // through a provider
	"user.refresh":  {"malformed", "unknown", "expired", "reused", "disabled"},
	"user.register": {"taken", "malformed", "unknown", "disabled"},
	"user.reset":    {"malformed", "unknown", "disabled"},
	"user.password": {"wrong_password", "no_code", "wrong_code", "used_code", "too_many_codes"},

	"user.reauthenticate": {"wrong_password", "expired_password", "disabled", "no_code", "wrong_code", "used_code", "too_many_codes"},

	"totp.begin":            {"wrong_password", "expired_password"},
	"totp.enable":           {"wrong_code", "too_many_codes"},
	"totp.disable":          {"wrong_password", "expired_password", "no_code", "wrong_code", "used_code", "too_many_codes"},
	"recovery_codes.create": {"wrong_password", "expired_password", "no_code", "wrong_code", "used_code", "too_many_codes"},
	"client.authenticate":   {"malformed", "unknown_client", "wrong_secret", "expired", "disabled", "revoked"},
}

func newMetrics() *metrics {
	lookups := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "modelgate_token_lookups_total", Help: "Access tokens, API keys and cookies shown, by whether they were found in the memory of verified ones.",
	}, []string{"result"})
	failures := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "modelgate_signin_failures_total", Help: "Failed sign-ins, refreshes and redemptions, by action and reason.",
	}, []string{"action", "reason"})
	for action, reasons := range failureReasons {
		for _, reason := range reasons {
			failures.WithLabelValues(action, reason) // a rise from nothing to 1 would not be seen
		}
	}
	rejections := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "modelgate_credential_rejections_total", Help: "Access tokens and API keys that prove nothing, by reason: invalid, expired, unknown (logged out, revoked or deleted), disabled.",
	}, []string{"reason"})
	for _, reason := range []string{"invalid", "expired", "unknown", "disabled"} {
		rejections.WithLabelValues(reason)
	}
	return &metrics{
		failures:   failures,
		rejections: rejections,
		lookups:    lookups,
		hits:       lookups.WithLabelValues("hit"),
		misses:     lookups.WithLabelValues("miss"),
		hashWait: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "modelgate_password_hash_wait_seconds", Help: "How long callers waited for their turn to have a password hashed.",
			Buckets: []float64{0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10},
		}),
		hashRefused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "modelgate_password_hash_refused_total", Help: "Callers turned away because too many waited to have a password hashed.",
		}),
		pollFailures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "modelgate_changes_failures_total", Help: "Times the database did not tell what other processes changed; nobody is let in meanwhile.",
		}),
		budgetLeases: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "modelgate_budget_leases_total", Help: "Times that rows of a daily budget were asked for from the database.",
		}),
		budgetRefused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "modelgate_budget_refusals_total", Help: "Predictions refused by a daily budget of rows.",
		}),
	}
}

// rejected counts a credential that proves nothing.
func (m *metrics) rejected(err error) {
	reason := "invalid"
	switch {
	case !errors.Is(err, ErrToken):
		return // the database could not be asked
	case errors.Is(err, jwt.ErrTokenExpired), errors.Is(err, errEnded):
		reason = "expired"
	case errors.Is(err, ErrNotFound):
		reason = "unknown"
	case errors.Is(err, errDisabled):
		reason = "disabled"
	}
	m.rejections.WithLabelValues(reason).Inc()
}

// Collectors are the room's metrics, for the server to register.
func (s *Service) Collectors() []prometheus.Collector {
	m := s.metrics
	return append(s.providers.collectors(),
		m.failures, m.rejections, m.lookups, m.hashWait, m.hashRefused, m.budgetLeases, m.budgetRefused, m.pollFailures)
}
