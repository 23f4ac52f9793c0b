package inference_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"modelgate/auth"
	"modelgate/inference"
	"modelgate/models"
)

// person is a caller of that name.
func person(name string) auth.Principal {
	return auth.Principal{UserID: name, Username: name, Origin: auth.Origin{RequestID: "request-" + name}}
}

// as predicts two_io's pair for a caller, in the background.
func (b *bench) as(name, model string) <-chan answer {
	done := make(chan answer, 1)
	go func() {
		text, err := ask(b.t.Context(), b.Service, person(name), model, pair)
		done <- answer{text, err}
	}()
	synctest.Wait()
	return done
}

// quarantines is a Config.Quarantine that keeps the reasons.
type quarantines struct {
	mu      sync.Mutex
	reasons []string // guarded by mu
	err     error    // guarded by mu
}

func (q *quarantines) put(_ context.Context, v *models.Version, reason string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.reasons = append(q.reasons, v.ID+" "+reason)
	return q.err
}

func (q *quarantines) list() []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.reasons
}

func TestALostSessionIsLoadedAgain(t *testing.T) {
	bubble(t, inference.Config{}, func(t *testing.T, b *bench) {
		b.put("m", 1, "two_io.onnx")
		for range 2 {
			if _, err := b.predict(t.Context(), "m", pair); err != nil {
				t.Fatal(err)
			}
		}
		if n := b.value("crashes_total", "reason=killed"); n != 0 {
			t.Errorf("%v crashes before the first one", n)
		}
		b.fake.Crash("signal: killed")
		synctest.Wait()
		if n, bytes := b.value("sessions", ""), b.value("session_bytes", ""); b.fake.Stats().Open != 0 || n != 0 || bytes != 0 {
			t.Errorf("%d sessions are open, %v are told with %v bytes", b.fake.Stats().Open, n, bytes)
		}
		if _, err := b.predict(t.Context(), "m", pair); err != nil {
			t.Errorf("at once after the first crash: %v", err)
		}
		if s := b.fake.Stats(); s.Loads != 2 || s.Open != 1 {
			t.Errorf("%+v", s)
		}
		if b.value("crashes_total", "reason=killed") != 1 || b.value("reloads_total", "") != 1 {
			t.Error("the crash and the load after it were not counted")
		}
		if log := b.log.String(); !strings.Contains(log, "signal: killed") {
			t.Errorf("the log says %s", log)
		}
	})
}

// Who was inside hears of it, who had not begun is served by the next session.
func TestRunsOfALostSession(t *testing.T) {
	size := newBench(t, inference.Config{}).put("m", 1, "two_io.onnx").Size
	// The next session has to fit while the lost one is still in use.
	bubble(t, inference.Config{Slots: 2, SessionMemory: size + 10}, func(t *testing.T, b *bench) {
		b.put("m", 1, "two_io.onnx")
		runs := b.fake.HoldRuns()
		inside := []<-chan answer{b.as("ann", "m"), b.as("bob", "m")}
		waiting := []<-chan answer{b.as("carol", "m"), b.as("dave", "m")}
		b.fake.Crash("signal: segmentation fault")
		for _, done := range inside {
			a := <-done
			if !errors.Is(a.err, inference.ErrUnavailable) || strings.Contains(a.err.Error(), "segmentation") {
				t.Errorf("inside: %v", a.err)
			}
		}
		synctest.Wait()
		if s := b.fake.Stats(); s.Running != 2 || s.Loads != 2 {
			t.Errorf("%+v", s)
		}
		runs.Open()
		for _, done := range waiting {
			if a := <-done; a.err != nil || !strings.Contains(a.text, "-27") {
				t.Errorf("had not begun: %s, %v", a.text, a.err)
			}
		}
		synctest.Wait()
		if s := b.fake.Stats(); s.Open != 1 {
			t.Errorf("the lost session was not closed: %+v", s)
		}
		if n := b.value("refused_total", "reason=unavailable"); n != 2 {
			t.Errorf("%v predictions without an answer are told", n)
		}
	})
}

