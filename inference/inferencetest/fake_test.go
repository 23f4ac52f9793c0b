package inferencetest_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"modelgate/inference"
	"modelgate/inference/inferencetest"
	"modelgate/models"
)

const testdata = "../../testdata"

func TestFake(t *testing.T) {
	inferencetest.RunTests(t, testdata, func(t *testing.T, mem *inference.Memory) inference.Engine {
		return inferencetest.NewFake(mem)
	})
}

func load(t *testing.T, f *inferencetest.Fake, name string) inference.Session {
	t.Helper()
	model, err := os.ReadFile(testdata + "/" + name)
	if err != nil {
		t.Fatal(err)
	}
	s, err := f.Load(t.Context(), model, inference.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A test can see runs arrive, let them go one by one, and make them fail.
func TestGate(t *testing.T) {
	mem := inference.NewMemory(1 << 20)
	f := inferencetest.NewFake(mem)
	s := load(t, f, "scalar.onnx")
	gate := f.HoldRuns()
	x := inference.Tensor{Type: models.Float32, Shape: []int64{}, Data: []byte{0, 0, 0x80, 0x3f}}
	done := make(chan error, 3)
	start := func(ctx context.Context) {
		values, err := s.Run(ctx, []inference.Tensor{x}, []int{0})
		for i := range values {
			values[i].Release()
		}
		done <- err
	}
	ctx, cancel := context.WithCancel(t.Context())
	for range 3 {
		go start(ctx)
	}
	gate.Await(t, 3)
	if got := f.Stats(); got.Running != 3 || got.Runs != 3 || got.Open != 1 || got.Loads != 1 {
		t.Errorf("%+v", got)
	}
	gate.Pass(1)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := f.Stats().Running; got != 2 {
		t.Errorf("%d are running", got)
	}
	cancel()
	for range 2 {
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	gate.Open()
	start(t.Context())
	if err := <-done; err != nil {
		t.Error(err)
	}
	f.FailRuns(inference.ErrRun)
	start(t.Context())
	if err := <-done; !errors.Is(err, inference.ErrRun) {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if mem.InUse() != 0 {
		t.Errorf("%d bytes in use", mem.InUse())
	}
}

// Loads that ran out of time stray until their gate opens, and only so many.
func TestStrayLoads(t *testing.T) {
	f := inferencetest.NewFake(inference.NewMemory(1 << 20))
	model, err := os.ReadFile(testdata + "/scalar.onnx")
	if err != nil {
		t.Fatal(err)
	}
	gate := f.HoldLoads()
	brief := inference.Options{LoadTimeout: time.Millisecond}
	for range 2 {
		if _, err := f.Load(t.Context(), model, brief); !errors.Is(err, inference.ErrLoadTimeout) {
			t.Fatal(err)
		}
	}
	if _, err := f.Load(t.Context(), model, brief); !errors.Is(err, inference.ErrUnavailable) {
		t.Fatal(err)
	}
	gate.Open()
	for {
		s, err := f.Load(t.Context(), model, inference.Options{})
		if err == nil {
			defer s.Close()
			break
		}
		if !errors.Is(err, inference.ErrUnavailable) || t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
	f.FailLoads(inference.ErrLoad)
	if _, err := f.Load(t.Context(), model, brief); !errors.Is(err, inference.ErrLoad) {
		t.Error(err)
	}
	f.FailLoads(nil)
	if got := f.Stats(); got.Loads != 1 || got.Open != 1 {
		t.Errorf("%+v", got)
	}
}

// What a Fake does not know it answers with zeros of the declared shape.
func TestUnknownModel(t *testing.T) {
	mem := inference.NewMemory(1 << 20)
	f := inferencetest.NewFake(mem)
	s := load(t, f, "digits.onnx")
	defer s.Close()
	x, err := inference.NewTensor(mem, models.Float32, []int64{2, 1, 8, 8})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Release()
	values, err := s.Run(t.Context(), []inference.Tensor{x}, []int{0})
	if err != nil {
		t.Fatal(err)
	}
	defer values[0].Release()
	got := values[0].Tensor
	if len(got.Shape) != 2 || got.Shape[0] != 2 || got.Shape[1] != 10 {
		t.Fatalf("shape %v", got.Shape)
	}
	for _, p := range inference.View[float32](&got) {
		if p != 0 {
			t.Fatal("not zero")
		}
	}
}

// A session that is lost ends the runs inside, and refuses later ones; the
// engine goes on.
func TestCrash(t *testing.T) {
	mem := inference.NewMemory(1 << 20)
	f := inferencetest.NewFake(mem)
	s := load(t, f, "scalar.onnx")
	x := inference.Tensor{Type: models.Float32, Shape: []int64{}, Data: []byte{0, 0, 0x80, 0x3f}}
	run := func(s inference.Session) error {
		values, err := s.Run(t.Context(), []inference.Tensor{x}, []int{0})
		for i := range values {
			values[i].Release()
		}
		return err
	}
	crashed := func(err error, inside bool) {
		t.Helper()
		var c *inference.Crash
		if !errors.Is(err, inference.ErrUnavailable) || !errors.As(err, &c) || c.Reason != "signal: killed" || c.Inside != inside {
			t.Errorf("got %v", err)
		}
	}
	gate := f.HoldRuns()
	done := make(chan error, 2)
	for range 2 {
		go func() { done <- run(s) }()
	}
	gate.Await(t, 2)
	select {
	case <-s.Lost():
		t.Error("lost before the crash")
	default:
	}
	f.Crash("signal: killed")
	<-s.Lost()
	crashed(<-done, true)
	crashed(<-done, true)
	crashed(run(s), false)
	_, err := s.Run(t.Context(), nil, nil)
	crashed(err, false)

	gate.Open()
	next := load(t, f, "scalar.onnx")
	f.CrashRuns(1, "signal: killed")
	crashed(run(next), true)
	crashed(run(next), false)
	for _, s := range []inference.Session{s, next} {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if n := mem.InUse(); n != 0 {
		t.Errorf("%d bytes were not released", n)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}
