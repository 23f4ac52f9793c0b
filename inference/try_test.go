package inference_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"modelgate/inference"
	"modelgate/inference/inferencetest"
	"modelgate/models"
)

func file(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("../testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// rejection returns the code of a refusal, after a look at what it tells.
func rejection(t *testing.T, err error) string {
	t.Helper()
	var r *models.Rejected
	if !errors.As(err, &r) {
		return ""
	}
	if strings.Contains(r.Detail, "canary") || r.Detail == "" {
		t.Errorf("the uploader is told %q", r.Detail)
	}
	return r.Code
}

func TestTry(t *testing.T) {
	b := newBench(t, inference.Config{})
	trial, err := b.Try(t.Context(), file(t, "two_io.onnx"))
	if err != nil || trial.Outcome != "ran" || len(trial.Graph.Inputs) != 2 || trial.Graph.Outputs[1].Name != "dot" {
		t.Errorf("%+v, %v", trial, err)
	}
	// Zeros are no valid input of this one.
	trial, err = b.Try(t.Context(), file(t, "divide.onnx"))
	if err != nil || trial.Outcome != "inconclusive" || len(trial.Graph.Inputs) != 2 {
		t.Errorf("%+v, %v", trial, err)
	}
	for _, name := range []string{"iris.onnx", "types.onnx", "sentiment.onnx", "sequence.onnx", "scalar.onnx", "dynamic.onnx", "half.onnx"} {
		if trial, err := b.Try(t.Context(), file(t, name)); err != nil || trial.Outcome != "ran" {
			t.Errorf("%s: %+v, %v", name, trial, err)
		}
	}
	b.shut()
}

// A trial tells what batches would gain, where they are possible. Dense layers
// of some width gain on any machine: their weights are read once for all rows.
func TestTryMeasuresBatches(t *testing.T) {
	h := newHouse(t)
	began := time.Now()
	trial, err := h.service.Try(t.Context(), denseModel(256, 1024, 1024, 8))
	if err != nil || trial.Gain < 1.2 || trial.Gain > 1000 {
		t.Errorf("dense: %+v, %v", trial.Gain, err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	if trial, err := h.service.Try(t.Context(), file(t, "rowmix.onnx")); err != nil || trial.Gain != 0 {
		t.Errorf("rows that mix: %+v, %v", trial.Gain, err)
	}
}

func TestTryRefuses(t *testing.T) {
	b := newBench(t, inference.Config{})
	good := file(t, "two_io.onnx")
	if _, err := b.Try(t.Context(), []byte("PK")); rejection(t, err) != "load_failed" {
		t.Errorf("no model: %v", err)
	}
	for inside, code := range map[error]string{
		inference.ErrLoad.Because(errors.New("canary")):        "load_failed",
		inference.ErrLoadTimeout.Because(errors.New("canary")): "load_timeout",
		inference.ErrLoad.Because(inference.ErrNoMemory):       "out_of_memory",

		inference.ErrLoad.Because(&inference.Crash{Reason: "signal: canary"}):          "crashed",
		inference.ErrUnavailable.Because(&inference.Crash{Reason: "exit: 3"}):          "crashed",
		inference.ErrLoad.Because(&inference.Crash{Reason: "memory: canary"}):          "out_of_memory",
		inference.ErrLoadTimeout.Because(&inference.Crash{Reason: "deadline: canary"}): "load_timeout",
	} {
		b.fake.FailLoads(inside)
		if _, err := b.Try(t.Context(), good); rejection(t, err) != code {
			t.Errorf("%v became %v", inside, err)
		}
	}
	b.fake.FailLoads(inference.ErrUnavailable.Because(errors.New("canary")))
	if _, err := b.Try(t.Context(), good); !errors.Is(err, inference.ErrUnavailable) || rejection(t, err) != "" {
		t.Errorf("no fault of the file's: %v", err)
	}
	b.fake.FailLoads(nil)
	b.fake.FailRuns(inference.ErrTooLarge.Because(errors.New("canary")))
	if _, err := b.Try(t.Context(), good); rejection(t, err) != "too_large" {
		t.Errorf("outputs too large: %v", err)
	}
	b.fake.FailRuns(inference.ErrRun.Because(inference.ErrNoMemory))
	if _, err := b.Try(t.Context(), good); rejection(t, err) != "out_of_memory" {
		t.Errorf("a run without memory: %v", err)
	}
	b.fake.FailRuns(nil)
	for reason, code := range map[string]string{"signal: canary": "crashed", "memory: canary": "out_of_memory"} {
		b.fake.CrashRuns(1, reason)
		if _, err := b.Try(t.Context(), good); rejection(t, err) != code {
			t.Errorf("a run that ends the process: %v", err)
		}
	}
	b.fake.FailRuns(inference.ErrUnavailable)
	if _, err := b.Try(t.Context(), good); !errors.Is(err, inference.ErrUnavailable) || rejection(t, err) != "" {
		t.Errorf("no fault of the file's: %v", err)
	}
	b.shut()
	if _, err := b.Try(t.Context(), good); !errors.Is(err, inference.ErrUnavailable) {
		t.Errorf("after Close: %v", err)
	}
}

// A model that gets through its trial run and ends its process while batches
// are measured is refused as well.
func TestTryRefusesACrashOfItsMeasurement(t *testing.T) {
	b := newBench(t, inference.Config{})
	proved := file(t, "two_io.onnx")
	if ok, reason := models.RowWise(proved); !ok {
		t.Fatal(reason)
	}
	b.Service = inference.NewService(inference.Config{Engine: &brittle{b.fake}, Memory: b.mem}, b.shelf.open, b.shelf.read)
	if _, err := b.Try(t.Context(), proved); rejection(t, err) != "crashed" {
		t.Errorf("got %v", err)
	}
	b.shut()
}

// brittle is an engine whose process does not survive runs of several rows.
type brittle struct{ *inferencetest.Fake }

type brittleSession struct {
	inference.Session
	engine *brittle
}

func (e *brittle) Load(ctx context.Context, model []byte, opts inference.Options) (inference.Session, error) {
	s, err := e.Fake.Load(ctx, model, opts)
	return brittleSession{s, e}, err
}

func (s brittleSession) Run(ctx context.Context, in []inference.Tensor, want []int) ([]inference.Value, error) {
	if len(in) > 0 && in[0].Shape[0] > 1 {
		s.engine.CrashRuns(1, "signal: aborted")
	}
	return s.Session.Run(ctx, in, want)
}

// graphs is an engine that says of every model what a test wants.
type graphs struct {
	inference.Engine
	graph models.Graph
}

type graphSession struct {
	inference.Session
	graph models.Graph
}

func (s graphSession) Graph() models.Graph { return s.graph }

func (g *graphs) Load(ctx context.Context, model []byte, opts inference.Options) (inference.Session, error) {
	s, err := g.Engine.Load(ctx, model, opts)
	return graphSession{s, g.graph}, err
}

func TestTryRefusesWhatCannotBeServed(t *testing.T) {
	one := []int64{1}
	tensor := models.GraphValue{Name: "canary", Type: models.Float32, Shape: one}
	for name, c := range map[string]struct {
		in, out models.GraphValue
		code    string
	}{
		"sequence input": {models.GraphValue{Name: "canary", Kind: models.KindTensors, Type: models.Float32, Shape: one}, tensor, "unsupported_type"},
		"complex input":  {models.GraphValue{Name: "canary", Type: 14, Shape: one}, tensor, "unsupported_type"},
		"unknown rank":   {models.GraphValue{Name: "canary", Type: models.Float32}, tensor, "unsupported_type"},
		"complex output": {tensor, models.GraphValue{Name: "canary", Type: 15, Shape: one}, "unsupported_type"},
		"optional":       {tensor, models.GraphValue{Name: "canary", Kind: 9, Type: models.Float32}, "unsupported_type"},
		"odd map":        {tensor, models.GraphValue{Name: "canary", Kind: models.KindMaps, Type: models.Float32, Key: models.Int32}, "unsupported_type"},
		"large input":    {models.GraphValue{Name: "canary", Type: models.Float64, Shape: []int64{1 << 20, 1 << 20}}, tensor, "too_large"},
		"overflow":       {models.GraphValue{Name: "canary", Type: models.Float64, Shape: []int64{1 << 40, 1 << 40}}, tensor, "too_large"},
		"beyond memory":  {models.GraphValue{Name: "canary", Type: models.Float64, Shape: []int64{-1, 1 << 24}}, tensor, "too_large"},
	} {
		engine := &graphs{graph: models.Graph{Inputs: []models.GraphValue{tensor, c.in}, Outputs: []models.GraphValue{c.out}}}
		b := newBench(t, inference.Config{Engine: engine})
		engine.Engine = b.fake
		if _, err := b.Try(t.Context(), file(t, "two_io.onnx")); rejection(t, err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
		b.shut()
	}
}

func TestTryTakesItsTime(t *testing.T) {
	bubble(t, inference.Config{Timeout: 7 * time.Second, LoadTimeout: 20 * time.Second}, func(t *testing.T, b *bench) {
		began := time.Now()
		if _, err := b.Try(t.Context(), file(t, "hostile/constant_bomb.onnx")); rejection(t, err) != "load_timeout" || time.Since(began) != 20*time.Second {
			t.Errorf("a load without end: %v after %v", err, time.Since(began))
		}
		runs := b.fake.HoldRuns()
		began = time.Now()
		if _, err := b.Try(t.Context(), file(t, "two_io.onnx")); rejection(t, err) != "run_timeout" || time.Since(began) != 7*time.Second {
			t.Errorf("a run without end: %v after %v", err, time.Since(began))
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := b.Try(ctx, file(t, "two_io.onnx"))
			done <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("the uploader left: %v", err)
		}
		runs.Open()
	})
}

// A trial takes a slot and memory like any other model.
func TestTrialsCountLikeOthers(t *testing.T) {
	good := file(t, "two_io.onnx")
	bubble(t, inference.Config{Slots: 1, Queue: 1, SessionMemory: int64(len(good))}, func(t *testing.T, b *bench) {
		runs := b.fake.HoldRuns()
		first := make(chan error, 1)
		go func() {
			_, err := b.Try(t.Context(), good)
			first <- err
		}()
		synctest.Wait()
		if n := b.value("running", ""); n != 1 {
			t.Errorf("%v runs", n)
		}
		if _, err := b.Try(t.Context(), good); !errors.Is(err, inference.ErrUnavailable) {
			t.Errorf("no memory for a second one: %v", err)
		}
		closed := make(chan error, 1)
		go func() { closed <- b.Close(t.Context()) }()
		synctest.Wait()
		select {
		case <-closed:
			t.Error("closed under a trial")
		default:
		}
		runs.Open()
		if err := <-first; err != nil {
			t.Error(err)
		}
		if err := <-closed; err != nil {
			t.Error(err)
		}
	})
}
