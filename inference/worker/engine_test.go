//go:build linux && (amd64 || arm64)

package worker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"modelgate/inference"
	"modelgate/inference/inferencetest"
	"modelgate/inference/ort"
	"modelgate/models"
)

func openORT(path string, cfg EngineConfig) (inference.Engine, string, error) {
	engine, err := ort.Open(path, ort.Config{Memory: cfg.Memory, MaxMemory: cfg.MaxMemory, Loading: cfg.Loading})
	if err != nil {
		return nil, "", err
	}
	return engine, engine.Version(), nil
}

const testdata = "../../testdata"

func library(t testing.TB) string {
	t.Helper()
	path, err := ort.FindLibrary(os.Getenv("MODELGATE_ONNXRUNTIME_LIB"))
	if err != nil {
		t.Skipf("ONNX Runtime is needed (make test fetches it): %v", err)
	}
	return path
}

func TestContract(t *testing.T) {
	inferencetest.RunTests(t, testdata, func(t *testing.T, mem *inference.Memory) inference.Engine {
		e, err := Open(t.Context(), Config{Library: library(t), Memory: mem, MaxMemory: 1 << 30, Threads: 2})
		if err != nil {
			t.Fatal(err)
		}
		return e
	})
}

// open opens an engine that the end of the test closes.
func open(t testing.TB, cfg Config) *Engine {
	t.Helper()
	cfg.Library, cfg.MaxMemory, cfg.Threads = library(t), 1<<30, 2
	e, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("closing the engine: %v", err)
		}
		if n := cfg.Memory.InUse(); n != 0 {
			t.Errorf("%d bytes were not released", n)
		}
	})
	return e
}

func load(t testing.TB, e *Engine, name string) *session {
	t.Helper()
	model, err := os.ReadFile(testdata + "/" + name)
	if err != nil {
		t.Fatal(err)
	}
	s, err := e.Load(t.Context(), model, inference.Options{LoadTimeout: time.Minute})
	if err != nil {
		t.Fatalf("loading %s: %v", name, err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing %s: %v", name, err)
		}
	})
	return s.(*session)
}

// double runs scalar.onnx, which doubles a number.
func double(ctx context.Context, s *session, mem *inference.Memory, x float32) error {
	in, err := inference.NewTensor(mem, models.Float32, nil)
	if err != nil {
		return err
	}
	defer in.Release()
	inference.View[float32](&in)[0] = x
	values, err := s.Run(ctx, []inference.Tensor{in}, []int{0})
	if err != nil {
		return err
	}
	defer release(values)
	if got := inference.View[float32](&values[0].Tensor)[0]; got != 2*x {
		return fmt.Errorf("twice %v is %v", x, got)
	}
	return nil
}

