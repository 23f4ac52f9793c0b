package inference_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"modelgate/auth"
	"modelgate/inference"
	"modelgate/inference/inferencetest"
	"modelgate/models"
)

// shelf stands where the catalogue does: it grants what is put on it.
type shelf struct {
	mu     sync.Mutex
	access map[string]models.Access // by model; guarded by mu
	files  map[string][]byte        // by version id; guarded by mu
	opened int                      // guarded by mu
}

func (s *shelf) open(_ context.Context, _ auth.Principal, ref models.Ref) (models.Access, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened++
	a, ok := s.access[ref.Model]
	if !ok {
		return models.Access{}, models.ErrClosed
	}
	return a, nil
}

func (s *shelf) read(_ context.Context, v *models.Version) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	file, ok := s.files[v.ID]
	if !ok {
		return nil, models.ErrNotFound
	}
	return file, nil
}

// bench is a service over a Fake engine, with all that a test looks at.
type bench struct {
	*inference.Service
	t       *testing.T
	shelf   *shelf
	fake    *inferencetest.Fake
	mem     *inference.Memory
	log     *bytes.Buffer
	metrics *prometheus.Registry
	counted []string
}

// newBench wires a service; its engine is a Fake unless cfg names one.
func newBench(t *testing.T, cfg inference.Config) *bench {
	b := &bench{t: t, shelf: &shelf{access: map[string]models.Access{}, files: map[string][]byte{}},
		mem: inference.NewMemory(64 << 20), log: &bytes.Buffer{}, metrics: prometheus.NewRegistry()}
	b.fake = inferencetest.NewFake(b.mem)
	if cfg.Engine == nil {
		cfg.Engine = b.fake
	}
	var mu sync.Mutex
	cfg.Memory, cfg.Metrics, cfg.Logger = b.mem, b.metrics, slog.New(slog.NewJSONHandler(b.log, nil))
	cfg.Count = func(who auth.Principal, v *models.Version, rows int) {
		mu.Lock()
		defer mu.Unlock()
		b.counted = append(b.counted, fmt.Sprintf("%s %s/%d %d", who.UserID, v.Model, v.Number, rows))
	}
	b.Service = inference.NewService(cfg, b.shelf.open, b.shelf.read)
	return b
}

// put publishes a file of testdata as a version of model, and makes it the
// default. Public names are the graph's.
func (b *bench) put(model string, number int, file string) *models.Version {
	b.t.Helper()
	data, err := os.ReadFile(filepath.Join("../testdata", file))
	if err != nil {
		b.t.Fatal(err)
	}
	graph, _, err := models.Verify(data, models.Limits{})
	if err != nil {
		b.t.Fatal(err)
	}
	v := &models.Version{ID: fmt.Sprintf("%s/%d", model, number), Model: model, Number: number, Size: int64(len(data)), State: models.Ready}
	for _, g := range graph.Inputs {
		v.Signature.Inputs = append(v.Signature.Inputs, models.TensorSpec{Name: g.Name, GraphValue: g})
	}
	for _, g := range graph.Outputs {
		v.Signature.Outputs = append(v.Signature.Outputs, models.TensorSpec{Name: g.Name, GraphValue: g})
	}
	b.shelf.mu.Lock()
	defer b.shelf.mu.Unlock()
	b.shelf.files[v.ID] = data
	m := &models.Model{Name: model, DefaultVersion: number, Versions: []*models.Version{v}}
	b.shelf.access[model] = models.Access{Model: m, Version: v, Rule: b.shelf.access[model].Rule}
	return v
}

// allow changes what the caller sees of a model, and how it is served.
func (b *bench) allow(model string, rule models.Rule, serving models.Serving) {
	b.shelf.mu.Lock()
	defer b.shelf.mu.Unlock()
	a := b.shelf.access[model]
	m := *a.Model
	m.Serving = serving
	b.shelf.access[model] = models.Access{Model: &m, Version: a.Version, Rule: rule}
}

var ann = auth.Principal{UserID: "ann", Username: "ann", Origin: auth.Origin{RequestID: "request-7"}}