// A run that loses every session before it begins is given up.
func TestARunIsNotTriedForEver(t *testing.T) {
	bubble(t, inference.Config{}, func(t *testing.T, b *bench) {
		b.put("m", 1, "two_io.onnx")
		dead := &deaf{Engine: b.fake}
		b.Service = inference.NewService(inference.Config{Engine: dead, Memory: b.mem}, b.shelf.open, b.shelf.read)
		if _, err := b.predict(t.Context(), "m", pair); !errors.Is(err, inference.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		if dead.runs < 2 || dead.runs > 4 {
			t.Errorf("%d runs were tried", dead.runs)
		}
		for range 2 { // and is not to blame
			pass(2 * time.Second)
			if _, err := b.predict(t.Context(), "m", pair); !errors.Is(err, inference.ErrUnavailable) || strings.Contains(err.Error(), "closed to you") {
				t.Errorf("got %v", err)
			}
		}
	})
}

// deaf is an engine whose sessions say that they were lost before any run.
type deaf struct {
	inference.Engine
	runs int
}

type deafSession struct {
	inference.Session
	engine *deaf
}

func (d *deaf) Load(ctx context.Context, model []byte, opts inference.Options) (inference.Session, error) {
	s, err := d.Engine.Load(ctx, model, opts)
	return deafSession{s, d}, err
}

func (s deafSession) Run(context.Context, []inference.Tensor, []int) ([]inference.Value, error) {
	s.engine.runs++
	return nil, inference.ErrUnavailable.Because(&inference.Crash{Reason: "exit: 1"})
}

func TestBackoffAfterCrashes(t *testing.T) {
	bubble(t, inference.Config{}, func(t *testing.T, b *bench) {
		b.put("m", 1, "two_io.onnx")
		served := func(want bool) {
			t.Helper()
			began := time.Now()
			if _, err := b.predict(t.Context(), "m", pair); want != (err == nil) || err != nil && !errors.Is(err, inference.ErrUnavailable) {
				t.Errorf("got %v", err)
			}
			if time.Since(began) != 0 {
				t.Error("the caller had to wait")
			}
		}
		crash := func(backoff time.Duration) {
			t.Helper()
			b.fake.Crash("exit: 3")
			synctest.Wait()
			if backoff > 0 {
				served(false)
				pass(backoff - time.Millisecond)
				served(false)
				pass(time.Millisecond)
			}
			served(true)
		}
		served(true)
		crash(0)
		crash(time.Second)
		crash(2 * time.Second)
		crash(4 * time.Second)
		pass(time.Minute) // it serves well
		pass(10 * time.Minute)
		crash(0)
		crash(time.Second)
		pass(time.Minute)
		crash(0)
		if n := b.value("reloads_total", ""); n != 7 {
			t.Errorf("%v reloads", n)
		}
	})
}

// loop crashes idle sessions of a model, with pauses that end every backoff.
func (b *bench) loop(model string, n int) {
	b.t.Helper()
	for range n {
		if _, err := b.predict(b.t.Context(), model, pair); err != nil {
			b.t.Error(err)
		}
		b.fake.Crash("signal: segmentation fault")
		pass(15 * time.Second)
	}
}

func TestACrashLoopIsQuarantined(t *testing.T) {
	var q quarantines
	bubble(t, inference.Config{Quarantine: q.put}, func(t *testing.T, b *bench) {
		b.put("m", 1, "two_io.onnx")
		b.put("other", 1, "two_io.onnx")
		b.loop("m", 4)
		if len(q.list()) != 0 {
			t.Fatalf("too early: %q", q.list())
		}
		b.loop("m", 1)
		if got := q.list(); len(got) != 1 || got[0] != "m/1 its process ended 5 times within 1m0s, the last time so: signal: segmentation fault" {
			t.Fatalf("%q", got)
		}
		if n := b.value("quarantines_total", ""); n != 1 {
			t.Errorf("%v are counted", n)
		}
		// The catalogue of this test goes on granting it.
		loads := b.fake.Stats().Loads
		b.shelf.opened = 0
		if _, err := b.predict(t.Context(), "m", pair); !errors.Is(err, inference.ErrUnavailable) || b.fake.Stats().Loads != loads {
			t.Errorf("after the quarantine: %v", err)
		}
		if b.shelf.opened != 20 {
			t.Errorf("the catalogue, which knows of it, was asked %d times", b.shelf.opened)
		}
		if _, err := b.predict(t.Context(), "other", pair); err != nil {
			t.Errorf("another model: %v", err)
		}
	})
}

// Crashes long apart are no loop; a quarantine that fails is tried again.
func TestQuarantineTakesAndTriesAgain(t *testing.T) {
	q := quarantines{err: errors.New("the database is away")}
	bubble(t, inference.Config{Quarantine: q.put}, func(t *testing.T, b *bench) {
		b.put("m", 1, "two_io.onnx")
		for range 3 {
			b.loop("m", 4)
			pass(10 * time.Minute)
		}
		if len(q.list()) != 0 {
			t.Errorf("no loop: %q", q.list())
		}
		b.loop("m", 6)
		if got := q.list(); len(got) != 2 || b.value("quarantines_total", "") != 0 {
			t.Errorf("%q", got)
		}
	})
}

// Loads that end their process, or their time, are crashes of the version.
func TestLoadsThatCrash(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		reason string
		count  float64
	}{
		"crash":   {inference.ErrLoad.Because(&inference.Crash{Reason: "memory: too much"}), "loading it: memory: too much", 5},
		"timeout": {inference.ErrLoadTimeout.Because(context.DeadlineExceeded), "loading it took more than 1m0s", 0},
		"refusal": {inference.ErrLoad.Because(errors.New("canary")), "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			var q quarantines
			bubble(t, inference.Config{Quarantine: q.put}, func(t *testing.T, b *bench) {
				b.put("m", 1, "two_io.onnx")
				b.fake.FailLoads(c.err)
				for range 5 {
					if len(q.list()) != 0 {
						t.Errorf("too early: %q", q.list())
					}
					if _, err := b.predict(t.Context(), "m", pair); !errors.Is(err, inference.ErrUnavailable) {
						t.Errorf("got %v", err)
					}
					pass(15 * time.Second)
				}
				if got := strings.Join(q.list(), ""); !strings.HasSuffix(got, c.reason) || (got == "") != (c.reason == "") {
					t.Errorf("%q", got)
				}
				if n := b.value("crashes_total", "reason=load"); n != c.count {
					t.Errorf("%v crashes", n)
				}
			})
		})
	}
}