// TestKilled: when a worker is killed under load, each run gives its right
// answer or says that the worker is gone, and others don't notice.
func TestKilled(t *testing.T) {
	mem := inference.NewMemory(64 << 20)
	e := open(t, Config{Memory: mem})
	other := load(t, e, "scalar.onnx")
	for range 5 {
		s := load(t, e, "scalar.onnx")
		var good, lost, unharmed atomic.Int64
		var group sync.WaitGroup
		for g := range 16 {
			group.Go(func() {
				for i := 0; ; i++ {
					x := float32(1000*g + i)
					if err := double(t.Context(), other, mem, x); err != nil {
						t.Errorf("a run of another worker: %v", err)
					} else {
						unharmed.Add(1)
					}
					err := double(t.Context(), s, mem, x)
					var crash *inference.Crash
					switch {
					case err == nil:
						good.Add(1)
						continue
					case !errors.Is(err, inference.ErrUnavailable) || !errors.As(err, &crash) || crash.Reason != "signal: killed":
						t.Errorf("a run of the killed worker: %v", err)
					}
					lost.Add(1)
					return
				}
			})
		}
		for good.Load() < 200 && !t.Failed() {
			runtime.Gosched()
		}
		if err := syscall.Kill(s.cmd.Process.Pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		group.Wait()
		<-s.Lost()
		if lost.Load() != 16 || unharmed.Load() < 200 {
			t.Errorf("%d runs were answered, %d lost, %d of another worker answered", good.Load(), lost.Load(), unharmed.Load())
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestLoadIsKilled: a load that takes too long leaves no process behind.
func TestLoadIsKilled(t *testing.T) {
	mem := inference.NewMemory(64 << 20)
	e := open(t, Config{Memory: mem})
	model, err := os.ReadFile(testdata + "/iris.onnx")
	if err != nil {
		t.Fatal(err)
	}
	for _, limit := range []time.Duration{time.Nanosecond, time.Millisecond, 10 * time.Millisecond, 30 * time.Millisecond} {
		s, err := e.Load(t.Context(), model, inference.Options{LoadTimeout: limit})
		switch {
		case err == nil:
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		case !errors.Is(err, inference.ErrLoadTimeout) || !errors.Is(err, context.DeadlineExceeded):
			t.Errorf("within %v: %v", limit, err)
		}
	}
	if list := children(t); len(list) > 0 {
		t.Errorf("workers %v are left", list)
	}
}

// children are the process ids of this process's children.
func children(t *testing.T) []string {
	t.Helper()
	var list []string
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range tasks {
		b, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		list = append(list, strings.Fields(string(b))...)
	}
	return list
}

// TestOverdue: a step of a model that can't be ended is ended with its worker,
// and the runs beside it are not to blame.
func TestOverdue(t *testing.T) {
	_, s, mem := lying(t, "silence")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	overdue, beside := make(chan error, 1), make(chan error, 1)
	go func() { _, err := ask(ctx, s, mem, 0); overdue <- err }()
	slots := &s.(*session).arena.slots
	for slots[0].began.Load() == 0 {
		runtime.Gosched()
	}
	go func() { _, err := ask(t.Context(), s, mem, 0); beside <- err }()
	for s.(*session).arena.submitted.Load() < 2 {
		runtime.Gosched()
	}
	cancel()
	if err := <-overdue; !errors.Is(err, context.Canceled) {
		t.Errorf("the run that was told to end: %v", err)
	}
	var crash *inference.Crash
	if err := <-beside; !errors.As(err, &crash) || crash.Inside || !strings.HasPrefix(crash.Reason, "deadline: ") {
		t.Errorf("the run beside it: %v", err)
	}
}

// TestOutputsAreGivenBack: large outputs of a run don't lie about until its
// slot is used again.
func TestOutputsAreGivenBack(t *testing.T) {
	mem := inference.NewMemory(256 << 20)
	e := open(t, Config{Memory: mem})
	s := load(t, e, "two_io.onnx")
	const n = 8 << 20
	in := make([]inference.Tensor, len(s.graph.Inputs))
	for i := range in {
		shape := make([]int64, len(s.graph.Inputs[i].Shape))
		for k, d := range s.graph.Inputs[i].Shape {
			if shape[k] = d; d < 0 {
				shape[k] = n / 4
			}
		}
		x, err := inference.NewTensor(s.Room(), s.graph.Inputs[i].Type, shape)
		if err != nil {
			t.Fatal(err)
		}
		clear(x.Data)
		in[i] = x
	}
	values, err := s.Run(t.Context(), in, []int{0})
	if err != nil {
		t.Fatal(err)
	}
	release(values)
	for i := range in {
		in[i].Release()
	}
	mem.Trim()
	for limit := time.Now().Add(30 * time.Second); ; runtime.Gosched() {
		var info unix.Stat_t
		if err := unix.Fstat(int(s.memory.Fd()), &info); err != nil {
			t.Fatal(err)
		}
		if info.Blocks*512 < n {
			break
		}
		if time.Now().After(limit) {
			t.Fatalf("%d bytes of shared memory are held", info.Blocks*512)
		}
	}
}

// TestMemory: a worker's memory is read from the kernel, or else what it said;
// a worker says it too low or too high at its own cost.
func TestMemory(t *testing.T) {
	mem := inference.NewMemory(64 << 20)
	e := open(t, Config{Memory: mem})
	s := load(t, e, "digits.onnx")
	seen, ok := resident(s.cmd.Process.Pid)
	if !ok || seen < 1<<20 || seen > 1<<30 {
		t.Errorf("%d bytes are resident (%v)", seen, ok)
	}
	if s.peak < seen/2 || s.peak > 1<<30 {
		t.Errorf("the worker says %d bytes, the kernel %d", s.peak, seen)
	}
	if got := s.Memory(); got < seen/2 || got > 2*seen+mem.Budget() {
		t.Errorf("it takes %d bytes, of which %d are its own", got, seen)
	}
	if _, ok := resident(1<<22 + 1); ok {
		t.Error("a process that can't be has memory")
	}
}

// count runs slow_run.onnx, which counts to n.
func count(ctx context.Context, s *session, mem *inference.Memory, n int64) error {
	in, err := inference.NewTensor(mem, models.Int64, []int64{1})
	if err != nil {
		return err
	}
	defer in.Release()
	inference.View[int64](&in)[0] = n
	values, err := s.Run(ctx, []inference.Tensor{in}, []int{0})
	release(values)
	return err
}

// TestDeadlineBehindEndlessRuns: a run ends at its deadline also when it waits
// in the worker for runs that don't end, and its slot is used again.
func TestDeadlineBehindEndlessRuns(t *testing.T) {
	mem := inference.NewMemory(64 << 20)
	e := open(t, Config{Memory: mem})
	s := load(t, e, "slow_run.onnx")
	endless, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 2)
	for range 2 { // as many as there are threads
		go func() { ended <- count(endless, s, mem, 1<<62) }()
	}
	for index := range 2 {
		for s.arena.slots[index].began.Load() == 0 {
			runtime.Gosched()
		}
	}
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if err := count(ctx, s, mem, 1); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("behind endless runs: %v", err)
			}
		})
	}
	group.Wait()
	select {
	case err := <-ended:
		t.Fatalf("an endless run ended: %v", err)
	default:
	}
	stop()
	for range 2 {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("an endless run: %v", err)
		}
	}
	for range 100 {
		if err := count(t.Context(), s, mem, 1); err != nil {
			t.Fatal(err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.calls) != 22 || len(s.free) != 22 || s.running != 0 {
		t.Errorf("of %d slots %d are free, and %d runs go on", len(s.calls), len(s.free), s.running)
	}
}
