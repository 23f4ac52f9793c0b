package inference_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"modelgate/inference"
	"modelgate/models"
)

func TestFullQueue(t *testing.T) {
	bubble(t, inference.Config{Slots: 1, Queue: 1}, func(t *testing.T, b *bench) {
		b.put("m", 1, "two_io.onnx")
		runs := b.fake.HoldRuns()
		first, second := b.start(t.Context(), "m", pair), b.start(t.Context(), "m", pair)
		if _, err := b.predict(t.Context(), "m", pair); !errors.Is(err, inference.ErrQueueFull) {
			t.Errorf("got %v", err)
		}
		if q, r := b.value("queued", ""), b.value("running", ""); q != 1 || r != 1 || b.value("refused_total", "reason=queue_full") != 1 {
			t.Errorf("told: %v queued, %v running", q, r)
		}
		runs.Open()
		for _, a := range []answer{<-first, <-second} {
			if a.err != nil {
				t.Error(a.err)
			}
		}
	})
}

func TestLeavingTheQueueAndARun(t *testing.T) {
	bubble(t, inference.Config{Slots: 1}, func(t *testing.T, b *bench) {
		b.put("m", 1, "two_io.onnx")
		b.fake.HoldRuns() // never opened
		running, stop := context.WithCancel(t.Context())
		waiting, leave := context.WithCancel(t.Context())
		first, second := b.start(running, "m", pair), b.start(waiting, "m", pair)
		leave()
		if a := <-second; !errors.Is(a.err, context.Canceled) {
			t.Errorf("left the queue: %v", a.err)
		}
		stop()
		if a := <-first; !errors.Is(a.err, context.Canceled) {
			t.Errorf("left a run: %v", a.err)
		}
		if n := b.fake.Stats().Runs; n != 1 {
			t.Errorf("%d runs", n)
		}
	})
}