// predict sends JSON inputs and returns the answer as JSON.
func (b *bench) predict(ctx context.Context, model, inputs string, outputs ...string) (string, error) {
	return ask(ctx, b.Service, ann, model, inputs, outputs...)
}

// ask sends JSON inputs and returns the answer as JSON.
func ask(ctx context.Context, s *inference.Service, who auth.Principal, model, inputs string, outputs ...string) (string, error) {
	r, err := s.Predict(ctx, who, models.Ref{Model: model}, func(sig *models.Signature, mem *inference.Memory) (*inference.Request, error) {
		in, err := inference.DecodeJSON([]byte(inputs), sig, mem)
		if err != nil {
			return nil, err
		}
		return &inference.Request{Inputs: in, Outputs: outputs}, nil
	})
	if err != nil {
		if r != nil {
			return "", fmt.Errorf("a result and the error %w", err)
		}
		return "", err
	}
	defer r.Release()
	text, err := inference.AppendJSON(nil, r, nil)
	return string(text), err
}

// answer is what a prediction that runs on its own came to.
type answer struct {
	text string
	err  error
}

// start predicts in the background.
func (b *bench) start(ctx context.Context, model, inputs string) <-chan answer {
	done := make(chan answer, 1)
	go func() {
		text, err := b.predict(ctx, model, inputs)
		done <- answer{text, err}
	}()
	synctest.Wait()
	return done
}

// clean fails unless all memory is back and no session was closed under a run.
func (b *bench) clean() {
	b.t.Helper()
	if n := b.mem.InUse(); n != 0 {
		b.t.Errorf("%d bytes of tensors left", n)
	}
	if s := b.fake.Stats(); s.Misused != 0 || s.Running != 0 {
		b.t.Errorf("sessions were misused: %+v", s)
	}
}

// shut closes the service and looks whether anything is left.
func (b *bench) shut() {
	b.t.Helper()
	if err := b.Close(b.t.Context()); err != nil {
		b.t.Errorf("closing: %v", err)
	}
	if n := b.fake.Stats().Open; n != 0 {
		b.t.Errorf("%d sessions left open", n)
	}
	b.clean()
}

