package inference_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"modelgate/auth"
	"modelgate/inference"
	"modelgate/models"
)

// bubble runs a test of concurrency, whose clock stands still until all wait.
func bubble(t *testing.T, cfg inference.Config, f func(t *testing.T, b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, cfg)
		f(t, b)
		b.shut()
	})
}

func TestOneLoadForAll(t *testing.T) {
	bubble(t, inference.Config{Slots: 4}, func(t *testing.T, b *bench) {
		b.put("two_io", 1, "two_io.onnx")
		loads := b.fake.HoldLoads()
		var all []<-chan answer
		for range 100 {
			all = append(all, b.start(t.Context(), "two_io", pair))
		}
		loads.Open()
		for _, done := range all {
			if a := <-done; a.err != nil {
				t.Fatal(a.err)
			}
		}
		if s := b.fake.Stats(); s.Loads != 1 || b.value("loads_total", "") != 1 {
			t.Errorf("%d loads", s.Loads)
		}
	})
}

// A load goes on when those who asked for it leave.
func TestALoadOutlivesWhoAskedForIt(t *testing.T) {
	bubble(t, inference.Config{}, func(t *testing.T, b *bench) {
		b.put("two_io", 1, "two_io.onnx")
		loads := b.fake.HoldLoads()
		ctx, cancel := context.WithCancel(t.Context())
		first := b.start(ctx, "two_io", pair)
		cancel()
		if a := <-first; !errors.Is(a.err, context.Canceled) {
			t.Errorf("he left: %v", a.err)
		}
		second := b.start(t.Context(), "two_io", pair)
		loads.Open()
		if a := <-second; a.err != nil {
			t.Error(a.err)
		}
		if n := b.value("loads_total", ""); n != 1 {
			t.Errorf("%v loads", n)
		}
	})
}

// A failed load is remembered for a moment, and longer when it fails again.
func TestAFailedLoadIsTriedAgain(t *testing.T) {
	bubble(t, inference.Config{}, func(t *testing.T, b *bench) {
		b.put("two_io", 1, "two_io.onnx")
		b.fake.FailLoads(inference.ErrLoad.Because(errors.New("canary")))
		attempts := 0.0
		expect := func(want float64) {
			t.Helper()
			_, err := b.predict(t.Context(), "two_io", pair)
			if !errors.Is(err, inference.ErrUnavailable) || strings.Contains(err.Error(), "canary") {
				t.Errorf("got %v", err)
			}
			if attempts = b.value("loads_total", ""); attempts != want {
				t.Fatalf("%v loads were tried, want %v", attempts, want)
			}
		}
		expect(1)
		expect(1)
		pass(999 * time.Millisecond)
		expect(1)
		pass(time.Millisecond)
		expect(2)
		pass(1999 * time.Millisecond)
		expect(2)
		pass(time.Millisecond)
		expect(3)
		for want := 4.0; want < 9; want++ {
			pass(15 * time.Second)
			expect(want)
		}
		if log := b.log.String(); !strings.Contains(log, "canary") || !strings.Contains(log, "request-7") {
			t.Errorf("the log says %s", log)
		}
		b.fake.FailLoads(nil)
		pass(15 * time.Second)
		if _, err := b.predict(t.Context(), "two_io", pair); err != nil {
			t.Error(err)
		}
	})
}

// A new version takes over and the old one is deleted while requests pour in:
// none of them fails.
func TestAVersionIsSwappedUnderLoad(t *testing.T) {
	bubble(t, inference.Config{Slots: 2, Queue: 1000}, func(t *testing.T, b *bench) {
		b.put("m", 1, "two_io.onnx")
		stop := make(chan struct{})
		var callers sync.WaitGroup
		served := make(chan struct{}, 1)
		for range 16 {
			callers.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if _, err := b.predict(t.Context(), "m", pair); err != nil {
						t.Error(err)
						return
					}
					select {
					case served <- struct{}{}:
					default:
					}
				}
			})
		}
		for number := 2; number < 30; number++ {
			<-served
			old := b.shelf.access["m"].Version
			b.put("m", number, "two_io.onnx")
			b.shelf.mu.Lock()
			delete(b.shelf.files, old.ID)
			b.shelf.mu.Unlock()
			b.Retire(old.ID)
			<-served
		}
		close(stop)
		callers.Wait()
		if _, err := b.predict(t.Context(), "m", pair); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if n := b.fake.Stats().Open; n != 1 {
			t.Errorf("%d sessions are open; of the retired ones none should be", n)
		}
	})
}