// A batch whose session is lost falls apart like one that fails: who is to
// blame crashes alone, the others are served.
func TestABatchWhoseSessionIsLost(t *testing.T) {
	bubble(t, inference.Config{Slots: 1}, func(t *testing.T, b *bench) {
		b.put("m", 1, "two_io.onnx")
		b.allow("m", models.Rule{}, models.Serving{MaxBatch: 8})
		runs := b.fake.HoldRuns()
		first := b.as("ann", "m")
		batch := []<-chan answer{b.as("bob", "m"), b.as("carol", "m"), b.as("dave", "m")}
		runs.Pass(1)
		if a := <-first; a.err != nil {
			t.Error(a.err)
		}
		synctest.Wait()
		b.fake.CrashRuns(1, "signal: aborted")
		runs.Open()
		for _, done := range batch {
			if a := <-done; a.err != nil || !strings.Contains(a.text, "-27") {
				t.Errorf("%s, %v", a.text, a.err)
			}
		}
		if s := b.fake.Stats(); s.Loads != 2 || b.value("batches_split_total", "") != 1 {
			t.Errorf("%+v", s)
		}
		// After another crash nothing runs together, so that one caller is inside.
		b.fake.Crash("signal: aborted")
		pass(time.Second)
		runs = b.fake.HoldRuns()
		before := b.value("batch_predictions", "model=m")
		all := []<-chan answer{b.as("ann", "m"), b.as("bob", "m"), b.as("carol", "m")}
		runs.Open()
		for _, done := range all {
			if a := <-done; a.err != nil {
				t.Error(a.err)
			}
		}
		if n := b.value("batch_predictions", "model=m"); n != before {
			t.Errorf("%v runs could be shared", n-before)
		}
	})
}

// What is remembered of callers and versions is bounded, and forgotten in time.
func TestLossesAreForgotten(t *testing.T) {
	bubble(t, inference.Config{Slots: 2000, Queue: 2000, IdleClose: time.Minute}, func(t *testing.T, b *bench) {
		const pairs = 1100
		for i := range pairs {
			b.put(fmt.Sprint("m", i), 1, "scalar.onnx")
		}
		for range 3 {
			b.fake.CrashRuns(pairs, "signal: aborted")
			var all sync.WaitGroup
			for i := range pairs {
				all.Go(func() {
					if _, err := ask(t.Context(), b.Service, person("ann"), fmt.Sprint("m", i), `{"x":2}`); !errors.Is(err, inference.ErrUnavailable) {
						t.Error(err)
					}
				})
			}
			all.Wait()
			pass(5 * time.Second)
		}
		if callers, versions := b.Remembered(); callers != 1024 || versions == 0 {
			t.Errorf("%d callers and %d versions are remembered", callers, versions)
		}
		ctx, cancel := context.WithCancel(t.Context())
		stopped := make(chan error)
		go func() { stopped <- b.Run(ctx) }()
		pass(11 * time.Minute)
		if callers, versions := b.Remembered(); callers != 0 || versions != 0 {
			t.Errorf("%d callers and %d versions are remembered for ever", callers, versions)
		}
		cancel()
		<-stopped
	})
}