// pass lets the clock of a synctest bubble go on.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// value reads one number of the registry; labels is "" or "reason=left".
func (b *bench) value(name, labels string) float64 {
	b.t.Helper()
	families, err := b.metrics.Gather()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "modelgate_inference_"+name {
			continue
		}
		for _, m := range f.GetMetric() {
			var have []string
			for _, l := range m.GetLabel() {
				have = append(have, l.GetName()+"="+l.GetValue())
			}
			if strings.Join(have, ",") == labels {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return -1
}

const pair = `{"a":[[1,2,3]],"b":[[10,20,30]]}` // inputs of two_io

func TestPredict(t *testing.T) {
	b := newBench(t, inference.Config{})
	b.put("two_io", 3, "two_io.onnx")
	for _, c := range []struct {
		inputs  string
		outputs []string
		want    string
	}{
		{pair, nil, `{"model":"two_io","outputs":{"difference":[[-9,-18,-27]],"dot":[[140]]}}`},
		{`{"b":[[1,1,1],[2,2,2]],"a":[[0,0,0],[1,1,1]]}`, []string{"dot"}, `{"model":"two_io","outputs":{"dot":[[0],[6]]}}`},
		{pair, []string{"dot", "difference"}, `{"model":"two_io","outputs":{"dot":[[140]],"difference":[[-9,-18,-27]]}}`},
	} {
		got, err := b.predict(t.Context(), "two_io", c.inputs, c.outputs...)
		if err != nil || got != c.want {
			t.Errorf("got %s, %v\nwant %s", got, err, c.want)
		}
		b.clean()
	}
	if want := []string{"ann two_io/3 1", "ann two_io/3 2", "ann two_io/3 1"}; !slices.Equal(b.counted, want) {
		t.Errorf("counted %q, want %q", b.counted, want)
	}
	if n := b.value("run_seconds", "model=two_io"); n != 3 {
		t.Errorf("%v runs were measured", n)
	}
	if n := b.value("sessions", ""); n != 1 {
		t.Errorf("%v sessions are told", n)
	}
	b.shut()
}

func TestRefusedPredictions(t *testing.T) {
	b := newBench(t, inference.Config{})
	b.put("two_io", 1, "two_io.onnx")
	late := errors.New("the rest of the rows is too dear")
	take := func(sig *models.Signature, mem *inference.Memory) []inference.Tensor {
		in, err := inference.DecodeJSON([]byte(pair), sig, mem)
		if err != nil {
			t.Fatal(err)
		}
		return in
	}
	for name, c := range map[string]struct {
		model  string
		decode inference.Decode
		want   error
		text   string
	}{
		"closed": {"other", nil, models.ErrClosed, "no such model"},
		"decode fails": {"two_io", func(*models.Signature, *inference.Memory) (*inference.Request, error) {
			return nil, late
		}, late, ""},
		"decode fails late": {"two_io", func(sig *models.Signature, mem *inference.Memory) (*inference.Request, error) {
			return &inference.Request{Inputs: take(sig, mem)}, late
		}, late, ""},
		"decode gives nothing": {"two_io", func(*models.Signature, *inference.Memory) (*inference.Request, error) {
			return nil, nil
		}, inference.ErrInput, ""},
		"an input short": {"two_io", func(sig *models.Signature, mem *inference.Memory) (*inference.Request, error) {
			in := take(sig, mem)
			in[1].Release()
			return &inference.Request{Inputs: in[:1]}, nil
		}, inference.ErrInput, "got 1 input; the model takes 2: a, b"},
		"wrong type": {"two_io", func(sig *models.Signature, mem *inference.Memory) (*inference.Request, error) {
			in := take(sig, mem)
			in[0].Type = models.Int32
			return &inference.Request{Inputs: in}, nil
		}, inference.ErrInput, `input "a" wants FP32 [N,3], got "INT32"`},
		"wrong shape": {"two_io", func(sig *models.Signature, mem *inference.Memory) (*inference.Request, error) {
			in := take(sig, mem)
			in[1].Shape = []int64{3, 1}
			return &inference.Request{Inputs: in}, nil
		}, inference.ErrInput, `input "b" wants FP32 [N,3], got [3,1]`},
		"shape and data differ": {"two_io", func(sig *models.Signature, mem *inference.Memory) (*inference.Request, error) {
			in := take(sig, mem)
			in[1].Shape = []int64{2, 3}
			return &inference.Request{Inputs: in}, nil
		}, inference.ErrInput, `input "b" has another number of values`},
		"shape that overflows": {"two_io", func(sig *models.Signature, mem *inference.Memory) (*inference.Request, error) {
			in := take(sig, mem)
			in[1].Shape = []int64{6148914691236517207, 3}
			return &inference.Request{Inputs: in}, nil
		}, inference.ErrInput, `out of range`},
		"unknown output": {"two_io", func(sig *models.Signature, mem *inference.Memory) (*inference.Request, error) {
			return &inference.Request{Inputs: take(sig, mem), Outputs: []string{"dott"}}, nil
		}, inference.ErrInput, `unknown output "dott"; the model gives difference, dot`},
		"output twice": {"two_io", func(sig *models.Signature, mem *inference.Memory) (*inference.Request, error) {
			return &inference.Request{Inputs: take(sig, mem), Outputs: []string{"dot", "dot"}}, nil
		}, inference.ErrInput, `the output "dot" is asked for twice`},
	} {
		r, err := b.Predict(t.Context(), ann, models.Ref{Model: c.model}, c.decode)
		if r != nil || !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v, %v", name, r, err)
		}
		b.clean()
	}
	if n := b.fake.Stats().Runs; n != 0 || len(b.counted) != 0 {
		t.Errorf("%d runs, counted %v", n, b.counted)
	}
	b.shut()
}

func TestAPanicInDecodeLeavesNothingBehind(t *testing.T) {
	b := newBench(t, inference.Config{})
	b.put("two_io", 1, "two_io.onnx")
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		_, _ = b.Predict(t.Context(), ann, models.Ref{Model: "two_io"}, func(*models.Signature, *inference.Memory) (*inference.Request, error) {
			panic("a bug in a codec")
		})
	}()
	b.shut() // would wait for the session, were it still counted
}