func TestRetiredUnderARun(t *testing.T) {
	bubble(t, inference.Config{}, func(t *testing.T, b *bench) {
		v := b.put("m", 1, "two_io.onnx")
		runs := b.fake.HoldRuns()
		done := b.start(t.Context(), "m", pair)
		b.Retire(v.ID)
		synctest.Wait()
		if s := b.fake.Stats(); s.Open != 1 || s.Running != 1 {
			t.Fatalf("%+v", s)
		}
		// Who was granted the version just before may still join.
		late := b.start(t.Context(), "m", pair)
		runs.Open()
		for _, a := range []answer{<-done, <-late} {
			if a.err != nil {
				t.Error(a.err)
			}
		}
		synctest.Wait()
		if s := b.fake.Stats(); s.Open != 0 || s.Misused != 0 {
			t.Errorf("%+v", s)
		}
		// The catalogue goes on granting it: it is asked again, but not for ever.
		b.shelf.opened = 0
		if _, err := b.predict(t.Context(), "m", pair); !errors.Is(err, inference.ErrUnavailable) || b.shelf.opened != 20 {
			t.Errorf("%v after asking %d times", err, b.shelf.opened)
		}
		if s := b.fake.Stats(); s.Loads != 1 {
			t.Errorf("a retired version was loaded: %+v", s)
		}
	})
}

