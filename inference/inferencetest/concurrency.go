package inferencetest

import (
	"context"
	"errors"
	"math"
	"sync"
	"testing"
	"time"

	"modelgate/inference"
	"modelgate/models"
)

// soon is how long a run may go on after its context has ended.
const soon = time.Second

// endless starts a run of slow_run.onnx that only ctx ends, and gives its
// error.
func endless(t *testing.T, s inference.Session, mem *inference.Memory, ctx context.Context) <-chan error {
	t.Helper()
	forEver := tensor[int64](t, mem, models.Int64, []int64{1}, math.MaxInt64)
	done := make(chan error, 1)
	go func() {
		values, err := s.Run(ctx, []inference.Tensor{forEver}, []int{0})
		for i := range values {
			values[i].Release()
		}
		done <- err
	}()
	return done
}

func testEndedContext(t *testing.T, s *suite) {
	session, mem := s.session(t, "slow_run.onnx")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	in := tensor[int64](t, mem, models.Int64, []int64{1}, math.MaxInt64)
	if _, err := session.Run(ctx, []inference.Tensor{in}, []int{0}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// A run ends soon after its context, with its error, and the session goes on.
func testCancel(t *testing.T, s *suite) {
	session, mem := s.session(t, "slow_run.onnx")
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		defer cancel()
		deadline, _ := ctx.Deadline()
		if err := <-endless(t, session, mem, ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("a deadline: got %v", err)
		}
		if late := time.Since(deadline); late > soon {
			t.Errorf("the run ended %v after its deadline", late)
		}
		v := run(t, session, []int{0}, tensor[int64](t, mem, models.Int64, []int64{1}, 1000))
		expect[int64](t, &v[0], models.Int64, []int64{1}, 1000)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := endless(t, session, mem, ctx)
	v := run(t, session, []int{0}, tensor[int64](t, mem, models.Int64, []int64{1}, 3))
	expect[int64](t, &v[0], models.Int64, []int64{1}, 3)
	start := time.Now()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("a cancellation: got %v", err)
	}
	if late := time.Since(start); late > soon {
		t.Errorf("the run ended %v after it was cancelled", late)
	}
}

// Ending one run ends no other, on this session or another.
func testCancelOneOfMany(t *testing.T, s *suite) {
	e, mem := s.engine(t)
	one, two := s.load(t, e, "slow_run.onnx"), s.load(t, e, "slow_run.onnx")
	kept, stop := context.WithCancel(t.Context())
	defer stop()
	others := []<-chan error{endless(t, one, mem, kept), endless(t, two, mem, kept)}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := <-endless(t, one, mem, ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	for _, other := range others {
		select {
		case err := <-other:
			t.Fatalf("another run ended as well: %v", err)
		default:
		}
	}
	stop()
	for _, other := range others {
		if err := <-other; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	}
}

// Runs of one session go on side by side and never see one another's numbers.
func testConcurrent(t *testing.T, s *suite) {
	session, mem := s.session(t, "two_io.onnx")
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 200 {
				if err := addUp(session, mem, float32(g*1000+i), int64(1+i%5)); err != nil {
					t.Errorf("goroutine %d, run %d: %v", g, i, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// addUp runs two_io on rows of x and 2x.
func addUp(s inference.Session, mem *inference.Memory, x float32, rows int64) error {
	var in []inference.Tensor
	defer func() {
		for i := range in {
			in[i].Release()
		}
	}()
	for factor := range 2 {
		made, err := inference.NewTensor(mem, models.Float32, []int64{rows, 3})
		if err != nil {
			return err
		}
		for i := range inference.View[float32](&made) {
			inference.View[float32](&made)[i] = x * float32(factor+1)
		}
		in = append(in, made)
	}
	values, err := s.Run(context.Background(), in, []int{0})
	if err != nil {
		return err
	}
	defer values[0].Release()
	got := inference.View[float32](&values[0].Tensor)
	if int64(len(got)) != 3*rows {
		return errors.New("the output has another size")
	}
	for _, v := range got {
		if v != -x {
			return errors.New("the output is another's")
		}
	}
	return nil
}

func testCloseSession(t *testing.T, s *suite) {
	e, mem := s.engine(t)
	session, err := e.Load(t.Context(), s.file(t, "scalar.onnx"), inference.Options{})
	if err != nil {
		t.Fatal(err)
	}
	x := tensor(t, mem, models.Float32, nil, float32(2))
	v := run(t, session, []int{0}, x)
	for range 2 {
		if err := session.Close(); err != nil {
			t.Error(err)
		}
	}
	expect(t, &v[0], models.Float32, nil, float32(4)) // outputs outlive their session
	_, err = session.Run(t.Context(), []inference.Tensor{x}, []int{0})
	refused(t, err, inference.ErrUnavailable)
}

// Closing a session under a run is a mistake that costs an error, no more.
func testCloseUnderRun(t *testing.T, s *suite) {
	e, mem := s.engine(t)
	session, err := e.Load(t.Context(), s.file(t, "slow_run.onnx"), inference.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	running := &watched{Context: ctx, seen: make(chan struct{})}
	done := endless(t, session, mem, running)
	<-running.seen
	if session.Close() == nil {
		t.Fatal("a session was closed under a run")
	}
	_, err = session.Run(t.Context(), []inference.Tensor{tensor[int64](t, mem, models.Int64, []int64{1}, 1)}, []int{0})
	refused(t, err, inference.ErrUnavailable)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := session.Close(); err != nil {
		t.Error(err)
	}
}

// watched is a context that tells when a run goes on: an engine asks it for its
// end once before the run, and then again or for its channel.
type watched struct {
	context.Context
	mu    sync.Mutex
	asked int // guarded by mu
	seen  chan struct{}
}

func (w *watched) Err() error {
	w.ask()
	return w.Context.Err()
}

func (w *watched) Done() <-chan struct{} {
	w.ask()
	return w.Context.Done()
}

func (w *watched) ask() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.asked++; w.asked == 2 {
		close(w.seen)
	}
}