func TestDisclosureOfAPrediction(t *testing.T) {
	b := newBench(t, inference.Config{})
	b.put("iris", 1, "iris.onnx")
	b.put("two_io", 1, "two_io.onnx")
	one := 1
	const row = `{"X":[[5.1,3.5,1.4,0.2],[1,2,3,4]]}`
	for _, c := range []struct {
		model, inputs string
		rule          models.Rule
		outputs       []string
		want          string
	}{
		{"iris", row, models.Rule{}, nil, `{"model":"iris","outputs":{"label":[0,0],"probabilities":[{"0":0.5,"1":0.25,"2":0.25},{"0":0.5,"1":0.25,"2":0.25}]}}`},
		{"iris", row, models.Rule{TopK: 1}, nil, `{"model":"iris","outputs":{"label":[0,0],"probabilities":[{"0":0.5,"1":0,"2":0},{"0":0.5,"1":0,"2":0}]}}`},
		{"iris", row, models.Rule{Decimals: &one}, []string{"probabilities"}, `{"model":"iris","outputs":{"probabilities":[{"0":0.5,"1":0.2,"2":0.2},{"0":0.5,"1":0.2,"2":0.2}]}}`},
		{"iris", row, models.Rule{LabelOnly: true}, nil, `{"model":"iris","outputs":{"label":[0,0],"probabilities":[0,0]}}`},
		{"iris", row, models.Rule{Outputs: []string{"label"}}, nil, `{"model":"iris","outputs":{"label":[0,0]}}`},
		{"two_io", pair, models.Rule{LabelOnly: true}, nil, `{"model":"two_io","outputs":{"difference":[0],"dot":[0]}}`},
	} {
		b.allow(c.model, c.rule, models.Serving{})
		got, err := b.predict(t.Context(), c.model, c.inputs, c.outputs...)
		if err != nil || got != c.want {
			t.Errorf("%+v:\n got %s, %v\nwant %s", c.rule, got, err, c.want)
		}
	}
	b.allow("iris", models.Rule{Outputs: []string{"label"}}, models.Serving{})
	if _, err := b.predict(t.Context(), "iris", row, "probabilities"); !errors.Is(err, inference.ErrInput) || !strings.HasSuffix(err.Error(), `unknown output "probabilities"; the model gives label`) {
		t.Errorf("a hidden output: %v", err)
	}
	b.allow("iris", models.Rule{Outputs: []string{}}, models.Serving{})
	if _, err := b.predict(t.Context(), "iris", row); !errors.Is(err, models.ErrClosed) {
		t.Errorf("nothing to show: %v", err)
	}
	b.shut()
}

// The runtime's words go to the log, with the request's id, and never further.
func TestRuntimeErrorsStayInside(t *testing.T) {
	b := newBench(t, inference.Config{})
	b.put("two_io", 1, "two_io.onnx")
	b.fake.FailRuns(inference.ErrRun.Because(errors.New("node canary_node at /srv/secret/path")))
	_, err := b.predict(t.Context(), "two_io", pair)
	if !errors.Is(err, inference.ErrRun) || strings.Contains(err.Error(), "canary") {
		t.Errorf("got %v", err)
	}
	if log := b.log.String(); !strings.Contains(log, "canary_node") || !strings.Contains(log, "request-7") {
		t.Errorf("the log says %s", log)
	}
	for inside, outside := range map[error]error{
		inference.ErrTooLarge.Because(errors.New("canary")):    inference.ErrTooLarge,
		inference.ErrUnavailable.Because(errors.New("canary")): inference.ErrUnavailable,
		errors.New("canary"): inference.ErrRun,
	} {
		b.fake.FailRuns(inside)
		if _, err := b.predict(t.Context(), "two_io", pair); !errors.Is(err, outside) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%v became %v", inside, err)
		}
	}
	if len(b.counted) != 0 || b.value("refused_total", "reason=run_failed") != 2 || b.value("refused_total", "reason=deadline") != 0 {
		t.Errorf("counted %v", b.counted)
	}
	b.shut()
}

// liar is an engine whose sessions give whatever a test wants.
type liar struct {
	inference.Engine
	answer func(in []inference.Tensor, want []int) ([]inference.Value, error)
}

