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
	bubble(t, inference.Config{Slots: 2}, func(t *testing.T, b *bench) {
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
	b := newBench(t, inference.Config{})
	b.put("m", 1, "two_io.onnx")
	dead := &deaf{Engine: b.fake}
	b.Service = inference.NewService(inference.Config{Engine: dead, Memory: b.mem}, b.shelf.open, b.shelf.read)
	if _, err := b.predict(t.Context(), "m", pair); !errors.Is(err, inference.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if dead.runs < 2 || dead.runs > 4 {
		t.Errorf("%d runs were tried", dead.runs)
	}
	b.shut()
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
		if _, err := b.predict(t.Context(), "m", pair); !errors.Is(err, inference.ErrUnavailable) || b.fake.Stats().Loads != loads {
			t.Errorf("after the quarantine: %v", err)
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

// poison has a caller end the model's process by n runs of his, and waits for
// every backoff to end.
func (b *bench) poison(name, model string, n int) {
	b.t.Helper()
	for range n {
		b.fake.CrashRuns(1, "signal: aborted")
		if a := <-b.as(name, model); !errors.Is(a.err, inference.ErrUnavailable) {
			b.t.Errorf("%s inside: %v", name, a.err)
		}
		pass(15 * time.Second)
	}
}

// Nobody takes a model from others by what he sends: he is refused himself.
func TestACallerWhoseInputsCrashAModel(t *testing.T) {
	var q quarantines
	bubble(t, inference.Config{Quarantine: q.put}, func(t *testing.T, b *bench) {
		b.put("m", 1, "two_io.onnx")
		b.put("other", 1, "two_io.onnx")
		b.poison("ann", "m", 3)
		a := <-b.as("ann", "m")
		if !errors.Is(a.err, inference.ErrUnavailable) || !strings.Contains(a.err.Error(), "closed to you for 10 minutes") {
			t.Errorf("refused: %v", a.err)
		}
		if b.value("callers_refused_total", "") != 1 || b.value("refused_total", "reason=caller") != 1 {
			t.Error("it was not counted")
		}
		for _, other := range [][2]string{{"bob", "m"}, {"ann", "other"}} {
			if a := <-b.as(other[0], other[1]); a.err != nil {
				t.Errorf("%s on %s: %v", other[0], other[1], a.err)
			}
		}
		b.put("m", 2, "two_io.onnx")
		if a := <-b.as("ann", "m"); a.err != nil {
			t.Errorf("another version: %v", a.err)
		}
		b.put("m", 1, "two_io.onnx")
		pass(10 * time.Minute)
		// Again and again, and never does it cost others more.
		for range 5 {
			b.poison("ann", "m", 3)
			if a := <-b.as("bob", "m"); a.err != nil {
				t.Errorf("bob: %v", a.err)
			}
			pass(10 * time.Minute)
		}
		if got := q.list(); len(got) != 0 {
			t.Errorf("quarantined: %q", got)
		}
	})
}

// On a busy model others are inside too when it crashes. Then runs go one at a
// time, so that it is seen whose run it is.
func TestACallerIsFoundOnABusyModel(t *testing.T) {
	var q quarantines
	bubble(t, inference.Config{Slots: 2, Quarantine: q.put}, func(t *testing.T, b *bench) {
		b.put("m", 1, "two_io.onnx")
		for i := range 5 {
			runs := b.fake.HoldRuns()
			first, second := b.as("ann", "m"), b.as("bob", "m")
			want := 2
			if i >= 2 {
				want = 1
			}
			if n := b.fake.Stats().Running; n != want {
				t.Errorf("%d runs are inside before crash %d, want %d", n, i+1, want)
			}
			b.fake.CrashRuns(1, "signal: aborted")
			runs.Pass(1)
			if a := <-first; !errors.Is(a.err, inference.ErrUnavailable) {
				t.Errorf("ann: %v", a.err)
			}
			if i < 2 {
				if a := <-second; !errors.Is(a.err, inference.ErrUnavailable) {
					t.Errorf("bob, inside too: %v", a.err)
				}
			} else {
				synctest.Wait()
				runs.Open()
				<-second // served, or refused for the backoff
			}
			pass(15 * time.Second)
		}
		if a := <-b.as("ann", "m"); !errors.Is(a.err, inference.ErrUnavailable) || !strings.Contains(a.err.Error(), "closed to you") {
			t.Errorf("ann: %v", a.err)
		}
		// Nothing is held against the model any more: runs go side by side.
		runs := b.fake.HoldRuns()
		all := []<-chan answer{b.as("bob", "m"), b.as("carol", "m")}
		if n := b.fake.Stats().Running; n != 2 {
			t.Errorf("%d runs side by side", n)
		}
		runs.Open()
		for _, done := range all {
			if a := <-done; a.err != nil {
				t.Errorf("others: %v", a.err)
			}
		}
		if len(q.list()) != 0 {
			t.Errorf("quarantined: %q", q.list())
		}
	})
}

// What crashes for one caller after another is the model's own fault.
func TestCrashesOfManyCallers(t *testing.T) {
	var q quarantines
	bubble(t, inference.Config{Quarantine: q.put}, func(t *testing.T, b *bench) {
		b.put("m", 1, "two_io.onnx")
		for _, name := range []string{"ann", "bob", "carol", "dave"} {
			b.poison(name, "m", 1)
		}
		b.poison("ann", "m", 1) // the second of one caller does not count
		if len(q.list()) != 0 {
			t.Errorf("too early: %q", q.list())
		}
		b.poison("erin", "m", 1)
		if got := q.list(); len(got) != 1 || b.value("callers_refused_total", "") != 0 {
			t.Errorf("%q", got)
		}
	})
}

// A process that is ended because a run did not end is held against who sent
// this run, not against who is inside meanwhile.
func TestARunThatDoesNotEnd(t *testing.T) {
	var q quarantines
	bubble(t, inference.Config{Timeout: 2 * time.Second, Slots: 2, Quarantine: q.put}, func(t *testing.T, b *bench) {
		b.put("m", 1, "two_io.onnx")
		for range 3 {
			b.fake.HoldRuns()
			slow := b.as("ann", "m")
			if a := <-slow; !errors.Is(a.err, inference.ErrDeadline) {
				t.Errorf("ann: %v", a.err)
			}
			quick := b.as("bob", "m")
			pass(time.Second)
			b.fake.Crash("deadline: a run did not end")
			if a := <-quick; !errors.Is(a.err, inference.ErrUnavailable) {
				t.Errorf("bob, inside: %v", a.err)
			}
			pass(20 * time.Second)
		}
		b.fake.HoldRuns().Open()
		if a := <-b.as("ann", "m"); a.err == nil || !strings.Contains(a.err.Error(), "closed to you") {
			t.Errorf("ann: %v", a.err)
		}
		if a := <-b.as("bob", "m"); a.err != nil {
			t.Errorf("bob: %v", a.err)
		}
		if n := b.value("crashes_total", "reason=deadline"); n != 3 || len(q.list()) != 0 {
			t.Errorf("%v crashes, quarantined: %q", n, q.list())
		}
	})
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

func TestInputsLieInTheRoom(t *testing.T) {
	b := newBench(t, inference.Config{})
	b.put("m", 1, "two_io.onnx")
	room := inference.NewMemory(1 << 20)
	b.Service = inference.NewService(inference.Config{Engine: &roomy{b.fake, room}, Memory: b.mem}, b.shelf.open, b.shelf.read)
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
	if room.Held() == 0 || room.InUse() != 0 {
		t.Errorf("the room holds %d bytes, %d in use", room.Held(), room.InUse())
	}
	room.Trim()
	if _, err := b.Try(t.Context(), file(t, "two_io.onnx")); err != nil || room.Held() == 0 {
		t.Errorf("a trial's inputs were elsewhere (%v)", err)
	}
	b.shut()
}

// roomy is an engine whose sessions have a room of their own.
type roomy struct {
	inference.Engine
	room *inference.Memory
}

type roomySession struct {
	inference.Session
	room *inference.Memory
}

func (s roomySession) Room() *inference.Memory { return s.room }

func (r *roomy) Load(ctx context.Context, model []byte, opts inference.Options) (inference.Session, error) {
	s, err := r.Engine.Load(ctx, model, opts)
	return roomySession{s, r.room}, err
}
