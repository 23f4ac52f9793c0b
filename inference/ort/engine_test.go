package ort

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"modelgate/inference"
	"modelgate/inference/inferencetest"
	"modelgate/models"
)

const testdata = "../../testdata"

// libraryPath finds ONNX Runtime or skips the test.
func libraryPath(t testing.TB) string {
	t.Helper()
	path, err := FindLibrary(os.Getenv("MODELGATE_ONNXRUNTIME_LIB"))
	if err != nil {
		t.Skipf("ONNX Runtime is needed (make test fetches it): %v", err)
	}
	return path
}

func open(t testing.TB, cfg Config) *Engine {
	t.Helper()
	e, err := Open(libraryPath(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("closing the engine: %v", err)
		}
	})
	return e
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(testdata, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func loadFile(t testing.TB, e *Engine, name string) inference.Session {
	t.Helper()
	s, err := e.Load(t.Context(), read(t, name), inference.Options{LoadTimeout: time.Minute})
	if err != nil {
		t.Fatalf("loading %s: %v", name, err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing %s: %v", name, err)
		}
	})
	return s
}

func TestContract(t *testing.T) {
	inferencetest.RunTests(t, testdata, func(t *testing.T, mem *inference.Memory) inference.Engine {
		e, err := Open(libraryPath(t), Config{Memory: mem})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { await(e) })
		return e
	})
}

// await returns once no load of e strays any more.
func await(e *Engine) {
	e.mu.Lock()
	strays := maps.Clone(e.strays)
	e.mu.Unlock()
	for l := range strays {
		<-l.done
	}
}

// slow is a file that takes about two seconds to load: constant_bomb with
// smaller matrices.
func slow(t *testing.T) []byte {
	large, small := []byte{0, 16, 0, 0, 0, 0, 0, 0}, []byte{0, 4, 0, 0, 0, 0, 0, 0} // 4096, 1024
	return bytes.ReplaceAll(read(t, "hostile/constant_bomb.onnx"), large, small)
}

// Loads that nobody waits for are bounded, and give back what they took.
func TestStrayLoads(t *testing.T) {
	e := open(t, Config{Memory: inference.NewMemory(1 << 20), StrayLoads: 1})
	l, err := e.beginLoad(slow(t))
	if err != nil {
		t.Fatal(err)
	}
	l.abandon()
	if _, err := e.Load(t.Context(), read(t, "two_io.onnx"), inference.Options{}); !errors.Is(err, inference.ErrUnavailable) {
		t.Fatalf("beside a stray: got %v", err)
	}
	l.run()
	loadFile(t, e, "two_io.onnx")
	if len(e.sessions) != 1 || l.session != nil {
		t.Errorf("%d sessions are known", len(e.sessions))
	}
}

// A load that ends in the moment its time does leaves no session behind.
func TestAbandonFinishedLoad(t *testing.T) {
	e := open(t, Config{Memory: inference.NewMemory(1 << 20), StrayLoads: 1})
	l, err := e.beginLoad(read(t, "two_io.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	l.run()
	l.abandon()
	if len(e.sessions) != 0 || len(e.strays) != 0 {
		t.Errorf("%d sessions, %d strays", len(e.sessions), len(e.strays))
	}
}

// An engine that is closed while a load strays leaves the library to it.
func TestCloseUnderStrayLoad(t *testing.T) {
	users := func() int {
		library.Lock()
		defer library.Unlock()
		return library.users
	}
	e, err := Open(libraryPath(t), Config{Memory: inference.NewMemory(1 << 20)})
	if err != nil {
		t.Fatal(err)
	}
	l, err := e.beginLoad(read(t, "two_io.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	l.abandon()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if n := users(); n != 1 {
		t.Errorf("the library has %d users, not the stray load alone", n)
	}
	l.run()
	if n := users(); n != 0 {
		t.Errorf("the library has %d users after the load ended", n)
	}
}

// The constants that a load computes are bounded: the file that would keep two
// cores busy for a minute loads at once, and its run ends after the product at
// which its time was up (about a second).
func TestConstantBomb(t *testing.T) {
	mem := inference.NewMemory(1 << 20)
	e := open(t, Config{Memory: mem})
	start := time.Now()
	s := loadFile(t, e, "hostile/constant_bomb.onnx")
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %v to load", took)
	}
	x, err := inference.NewTensor(mem, models.Float32, []int64{1, 2})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Release()
	clear(x.Data)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start = time.Now()
	if _, err := s.Run(ctx, []inference.Tensor{x}, []int{0}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("the run took %v", took)
	}
}

// A model that wants more than there may be fails; others go on.
func TestMaxMemory(t *testing.T) {
	mem := inference.NewMemory(64 << 20)
	e := open(t, Config{Memory: mem, MaxMemory: 32 << 20})
	s := loadFile(t, e, "dynamic.onnx")
	run := func(n int64) error {
		x, err := inference.NewTensor(mem, models.Float32, []int64{1, n, 1000})
		if err != nil {
			t.Fatal(err)
		}
		defer x.Release()
		clear(x.Data)
		values, err := s.Run(t.Context(), []inference.Tensor{x}, []int{0})
		for i := range values {
			values[i].Release()
		}
		return err
	}
	if err := run(1000); err != nil {
		t.Fatal(err)
	}
	if err := run(10_000); !errors.Is(err, inference.ErrRun) || !errors.Is(err, inference.ErrNoMemory) {
		t.Errorf("40 MB beyond 32 MiB: got %v", err)
	}
	if err := run(1000); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// The runtime's words, which name nodes, are in the cause and nowhere else.
func TestErrorsKeepTheRuntimesWords(t *testing.T) {
	mem := inference.NewMemory(1 << 20)
	s := loadFile(t, open(t, Config{Memory: mem}), "canary.onnx")
	x, err := inference.NewTensor(mem, models.Float32, []int64{1, 3})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Release()
	copy(inference.View[float32](&x), []float32{7, 1, 1})
	_, err = s.Run(t.Context(), []inference.Tensor{x}, []int{0})
	var e *inference.Error
	if !errors.As(err, &e) || e.Code != inference.ErrRun.Code {
		t.Fatalf("got %v", err)
	}
	if strings.Contains(e.Detail, "CANARY") || e.Detail != inference.ErrRun.Detail {
		t.Errorf("callers see %q", e.Detail)
	}
	if e.Cause == nil || !strings.Contains(e.Cause.Error(), "CANARY") {
		t.Errorf("the log sees %v: this test wants a model whose failure names a node", e.Cause)
	}
}

func TestOpenErrors(t *testing.T) {
	path := libraryPath(t)
	if _, err := Open(path, Config{}); err == nil {
		t.Error("without Memory: no error")
	}
	mem := inference.NewMemory(1 << 20)
	e := open(t, Config{Memory: mem})
	if !served(e.Version()) {
		t.Errorf("version %q", e.Version())
	}
	if _, err := Open(path, Config{Memory: mem, MaxMemory: 1}); err == nil {
		t.Error("another MaxMemory beside an open engine: no error")
	}
	if _, err := Open("/nowhere/libonnxruntime.so", Config{Memory: mem}); err == nil {
		t.Error("another library beside an open engine: no error")
	}
	second, err := Open(path, Config{Memory: mem})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	loadFile(t, e, "scalar.onnx")
}
