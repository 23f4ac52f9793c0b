package inferencetest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"modelgate/inference"
	"modelgate/models"
)

// budget is the memory that most tests give an engine.
const budget = 256 << 20

// Open returns an engine whose outputs come from mem. The suite closes it.
type Open func(t *testing.T, mem *inference.Memory) inference.Engine

// RunTests holds an engine to the contract of inference.Engine. testdata is
// the path of the repository's folder of that name.
func RunTests(t *testing.T, testdata string, open Open) {
	s := &suite{testdata: testdata, open: open}
	for _, test := range []struct {
		name string
		run  func(*testing.T, *suite)
	}{
		{"Graph", testGraph},
		{"Order", testOrder},
		{"Types", testTypes},
		{"Scalar", testScalar},
		{"Dynamic", testDynamic},
		{"Sequences", testSequences},
		{"Maps", testMaps},
		{"Inputs", testInputs},
		{"HeapInputs", testHeapInputs},
		{"Room", testRoom},
		{"Misfits", testMisfits},
		{"FailedRun", testFailedRun},
		{"OutputsBeyondMemory", testOutputsBeyondMemory},
		{"LoadErrors", testLoadErrors},
		{"LoadTimeout", testLoadTimeout},
		{"EndedContext", testEndedContext},
		{"Cancel", testCancel},
		{"CancelOneOfMany", testCancelOneOfMany},
		{"Concurrent", testConcurrent},
		{"CloseSession", testCloseSession},
		{"CloseUnderRun", testCloseUnderRun},
		{"CloseEngine", testCloseEngine},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, s) })
	}
}

type suite struct {
	testdata string
	open     Open
}

func (s *suite) file(t *testing.T, name string) []byte {
	t.Helper()
	model, err := os.ReadFile(filepath.Join(s.testdata, name))
	if err != nil {
		t.Fatal(err)
	}
	return model
}

// engine opens an engine and, at the end of the test, closes it and sees that
// no memory is left behind.
func (s *suite) engine(t *testing.T) (inference.Engine, *inference.Memory) {
	t.Helper()
	mem := inference.NewMemory(budget)
	e := s.open(t, mem)
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("closing the engine: %v", err)
		}
		if n := mem.InUse(); n != 0 {
			t.Errorf("%d bytes were not released", n)
		}
	})
	return e, mem
}

// session loads one model of testdata; the end of the test closes it.
func (s *suite) session(t *testing.T, name string) (inference.Session, *inference.Memory) {
	t.Helper()
	e, mem := s.engine(t)
	return s.load(t, e, name), mem
}

func (s *suite) load(t *testing.T, e inference.Engine, name string) inference.Session {
	t.Helper()
	session, err := e.Load(t.Context(), s.file(t, name), inference.Options{LoadTimeout: time.Minute})
	if err != nil {
		t.Fatalf("loading %s: %v", name, err)
	}
	t.Cleanup(func() {
		if err := session.Close(); err != nil {
			t.Errorf("closing %s: %v", name, err)
		}
	})
	return session
}

// tensor makes a tensor of numbers that the end of the test releases.
func tensor[T inference.Fixed](t *testing.T, mem *inference.Memory, typ models.DataType, shape []int64, data ...T) inference.Tensor {
	t.Helper()
	x, err := inference.NewTensor(mem, typ, shape)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(x.Release)
	view := inference.View[T](&x)
	if len(data) != len(view) {
		t.Fatalf("%d elements for the shape %v", len(data), shape)
	}
	copy(view, data)
	return x
}

// run runs, wants no error, and releases the outputs at the end of the test.
func run(t *testing.T, s inference.Session, want []int, in ...inference.Tensor) []inference.Value {
	t.Helper()
	values, err := s.Run(t.Context(), in, want)
	if err != nil {
		t.Fatalf("running: %v", err)
	}
	if len(values) != len(want) {
		t.Fatalf("%d values, %d were wanted", len(values), len(want))
	}
	for i := range values {
		t.Cleanup(values[i].Release)
	}
	return values
}

// expect compares a value with a tensor of that shape and data.
func expect[T inference.Fixed](t *testing.T, v *inference.Value, typ models.DataType, shape []int64, data ...T) {
	t.Helper()
	if v.Kind != models.KindTensor {
		t.Fatalf("a value of kind %d is no tensor", v.Kind)
	}
	expectTensor(t, &v.Tensor, typ, shape, data...)
}

func expectTensor[T inference.Fixed](t *testing.T, x *inference.Tensor, typ models.DataType, shape []int64, data ...T) {
	t.Helper()
	if x.Type != typ || !sameShape(x.Shape, shape) {
		t.Fatalf("got %v %v, want %v %v", x.Type, x.Shape, typ, shape)
	}
	got := inference.View[T](x)
	if len(got) != len(data) {
		t.Fatalf("got %v, want %v", got, data)
	}
	for i := range got {
		if got[i] != data[i] {
			t.Fatalf("got %v, want %v", got, data)
		}
	}
}