type lyingSession struct {
	inference.Session
	answer func(in []inference.Tensor, want []int) ([]inference.Value, error)
}

func (l *liar) Load(ctx context.Context, model []byte, opts inference.Options) (inference.Session, error) {
	s, err := l.Engine.Load(ctx, model, opts)
	return &lyingSession{s, l.answer}, err
}

func (s *lyingSession) Run(_ context.Context, in []inference.Tensor, want []int) ([]inference.Value, error) {
	return s.answer(in, want)
}

// What a session answers is looked at like a client's input.
func TestAnswersOfASessionAreChecked(t *testing.T) {
	mem := inference.NewMemory(1 << 20)
	fake := inferencetest.NewFake(mem)
	value := func(dt models.DataType, shape ...int64) inference.Value {
		made, err := inference.NewTensor(mem, dt, shape)
		if err != nil {
			t.Fatal(err)
		}
		clear(made.Data)
		return inference.Value{Tensor: made}
	}
	cut := func(v inference.Value) inference.Value {
		v.Tensor.Shape = []int64{9, 9}
		return v
	}
	kind := func(v inference.Value) inference.Value {
		v.Kind = models.KindMaps
		return v
	}
	l := &liar{Engine: fake}
	b := newBench(t, inference.Config{Engine: l})
	b.put("two_io", 1, "two_io.onnx")
	var values []inference.Value
	var fail error
	var wanted []int
	l.answer = func(_ []inference.Tensor, want []int) ([]inference.Value, error) {
		wanted = want
		return values, fail
	}
	for name, answer := range map[string][]inference.Value{
		"too few":     {value(models.Float32, 1, 3)},
		"too many":    {value(models.Float32, 1, 3), value(models.Float32, 1, 1), value(models.Float32, 1, 1)},
		"other type":  {value(models.Float32, 1, 3), value(models.Float64, 1, 1)},
		"other kind":  {value(models.Float32, 1, 3), kind(value(models.Float32, 1, 1))},
		"other shape": {value(models.Float32, 1, 3), cut(value(models.Float32, 1, 1))},
		"nothing":     {{}, {}},
	} {
		values = answer
		if _, err := b.predict(t.Context(), "two_io", pair); !errors.Is(err, inference.ErrRun) {
			t.Errorf("%s: %v", name, err)
		}
	}
	values, fail = []inference.Value{value(models.Float32, 1, 3)}, inference.ErrRun
	if _, err := b.predict(t.Context(), "two_io", pair); !errors.Is(err, inference.ErrRun) || mem.InUse() != 0 {
		t.Errorf("values with an error: %v, %d bytes left", err, mem.InUse())
	}
	values, fail = []inference.Value{value(models.Float32, 1, 1)}, nil
	if _, err := b.predict(t.Context(), "two_io", pair, "dot"); err != nil || !slices.Equal(wanted, []int{1}) {
		t.Errorf("asked for one output: %v, computed %v", err, wanted)
	}
	b.shut()
}

func TestRows(t *testing.T) {
	spec := func(shape ...int64) models.TensorSpec {
		return models.TensorSpec{GraphValue: models.GraphValue{Shape: shape}}
	}
	in := func(shape ...int64) inference.Tensor { return inference.Tensor{Shape: shape} }
	for _, c := range []struct {
		specs []models.TensorSpec
		in    []inference.Tensor
		want  int
	}{
		{[]models.TensorSpec{spec(-1, 4)}, []inference.Tensor{in(7, 4)}, 7},
		{[]models.TensorSpec{spec(-1, 4)}, []inference.Tensor{in(0, 4)}, 1},
		{[]models.TensorSpec{spec(9, -1)}, []inference.Tensor{in(9, 5)}, 1},
		{[]models.TensorSpec{spec()}, []inference.Tensor{in()}, 1},
		{[]models.TensorSpec{spec(-1), spec(-1, 2), spec(100)}, []inference.Tensor{in(3), in(8, 2), in(100)}, 8},
		{nil, nil, 1},
	} {
		if got := inference.Rows(&models.Signature{Inputs: c.specs}, c.in); got != c.want {
			t.Errorf("%v: %d rows, want %d", c.in, got, c.want)
		}
	}
}