func TestRetiredWhileLoading(t *testing.T) {
	bubble(t, inference.Config{}, func(t *testing.T, b *bench) {
		v := b.put("m", 1, "two_io.onnx")
		loads := b.fake.HoldLoads()
		done := b.start(t.Context(), "m", pair)
		b.Retire(v.ID)
		loads.Open()
		if a := <-done; a.err != nil {
			t.Error(a.err)
		}
		synctest.Wait()
		if s := b.fake.Stats(); s.Open != 0 || s.Loads != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// A version that vanished between grant and load is asked for again.
func TestDeletedBeforeItWasLoaded(t *testing.T) {
	b := newBench(t, inference.Config{})
	old := b.put("m", 1, "two_io.onnx")
	delete(b.shelf.files, old.ID)
	granted := b.shelf.access["m"]
	b.put("m", 2, "two_io.onnx")
	current := b.shelf.access["m"]
	b.shelf.access["m"] = granted
	swapped := inference.NewService(inference.Config{Engine: b.fake, Memory: b.mem},
		func(ctx context.Context, who auth.Principal, ref models.Ref) (models.Access, error) {
			a, err := b.shelf.open(ctx, who, ref)
			b.shelf.access["m"] = current
			return a, err
		}, b.shelf.read)
	b.Service = swapped
	if got, err := b.predict(t.Context(), "m", pair); err != nil || !strings.Contains(got, "-27") {
		t.Errorf("%s, %v", got, err)
	}
	b.shut()
}

func TestIdleSessionsAreClosed(t *testing.T) {
	bubble(t, inference.Config{IdleClose: time.Minute}, func(t *testing.T, b *bench) {
		ctx, cancel := context.WithCancel(t.Context())
		stopped := make(chan error)
		go func() { stopped <- b.Run(ctx) }()
		b.put("m", 1, "two_io.onnx")
		b.put("busy", 1, "two_io.onnx")
		if _, err := b.predict(t.Context(), "m", pair); err != nil {
			t.Error(err)
		}
		runs := b.fake.HoldRuns()
		done := b.start(t.Context(), "busy", pair)
		pass(29 * time.Second)
		if n := b.fake.Stats().Open; n != 2 {
			t.Errorf("%d sessions, too early", n)
		}
		pass(time.Second)
		runs.Open()
		<-done
		pass(45 * time.Second) // 75 s for m, 45 s for busy
		if n := b.fake.Stats().Open; n != 1 {
			t.Errorf("%d sessions after one was idle", n)
		}
		pass(30 * time.Second)
		if n := b.fake.Stats().Open; n != 0 {
			t.Errorf("%d sessions when all were idle", n)
		}
		if _, err := b.predict(t.Context(), "m", pair); err != nil {
			t.Error(err)
		}
		cancel()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}

// Within the budget the longest unused session makes room; busy ones stay.
func TestSessionsStayWithinTheirMemory(t *testing.T) {
	size := int64(0)
	{
		b := newBench(t, inference.Config{})
		size = b.put("m", 1, "two_io.onnx").Size
	}
	bubble(t, inference.Config{SessionMemory: 2*size + 10, Slots: 2}, func(t *testing.T, b *bench) {
		for _, model := range []string{"a", "b", "c", "d"} {
			b.put(model, 1, "two_io.onnx")
		}
		big := b.put("big", 1, "digits.onnx")
		ok := func(model string) {
			t.Helper()
			if _, err := b.predict(t.Context(), model, pair); err != nil {
				t.Errorf("%s: %v", model, err)
			}
			pass(time.Second)
		}
		ok("a")
		ok("b")
		ok("a")
		ok("c") // in b's place
		if s := b.fake.Stats(); s.Open != 2 || s.Loads != 3 {
			t.Errorf("%+v", s)
		}
		ok("a") // still there
		if s := b.fake.Stats(); s.Loads != 3 {
			t.Errorf("the wrong one was closed: %+v", s)
		}
		runs := b.fake.HoldRuns()
		first, second := b.start(t.Context(), "a", pair), b.start(t.Context(), "c", pair)
		if _, err := b.predict(t.Context(), "d", pair); !errors.Is(err, inference.ErrUnavailable) {
			t.Errorf("all are busy: %v", err)
		}
		runs.Open()
		for _, a := range []answer{<-first, <-second} {
			if a.err != nil {
				t.Error(a.err)
			}
		}
		pass(time.Second) // the backoff
		ok("d")
		if big.Size <= 2*size+10 {
			t.Fatal("digits.onnx is not big")
		}
		if _, err := b.predict(t.Context(), "big", `[]`); !errors.Is(err, inference.ErrUnavailable) {
			t.Errorf("larger than the whole budget: %v", err)
		}
	})
}

// A session whose true size is known only when it is loaded gives way too.
func TestASessionLargerThanItsFile(t *testing.T) {
	bubble(t, inference.Config{SessionMemory: 1 << 20, Engine: nil}, func(t *testing.T, b *bench) {
		swollen := inference.NewService(inference.Config{Engine: &swelling{Engine: b.fake}, Memory: b.mem, SessionMemory: 1 << 20}, b.shelf.open, b.shelf.read)
		b.Service = swollen
		b.put("m", 1, "two_io.onnx")
		if _, err := b.predict(t.Context(), "m", pair); !errors.Is(err, inference.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		if n := b.fake.Stats().Open; n != 0 {
			t.Errorf("%d sessions left open", n)
		}
	})
}

// swelling is an engine whose sessions take 2 MiB each.
type swelling struct{ inference.Engine }

type swollen struct{ inference.Session }

func (swollen) Memory() int64 { return 2 << 20 }

func (s *swelling) Load(ctx context.Context, model []byte, opts inference.Options) (inference.Session, error) {
	session, err := s.Engine.Load(ctx, model, opts)
	return swollen{session}, err
}

// A file that turns out to hold another model than the one published must not
// answer under its names.
func TestAnotherGraphThanThePublishedOne(t *testing.T) {
	b := newBench(t, inference.Config{})
	v := b.put("m", 1, "two_io.onnx")
	b.put("other", 1, "rowmix.onnx")
	b.shelf.files[v.ID] = b.shelf.files["other/1"]
	if _, err := b.predict(t.Context(), "m", pair); !errors.Is(err, inference.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if n := b.fake.Stats().Open; n != 0 {
		t.Errorf("%d sessions left open", n)
	}
	b.shut()
}

func TestAPanicInALoadIsAFailedLoad(t *testing.T) {
	b := newBench(t, inference.Config{})
	b.put("m", 1, "two_io.onnx")
	b.Service = inference.NewService(inference.Config{Engine: panicking{}, Memory: b.mem, SessionMemory: 1 << 20}, b.shelf.open, b.shelf.read)
	if _, err := b.predict(t.Context(), "m", pair); !errors.Is(err, inference.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	b.shut()
}

type panicking struct{ inference.Engine }

func (panicking) Load(context.Context, []byte, inference.Options) (inference.Session, error) {
	panic("a bug in an engine")
}

func TestMetricsHaveBoundedLabels(t *testing.T) {
	b := newBench(t, inference.Config{})
	for i := range 300 {
		model := "m" + strings.Repeat("x", i)
		v := b.put(model, 1, "two_io.onnx")
		if _, err := b.predict(t.Context(), model, pair); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			defer func() {
				b.Retire(v.ID)
				if n := b.value("run_seconds", "model=m"); n != -1 {
					t.Errorf("a retired model still has %v", n)
				}
				b.shut()
			}()
		}
	}
	if n := b.value("run_seconds", "model=m"); n != 1 {
		t.Errorf("%v runs of the first model", n)
	}
	if n := b.value("run_seconds", "model=other"); n != 300-256 {
		t.Errorf("%v runs of others", n)
	}
	if n := b.value("session_bytes", ""); n <= 0 {
		t.Errorf("%v bytes of sessions", n)
	}
}