func sameShape(a, b []int64) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// refused wants err to be one of the room's errors: code as want's, a sentence
// for callers that says nothing of the model's inside, and a cause for the log.
func refused(t *testing.T, err error, want *inference.Error) {
	t.Helper()
	var e *inference.Error
	if !errors.As(err, &e) || !errors.Is(err, want) {
		t.Fatalf("got %v, want the code %s", err, want.Code)
	}
	if e.Detail != want.Detail {
		t.Errorf("the sentence for callers is %q, want %q", e.Detail, want.Detail)
	}
	if e.Cause == nil {
		t.Error("there is no cause for the log")
	}
}

// What the runtime says of a model is what the static check found in the file.
func testGraph(t *testing.T, s *suite) {
	e, _ := s.engine(t)
	for _, name := range []string{
		"two_io.onnx", "types.onnx", "scalar.onnx", "dynamic.onnx", "sequence.onnx", "defaults.onnx",
		"iris.onnx", "zipmap_strings.onnx", "slow_run.onnx", "canary.onnx", "digits.onnx", "sentiment.onnx",
	} {
		declared, _, err := models.Verify(s.file(t, name), models.Limits{})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		session := s.load(t, e, name)
		if session.Memory() <= 0 {
			t.Errorf("%s takes %d bytes of memory", name, session.Memory())
		}
		got := session.Graph()
		samePorts(t, name+", inputs", got.Inputs, declared.Inputs)
		samePorts(t, name+", outputs", got.Outputs, declared.Outputs)
	}
}

func samePorts(t *testing.T, what string, got, declared []models.GraphValue) {
	t.Helper()
	if len(got) != len(declared) {
		t.Fatalf("%s: got %d, want %d", what, len(got), len(declared))
	}
	for i, d := range declared {
		g := got[i]
		if g.Name != d.Name || g.Kind != d.Kind || g.Type != d.Type || g.Key != d.Key {
			t.Errorf("%s: got %+v, want %+v", what, g, d)
		}
		if d.Kind != models.KindTensor || d.Shape == nil {
			continue
		}
		ok := len(g.Shape) == len(d.Shape) && g.Shape != nil
		for k := 0; ok && k < len(d.Shape); k++ {
			ok = g.Shape[k] == d.Shape[k] || d.Shape[k] < 0
		}
		if !ok {
			t.Errorf("%s: got the shape %v, want %v", what, g.Shape, d.Shape)
		}
	}
}

// slowModel is a file whose load takes seconds: 60 products of matrices that a
// runtime computes beforehand.
func (s *suite) slowModel(t *testing.T) []byte {
	model := s.file(t, "hostile/constant_bomb.onnx")
	large, small := []byte{0, 16, 0, 0, 0, 0, 0, 0}, []byte{0, 4, 0, 0, 0, 0, 0, 0} // 4096, 1024
	if bytes.Count(model, large) != 2 {
		t.Fatal("constant_bomb.onnx is not what this test takes it for")
	}
	return bytes.ReplaceAll(model, large, small)
}

func testLoadErrors(t *testing.T, s *suite) {
	e, _ := s.engine(t)
	for name, model := range map[string][]byte{
		"empty":     {},
		"text":      s.file(t, "hostile/not_onnx.onnx"),
		"truncated": s.file(t, "hostile/truncated.onnx"),
		"operator":  s.file(t, "hostile/unknown_operator.onnx"),
	} {
		session, err := e.Load(t.Context(), model, inference.Options{})
		if session != nil {
			t.Errorf("%s: there is a session", name)
		}
		refused(t, err, inference.ErrLoad)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := e.Load(ctx, s.file(t, "two_io.onnx"), inference.Options{})
	refused(t, err, inference.ErrLoadTimeout)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the context's error is not the cause: %v", err)
	}
}

// A load that takes too long costs nobody else anything.
func testLoadTimeout(t *testing.T, s *suite) {
	e, mem := s.engine(t)
	start := time.Now()
	_, err := e.Load(t.Context(), s.slowModel(t), inference.Options{LoadTimeout: 50 * time.Millisecond})
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("Load returned after %v", took)
	}
	refused(t, err, inference.ErrLoadTimeout)
	session := s.load(t, e, "scalar.onnx")
	v := run(t, session, []int{0}, tensor(t, mem, models.Float32, nil, float32(2)))
	expect(t, &v[0], models.Float32, nil, float32(4))

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = e.Load(ctx, s.slowModel(t), inference.Options{})
	refused(t, err, inference.ErrLoadTimeout)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the context's error is not the cause: %v", err)
	}
}

func testCloseEngine(t *testing.T, s *suite) {
	e := s.open(t, inference.NewMemory(budget))
	session, err := e.Load(t.Context(), s.file(t, "two_io.onnx"), inference.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if e.Close() == nil {
		t.Error("an engine with an open session was closed")
	}
	if err := session.Close(); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}
	_, err = e.Load(t.Context(), s.file(t, "two_io.onnx"), inference.Options{})
	refused(t, err, inference.ErrUnavailable)
}