func TestDeadlines(t *testing.T) {
	bubble(t, inference.Config{Timeout: 10 * time.Second, Slots: 4}, func(t *testing.T, b *bench) {
		b.put("m", 1, "two_io.onnx")
		b.put("quick", 1, "two_io.onnx")
		b.put("patient", 1, "two_io.onnx")
		b.allow("quick", models.Rule{}, models.Serving{TimeoutMS: 1500})
		b.allow("patient", models.Rule{}, models.Serving{TimeoutMS: 60_000}) // never above the server's
		b.fake.HoldRuns()
		for model, limit := range map[string]time.Duration{"m": 10 * time.Second, "quick": 1500 * time.Millisecond, "patient": 10 * time.Second} {
			began := time.Now()
			a := <-b.start(t.Context(), model, pair)
			if took := time.Since(began); !errors.Is(a.err, inference.ErrDeadline) || took != limit {
				t.Errorf("%s: %v after %v", model, a.err, took)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if a := <-b.start(ctx, "m", pair); !errors.Is(a.err, context.DeadlineExceeded) {
			t.Errorf("the caller's own deadline: %v", a.err)
		}
	})
}

// A slow model's run gives its slot back, and a quick model is served.
func TestASlowModelDoesNotHoldUpAQuickOne(t *testing.T) {
	bubble(t, inference.Config{Slots: 1}, func(t *testing.T, b *bench) {
		b.put("slow", 1, "two_io.onnx")
		b.put("quick", 1, "two_io.onnx")
		slow := b.fake.HoldRuns()
		first := b.start(t.Context(), "slow", pair)
		b.fake.HoldRuns().Open() // from now on runs pass
		second := b.start(t.Context(), "slow", pair)
		third := b.start(t.Context(), "quick", pair)
		select {
		case a := <-third:
			t.Errorf("the slot was taken early: %v", a)
		default:
		}
		if a := <-third; a.err != nil { // the clock goes on to 250 ms
			t.Error(a.err)
		}
		select {
		case a := <-second:
			t.Errorf("a model beyond its cap: %v", a)
		default:
		}
		slow.Open()
		for _, a := range []answer{<-first, <-second} {
			if a.err != nil {
				t.Error(a.err)
			}
		}
	})
}

func TestCloseDrains(t *testing.T) {
	bubble(t, inference.Config{Slots: 1}, func(t *testing.T, b *bench) {
		b.put("m", 1, "two_io.onnx")
		b.put("loading", 1, "two_io.onnx")
		runs := b.fake.HoldRuns()
		first, second := b.start(t.Context(), "m", pair), b.start(t.Context(), "m", pair)
		loads := b.fake.HoldLoads()
		third := b.start(t.Context(), "loading", pair)
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.Close(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("closed while models run: %v", err)
		}
		if a := <-third; !errors.Is(a.err, inference.ErrUnavailable) {
			t.Errorf("a load when the service closes: %v", a.err)
		}
		loads.Open() // lets the stray one go
		if _, err := b.predict(t.Context(), "m", pair); !errors.Is(err, inference.ErrUnavailable) {
			t.Errorf("too late: %v", err)
		}
		if n := b.fake.Stats().Open; n != 1 {
			t.Errorf("%d sessions while models run", n)
		}
		closed := make(chan error, 1)
		go func() { closed <- b.Close(t.Context()) }()
		runs.Open()
		for _, a := range []answer{<-first, <-second} {
			if a.err != nil {
				t.Error(a.err)
			}
		}
		if err := <-closed; err != nil {
			t.Error(err)
		}
		if err := b.fake.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A run that hits the bound of its model's memory says so, and no more.
func TestARunWithoutMemory(t *testing.T) {
	b := newBench(t, inference.Config{})
	b.put("m", 1, "two_io.onnx")
	b.fake.FailRuns(inference.ErrRun.Because(inference.ErrNoMemory.Because(errors.New("canary"))))
	_, err := b.predict(t.Context(), "m", pair)
	var told *inference.Error
	if !errors.As(err, &told) || told.Code != "out_of_memory" || told.Cause != nil {
		t.Errorf("got %v", err)
	}
	if n := b.value("refused_total", "reason=out_of_memory"); n != 1 {
		t.Errorf("%v are counted", n)
	}
	b.shut()
}

// Inputs are put where the session reads them in place.
func TestInputsLieInTheRoom(t *testing.T) {
	b := newBench(t, inference.Config{})
	b.put("m", 1, "two_io.onnx")
	room := inference.NewMemory(1 << 20)
	engine := &roomy{b.fake, room, func() bool { return room.InUse() > 0 && b.mem.InUse() == 0 }, 0}
	b.Service = inference.NewService(inference.Config{Engine: engine, Memory: b.mem}, b.shelf.open, b.shelf.read)
	r, err := b.Predict(t.Context(), ann, models.Ref{Model: "m"}, func(sig *models.Signature, mem *inference.Memory) (*inference.Request, error) {
		if mem != room {
			t.Error("inputs are to lie elsewhere")
		}
		in, err := inference.DecodeJSON([]byte(pair), sig, mem)
		return &inference.Request{Inputs: in}, err
	})
	if err != nil {
		t.Fatal(err)
	}
	r.Release()
	if room.InUse() != 0 {
		t.Errorf("%d bytes of the room were not released", room.InUse())
	}
	// A trial runs once, and then many times to measure batches.
	trial, err := b.Try(t.Context(), file(t, "two_io.onnx"))
	if err != nil || trial.Gain == 0 {
		t.Errorf("%+v, %v", trial, err)
	}
	if engine.elsewhere > 0 {
		t.Errorf("%d runs had inputs elsewhere", engine.elsewhere)
	}
	b.shut()
}

// roomy is an engine whose sessions have a room of their own, and look whether
// the inputs of their runs lie there.
type roomy struct {
	inference.Engine
	room      *inference.Memory
	inside    func() bool
	elsewhere int // runs
}

type roomySession struct {
	inference.Session
	engine *roomy
}

func (s roomySession) Room() *inference.Memory { return s.engine.room }

func (s roomySession) Run(ctx context.Context, in []inference.Tensor, want []int) ([]inference.Value, error) {
	if !s.engine.inside() {
		s.engine.elsewhere++
	}
	return s.Session.Run(ctx, in, want)
}

func (r *roomy) Load(ctx context.Context, model []byte, opts inference.Options) (inference.Session, error) {
	s, err := r.Engine.Load(ctx, model, opts)
	return roomySession{s, r}, err
}
