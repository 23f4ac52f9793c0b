//go:build linux && (amd64 || arm64)

package worker

import (
	"os"
	"testing"

	"modelgate/inference"
)

// TestMetrics: workers are counted from their start to their end, and the layers
// are those that they have.
func TestMetrics(t *testing.T) {
	e, err := Open(t.Context(), Config{Library: library(t), Memory: inference.NewMemory(64 << 20), MaxMemory: 1 << 30, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	want := func(when string, workers, starts float64) {
		t.Helper()
		got := gather(t, e.Collectors()...)
		if got["modelgate_workers"] != workers || got["modelgate_worker_starts_total"] != starts {
			t.Errorf("%s: %v workers and %v starts, want %v and %v", when, got["modelgate_workers"], got["modelgate_worker_starts_total"], workers, starts)
		}
	}
	want("after the trial at the start", 0, 1)
	for label, holds := range e.Protections().layers() {
		if value := gather(t, e.Collectors()...)["modelgate_sandbox_layer "+label]; (value == 1) != holds {
			t.Errorf("the layer %s is %v; workers have it: %v", label, value, holds)
		}
	}
	model, err := os.ReadFile(testdata + "/iris.onnx")
	if err != nil {
		t.Fatal(err)
	}
	s, err := e.Load(t.Context(), model, inference.Options{})
	if err != nil {
		t.Fatal(err)
	}
	want("with a model", 1, 2)
	if _, err := e.Load(t.Context(), []byte("no model"), inference.Options{}); err == nil {
		t.Error("what is no model was loaded")
	}
	want("after a load that failed", 1, 3)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	want("after its end", 0, 3)
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}
