package main

import (
	"strings"
	"testing"

	"modelgate/client"
)

// TestEmptyInputs: a request with nothing in it costs no more than an answer,
// also where the runtime would not survive it. Without the refusal the model's
// process ends at each of them.
func TestEmptyInputs(t *testing.T) {
	p := start(t, t.TempDir())
	admin := p.admin()
	push(t, admin, "gru", modelBytes(t, "hostile/empty_gru.onnx"), client.Spec{})
	for _, shape := range [][]int64{{1, 0, 2}, {0, 1, 2}, {0, 0, 2}} {
		inputs := map[string]any{"x": map[string]any{"shape": shape, "data": []float64{}}}
		_, err := admin.Predict(t.Context(), client.PredictRequest{Model: "gru", Inputs: inputs})
		if e := refused(t, err, 400, "an empty input"); !strings.Contains(e.Detail, "at least one value") {
			t.Errorf("shape %v: %s", shape, e.Detail)
		}
	}
	full := map[string]any{"x": [][][]float64{{{1, 1}}}}
	if _, err := admin.Predict(t.Context(), client.PredictRequest{Model: "gru", Inputs: full}); err != nil {
		t.Errorf("a sequence of one: %v", err)
	}
}
