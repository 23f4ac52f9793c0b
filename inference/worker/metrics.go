package worker

import "github.com/prometheus/client_golang/prometheus"

// metrics are the room's numbers. Labels are those of layers.
type metrics struct {
	layers  *prometheus.GaugeVec // by layer: 1 where workers have it, else 0
	workers prometheus.Gauge
	starts  prometheus.Counter
}

// newMetrics are those of a server without workers: no layer is there.
func newMetrics() *metrics {
	m := &metrics{
		layers: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "modelgate_sandbox_layer",
			Help: "Layers of the sandbox that models run in: 1 where it is in force."}, []string{"layer"}),
		workers: prometheus.NewGauge(prometheus.GaugeOpts{Name: "modelgate_workers", Help: "Sandboxed processes of models that live."}),
		starts: prometheus.NewCounter(prometheus.CounterOpts{Name: "modelgate_worker_starts_total",
			Help: "Sandboxed processes of models started, trials included."}),
	}
	m.show(Protections{})
	return m
}

// show sets the layers to what holds of every worker.
func (m *metrics) show(p Protections) {
	for label, holds := range p.layers() {
		value := 0.0
		if holds {
			value = 1
		}
		m.layers.WithLabelValues(label).Set(value)
	}
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.layers, m.workers, m.starts}
}

// Unsandboxed are the metrics of a server whose models run without an Engine of
// this package: no layer is there, and no worker.
func Unsandboxed() []prometheus.Collector { return newMetrics().collectors() }

// layers tells of each layer whether it is there, by its label: that of its
// Gap, and for the minimum seccomp, no_new_privs and data_limit.
func (p Protections) layers() map[string]bool {
	caged := p.Seccomp && p.NoNewPrivs && p.DataLimit > 0 // else there are no workers
	return map[string]bool{
		"seccomp":           p.Seccomp,
		"no_new_privs":      p.NoNewPrivs,
		"data_limit":        p.DataLimit > 0,
		"landlock":          p.Landlock > 0,
		"landlock_network":  p.Landlock >= 4,
		"landlock_scope":    p.Landlock >= 6,
		"other_user":        caged && !p.Root,
		"user_namespace":    p.UserNamespace,
		"network_namespace": p.NetworkNamespace,
		"ipc_namespace":     p.IPCNamespace,
		"capabilities":      p.NoCapabilities,
		"not_dumpable":      p.NotDumpable,
		"oom_score":         p.OOMFirst,
	}
}
