package api

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the counters of this room. Labels are bounded: route templates
// (never a path as sent), standard methods, statuses, and fixed words. No user,
// address or model is ever a label here.
type metrics struct {
	requests         *prometheus.CounterVec   // route, method, status
	seconds          *prometheus.HistogramVec // route, method
	refusals         *prometheus.CounterVec   // limit
	codes            *prometheus.CounterVec   // code
	badCredentials   prometheus.Counter
	limitStoreErrors prometheus.Counter
	panics           prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, version string, bodyBytes func() float64) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "modelgate_http_requests_total", Help: "Requests answered. Status 499: the client left."},
			[]string{"route", "method", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "modelgate_http_request_seconds", Help: "Time from the request's headers to the end of its answer.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}},
			[]string{"route", "method"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "modelgate_limit_refusals_total", Help: "Requests refused by a rate: predict, rows, login, register, reset, external, client, account, stranger."},
			[]string{"limit"}),
		codes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "modelgate_http_refusals_total", Help: "Requests refused, by the code of the refusal; unauthenticated: no credential was sent."},
			[]string{"code"}),
		badCredentials: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "modelgate_http_bad_credentials_total", Help: "Requests with an access token or API key that is no good."}),
		limitStoreErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "modelgate_limit_store_errors_total", Help: "Failures of the store of rates."}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "modelgate_http_panics_total", Help: "Requests that ended in a panic and were answered 500."}),
	}
	for _, limit := range []string{"predict", "rows", "login", "register", "reset", "external", "client", "account", "stranger"} {
		m.refusals.WithLabelValues(limit) // a rise from nothing to 1 would not be seen
	}
	for code := range outcomes {
		if _, renamed := outward[code]; !renamed {
			m.codes.WithLabelValues(code)
		}
	}
	m.codes.WithLabelValues(noCredential)
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "modelgate_build_info", Help: "Always 1.", ConstLabels: prometheus.Labels{"version": version}})
	build.Set(1)
	held := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "modelgate_http_body_bytes", Help: "Memory held for request bodies."}, bodyBytes)
	for _, c := range []prometheus.Collector{m.requests, m.seconds, m.refusals, m.codes, m.badCredentials, m.limitStoreErrors, m.panics, build, held} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) refused(limit string) { m.refusals.WithLabelValues(limit).Inc() }

// code counts a refusal. Its code is one of outcomes, never a caller's word.
func (m *metrics) code(r refusal) {
	code := r.code
	if r.bare {
		code = noCredential
	}
	m.codes.WithLabelValues(code).Inc()
}

// routeMetrics are one route's, looked up once.
type routeMetrics struct {
	all     *metrics
	route   string
	method  string // "": as sent, when standard
	usual   int    // the status of success
	success prometheus.Counter
	seconds prometheus.Observer
}

func (m *metrics) forRoute(route, method string, usual int) *routeMetrics {
	r := &routeMetrics{all: m, route: route, method: method, usual: usual}
	if method != "" {
		r.success = m.requests.WithLabelValues(route, method, strconv.Itoa(usual))
		r.seconds = m.seconds.WithLabelValues(route, method)
	}
	return r
}

func (r *routeMetrics) observe(method string, status int, d time.Duration) {
	if r.method == "" {
		method = boundedMethod(method)
		r.all.requests.WithLabelValues(r.route, method, strconv.Itoa(status)).Inc()
		r.all.seconds.WithLabelValues(r.route, method).Observe(d.Seconds())
		return
	}
	r.seconds.Observe(d.Seconds())
	if status == r.usual {
		r.success.Inc()
		return
	}
	r.all.requests.WithLabelValues(r.route, r.method, strconv.Itoa(status)).Inc()
}

// boundedMethod keeps invented methods from becoming labels.
func boundedMethod(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
		http.MethodDelete, http.MethodConnect, http.MethodOptions, http.MethodTrace:
		return method
	}
	return "other"
}
