package api

import (
	"strings"
	"testing"

	"modelgate/auth"
)

// TestStatistics: counts of what was done, per version, and versions for who
// manages the model.
func TestStatistics(t *testing.T) {
	w := newWorld(t, noLimits)
	w.iris()
	w.upload(w.admin, "iris", "iris_v2.onnx", "").is(201)
	w.upload(w.admin, "closed", "iris.onnx", "").is(201)
	_, ada := w.user("ada")
	stats := func(path, token string) []oipModelStatistics {
		t.Helper()
		var got oipStatistics
		w.get(path, token).is(200).decode(&got)
		return got.ModelStats
	}
	before := stats("/v2/models/iris/stats", ada)
	if len(before) != 1 || before[0].InferenceCount != 0 || before[0].InferenceStats != (oipInferStats{}) {
		t.Errorf("before the first prediction: %+v", before)
	}
	w.post("/predict", ada, rows(5)).is(200)
	w.post("/v2/models/iris/infer", ada, irisInfer).is(200)
	w.post("/v2/models/iris/infer", ada, strings.Replace(irisInfer, "[1,4]", "[1,3]", 1)).oipRefused(400)
	w.post("/v2/models/iris/versions/2/infer", w.admin, irisInfer).is(200)

	after := stats("/v2/models/iris/stats", ada)
	if len(after) != 1 || after[0].Version != "" {
		t.Fatalf("for a caller: %+v", after)
	}
	n := after[0]
	if n.InferenceCount != 6 || n.ExecutionCount != 2 || n.InferenceStats.Success.Count != 2 || n.InferenceStats.Fail.Count != 1 ||
		n.InferenceStats.Queue.Count != 2 || n.InferenceStats.ComputeInput.Count != 3 || n.InferenceStats.ComputeInfer.Count != 2 ||
		n.InferenceStats.ComputeOutput.Count != 2 || n.InferenceStats.Success.NS == 0 || n.LastInference == 0 {
		t.Errorf("after two good predictions of six rows and a bad one: %+v", n)
	}
	if got := stats("/v2/models/iris/stats", w.admin); len(got) != 2 || got[0].Version != "1" || got[1].Version != "2" || got[1].InferenceCount != 1 {
		t.Errorf("for who manages: %+v", got)
	}
	if got := stats("/v2/models/iris/versions/2/stats", ada); len(got) != 1 || got[0].Version != "2" || got[0].InferenceCount != 1 {
		t.Errorf("of a version: %+v", got)
	}
	if got := stats("/v2/models/stats", ada); len(got) != 1 || got[0].Name != "iris" {
		t.Errorf("of all models of a caller: %+v", got)
	}
	closed, absent := w.get("/v2/models/closed/stats", ada), w.get("/v2/models/absent/stats", ada)
	if closed.oipRefused(403) != absent.oipRefused(403) {
		t.Errorf("closed: %s, absent: %s", closed.Body, absent.Body)
	}
	w.do(request{method: "DELETE", path: "/models/iris", token: w.admin}).is(204)
	w.iris()
	if got := stats("/v2/models/iris/stats", ada); len(got) != 1 || got[0].InferenceCount != 0 {
		t.Errorf("a new model has the counts of a deleted one: %+v", got)
	}
}

// TestModelConfig: the public contract, as Triton's configuration has it.
func TestModelConfig(t *testing.T) {
	w := newWorld(t, func(_ *auth.Config, c *Config) { c.Limits = Limits{Predict: "600-M", Login: "1000000-S"} })
	w.upload(w.admin, "iris", "iris.onnx", `{"roles":["user"],"disclosure":{"outputs":["label"]}}`).is(201)
	_, ada := w.user("ada")
	const want = `{"name":"iris","platform":"modelgate","max_batch_size":600,"input":[{"name":"X","data_type":"TYPE_FP32","dims":[4]}],` +
		`"output":[{"name":"label","data_type":"TYPE_INT64","dims":[]}]}`
	for _, path := range []string{"/v2/models/iris/config", "/v2/models/iris/versions/1/config"} {
		if got := string(w.get(path, ada).is(200).Body); got != want {
			t.Errorf("%s: %s", path, got)
		}
	}
}
