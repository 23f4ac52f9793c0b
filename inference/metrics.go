package inference

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"modelgate/models"
)

// labelled bounds how many models have time series of their own; the rest
// share the label "other".
const labelled = 256

// metrics are the room's numbers. Labels are names of published models and a
// fixed list of reasons.
type metrics struct {
	queueTime                            *prometheus.HistogramVec // by model
	runTime                              *prometheus.HistogramVec // by model
	batch                                *prometheus.HistogramVec // by model
	split                                prometheus.Counter
	loadTime                             prometheus.Histogram
	loads                                prometheus.Counter
	loadFailures                         prometheus.Counter
	refused                              *prometheus.CounterVec // by reason
	crashes                              *prometheus.CounterVec // by reason, one of crashClasses
	evictions                            *prometheus.CounterVec // by reason
	reloads, quarantines, callersRefused prometheus.Counter

	mu       sync.Mutex
	versions map[string]string // model by version id, of the models with a label; guarded by mu
	models   map[string]int    // how many versions each of them has there; guarded by mu

	tallies tallies
}

// series are the time series of one model, and the tally of one version.
type series struct {
	queueTime, runTime prometheus.Observer // which count for the tally too
	batch              prometheus.Observer
	tally              *tally
}

// times reach from 50 us, a tiny model, to more than the default deadline.
var times = prometheus.ExponentialBuckets(50e-6, 3, 14)

func newMetrics() *metrics {
	histogram := func(name, help string) prometheus.HistogramOpts {
		return prometheus.HistogramOpts{Namespace: "modelgate", Subsystem: "inference", Name: name, Help: help, Buckets: times}
	}
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "modelgate", Subsystem: "inference", Name: name, Help: help}
	}
	batch := histogram("batch_predictions", "Predictions that went in one run, of models with max_batch.")
	batch.Buckets = prometheus.ExponentialBuckets(1, 2, 9)
	reasons := func(opts prometheus.CounterOpts, list ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(opts, []string{"reason"})
		for _, reason := range list {
			c.WithLabelValues(reason) // a rise from nothing to 1 would not be seen
		}
		return c
	}
	return &metrics{
		queueTime:    prometheus.NewHistogramVec(histogram("queue_seconds", "Time a run waited for a slot."), []string{"model"}),
		runTime:      prometheus.NewHistogramVec(histogram("run_seconds", "Time a run took, failed ones included."), []string{"model"}),
		batch:        prometheus.NewHistogramVec(batch, []string{"model"}),
		split:        prometheus.NewCounter(counter("batches_split_total", "Batches without an answer, whose predictions ran one by one.")),
		loadTime:     prometheus.NewHistogram(histogram("load_seconds", "Time a successful load took.")),
		loads:        prometheus.NewCounter(counter("loads_total", "Loads of published models begun.")),
		loadFailures: prometheus.NewCounter(counter("load_failures_total", "Loads of published models that failed.")),
		refused: reasons(counter("refused_total", "Predictions that gave no answer, by reason."),
			"queue_full", "left", "deadline", "run_failed", "too_large", "out_of_memory", "unavailable", "caller"),
		crashes:        reasons(counter("crashes_total", "Processes of published models that ended by themselves or had to be ended."), crashClasses...),
		evictions:      reasons(counter("evictions_total", "Sessions closed because nobody used them, or to make room for others."), "idle", "memory"),
		reloads:        prometheus.NewCounter(counter("reloads_total", "Loads of models whose process had ended.")),
		quarantines:    prometheus.NewCounter(counter("quarantines_total", "Versions put out of service because their process ended again and again.")),
		callersRefused: prometheus.NewCounter(counter("callers_refused_total", "Callers refused on a version for a while, since its process ended on their inputs.")),
		versions:       map[string]string{},
		models:         map[string]int{},
	}
}

// register adds them, and what is read from the service when asked for.
func (m *metrics) register(r prometheus.Registerer, s *Service) {
	if r == nil {
		return
	}
	gauge := func(name, help string, read func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "modelgate", Subsystem: "inference", Name: name, Help: help}, read)
	}
	r.MustRegister(m.queueTime, m.runTime, m.batch, m.split, m.loadTime, m.loads, m.loadFailures, m.refused,
		m.crashes, m.evictions, m.reloads, m.quarantines, m.callersRefused,
		gauge("sessions", "Models loaded.", func() float64 { n, _ := s.pool.loaded(); return float64(n) }),
		gauge("session_bytes", "Memory that loaded models are reckoned to take.", func() float64 { _, bytes := s.pool.loaded(); return float64(bytes) }),
		gauge("queued", "Runs that wait for a slot.", func() float64 { n, _ := s.slots.state(); return float64(n) }),
		gauge("running", "Runs under way.", func() float64 { _, n := s.slots.state(); return float64(n) }),
		gauge("tensor_bytes", "Memory of tensors in use.", func() float64 { return float64(s.memory.InUse()) }),
	)
}

// series returns the time series for a version's model.
func (m *metrics) series(v *models.Version) series {
	m.mu.Lock()
	defer m.mu.Unlock()
	name := v.Model
	switch {
	case m.versions[v.ID] != "":
	case m.models[name] > 0 || len(m.models) < labelled:
		m.versions[v.ID] = name
		m.models[name]++
	default:
		name = "other"
	}
	t := m.tallies.of(v.ID)
	return series{tally: t, queueTime: timed{m.queueTime.WithLabelValues(name), &t.queue}, runTime: timed{m.runTime.WithLabelValues(name), &t.run},
		batch: m.batch.WithLabelValues(name)}
}

// retire drops a model's time series with the last of its versions that was
// ever loaded.
func (m *metrics) retire(versionID string) {
	m.tallies.drop(versionID)
	m.mu.Lock()
	defer m.mu.Unlock()
	name := m.versions[versionID]
	if name == "" {
		return
	}
	delete(m.versions, versionID)
	if m.models[name]--; m.models[name] == 0 {
		delete(m.models, name)
		m.queueTime.DeleteLabelValues(name)
		m.runTime.DeleteLabelValues(name)
		m.batch.DeleteLabelValues(name)
	}
}