func TestNothingIsReloadedWhileDraining(t *testing.T) {
	var q quarantines
	bubble(t, inference.Config{Quarantine: q.put}, func(t *testing.T, b *bench) {
		b.put("m", 1, "two_io.onnx")
		b.put("other", 1, "two_io.onnx")
		if _, err := b.predict(t.Context(), "m", pair); err != nil {
			t.Fatal(err)
		}
		b.Drain()
		if _, err := b.predict(t.Context(), "other", pair); err != nil {
			t.Errorf("a request that came before: %v", err)
		}
		b.fake.Crash("signal: killed")
		synctest.Wait()
		for _, model := range []string{"m", "other"} {
			if _, err := b.predict(t.Context(), model, pair); !errors.Is(err, inference.ErrUnavailable) {
				t.Errorf("got %v", err)
			}
		}
		if s := b.fake.Stats(); s.Loads != 2 || s.Open != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// A session lost while the service closes does not hold it up.
func TestLostWhileClosing(t *testing.T) {
	bubble(t, inference.Config{}, func(t *testing.T, b *bench) {
		b.put("m", 1, "two_io.onnx")
		b.fake.HoldRuns()
		done := b.start(t.Context(), "m", pair)
		closed := make(chan error, 1)
		go func() { closed <- b.Close(t.Context()) }()
		synctest.Wait()
		b.fake.Crash("signal: terminated")
		if a := <-done; !errors.Is(a.err, inference.ErrUnavailable) {
			t.Errorf("got %v", a.err)
		}
		if err := <-closed; err != nil {
			t.Error(err)
		}
	})
}

// Who holds a lost session, for his inputs lie in its room, is waited for.
func TestCloseWaitsForWhoHoldsALostSession(t *testing.T) {
	bubble(t, inference.Config{}, func(t *testing.T, b *bench) {
		b.put("m", 1, "two_io.onnx")
		decoding, done := make(chan struct{}), make(chan error, 1)
		go func() {
			_, err := b.Predict(t.Context(), ann, models.Ref{Model: "m"}, func(sig *models.Signature, mem *inference.Memory) (*inference.Request, error) {
				<-decoding
				in, err := inference.DecodeJSON([]byte(pair), sig, mem)
				return &inference.Request{Inputs: in}, err
			})
			done <- err
		}()
		synctest.Wait()
		b.fake.Crash("signal: killed")
		synctest.Wait()
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.Close(short); !errors.Is(err, context.DeadlineExceeded) || b.fake.Stats().Open != 1 {
			t.Errorf("closed under his hands: %v", err)
		}
		close(decoding)
		if err := <-done; !errors.Is(err, inference.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
	})
}

// A model that can't be loaded for want of memory is told apart from one that
// will be back in a moment, and its refusals are counted.
func TestAModelTooBigToLoad(t *testing.T) {
	bubble(t, inference.Config{}, func(t *testing.T, b *bench) {
		b.put("m", 1, "two_io.onnx")
		b.fake.FailLoads(inference.ErrLoad.Because(inference.ErrNoMemory.Because(errors.New("canary"))))
		for range 2 { // of the load, and of the wait behind it
			_, err := b.predict(t.Context(), "m", pair)
			var own *inference.Error
			if !errors.As(err, &own) || own.Code != inference.ErrUnavailable.Code || !strings.Contains(own.Detail, "more memory") || own.Retry < time.Second {
				t.Errorf("got %v", err)
			}
		}
		if n := b.value("refused_total", "reason=unavailable"); n != 2 {
			t.Errorf("%v refusals are counted", n)
		}
	})
}

// A load waits for others no longer than a prediction for a slot.
func TestLoadsWaitForOthers(t *testing.T) {
	bubble(t, inference.Config{Slots: 1, Timeout: 10 * time.Second}, func(t *testing.T, b *bench) {
		b.put("m", 1, "two_io.onnx")
		b.put("n", 1, "two_io.onnx")
		gate := b.fake.HoldLoads()
		first := make(chan error, 1)
		go func() {
			_, err := b.predict(t.Context(), "m", pair)
			first <- err
		}()
		synctest.Wait()
		began := time.Now()
		if _, err := b.predict(t.Context(), "n", pair); !errors.Is(err, inference.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		if waited := time.Since(began); waited != 10*time.Second {
			t.Errorf("it waited %v", waited)
		}
		gate.Open()
		if err := <-first; err != nil {
			t.Error(err)
		}
		pass(time.Second)
		if _, err := b.predict(t.Context(), "n", pair); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}
