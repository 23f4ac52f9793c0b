package worker

import (
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// whole is what a worker has where nothing is missing.
var whole = Protections{Seccomp: true, NoNewPrivs: true, DataLimit: 1, Landlock: 6, OtherUser: true, UserNamespace: true,
	NetworkNamespace: true, IPCNamespace: true, NoCapabilities: true, NotDumpable: true, OOMFirst: true}

// TestMissing takes one protection at a time: its gap is told, and no other.

// gather reads metrics: each value by its name and, behind a space, its label.
func gather(t *testing.T, collectors ...prometheus.Collector) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(collectors...)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			name := family.GetName()
			for _, label := range m.GetLabel() {
				name += " " + label.GetValue()
			}
			values[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return values
}

// TestLayers: each layer has a time series, which is 1 where it is there and 0
// where Missing or check would name it.
func TestLayers(t *testing.T) {
	const layers = "modelgate_sandbox_layer "
	for label, holds := range whole.layers() {
		if !holds {
			t.Errorf("of the whole cage, %s is not there", label)
		}
	}
	m := newMetrics()
	m.show(whole)
	for name, value := range gather(t, m.collectors()...) {
		if want := 1.0; name != "modelgate_workers" && name != "modelgate_worker_starts_total" && value != want {
			t.Errorf("the whole cage: %s is %v", name, value)
		}
	}
	none := gather(t, Unsandboxed()...)
	if len(none) != len(whole.layers())+2 {
		t.Errorf("without a sandbox there are %v", none)
	}
	for name, value := range none {
		if value != 0 {
			t.Errorf("without a sandbox %s is %v", name, value)
		}
	}
	bare := whole
	bare.Landlock, bare.OtherUser, bare.Root = 0, false, true
	bare.UserNamespace, bare.NetworkNamespace, bare.IPCNamespace = false, false, false
	bare.NoCapabilities, bare.NotDumpable, bare.OOMFirst = false, false, false
	m.show(bare)
	got := gather(t, m.collectors()...)
	missing := []string{"landlock_network", "landlock_scope"} // told by landlock
	for _, gap := range bare.Missing() {
		missing = append(missing, gap.Label)
	}
	for label := range whole.layers() {
		want := 1.0
		if slices.Contains(missing, label) {
			want = 0
		}
		if value, ok := got[layers+label]; !ok || value != want {
			t.Errorf("the minimum alone: %s is %v, %v; want %v", label, value, ok, want)
		}
	}
	for _, label := range missing {
		if _, ok := got[layers+label]; !ok {
			t.Errorf("%s has no time series", label)
		}
	}
}
